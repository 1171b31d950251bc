//! What this machine is: read once, before anything is decided.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::machine::{Machine, read_text};
use crate::roles::kubernetes::release::{self, Release};

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Name it has now.
    pub name: String,
    /// Hardware address, lower case.
    pub mac: String,
    /// Driver; none for what is no card.
    pub driver: Option<String>,
    /// Whether there is a signal; not known while it is down.
    pub carrier: Option<bool>,
    /// Whether it follows another (a bond, a Hyper-V virtual function).
    pub follows: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Name of the kernel: `sda`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// The image this machine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    /// `IMAGE_ID`.
    pub id: Option<String>,
    /// `IMAGE_VERSION`.
    pub version: Option<String>,
    /// Role it is made for.
    pub role: Option<String>,
}

/// What this machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Network interfaces, by name; without `lo`.
    pub interfaces: Vec<Interface>,
    /// Disks, by name.
    pub disks: Vec<Disk>,
    /// Memory in bytes.
    pub memory: u64,
    /// UUID the firmware gives the machine, lower case.
    pub product_uuid: Option<String>,
    /// The image.
    pub image: Image,
    /// Consoles of the kernel: `tty0`, `ttyS0`.
    pub consoles: Vec<String>,
    /// /etc/passwd, /etc/group and /etc/shadow as they are now.
    #[serde(skip)]
    pub accounts: Accounts,
    /// Whether there is a systemd-repart definition of the state partition.
    pub repart: bool,
    /// Kubernetes of the image.
    pub kubernetes: Option<Release>,
    /// Whether control groups are those of version 1.
    pub legacy_cgroups: bool,
    /// Whether programs may be made less likely to be killed for want of memory (CAP_SYS_RESOURCE).
    pub lowers_oom: bool,
    /// Whether it is a container.
    pub container: bool,
}

/// The three account files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// /etc/passwd.
    pub passwd: String,
    /// /etc/group.
    pub group: String,
    /// /etc/shadow: hashes.
    pub shadow: String,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts(..)")
    }
}

/// Looks at the machine.
///
/// # Errors
/// Something that is there cannot be read.
pub fn facts(machine: &dyn Machine) -> Result<Facts> {
    let text = |path: &str| read_text(machine, path);
    let etc = |path: &str| Ok::<_, Failure>(text(path)?.unwrap_or_default());
    let product_uuid = text("/sys/class/dmi/id/product_uuid")?.map(|uuid| uuid.trim().to_ascii_lowercase());
    Ok(Facts {
        interfaces: interfaces(machine)?,
        disks: disks(machine)?,
        memory: memory(&text("/proc/meminfo")?.unwrap_or_default()),
        product_uuid: product_uuid.filter(|uuid| !uuid.is_empty()),
        image: image(&text("/usr/lib/os-release")?.unwrap_or_default(), text("/usr/share/ingot/role")?.as_deref()),
        consoles: consoles(&text("/sys/class/tty/console/active")?.unwrap_or_default()),
        accounts: Accounts { passwd: etc("/etc/passwd")?, group: etc("/etc/group")?, shadow: etc("/etc/shadow")? },
        repart: list(machine, "/usr/lib/repart.d")?.iter().any(|name| name.contains("state")),
        kubernetes: release::read(machine)?,
        legacy_cgroups: legacy_cgroups(&text("/proc/self/mountinfo")?.unwrap_or_default()),
        lowers_oom: capable(&text("/proc/self/status")?.unwrap_or_default(), SYS_RESOURCE),
        container: text("/run/systemd/container")?.is_some(),
    })
}

/// Number of CAP_SYS_RESOURCE (capabilities(7)).
const SYS_RESOURCE: u32 = 24;

/// Whether this process has a capability; where nobody says, it has all.
fn capable(status: &str, capability: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_none_or(|set| set >> capability & 1 == 1)
}

/// Whether a hierarchy of version 1 with controllers is mounted (proc(5): the type stands behind ` - `).
fn legacy_cgroups(mounts: &str) -> bool {
    mounts.lines().filter_map(|line| line.split_once(" - ")).any(|(_, rest)| {
        let mut words = rest.split(' ');
        words.next() == Some("cgroup") && !rest.contains("name=")
    })
}

fn list(machine: &dyn Machine, folder: &str) -> Result<Vec<String>> {
    machine.list(folder).map_err(|e| Failure::io("reading", folder, &e))
}

pub(crate) fn interfaces(machine: &dyn Machine) -> Result<Vec<Interface>> {
    // systemd says so where it runs in one. There the card is the other end of a cable to the host, without a device.
    let container = read_text(machine, "/run/systemd/container")?.is_some();
    let mut interfaces = Vec::new();
    for name in list(machine, "/sys/class/net")?.into_iter().filter(|name| name != "lo") {
        let folder = format!("/sys/class/net/{name}");
        let Some(mac) = read_text(machine, &format!("{folder}/address"))? else { continue };
        // A card that is down refuses the question.
        let carrier = machine.read(&format!("{folder}/carrier")).ok().flatten().map(|bytes| bytes.starts_with(b"1"));
        let last = |link: &str| {
            let target = machine.link(&format!("{folder}/{link}")).map_err(|e| Failure::io("reading", &folder, &e));
            target.map(|target| target.and_then(|target| target.rsplit('/').next().map(str::to_owned)))
        };
        let follows = last("master")?.is_some();
        let number = |file: &str| read_text(machine, &format!("{folder}/{file}"));
        // What a container network puts on its bridge has another end too.
        let cable = container && !follows && number("ifindex")? != number("iflink")?;
        interfaces.push(Interface {
            mac: mac.trim().to_ascii_lowercase(),
            driver: last("device/driver")?.or_else(|| cable.then(|| "veth".to_owned())),
            carrier,
            follows,
            name,
        });
    }
    Ok(interfaces)
}

fn disks(machine: &dyn Machine) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for name in list(machine, "/sys/class/block")? {
        let folder = format!("/sys/class/block/{name}");
        let is = |path: &str| machine.attributes(&format!("{folder}/{path}")).map_err(|e| Failure::io("reading", &folder, &e));
        // Partitions have a number; what is no device (loop, device mapper) has no `device`.
        if is("partition")?.is_some() || is("device")?.is_none() {
            continue;
        }
        let sectors: u64 = read_text(machine, &format!("{folder}/size"))?.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        disks.push(Disk { name, bytes: sectors.saturating_mul(512) });
    }
    Ok(disks)
}

/// Names that can be part of a unit's.
fn consoles(active: &str) -> Vec<String> {
    let plain = |name: &&str| name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    active.split_whitespace().filter(plain).map(str::to_owned).collect()
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

fn image(release: &str, role: Option<&str>) -> Image {
    let values: BTreeMap<&str, String> = release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim().trim_matches('"').to_owned()))
        .collect();
    let value = |key: &str| values.get(key).filter(|value| !value.is_empty()).cloned();
    let role = role.map(|role| role.trim().to_owned()).filter(|role| !role.is_empty());
    // The images of ingot are named after their role; one with a name of its own says it in a file.
    let roles = ["load-balancer", "control-plane", "linux-worker", "windows-worker"];
    let named = value("IMAGE_ID").filter(|id| roles.contains(&id.as_str()));
    Image { id: value("IMAGE_ID"), version: value("IMAGE_VERSION"), role: role.or(named) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::machine::scripted::{Faults, Scripted};

    fn interface(root: &Path, name: &str, numbers: [u32; 2], bridge: bool) {
        let folder = root.join("sys/class/net").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("address"), "02:00:00:00:00:01\n").unwrap();
        fs::write(folder.join("ifindex"), format!("{}\n", numbers[0])).unwrap();
        fs::write(folder.join("iflink"), format!("{}\n", numbers[1])).unwrap();
        if bridge {
            std::os::unix::fs::symlink("../cni0", folder.join("master")).unwrap();
        }
    }

    #[test]
    fn control_groups_and_capabilities() {
        let second = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let named = "31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let first = "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert!(!legacy_cgroups(second) && !legacy_cgroups(named) && legacy_cgroups(&[named, first].concat()));
        assert!(capable("", SYS_RESOURCE) && capable("CapEff:\t000001ffffffffff\n", SYS_RESOURCE));
        assert!(!capable("CapEff:\t000001fffeffffff\n", SYS_RESOURCE));
    }

    #[test]
    fn the_cable_of_a_container_is_its_card_and_those_of_its_pods_are_none() {
        let root = tempfile::tempdir().unwrap();
        interface(root.path(), "eth0", [2, 3], false);
        interface(root.path(), "cni0", [4, 4], false);
        interface(root.path(), "veth1", [5, 2], true);
        let drivers = || {
            let facts = facts(&Scripted::new(root.path(), Faults::default())).unwrap();
            facts.interfaces.into_iter().map(|card| (card.name, card.driver.is_some())).collect::<Vec<_>>()
        };
        let with = |cable| vec![("cni0".to_owned(), false), ("eth0".to_owned(), cable), ("veth1".to_owned(), false)];
        assert_eq!(drivers(), with(false), "on a machine a card has a device");
        fs::create_dir_all(root.path().join("run/systemd")).unwrap();
        fs::write(root.path().join("run/systemd/container"), "systemd-nspawn\n").unwrap();
        assert_eq!(drivers(), with(true));
    }
}
