//! The disk this machine started from, and its state partition.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, read_text, run};
use crate::report::codes;
use crate::steps::World;

const BLOCK: &str = "/sys/class/block";
/// The label (GPT partition name) systemd-repart gives it.
const LABEL: &str = "state";
/// Name of the unlocked device.
const MAPPED: &str = "state";
/// How long the TPM may take.
const UNLOCK: Duration = Duration::from_secs(60);
/// A check of a large file system after a power cut.
const CHECK: Duration = Duration::from_secs(900);

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// Name of the kernel: `vda6`.
    pub name: String,
    /// Its file in /dev.
    pub device: String,
}

/// The disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// Name of the kernel: `vda`.
    pub name: String,
    /// Its file in /dev.
    pub device: String,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Where its last partition ends, in the same sectors.
    pub end: u64,
    /// The state partition.
    pub state: Option<Partition>,
}

/// Finds the disk under the verified root, and on it (nowhere else) the state partition: a disk that somebody
/// attaches must not pass its own off as this machine's.
pub(super) fn find(machine: &dyn Machine) -> Result<Disk> {
    let name = under_root(machine)?;
    let mut disk =
        Disk { device: device(&name), sectors: number(machine, &format!("{BLOCK}/{name}/size"))?, end: 0, state: None, name };
    let wanted = labelled(machine, &disk.device)?;
    for entry in list(machine, BLOCK)? {
        let folder = format!("{BLOCK}/{}/{entry}", disk.name);
        if parent(machine, &entry)?.as_deref() != Some(disk.name.as_str()) {
            continue;
        }
        let end = number(machine, &format!("{folder}/start"))? + number(machine, &format!("{folder}/size"))?;
        disk.end = disk.end.max(end);
        if wanted == Some(number(machine, &format!("{folder}/partition"))?) {
            disk.state = Some(Partition { device: device(&entry), name: entry });
        }
    }
    Ok(disk)
}

/// Number of the partition with our label, by the table itself: of a partition that was added while it runs the kernel
/// knows no name.
fn labelled(machine: &dyn Machine, device: &str) -> Result<Option<u64>> {
    let reading = |e| Failure::io("reading", device, &e);
    let mut file = machine.open(device).map_err(reading)?;
    // UEFI 2.10, section 5.3: the header in block 1, the entries where it says. The kernel has checked both.
    let mut header = [0; 512];
    file.seek(SeekFrom::Start(512)).and_then(|_| file.read_exact(&mut header)).map_err(reading)?;
    let four = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied()).map_or(0, u32::from_le_bytes);
    let (count, size) = (four(80), four(84));
    if !header.starts_with(b"EFI PART") || !(1..=1024).contains(&count) || !(128..=4096).contains(&size) {
        return Err(Failure::new(&codes::NO_BOOT_DISK, format!("{device}: expected a GPT, found none that is whole")));
    }
    let place = header.get(72..80).and_then(|bytes| bytes.first_chunk().copied()).map_or(0, u64::from_le_bytes);
    let mut entries = vec![0; count as usize * size as usize];
    let start = SeekFrom::Start(place.saturating_mul(512));
    file.seek(start).and_then(|_| file.read_exact(&mut entries)).map_err(reading)?;
    let label: Vec<u8> = LABEL.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let used = |entry: &[u8]| !entry.starts_with(&[0; 16]);
    let found = entries
        .chunks(size as usize)
        .position(|entry| used(entry) && entry.get(56..).is_some_and(|name| name.starts_with(&label)));
    Ok(found.map(|index| index as u64 + 1))
}

/// The whole disk below the device-mapper device (`root`) that the initrd made.
fn under_root(machine: &dyn Machine) -> Result<String> {
    let mut last = "no device-mapper device `root`".to_owned();
    for entry in list(machine, BLOCK)?.into_iter().filter(|entry| entry.starts_with("dm-")) {
        let folder = format!("{BLOCK}/{entry}");
        if read_text(machine, &format!("{folder}/dm/name"))?.is_none_or(|name| name.trim() != "root") {
            continue;
        }
        for slave in list(machine, &format!("{folder}/slaves"))? {
            if let Some(disk) = parent(machine, &slave)? {
                return Ok(disk);
            }
            last = format!("{slave} below `root` is no partition");
        }
    }
    Err(Failure::new(&codes::NO_BOOT_DISK, format!("expected the disk of the verified root, found {last}")))
}

/// The disk a partition is on: its folder is in the disk's. `None` for what is no partition.
fn parent(machine: &dyn Machine, name: &str) -> Result<Option<String>> {
    for disk in list(machine, BLOCK)?.into_iter().filter(|disk| name.starts_with(disk.as_str())) {
        let path = format!("{BLOCK}/{disk}/{name}/partition");
        if machine.attributes(&path).map_err(|e| Failure::io("reading", &path, &e))?.is_some() {
            return Ok(Some(disk));
        }
    }
    Ok(None)
}

fn device(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

fn list(machine: &dyn Machine, folder: &str) -> Result<Vec<String>> {
    machine.list(folder).map_err(|e| Failure::io("reading", folder, &e))
}

fn number(machine: &dyn Machine, path: &str) -> Result<u64> {
    let text = read_text(machine, path)?.unwrap_or_default();
    text.trim().parse().map_err(|_| Failure::new(&codes::INPUT_OUTPUT, format!("{path}: expected a number, found {text:?}")))
}

/// Whether the kernel lets nothing be written to it.
pub(super) fn read_only(machine: &dyn Machine, disk: &Disk, partition: &Partition) -> Result<bool> {
    Ok(read_text(machine, &format!("{BLOCK}/{}/{}/ro", disk.name, partition.name))?.is_some_and(|text| text.trim() == "1"))
}

/// Reads the first bytes of a device.
fn head(machine: &dyn Machine, device: &str) -> Result<Vec<u8>> {
    let reading = |e| Failure::io("reading", device, &e);
    let mut file = machine.open(device).map_err(reading)?;
    let mut bytes = vec![0; 4096];
    file.read_exact(&mut bytes).map_err(reading)?;
    Ok(bytes)
}

/// LUKS2 On-Disk Format Specification 1.1, section 2.1: the magic of the first header.
fn is_luks(head: &[u8]) -> bool {
    head.starts_with(b"LUKS\xba\xbe")
}

/// Whether the state partition is encrypted; `None` where it is not there.
pub(super) fn encrypted(machine: &dyn Machine, disk: &Disk) -> Result<Option<bool>> {
    let Some(partition) = &disk.state else { return Ok(None) };
    head(machine, &partition.device).map(|head| Some(is_luks(&head)))
}

/// The device that holds the file system: the partition itself, or what the TPM unlocks.
pub(super) fn unlock(world: World<'_>, device: &str) -> Result<String> {
    let machine = world.machine;
    if !is_luks(&head(machine, device)?) {
        return Ok(device.to_owned());
    }
    let arguments = ["attach", MAPPED, device, "-", "tpm2-device=auto,headless=true,discard"];
    let command = Command::new("/usr/bin/systemd-cryptsetup", &arguments).within(UNLOCK);
    run(machine, &command).map_err(|failure| Failure::new(&codes::STATE_LOCKED, failure.to_string()))?;
    Ok(format!("/dev/mapper/{MAPPED}"))
}

/// Which file system it is, by its superblock (ext4: Documentation/filesystems/ext4/super.rst; XFS: xfs_dsb).
pub(super) fn file_system(machine: &dyn Machine, device: &str) -> Result<&'static str> {
    let head = head(machine, device)?;
    if head.starts_with(b"XFSB") {
        return Ok("xfs");
    }
    if head.get(1024 + 56..1024 + 58) == Some(&[0x53, 0xef]) {
        return Ok("ext4");
    }
    Err(Failure::new(&codes::STATE_DAMAGED, format!("{device}: expected a file system (ext4 or XFS), found none")))
}

/// Whether the file system is smaller than its device by a MiB or more: growing it was cut off.
pub(super) fn smaller(machine: &dyn Machine, device: &str) -> Result<bool> {
    let head = head(machine, device)?;
    let reading = |e| Failure::io("reading", device, &e);
    let size = machine.open(device).and_then(|mut file| file.seek(SeekFrom::End(0))).map_err(reading)?;
    Ok(used(&head).is_some_and(|used| used + (1 << 20) <= size))
}

/// Bytes the file system of this superblock takes.
fn used(head: &[u8]) -> Option<u64> {
    let four = |at: usize| head.get(at..at + 4)?.first_chunk::<4>().copied();
    if head.starts_with(b"XFSB") {
        let blocks = head.get(8..16)?.first_chunk::<8>().copied().map(u64::from_be_bytes)?;
        return blocks.checked_mul(u64::from(u32::from_be_bytes(four(4)?)));
    }
    let (low, high) = (u32::from_le_bytes(four(1024 + 4)?), u32::from_le_bytes(four(1024 + 336)?));
    let size = 1024_u64.checked_shl(u32::from_le_bytes(four(1024 + 24)?))?;
    // The upper half counts only with the feature 64bit (s_feature_incompat 0x80).
    let high = if u32::from_le_bytes(four(1024 + 96)?) & 0x80 == 0 { 0 } else { high };
    (u64::from(high) << 32 | u64::from(low)).checked_mul(size)
}

/// Repairs what a power cut left (e2fsck(8): 0 clean, 1 repaired).
pub(super) fn check(world: World<'_>, device: &str) -> Result<()> {
    let command = Command::new("/usr/sbin/e2fsck", &["-p", device]).within(CHECK);
    let output = world.machine.run(&command).map_err(|e| Failure::io("running", &command.program, &e))?;
    match output.code {
        Some(0) => Ok(()),
        Some(1) => {
            world.report.applying("state", "the file system was repaired after a hard stop");
            Ok(())
        }
        code => {
            let words = if output.out.trim().is_empty() { output.tail } else { output.out };
            let end = code.map_or_else(|| "was killed".to_owned(), |code| format!("ended with {code}"));
            Err(Failure::new(&codes::STATE_DAMAGED, format!("`{command}` {end}: {}", words.trim().replace('\n', " / "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn sizes_of_superblocks() {
        let mut head = vec![0; 4096];
        head[1024 + 4..1024 + 8].copy_from_slice(&1000_u32.to_le_bytes());
        head[1024 + 24] = 2;
        head[1024 + 336] = 1;
        assert_eq!(used(&head), Some(4_096_000), "without 64bit the upper half is something else");
        head[1024 + 96] = 0x80;
        assert_eq!(used(&head), Some(4_096_000 + (4096_u64 << 32)));
        let mut head = vec![0; 4096];
        head[..4].copy_from_slice(b"XFSB");
        head[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        head[8..16].copy_from_slice(&10_u64.to_be_bytes());
        assert_eq!(used(&head), Some(40960));
        assert_eq!(used(&[0; 100]), None);
    }
}
