//! Stage 7: initrd, UKI and loader.
