//! The machine itself, or a folder that stands for its root.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::find::https;

use super::net::{Net, RealNet};
use super::{Attributes, Command, Datagram, Machine, Output, Overheard, Space, console, process, sockets};

/// How often a path is looked up again, a millisecond apart, when something was renamed or mounted meanwhile.
const RACES: u32 = 500;

/// No file the installer reads is larger.
const MOST: u64 = 64 << 20;

/// What becomes of owners of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// They are set: needs root.
    Kept,
    /// They stay those of who runs this: for folders that only stand for a machine.
    Ignored,
}

/// The machine below a root.
#[derive(Debug)]
pub struct Real {
    root: PathBuf,
    ownership: Ownership,
    handle: OnceCell<OwnedFd>,
    notify_socket: Option<PathBuf>,
    credentials: Option<String>,
    /// Lines go to the machine's consoles, not to standard error.
    consoles: bool,
    screens: Cell<bool>,
    serial: Cell<bool>,
}

impl Real {
    /// `/` is the running machine; any other folder is only read and written, and no program is run.
    pub fn new(root: &Path, ownership: Ownership) -> Self {
        Self {
            root: root.to_owned(),
            ownership,
            handle: OnceCell::new(),
            notify_socket: None,
            credentials: None,
            consoles: false,
            screens: Cell::new(true),
            serial: Cell::new(true),
        }
    }

    /// Says its lines on every console of the kernel, instead of standard error: for the service.
    #[must_use]
    pub fn on_consoles(mut self, consoles: bool) -> Self {
        self.consoles = consoles;
        self
    }

    /// Tells the service manager through this socket (`NOTIFY_SOCKET`).
    #[must_use]
    pub fn notifying(mut self, socket: Option<PathBuf>) -> Self {
        self.notify_socket = socket;
        self
    }

    /// Finds systemd's credentials in this folder (`CREDENTIALS_DIRECTORY`).
    #[must_use]
    pub fn with_credentials(mut self, folder: Option<String>) -> Self {
        self.credentials = folder;
        self
    }

    fn root(&self) -> io::Result<&OwnedFd> {
        if self.handle.get().is_none() {
            let handle = sys::openat(CWD, &self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            // It was empty a line above, and this type is not shared between threads.
            let _ = self.handle.set(handle);
        }
        self.handle.get().ok_or_else(|| io::Error::other("the root is not open"))
    }

    /// Opens below the root: `..` and absolute links cannot leave it (openat2(2), RESOLVE_IN_ROOT).
    fn open_below(&self, path: &str, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(mode) } else { Mode::empty() };
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let mut turns = 0;
        loop {
            // openat2(2): a rename or mount anywhere meanwhile lets it say "again" of paths with `..`, as those in /sys are.
            match sys::openat2(self.root()?, relative, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) if turns < RACES => {
                    turns += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// The folder of a path, opened, and its last part.
    fn place<'p>(&self, path: &'p str) -> io::Result<(OwnedFd, &'p str)> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
        }
        Ok((self.open_below(super::parent(path), OFlags::PATH | OFlags::DIRECTORY, 0)?, name))
    }

    fn say_on_consoles(&self, line: &str) {
        let active = self.read(console::ACTIVE).ok().flatten().unwrap_or_default();
        let line = format!("{line}\n");
        for name in String::from_utf8_lossy(&active).split_whitespace() {
            let on = if console::is_screen(name) { &self.screens } else { &self.serial };
            if on.get() {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let console = self.open_below(&format!("/dev/{name}"), flags, 0).map(File::from);
                // Nobody may be there to read; that must not stop the machine.
                let _ = console.and_then(|console| console::write(console, line.as_bytes()));
            }
        }
    }

    fn give(&self, file: &OwnedFd, attributes: Attributes) -> io::Result<()> {
        if self.ownership == Ownership::Kept {
            sys::fchown(file, Some(sys::Uid::from_raw(attributes.uid)), Some(sys::Gid::from_raw(attributes.gid)))?;
        }
        Ok(sys::fchmod(file, Mode::from_raw_mode(attributes.mode))?)
    }
}

/// Takes the whole file for us alone, as hv_kvp_daemon does; not for ever, as its holder might hang.
fn lock(file: &File) -> io::Result<()> {
    let mut left = 100;
    loop {
        match sys::fcntl_lock(file, sys::FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::ACCESS) if left > 0 => {
                left -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
}

/// `None` for what is not there.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Machine for Real {
    fn live(&self) -> bool {
        self.root == Path::new("/")
    }

    fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        // Not blocking: a pipe with no writer would otherwise hold us for ever.
        let Some(file) = there(self.open_below(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0))? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        File::from(file).take(MOST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 64 MiB"));
        }
        Ok(Some(bytes))
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        let stat = sys::fstat(self.open_below(path, OFlags::PATH, 0)?)?;
        Ok(u64::try_from(stat.st_mtime).unwrap_or_default())
    }

    fn open(&self, device: &str) -> io::Result<File> {
        Ok(File::from(self.open_below(device, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0)?))
    }

    fn fetch(&self, request: &https::Request) -> Result<https::Answer, https::Trouble> {
        match self.live() {
            true => https::get(request),
            false => Err(https::Trouble { reason: "not asked: this is no running machine".to_owned(), later: true }),
        }
    }

    fn credentials(&self) -> Option<String> {
        self.credentials.clone()
    }

    fn attributes(&self, path: &str) -> io::Result<Option<Attributes>> {
        let Some(file) = there(self.open_below(path, OFlags::PATH, 0))? else { return Ok(None) };
        let stat = sys::fstat(&file)?;
        Ok(Some(Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }))
    }

    fn link(&self, path: &str) -> io::Result<Option<String>> {
        let Some((folder, name)) = there(self.place(path))? else { return Ok(None) };
        match sys::readlinkat(folder, name, Vec::new()) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let Some(handle) = there(self.open_below(folder, OFlags::RDONLY | OFlags::DIRECTORY, 0))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in sys::Dir::new(handle)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn make_folder(&self, path: &str, attributes: Attributes) -> io::Result<()> {
        let above = super::parent(path);
        if above != "/" && self.attributes(above)?.is_none() {
            self.make_folder(above, Attributes::root(0o755))?;
        }
        let (folder, name) = self.place(path)?;
        match sys::mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.give(&self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?, attributes)
    }

    fn write(&self, path: &str, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
        // Made anew and closed to others until it has its owner: an old file or link at this name is not written through.
        self.remove(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut file = File::from(self.open_below(path, flags, 0o600)?);
        file.write_all(bytes)?;
        let handle = OwnedFd::from(file);
        self.give(&handle, attributes)?;
        Ok(sys::fsync(&handle)?)
    }

    fn write_kernel(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::from(self.open_below(path, OFlags::WRONLY, 0)?);
        if !self.live() {
            file.set_len(0)?;
        }
        file.write_all(bytes)
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            File::from(self.open_below(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW, 0o600)?);
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from_folder, from), (to_folder, to)) = (self.place(from)?, self.place(to)?);
        Ok(sys::renameat(from_folder, from, to_folder, to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let Some((folder, name)) = there(self.place(path))? else { return Ok(()) };
        match sys::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        Ok(sys::fsync(self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)?)
    }

    fn run(&self, command: &Command) -> io::Result<Output> {
        if self.live() {
            process::run(command)
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "programs are run on the running machine only, not for --root"))
        }
    }

    fn overhear(&self, what: &Overheard<'_>) -> io::Result<Vec<Datagram>> {
        if self.live() { sockets::overhear(what) } else { Ok(Vec::new()) }
    }

    fn ask(&self, socket: &str, question: &str, within: Duration) -> io::Result<String> {
        if self.live() { sockets::ask(socket, question, within) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    #[expect(clippy::disallowed_methods, reason = "the one door to the clock")]
    fn now(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    fn uptime(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default())
            + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn say(&self, line: &str) {
        if self.consoles {
            return self.say_on_consoles(line);
        }
        // Nobody may be there to read; that must not stop the machine.
        let _ = writeln!(io::stderr(), "{line}");
    }

    fn consoles(&self, screens: bool, serial: bool) {
        self.screens.set(screens);
        self.serial.set(serial);
    }

    fn rewrite(&self, path: &str, most: usize, change: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
        let mut file = File::from(self.open_below(path, OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW, 0o644)?);
        lock(&file)?;
        let mut before = Vec::new();
        (&file).take(most as u64 + 1).read_to_end(&mut before)?;
        if before.len() > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file has more than {most} bytes")));
        }
        let after = change(&before);
        // Only from the first byte that differs: others may read while we write.
        let same = before.iter().zip(&after).take_while(|(old, new)| old == new).count();
        if let Some(new @ [_, ..]) = after.get(same..) {
            file.seek(io::SeekFrom::Start(same as u64))?;
            file.write_all(new)?;
        }
        if after.len() < before.len() {
            file.set_len(after.len() as u64)?;
        }
        // Closing gives the lock back.
        Ok(())
    }

    fn space(&self, path: &str) -> io::Result<Space> {
        let room = sys::fstatvfs(self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)?;
        Ok(Space { total: room.f_blocks.saturating_mul(room.f_frsize), free: room.f_bavail.saturating_mul(room.f_frsize) })
    }

    fn net(&self) -> Arc<dyn Net> {
        Arc::new(RealNet { live: self.live() })
    }

    fn notify(&self, state: &str) {
        let Some(socket) = &self.notify_socket else { return };
        // A service manager that does not listen is no reason to stop.
        let _ = UnixDatagram::unbound().and_then(|sender| sender.send_to(state.as_bytes(), socket));
    }

    fn log(&self, entry: &[u8]) {
        if self.live() {
            // Without a journal the console has the same words.
            let _ = UnixDatagram::unbound().and_then(|sender| sender.send_to(entry, "/run/systemd/journal/socket"));
        }
    }
}
