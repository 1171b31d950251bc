//! Stage 5: what is inside, for people who must know.
