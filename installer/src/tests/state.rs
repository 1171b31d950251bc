//! The state partition: made, opened, refused.

use std::fs;
use std::path::Path;

use super::{machine_of, profile};
use crate::machine::scripted::{Faults, Scripted};
use crate::report::codes;
use crate::sequence::{run, state};

/// A disk whose partitions have these names; no partition where there is none.
pub(crate) fn table(names: &[&str]) -> Vec<u8> {
    let mut disk = vec![0; 64 << 10];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72] = 2;
    disk[512 + 80] = 128;
    disk[512 + 84] = 128;
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
        let entry = 1024 + 128 * index;
        disk[entry] = 1;
        for (at, unit) in name.encode_utf16().enumerate() {
            disk[entry + 56 + 2 * at..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    disk
}

/// A machine that started from `vda` with nothing behind its root; its profile lies where a credential would.
fn fresh(case: &str) -> tempfile::TempDir {
    let root = machine_of(case);
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("sys/class/block/dm-0/dm/name", "root\n");
    put("sys/class/block/dm-0/slaves/vda2/x", "");
    put("sys/class/block/vda2/x", "");
    put("sys/class/block/vda/size", "2000000\n");
    fs::create_dir_all(root.path().join("dev")).unwrap();
    fs::write(root.path().join("dev/vda"), table(&["", "root"])).unwrap();
    for (name, text) in [("partition", "2\n"), ("start", "2048\n"), ("size", "900000\n")] {
        put(&format!("sys/class/block/vda/vda2/{name}"), text);
    }
    put("proc/self/mountinfo", "22 1 0:1 / / ro - erofs root ro\n");
    fs::create_dir_all(root.path().join("run/credentials/@system")).unwrap();
    fs::copy(root.path().join("profile.toml"), root.path().join("run/credentials/@system/ingot.profile")).unwrap();
    root
}

fn ran(machine: &Scripted, program: &str) -> Vec<String> {
    machine.commands.borrow().iter().filter(|line| line.contains(program)).cloned().collect()
}

fn volatile(root: &Path) -> Option<String> {
    fs::read_to_string(root.join("run/ingot/volatile.json")).ok()
}

#[test]
fn the_first_boot_makes_it_and_later_ones_open_it() {
    let root = fresh("01-dhcp");
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert_eq!(ran(&machine, "repart"), ["/usr/bin/systemd-repart --dry-run=no --no-pager /dev/vda"]);
    assert_eq!(ran(&machine, "mount "), ["/usr/bin/mount -t ext4 -o noatime,nosuid,nodev /dev/vda3 /state"]);
    let text = fs::read_to_string(root.path().join("run/repart.d/50-state.conf")).unwrap();
    assert!(text.contains("Label=state\nFormat=ext4\nSizeMinBytes=268435456\nFactoryReset=yes\n"), "{text}");
    assert!(root.path().join("state/ingot").is_dir() && volatile(root.path()).is_none());
    // Mounted: nothing is done a second time, as in a container.
    let again = Scripted::new(root.path(), Faults::default());
    state(&again).unwrap();
    assert!(again.commands.borrow().is_empty());
    // After a restart it is there, and no source is asked.
    fs::write(root.path().join("proc/self/mountinfo"), "").unwrap();
    fs::remove_dir_all(root.path().join("run/credentials")).unwrap();
    let later = Scripted::new(root.path(), Faults { fsck: 1, ..Faults::default() });
    state(&later).unwrap();
    assert!(ran(&later, "repart").is_empty() && ran(&later, "mount ").len() == 1);
    assert!(later.lines.borrow().iter().any(|line| line.contains("was repaired")), "{:?}", later.lines);
}

#[test]
fn without_a_profile_it_is_memory_and_made_when_one_comes() {
    let root = fresh("01-dhcp");
    fs::remove_dir_all(root.path().join("run/credentials")).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert!(ran(&machine, "repart").is_empty());
    assert!(ran(&machine, "mount ")[0].contains("-t tmpfs"));
    assert!(volatile(root.path()).unwrap().contains(codes::NO_PROFILE.number));
    let machine = Scripted::new(root.path(), Faults::default());
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), &codes::STARTING_AGAIN, "{failure}");
    assert_eq!(ran(&machine, "repart").len(), 1);
    assert_eq!(ran(&machine, "reboot"), ["/usr/bin/systemctl reboot --no-block"]);
    assert!(!root.path().join("etc/hostname").exists(), "nothing is rendered before it has its state");
}

#[test]
fn a_profile_that_is_refused_makes_nothing() {
    let root = fresh("01-dhcp");
    fs::write(root.path().join("run/credentials/@system/ingot.profile"), "schema = 1\n").unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert!(ran(&machine, "repart").is_empty());
    assert!(volatile(root.path()).unwrap().contains(codes::NOT_A_PROFILE.number));
    let root = fresh("04-wrong-role");
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert!(ran(&machine, "repart").is_empty());
    assert!(volatile(root.path()).unwrap().contains(codes::WRONG_ROLE.number));
}

#[test]
fn what_cannot_be_made_or_opened_says_why() {
    let root = fresh("01-dhcp");
    let machine = Scripted::new(root.path(), Faults { small_disk: true, ..Faults::default() });
    state(&machine).unwrap();
    assert!(volatile(root.path()).unwrap().contains(codes::DISK_SMALL.number));
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), &codes::DISK_SMALL, "{failure}");

    let root = fresh("01-dhcp");
    let text = fs::read_to_string(root.path().join("profile.toml")).unwrap() + "[disks.state]\nencryption = \"tpm2\"\n";
    fs::write(root.path().join("run/credentials/@system/ingot.profile"), &text).unwrap();
    fs::write(root.path().join("profile.toml"), &text).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert!(ran(&machine, "repart").is_empty(), "an encrypted one is never made in the clear");
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::NO_TPM);
    fs::create_dir_all(root.path().join("sys/class/tpm/tpm0")).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::STARTING_AGAIN);
    assert_eq!(
        ran(&machine, "repart"),
        ["/usr/bin/systemd-repart --dry-run=no --no-pager --tpm2-device=auto --tpm2-pcrs=7 /dev/vda"]
    );

    // The TPM does not give the key away: it stays as it is, and the reason is told.
    let mut head = vec![0; 4096];
    head[..6].copy_from_slice(b"LUKS\xba\xbe");
    fs::write(root.path().join("dev/vda3"), head).unwrap();
    fs::write(root.path().join("proc/self/mountinfo"), "").unwrap();
    fs::remove_file(root.path().join("run/ingot/volatile.json")).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    let failure = run(&machine, &profile()).unwrap_err();
    assert_eq!(failure.code(), &codes::STATE_LOCKED, "{failure}");
    assert!(ran(&machine, "repart").is_empty() && ran(&machine, "reboot").is_empty());
}

#[test]
fn damage_is_never_repaired_by_force() {
    let root = fresh("01-dhcp");
    state(&Scripted::new(root.path(), Faults::default())).unwrap();
    fs::write(root.path().join("proc/self/mountinfo"), "").unwrap();
    let machine = Scripted::new(root.path(), Faults { fsck: 4, ..Faults::default() });
    state(&machine).unwrap();
    assert!(volatile(root.path()).unwrap().contains(codes::STATE_DAMAGED.number));
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::STATE_DAMAGED);
    // An unencrypted one is refused where the profile wants it encrypted.
    fs::remove_file(root.path().join("run/ingot/volatile.json")).unwrap();
    let text = fs::read_to_string(root.path().join("profile.toml")).unwrap() + "[disks.state]\nencryption = \"tpm2\"\n";
    fs::write(root.path().join("profile.toml"), text).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    assert_eq!(run(&machine, &profile()).unwrap_err().code(), &codes::STATE_OTHER);
}

#[test]
fn room_behind_it_is_grown_into() {
    let root = fresh("01-dhcp");
    state(&Scripted::new(root.path(), Faults::default())).unwrap();
    fs::write(root.path().join("proc/self/mountinfo"), "").unwrap();
    fs::write(root.path().join("sys/class/block/vda/size"), "9000000\n").unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    state(&machine).unwrap();
    assert_eq!(ran(&machine, "repart").len(), 1);
    assert_eq!(ran(&machine, "growfs"), ["/usr/lib/systemd/systemd-growfs /state"]);
    assert!(volatile(root.path()).is_none());
}
