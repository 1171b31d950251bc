//! Stage 10: the release folder.
