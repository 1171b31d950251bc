//! Stage 3: packages into the store.
