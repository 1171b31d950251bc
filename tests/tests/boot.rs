//! The shipped image in a virtual machine under Secure Boot, and every way in which it must not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ingot_tests::fixture::{copy_sparse, load_balancer_that_reports, scratch};
use ingot_tests::machine::{boot, boot_until};
use ingot_tests::profiles::{Authority, balancer, signed};
use ingot_tests::programs::{must, tool};

/// A boot takes about 30 s here; a loaded machine may take some times that.
const PATIENCE: u64 = 400;
/// A refusal comes early.
const REFUSAL: u64 = 150;
/// Words after which nothing more is to be seen.
const REFUSALS: [&str; 6] =
    ["No bootable option", "Access Denied", "Security Violation", "reported=yes", "reboot: ", "starting again in"];

fn raw(release: &Path) -> std::path::PathBuf {
    release.join("load-balancer-report.raw")
}

/// First byte of the partition of this type.
fn start_of(raw: &Path, kind: &str) -> u64 {
    let table: serde_json::Value = serde_json::from_str(&must(tool("sfdisk", ["--json"]).arg(raw))).unwrap();
    let all = table["partitiontable"]["partitions"].as_array().unwrap();
    all.iter().find(|p| p["type"] == kind).unwrap()["start"].as_u64().unwrap() * 512
}

const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// Replaces the image's UKI by what `change` makes of it.
fn with_uki(image: &Path, folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let esp = format!("{}@@{}", image.display(), start_of(image, ESP));
    let name = must(&mut tool("mdir", ["-b", "-i", &esp, "::/EFI/Linux"]))
        .lines()
        .find(|l| l.ends_with(".efi"))
        .unwrap()
        .trim()
        .to_owned();
    let uki = folder.join("uki.efi");
    must(tool("mcopy", ["-i", &esp, &name]).arg(&uki));
    let mut bytes = fs::read(&uki).unwrap();
    change(&mut bytes);
    fs::write(&uki, bytes).unwrap();
    must(tool("mcopy", ["-o", "-i", &esp]).arg(&uki).arg(&name));
}

#[test]
fn boots_under_secure_boot_without_a_failed_unit_and_keeps_its_state() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let disk = folder.path().join("disk.qcow2");
    let keep = ["--keep", disk.to_str().unwrap()];
    let profile = signed(folder.path(), &balancer("lb-0", &Authority::new(folder.path()), 16443, ""));
    let first = boot(&release, PATIENCE, &[&keep[..], &["--profile", profile.to_str().unwrap()]].concat());
    assert_eq!(first.fact("reported"), Some("yes"), "{}", first.console);
    assert_eq!(first.fact("running"), Some("running"), "failed: {:?}\n{}", first.fact("failed"), first.console);
    assert_eq!(first.fact("failed"), Some(""));
    assert_eq!(first.fact("secure_boot"), Some("1"));
    assert_eq!(first.fact("multi_user"), Some("active"));
    assert!(first.fact("lockdown").unwrap().contains("[integrity]"));
    assert!(first.fact("root").unwrap().contains("erofs ro"), "{:?}", first.fact("root"));
    assert_eq!(first.fact("etc"), Some("overlay"));
    assert_eq!((first.fact("etc_writable"), first.fact("usr_writable")), (Some("yes"), Some("no")));
    assert_eq!(first.fact("boots"), Some("1"));
    let partitions = first.fact("partitions").unwrap();
    assert!(
        partitions.contains("state") && partitions.matches("_empty").count() == 2,
        "slot B and state are made at first boot: {partitions}"
    );

    let second = boot(&release, PATIENCE, &keep);
    assert_eq!(second.fact("running"), Some("running"), "{}", second.console);
    assert_eq!(second.fact("machine_id"), first.fact("machine_id"), "the machine keeps its identity");
    assert_eq!(second.fact("boots"), Some("2"), "/var survives");
    assert_eq!(second.fact("etc_kept"), None, "changes in /etc do not");
}

#[test]
fn firmware_refuses_a_changed_and_an_unsigned_uki() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let image = folder.path().join("image.raw");
    for (name, change) in [
        (
            "one byte changed",
            Box::new(|uki: &mut Vec<u8>| {
                let middle = uki.len() / 2;
                uki[middle] ^= 1;
            }) as Box<dyn FnOnce(&mut Vec<u8>)>,
        ),
        (
            "unsigned",
            Box::new(|uki: &mut Vec<u8>| {
                // The certificate table entry of the optional header (PE32+): address and size become zero.
                let header = u32::from_le_bytes(uki[0x3c..0x40].try_into().unwrap()) as usize;
                let entry = header + 24 + 112 + 4 * 8;
                let start = u32::from_le_bytes(uki[entry..entry + 4].try_into().unwrap()) as usize;
                uki[entry..entry + 8].fill(0);
                uki.truncate(start);
            }),
        ),
    ] {
        copy_sparse(&raw(&release), &image);
        with_uki(&image, folder.path(), change);
        let run = boot_until(&image, REFUSAL, &[], &REFUSALS);
        assert_eq!(run.fact("reported"), None, "{name}: {}", run.console);
        assert!(!run.console.contains("ingot-init"), "{name}: the kernel was started\n{}", run.console);
        assert!(
            run.console.contains("Access Denied")
                || run.console.contains("Security Violation")
                || run.console.contains("Security violation"),
            "{name}:\n{}",
            run.console
        );
    }
}

#[test]
fn a_flipped_byte_in_the_root_fails_closed_in_words() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let image = folder.path().join("image.raw");
    copy_sparse(&raw(&release), &image);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let start = start_of(&image, ROOT);
    // The superblock's volume name: nothing but dm-verity would notice.
    let mut byte = [0];
    file.read_exact_at(&mut byte, start + 1024 + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], start + 1024 + 100).unwrap();
    let run = boot_until(&image, REFUSAL, &[], &REFUSALS);
    assert_eq!(run.fact("reported"), None, "{}", run.console);
    assert!(run.console.contains("corrupted") || run.console.contains("verity"), "{}", run.console);
}

#[test]
fn another_root_than_the_signed_one_is_refused_in_words() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let image = folder.path().join("image.raw");
    copy_sparse(&raw(&release), &image);
    // The partition's identity no longer matches the root hash of the signed command line.
    let number = must(tool("sfdisk", ["--json"]).arg(&image)).matches("\"node\"").count();
    let index =
        (1..=number).find(|n| must(tool("sgdisk", ["-i", &n.to_string()]).arg(&image)).to_uppercase().contains(ROOT)).unwrap();
    must(tool("sgdisk", [format!("--partition-guid={index}:11111111-2222-3333-4444-555555555555")]).arg(&image));
    let run = boot_until(&image, REFUSAL, &[], &REFUSALS);
    assert_eq!(run.fact("reported"), None, "{}", run.console);
    run.assert_says("ingot-init: FAILED: finding the root");
    run.assert_says("next:");
}
