//! Stage 6: the tree as erofs with dm-verity.
