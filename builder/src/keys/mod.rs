//! What signs: the release key and the Secure Boot keys.
