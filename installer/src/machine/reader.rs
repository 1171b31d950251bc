//! The machine as the profile's sources and its verification see it.

use std::io;

use super::Machine;
use crate::find::{Device, Reader, https};

/// Reads, and asks servers, through the one door.
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

    fn get(&self, request: &https::Request) -> Result<https::Answer, https::Trouble> {
        self.0.fetch(request)
    }
}
