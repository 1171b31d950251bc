//! Ctrl-C, SIGTERM and SIGHUP: what is half made is removed before the program ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::error::{Error, Kind, Result};
use crate::files;

/// What must not stay when the program is interrupted.
static TEMPORARY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Whether a signal came.
static CAME: AtomicBool = AtomicBool::new(false);
/// Whether somebody asks [`came`] and ends in his own way.
static ASKED: AtomicBool = AtomicBool::new(false);
/// Tries to remove a folder while other threads still write to it.
const TRIES: u32 = 20;
/// The shell's code for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A path that is removed when the program is interrupted while this lives.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Registers the path.
    pub fn new(path: &Path) -> Self {
        if let Ok(mut all) = TEMPORARY.lock() {
            all.insert(path.to_owned());
        }
        Self(path.to_owned())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Ok(mut all) = TEMPORARY.lock() {
            all.remove(&self.0);
        }
    }
}

/// From now on a signal removes every [`Temporary`] and ends the program. Starts a thread.
///
/// # Errors
/// When the system refuses to hand over the signals.
pub fn listen() -> Result<()> {
    static SET: OnceLock<Option<String>> = OnceLock::new();
    let handler = || {
        CAME.store(true, Ordering::SeqCst);
        if !ASKED.load(Ordering::SeqCst) {
            clear();
            exit();
        }
    };
    match SET.get_or_init(|| ctrlc::set_handler(handler).err().map(|e| e.to_string())) {
        None => Ok(()),
        Some(reason) => Err(Error::new(Kind::Failed, format!("catching Ctrl-C: {reason}"))),
    }
}

/// As [`listen`], but a signal only sets what [`came`] tells.
///
/// # Errors
/// As [`listen`].
pub fn catch() -> Result<()> {
    ASKED.store(true, Ordering::SeqCst);
    listen()
}

/// Whether a signal came.
pub fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// Ends the program with the code of an interrupted one.
pub fn exit() -> ! {
    std::process::exit(INTERRUPTED)
}

fn clear() {
    let paths: Vec<PathBuf> = TEMPORARY.lock().map(|all| all.iter().cloned().collect()).unwrap_or_default();
    for path in paths {
        for _ in 0..TRIES {
            if files::remove(&path).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
