//! Stage 7: initrd, UKI and loader.

pub mod assemble;
pub mod authenticode;
pub mod contents;
pub mod cpio;
pub mod initrd;
pub mod modules;
#[cfg(test)]
pub(crate) mod oracle;
pub mod pe;
mod pkcs7;
pub mod uki;
pub mod variables;
