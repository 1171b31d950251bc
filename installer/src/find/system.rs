//! The machine itself, below a root folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::{Device, Reader, https};

/// Reads files below `root`, and asks servers for real.
#[derive(Debug, Clone)]
pub struct System {
    /// `/` on a machine, a folder in tests.
    pub root: PathBuf,
    /// The folder systemd names in `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<String>,
    /// What the clock says: seconds since 1970.
    pub clock: u64,
}

impl System {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Reader for System {
    fn read(&self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Files of /sys have no true size: one byte more than allowed tells.
        let over = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        File::open(self.at(path))?.take(over).read_to_end(&mut bytes)?;
        if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.at(folder))?;
        let mut names: Vec<String> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        let time = fs::metadata(self.at(path))?.modified()?;
        Ok(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    fn open(&self, device: &str) -> io::Result<Box<dyn Device>> {
        Ok(Box::new(File::open(self.at(device))?))
    }

    fn credentials(&self) -> Option<String> {
        self.credentials.clone()
    }

    fn clock(&self) -> u64 {
        self.clock
    }

    fn get(&self, request: &https::Request) -> Result<https::Answer, https::Trouble> {
        https::get(request)
    }
}
