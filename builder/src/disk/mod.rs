//! Stage 8: partitions.
