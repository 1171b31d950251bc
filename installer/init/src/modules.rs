//! Kernel modules: the list the builder put into the initrd, and loading by it. No modprobe, no
//! udev: `always` modules first, others when a device (or the processor) asks for them by modalias.
//!
//! The list has one word per line first, then names; a name is a file `/modules/NAME.ko`:
//! ```text
//! always NAME              load at the start, in this order
//! module NAME DEPENDENCY   what must be loaded before NAME, in this order
//! alias PATTERN NAME       a device whose modalias matches asks for NAME
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::alias;
use crate::cmdline::CommandLine;
use crate::console::Console;

const LIST: &str = "/modules/list";
const FOLDER: &str = "/modules";
const PROCESSOR: &str = "/sys/devices/system/cpu/modalias";
const BUSES: &str = "/sys/bus";
/// Buses of hypervisors. Their disks come at once, while probing the empty ports of an emulated
/// AHCI controller takes half a second under emulation: so these are tried alone first.
const PARAVIRTUAL: [&str; 3] = ["virtio", "vmbus", "xen"];

/// The parsed list.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct List {
    always: Vec<String>,
    dependencies: BTreeMap<String, Vec<String>>,
    aliases: Vec<(String, String)>,
}

impl List {
    /// Reads the text form; lines of unknown kinds are refused, so that an older program is noticed.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let words: Vec<&str> = line.split(' ').collect();
            let name = words.last().copied().unwrap_or_default();
            match words[..] {
                ["always", name] if is_name(name) => list.always.push(name.to_owned()),
                ["module", name, ref others @ ..] if is_name(name) && others.iter().all(|other| is_name(other)) => {
                    list.dependencies.insert(name.to_owned(), others.iter().map(|&other| other.to_owned()).collect());
                }
                ["alias", pattern, name] if is_name(name) => list.aliases.push((pattern.to_owned(), name.to_owned())),
                _ => return Err(format!("line {number} is not understood (`{}`)", name.escape_debug())),
            }
        }
        Ok(list)
    }

    /// Modules that a device with this modalias asks for, in the order of the list.
    pub fn wanted_by<'a>(&'a self, modalias: &str) -> Vec<&'a str> {
        let matching = self.aliases.iter().filter(|(pattern, _)| alias::matches(pattern, modalias));
        let mut names: Vec<&str> = matching.map(|(_, name)| name.as_str()).collect();
        names.dedup();
        names
    }

    /// `name` with all that must be loaded before it, in order.
    pub fn order<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.dependencies.get(name).into_iter().flatten().map(String::as_str).chain([name])
    }
}

/// A name becomes a file name: nothing else may be in it.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// Which devices may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buses {
    /// Those of hypervisors.
    Paravirtual,
    /// All.
    All,
}

/// Loads modules, each once.
#[derive(Debug)]
pub struct Loader {
    list: List,
    parameters: CommandLine,
    tried: BTreeSet<String>,
    devices: BTreeSet<PathBuf>,
}

impl Loader {
    /// Reads the list of the initrd. One that cannot be read is told and counts as empty, as
    /// everything needed may be built into the kernel; a later step fails otherwise.
    pub fn new(command_line: &CommandLine, console: &mut Console) -> Self {
        let read = fs::read_to_string(LIST).map_err(|e| e.to_string());
        let list = read.and_then(|text| List::parse(&text)).unwrap_or_else(|fault| {
            console.warn(&format!("the list of modules {LIST}: {fault}"));
            List::default()
        });
        Self { list, parameters: command_line.clone(), tried: BTreeSet::new(), devices: BTreeSet::new() }
    }

    /// What the processor asks for (dm-verity takes the best SHA-256 there is when its table is
    /// loaded, so this comes first), then the modules of every machine.
    pub fn load_first(&mut self, console: &mut Console) {
        self.load_for(Path::new(PROCESSOR), console);
        for name in self.list.always.clone() {
            self.load(&name, console);
        }
    }

    /// What devices ask for that were not there before. Looks at the devices on each bus, which are
    /// all that drivers bind to, rather than walking /sys.
    pub fn load_for_devices(&mut self, buses: Buses, console: &mut Console) {
        let asked = |bus: &PathBuf| buses == Buses::All || PARAVIRTUAL.iter().any(|name| bus.ends_with(name));
        for bus in folder(Path::new(BUSES)).into_iter().filter(asked) {
            for device in folder(&bus.join("devices")) {
                if self.devices.insert(device.clone()) {
                    self.load_for(&device.join("modalias"), console);
                }
            }
        }
    }

    fn load_for(&mut self, modalias: &Path, console: &mut Console) {
        let Ok(text) = fs::read_to_string(modalias) else { return };
        let names: Vec<String> = self.list.wanted_by(text.trim_end()).into_iter().map(str::to_owned).collect();
        for name in names {
            self.load(&name, console);
        }
    }

    fn load(&mut self, name: &str, console: &mut Console) {
        let order: Vec<String> = self.list.order(name).map(str::to_owned).collect();
        for name in order {
            if !self.tried.insert(name.clone()) {
                continue;
            }
            match insert(&name, &self.parameters.module_parameters(&name)) {
                Ok(()) => console.detail(&format!("module {name}")),
                Err(fault) => console.warn(&format!("the module {name} was not loaded: {fault}")),
            }
        }
    }
}

fn insert(name: &str, parameters: &str) -> Result<(), String> {
    let file = File::open(format!("{FOLDER}/{name}.ko")).map_err(|e| e.to_string())?;
    let parameters = std::ffi::CString::new(parameters).map_err(|e| e.to_string())?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What is in a folder of /sys, in byte order; a folder that goes away is empty.
pub fn folder(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "always overlay\nmodule sd_mod scsi_common scsi_mod\nmodule overlay\nalias scsi:t-0x00* sd_mod\nalias scsi:t-0x0* sd_mod\nalias scsi:t-0x05* sr_mod\n";

    #[test]
    fn the_list_says_what_to_load_and_in_which_order() {
        let list = List::parse(TEXT).unwrap();
        assert_eq!(list.always, ["overlay"]);
        assert_eq!(list.wanted_by("scsi:t-0x00"), ["sd_mod"]);
        assert_eq!(list.wanted_by("scsi:t-0x05"), ["sd_mod", "sr_mod"]);
        assert_eq!(list.wanted_by("pci:v0"), [""; 0]);
        assert_eq!(list.order("sd_mod").collect::<Vec<_>>(), ["scsi_common", "scsi_mod", "sd_mod"]);
        assert_eq!(list.order("unknown").collect::<Vec<_>>(), ["unknown"]);
    }

    #[test]
    fn strange_lines_are_refused_with_their_number() {
        for wrong in ["always", "always ../x", "module", "module a b/c", "alias x", "alias x y z", "load x", "", "always x "] {
            let refused = List::parse(&format!("always overlay\n{wrong}\n")).unwrap_err();
            assert!(refused.starts_with("line 2 "), "{wrong:?}: {refused}");
        }
        assert_eq!(List::parse("").unwrap(), List::default());
    }
}
