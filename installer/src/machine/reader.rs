//! The machine as the profile's sources and its verification see it.

use std::io;

use super::Machine;
use crate::find::{Device, Reader, https};

/// Reads through the one door. Servers are not asked: a profile is looked for before the network is there.
#[derive(Debug, Clone, Copy)]
pub struct Local<'m>(pub &'m dyn Machine);

impl Reader for Local<'_> {
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.read(path)?.ok_or(io::ErrorKind::NotFound)?;
        if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        self.0.modified(path)
    }

    fn open(&self, device: &str) -> io::Result<Box<dyn Device>> {
        Ok(Box::new(self.0.open(device)?))
    }

    fn credentials(&self) -> Option<String> {
        self.0.credentials()
    }

    fn clock(&self) -> u64 {
        self.0.now()
    }

    fn get(&self, _: &https::Request) -> Result<https::Answer, https::Trouble> {
        Err(https::Trouble { reason: "not asked: the network is not there yet".to_owned(), later: true })
    }
}
