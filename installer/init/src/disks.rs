//! Finding the root: the two partitions whose UUIDs are the halves of the root hash, on any disk,
//! waited for as long as disks may take to appear.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::cmdline::RootHash;
use crate::console::Console;
use crate::failure::Failure;
use crate::gpt::{Guid, Partition, Table, Unusable};
use crate::modules::{Buses, Loader, folder};
use crate::sys;

const BLOCK: &str = "/sys/class/block";

/// First pause between two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// When to say what is awaited.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the kernel's own node of a partition may take once its disk is there.
const NODE: Duration = Duration::from_millis(500);

/// Disks that are never the system's: memory, loops, and what stands on other disks.
const SKIPPED: [&str; 5] = ["ram", "loop", "zram", "dm-", "fd"];

/// The partitions of a root, by the discoverable rule: first and last 128 bits of its root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    root: Guid,
    verity: Guid,
}

impl Wanted {
    /// For this root hash.
    pub fn of(hash: &RootHash) -> Self {
        let (mut root, mut verity) = ([0; 16], [0; 16]);
        root.iter_mut().chain(&mut verity).zip(hash.0).for_each(|(to, from)| *to = from);
        Self { root: Guid(root), verity: Guid(verity) }
    }
}

/// A partition that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Node: `/dev/vda2`.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// The root and its hash tree, on one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Data.
    pub root: Device,
    /// Superblock and tree.
    pub verity: Device,
}

/// Looks until the partitions are there, loading modules for every device that appears meanwhile.
///
/// # Errors
/// After `timeout`: what is on each disk instead.
pub fn find(wanted: Wanted, timeout: Duration, loader: &mut Loader, console: &mut Console) -> Result<Found, Failure> {
    let start = Instant::now();
    let mut search = Search { wanted, seen: BTreeMap::new() };
    let (mut pause, mut patient) = (FIRST_PAUSE, true);
    loop {
        for buses in [Buses::Paravirtual, Buses::All] {
            loader.load_for_devices(buses, console);
            search.look(Path::new(BLOCK));
            if let Some(pair) = search.pair() {
                return nodes(&pair, console);
            }
        }
        if start.elapsed() >= timeout {
            return Err(search.failure(timeout));
        }
        if patient && start.elapsed() >= PATIENCE {
            patient = false;
            console.say(&format!("waiting for the root partition {} and its verity partition {}", wanted.root, wanted.verity));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is known of the disks so far.
struct Search {
    wanted: Wanted,
    seen: BTreeMap<String, Result<Table, Unusable>>,
}

/// A disk that has both.
struct Pair {
    disk: String,
    from_backup: bool,
    root: Partition,
    verity: Partition,
}

impl Search {
    /// Reads disks not read before, and those whose reading failed.
    fn look(&mut self, block: &Path) {
        for path in folder(block) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let skipped = SKIPPED.iter().any(|prefix| name.starts_with(prefix)) || path.join("partition").exists();
            let known = self.seen.get(&name).is_some_and(|table| !matches!(table, Err(Unusable::Io(_))));
            let size = number(&path.join("size")).unwrap_or(0).saturating_mul(512);
            if !skipped && !known && size > 0 {
                let sector = number(&path.join("queue/logical_block_size")).and_then(|n| u32::try_from(n).ok()).unwrap_or(512);
                let opened = File::open(node(&name)).map_err(Unusable::Io);
                self.seen.insert(name, opened.and_then(|disk| Table::read(&disk, sector, size)));
            }
        }
    }

    /// The first disk by name that has both partitions. Disks with the same UUIDs are copies: the
    /// root hash is what decides whether one is right.
    fn pair(&self) -> Option<Pair> {
        self.seen.iter().find_map(|(disk, table)| {
            let table = table.as_ref().ok()?;
            let with = |unique: Guid| table.partitions.iter().find(|p| p.unique == unique).copied();
            let (root, verity) = (with(self.wanted.root)?, with(self.wanted.verity)?);
            Some(Pair { disk: disk.clone(), from_backup: table.from_backup, root, verity })
        })
    }

    fn failure(&self, timeout: Duration) -> Failure {
        let Wanted { root, verity } = self.wanted;
        let describe = |(disk, table): (&String, &Result<Table, Unusable>)| match table {
            Err(fault) => format!("{disk}: {fault}"),
            Ok(table) => {
                let has = |unique: Guid| table.partitions.iter().any(|p| p.unique == unique);
                let which = match (has(root), has(verity)) {
                    (true, _) => "the root partition, but not its verity partition",
                    (_, true) => "the verity partition, but not its root partition",
                    _ => "other partitions",
                };
                format!("{disk}: {which} (of {})", table.partitions.len())
            }
        };
        let disks: Vec<String> = self.seen.iter().map(describe).collect();
        let found = if disks.is_empty() { "no disk at all".to_owned() } else { disks.join("; ") };
        let next = if disks.is_empty() {
            "attach the disk, or choose a disk controller this image has a driver for (kernel.initrd_modules)"
        } else {
            "attach the disk this UKI was built with, or boot the UKI that belongs to the disk"
        };
        Failure::new(format!("finding the root within {} s", timeout.as_secs()), found)
            .expected(format!("partitions {root} (root) and {verity} (verity) on one disk"))
            .next(next)
    }
}

/// The nodes of the pair; made known to the kernel first where it did not accept the damaged table.
fn nodes(pair: &Pair, console: &mut Console) -> Result<Found, Failure> {
    if pair.from_backup {
        console.warn(&format!(
            "{}: the primary partition table is damaged, its backup is used; repair it with `sgdisk -e`",
            pair.disk
        ));
    }
    let device = |partition: &Partition| {
        let wait = if pair.from_backup { Duration::ZERO } else { NODE };
        let path = match wait_for_node(&pair.disk, partition.number, wait) {
            Some(path) => path,
            None => add(&pair.disk, partition)?,
        };
        Ok(Device { path, size: partition.length })
    };
    Ok(Found { root: device(&pair.root)?, verity: device(&pair.verity)? })
}

fn add(disk: &str, partition: &Partition) -> Result<String, Failure> {
    let refuse = |found: String| {
        Failure::new(format!("making partition {} of {disk} known to the kernel", partition.number), found)
            .next("repair the partition table (`sgdisk -e`), or write the disk image again")
    };
    let file = File::open(node(disk)).map_err(|e| refuse(e.to_string()))?;
    sys::add_partition(&file, partition.number, partition.start, partition.length).map_err(|e| refuse(e.to_string()))?;
    wait_for_node(disk, partition.number, NODE).ok_or_else(|| refuse("no device node appeared".to_owned()))
}

/// The node of a partition by its number, as /sys tells it.
fn wait_for_node(disk: &str, partition: u32, wait: Duration) -> Option<String> {
    let start = Instant::now();
    loop {
        let is_it = |path: &PathBuf| number(&path.join("partition")) == Some(u64::from(partition));
        let child = folder(&Path::new(BLOCK).join(disk)).into_iter().find(is_it);
        let path = child.map(|path| node(&path.file_name().unwrap_or_default().to_string_lossy()));
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            return Some(path);
        }
        if start.elapsed() >= wait {
            return None;
        }
        thread::sleep(FIRST_PAUSE);
    }
}

/// The node of a name in /sys, which has `!` for `/`.
fn node(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::CommandLine;

    fn search(disks: &[(&str, &[Guid])]) -> Search {
        let hash = format!("roothash={}", "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210");
        let wanted = Wanted::of(&CommandLine::parse(&hash).root_hash().unwrap());
        let partition = |(unique, number): (&Guid, u32)| Partition { number, unique: *unique, start: 0, length: 1 };
        let table = |all: &[Guid]| Table { partitions: all.iter().zip(1..).map(partition).collect(), from_backup: false };
        Search { wanted, seen: disks.iter().map(|(name, all)| ((*name).to_owned(), Ok(table(all)))).collect() }
    }

    #[test]
    fn the_halves_of_the_hash_are_the_partitions() {
        let wanted = search(&[]).wanted;
        assert_eq!(wanted.root.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(wanted.verity.to_string(), "01234567-89ab-cdef-fedc-ba9876543210");
    }

    #[test]
    fn both_must_be_on_one_disk() {
        let Wanted { root, verity } = search(&[]).wanted;
        let other = Guid([1; 16]);
        assert!(search(&[("sda", &[root]), ("sdb", &[verity])]).pair().is_none());
        let pair = search(&[("sda", &[root]), ("sdb", &[other, verity, root])]).pair().unwrap();
        assert_eq!((pair.disk.as_str(), pair.root.number, pair.verity.number), ("sdb", 3, 2));
    }

    #[test]
    fn a_failure_names_what_is_on_each_disk() {
        let Wanted { root, verity } = search(&[]).wanted;
        let mut some = search(&[("sda", &[root]), ("sdb", &[verity]), ("sdc", &[])]);
        some.seen.insert("sdd".to_owned(), Err(Unusable::NoTable));
        let words = some.failure(Duration::from_secs(2)).to_string();
        for part in [
            "within 2 s",
            "sda: the root partition, but not its verity partition (of 1)",
            "sdb: the verity partition, but not",
            "sdc: other partitions (of 0)",
            "sdd: no partition table",
        ] {
            assert!(words.contains(part), "{words}\nshould say {part}");
        }
        assert!(search(&[]).failure(Duration::ZERO).found.contains("no disk at all"));
    }
}
