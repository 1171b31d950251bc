//! Stage 9: disk formats.
