//! A folder that plays a running machine: programs are scripted, clocks stand still, and any call can go wrong.

#![allow(missing_docs)]

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::find::https;

use super::net::Net;
use super::played::Played;
use super::{Attributes, Command, Datagram, Machine, Output, Overheard, Ownership, Real, Space};

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The machine dies in this change (from 0): half of a file is written, a program's answer is lost.
    pub kill_at: Option<usize>,
    /// Changes below this folder end with this error.
    pub disk: Option<(&'static str, io::ErrorKind)>,
    /// No gateway answers.
    pub silent: bool,
    /// DHCP answers after so many seconds.
    pub dhcp_after: u64,
    /// systemd-repart finds no room.
    pub small_disk: bool,
    /// Exit code of e2fsck.
    pub fsck: i32,
    /// A configuration that holds these words is refused by the program that reads it.
    pub refused: Option<&'static str>,
    /// Who answers for which address: address and hardware address.
    pub neighbours: Vec<(&'static str, &'static str)>,
    /// What is heard of VRRP.
    pub adverts: Vec<Datagram>,
    /// kubeadm ends with these words.
    pub kubeadm: Option<&'static str>,
}

/// The machine.
#[derive(Debug)]
pub struct Scripted {
    real: Real,
    pub root: PathBuf,
    pub faults: Faults,
    pub clock: u64,
    pub up: Cell<Duration>,
    pub changes: Cell<usize>,
    dead: Cell<bool>,
    pub commands: RefCell<Vec<String>>,
    pub lines: RefCell<Vec<String>>,
    pub notices: RefCell<Vec<String>>,
    pub entries: RefCell<Vec<Vec<u8>>>,
    /// What a server answers from this second on; without signatures.
    pub served: RefCell<Option<(u64, Vec<u8>)>>,
    /// How often a server was asked for a profile.
    pub asked: Cell<usize>,
    pub screens: Cell<bool>,
    pub serial: Cell<bool>,
    pub space: Space,
    pub net: Arc<Played>,
}

impl Scripted {
    pub fn new(root: &Path, faults: Faults) -> Self {
        Self {
            real: Real::new(root, Ownership::Ignored),
            root: root.to_owned(),
            faults,
            clock: 1_800_000_000,
            up: Cell::new(Duration::from_secs(10)),
            changes: Cell::new(0),
            dead: Cell::new(false),
            commands: RefCell::default(),
            lines: RefCell::default(),
            notices: RefCell::default(),
            entries: RefCell::default(),
            served: RefCell::default(),
            asked: Cell::new(0),
            screens: Cell::new(true),
            serial: Cell::new(true),
            space: Space { total: 10 << 30, free: 8 << 30 },
            net: Arc::default(),
        }
        .in_network(crate::tests::cluster::network(root))
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.get() { Err(io::Error::other("killed")) } else { Ok(()) }
    }

    /// Counts a change; `half` is what is left of it when the machine dies in it.
    fn change(&self, path: &str, half: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.alive()?;
        if let Some((_, kind)) = self.faults.disk.filter(|(folder, _)| path.starts_with(folder)) {
            return Err(kind.into());
        }
        let number = self.changes.replace(self.changes.get() + 1);
        if self.faults.kill_at == Some(number) {
            half()?;
            self.dead.set(true);
            return Err(io::Error::other("killed"));
        }
        Ok(())
    }

    /// Another machine is there in the network, or none.
    pub fn in_network(mut self, net: Played) -> Self {
        self.net = Arc::new(Played { root: Some(self.root.clone()), ..net });
        self
    }

    pub(crate) fn put(&self, path: &str, text: &str) -> io::Result<()> {
        self.real.make_folder(super::parent(path), Attributes::root(0o755))?;
        self.real.write(path, text.as_bytes(), Attributes::root(0o600))
    }

    fn program(&self, command: &Command) -> io::Result<Output> {
        let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
        let answer = |code: i32, out: &str| Ok(Output { code: Some(code), out: out.to_owned(), tail: String::new() });
        match (command.program.as_str(), arguments.as_slice()) {
            ("/usr/bin/ssh-keygen", [.., file]) => {
                self.put(file, "PRIVATE\n")?;
                self.put(&format!("{file}.pub"), "ssh-ed25519 PUBLIC\n")?;
            }
            ("/usr/sbin/modprobe", ["-a", "--", names @ ..]) => {
                for name in names {
                    self.put(&format!("/sys/module/{}/initstate", name.replace('-', "_")), "live\n")?;
                }
            }
            ("/usr/bin/ip", ["link", "set", "dev", from, "name", to]) => {
                self.real.rename(&format!("/sys/class/net/{from}"), &format!("/sys/class/net/{to}"))?;
            }
            ("/usr/bin/ip", ["-j", "-4", ..]) if self.up.get().as_secs() >= self.faults.dhcp_after => {
                return answer(0, r#"[{"dst":"default","gateway":"10.0.0.1","dev":"eth0"}]"#);
            }
            ("/usr/bin/ip", ["-j", "neigh", "show", "to", address, "dev", _]) => {
                let mac = self.faults.neighbours.iter().find(|(known, _)| known == address).map(|(_, mac)| *mac);
                let entry = |mac| format!(r#"[{{"dst":"{address}","lladdr":"{mac}","state":["REACHABLE"]}}]"#);
                return answer(0, &mac.map_or("[]".to_owned(), entry));
            }
            ("/usr/bin/ip", ["-j", "address", "show"]) => {
                let name = if self.real.read("/sys/class/net/lan/address")?.is_some() { "lan" } else { "eth0" };
                let address = r#"{"family":"inet","local":"10.0.0.11","prefixlen":24}"#;
                return answer(0, &format!(r#"[{{"ifname":"{name}","addr_info":[{address}]}}]"#));
            }
            ("/usr/bin/ip", ["-j", ..]) => return answer(0, "[]"),
            ("/usr/bin/ip", ["neigh", "flush", ..]) => {}
            ("/usr/sbin/haproxy" | "/usr/sbin/keepalived", arguments) => {
                let file = arguments.iter().find(|argument| argument.ends_with(".candidate")).copied().unwrap_or_default();
                let text = self.real.read(file)?.ok_or(io::ErrorKind::NotFound)?;
                let text = String::from_utf8_lossy(&text);
                if let Some(words) = self.faults.refused.filter(|words| text.contains(words)) {
                    let tail = format!("[ALERT] config : parsing [{file}:7]: {words}\n");
                    return Ok(Output { code: Some(1), out: String::new(), tail });
                }
            }
            ("/usr/bin/ping", _) if self.faults.silent => return answer(1, ""),
            ("/usr/bin/systemd-repart", [.., "/dev/vda"]) => {
                // Like the real one: the file system first, the partition table last.
                let mut head = vec![0; 4096];
                head[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
                if self.faults.small_disk {
                    let tail = "Can't fit requested partitions into available free space (100.0M), refusing.\n".to_owned();
                    return Ok(Output { code: Some(1), out: String::new(), tail });
                }
                self.real.make_folder("/dev", Attributes::root(0o755))?;
                self.real.write("/dev/vda3", &head, Attributes::root(0o600))?;
                let table = crate::tests::state::table(&["root", "", "state"]);
                self.real.write("/dev/vda", &table, Attributes::root(0o600))?;
                for (name, value) in [("partition", "3\n"), ("start", "1000000\n"), ("size", "1000000\n"), ("ro", "0\n")] {
                    self.put(&format!("/sys/class/block/vda/vda3/{name}"), value)?;
                }
                self.real.make_folder("/sys/class/block/vda3", Attributes::root(0o755))?;
            }
            ("/usr/bin/mount", ["--bind", what, at]) => {
                let link = self.root.join(at.trim_start_matches('/'));
                std::fs::remove_dir(&link)?;
                std::os::unix::fs::symlink(what, link)?;
                let table = self.real.read("/proc/self/mountinfo")?.unwrap_or_default();
                let table = format!("{}31 1 0:1 {what} {at} rw - x x rw\n", String::from_utf8_lossy(&table));
                self.put("/proc/self/mountinfo", &table)?;
            }
            ("/usr/bin/ctr" | "/usr/bin/kubeadm" | "/usr/bin/kubectl" | "/usr/bin/etcdctl" | "/usr/bin/rm", _) => {
                return crate::tests::cluster::program(self, command.program.as_str(), &arguments);
            }
            ("/usr/bin/mount", [.., what, "/state"]) => {
                self.put("/proc/self/mountinfo", &format!("30 1 0:1 / /state rw - x {what} rw\n"))?;
            }
            ("/usr/sbin/e2fsck", _) => return answer(self.faults.fsck, "inode 12: words\n"),
            ("/usr/bin/systemd-cryptsetup", _) => {
                return Ok(Output { code: Some(1), out: String::new(), tail: "Failed to unseal secret using TPM2".to_owned() });
            }
            ("/usr/bin/udevadm" | "/usr/lib/systemd/systemd-growfs", _) => {}
            ("/usr/bin/ping" | "/usr/bin/systemctl", _) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        answer(0, "")
    }
}

impl Machine for Scripted {
    fn live(&self) -> bool {
        true
    }

    fn ownership(&self) -> Ownership {
        Ownership::Ignored
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.alive()?;
        self.real.read(path)
    }

    /// The image's time: before the clock.
    fn modified(&self, path: &str) -> io::Result<u64> {
        self.alive()?;
        self.real.modified(path).map(|_| 1_700_000_000)
    }

    fn open(&self, device: &str) -> io::Result<std::fs::File> {
        self.alive()?;
        self.real.open(device)
    }

    fn credentials(&self) -> Option<String> {
        None
    }

    fn attributes(&self, path: &str) -> io::Result<Option<Attributes>> {
        self.alive()?;
        self.real.attributes(path)
    }

    fn link(&self, path: &str) -> io::Result<Option<String>> {
        self.alive()?;
        self.real.link(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.alive()?;
        self.real.list(folder)
    }

    fn make_folder(&self, path: &str, attributes: Attributes) -> io::Result<()> {
        self.change(path, || Ok(()))?;
        self.real.make_folder(path, attributes)
    }

    fn write(&self, path: &str, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
        self.change(path, || self.real.write(path, &bytes[..bytes.len() / 2], attributes))?;
        let attributes = Attributes { uid: 0, gid: 0, ..attributes };
        self.real.write(path, bytes, attributes)
    }

    fn write_kernel(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.change(path, || Ok(()))?;
        self.real.write_kernel(path, bytes)
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.change(path, || self.real.append(path, &bytes[..bytes.len() / 2]))?;
        self.real.append(path, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(to, || Ok(()))?;
        self.real.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.change(path, || Ok(()))?;
        self.real.remove(path)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.change(path, || Ok(()))?;
        self.real.sync_folder(path)
    }

    fn run(&self, command: &Command) -> io::Result<Output> {
        self.change("", || self.program(command).map(drop))?;
        self.commands.borrow_mut().push(command.to_string());
        self.program(command)
    }

    fn overhear(&self, what: &Overheard<'_>) -> io::Result<Vec<Datagram>> {
        self.alive()?;
        self.sleep(what.time);
        Ok(self.faults.adverts.clone())
    }

    fn ask(&self, _: &str, _: &str, _: Duration) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn fetch(&self, request: &https::Request) -> Result<https::Answer, https::Trouble> {
        if request.url.ends_with(".sig") {
            return Ok(https::Answer::Missing);
        }
        self.asked.set(self.asked.get() + 1);
        match &*self.served.borrow() {
            Some((from, bytes)) if self.up.get().as_secs() >= *from => Ok(https::Answer::Bytes(bytes.clone())),
            _ => Err(https::Trouble { reason: "cannot be asked: no route to host".to_owned(), later: true }),
        }
    }

    fn now(&self) -> u64 {
        self.clock
    }

    fn uptime(&self) -> Duration {
        self.up.get()
    }

    fn sleep(&self, time: Duration) {
        self.up.set(self.up.get() + time);
    }

    fn say(&self, line: &str) {
        if self.screens.get() || self.serial.get() {
            self.lines.borrow_mut().push(line.to_owned());
        }
    }

    fn consoles(&self, screens: bool, serial: bool) {
        self.screens.set(screens);
        self.serial.set(serial);
    }

    fn rewrite(&self, path: &str, most: usize, change: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
        self.change(path, || Ok(()))?;
        self.real.rewrite(path, most, change)
    }

    fn space(&self, _: &str) -> io::Result<Space> {
        self.alive()?;
        Ok(self.space)
    }

    fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }

    fn notify(&self, state: &str) {
        self.notices.borrow_mut().push(state.to_owned());
    }

    fn log(&self, entry: &[u8]) {
        self.entries.borrow_mut().push(entry.to_owned());
    }
}
