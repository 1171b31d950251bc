//! The proof by a real firmware: what our keys have signed boots, nothing else does.

use std::io::{Cursor, Write};
use std::time::Duration;

use super::{Boot, Reboot, SecureBoot, Serial};
use crate::boot::oracle::efi;
use crate::boot::{authenticode, variables};
use crate::epoch::Epoch;
use crate::keys::secure_boot::tests::keys;

/// What the menu of systemd-boot says.
const LOADER_SAYS: &str = "Boot in ";
/// What the firmware starts on a disk that it does not know.
const DEFAULT_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const LIMIT: Duration = Duration::from_secs(240);

/// A disk that is one FAT volume with these files.
fn esp(files: &[(&str, &[u8])]) -> Vec<u8> {
    let length: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut image = Cursor::new(vec![0; (length + (40 << 20)).next_multiple_of(1 << 20)]);
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut image, options).unwrap();
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
    for (path, bytes) in files {
        let (folders, name) = path.rsplit_once('/').unwrap();
        let folder = folders.split('/').fold(volume.root_dir(), |folder, name| folder.create_dir(name).unwrap());
        folder.create_file(name).unwrap().write_all(bytes).unwrap();
    }
    volume.unmount().unwrap();
    image.into_inner()
}

/// A release folder with this disk and our keys' lists.
fn release(disk: &[u8]) -> (tempfile::TempDir, Boot) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secure-boot")).unwrap();
    for (name, bytes) in variables::enrolment(keys(), Epoch(0)).unwrap() {
        std::fs::write(folder.path().join("secure-boot").join(name), bytes).unwrap();
    }
    let image = folder.path().join("disk.raw");
    std::fs::write(&image, disk).unwrap();
    let mut boot = Boot::new(&image);
    boot.memory_mib = 1024;
    boot.reboot = Reboot::End;
    boot.serial = Serial::Log(folder.path().join("serial.log"));
    (folder, boot)
}

#[test]
fn secure_boot_takes_what_our_keys_have_signed_and_nothing_else() {
    let signed = authenticode::sign(&efi("systemd-bootx64.efi"), &keys().db).unwrap();
    let mut changed = signed.clone();
    changed[0x5000] ^= 1;
    let foreign = authenticode::sign(&efi("systemd-bootx64.efi"), &keys().kek).unwrap();
    let refused = "Access Denied";
    for (what, program, secure_boot, expected) in [
        ("signed", &signed, SecureBoot::Beside, LOADER_SAYS),
        ("unsigned", &efi("systemd-bootx64.efi"), SecureBoot::Beside, refused),
        ("one byte changed", &changed, SecureBoot::Beside, refused),
        ("signed by another key", &foreign, SecureBoot::Beside, refused),
        ("unsigned, Secure Boot off", &efi("systemd-bootx64.efi"), SecureBoot::Off, LOADER_SAYS),
    ] {
        let disk = esp(&[(DEFAULT_LOADER, program)]);
        let (folder, mut boot) = release(&disk);
        boot.secure_boot = secure_boot;
        let mut machine = boot.start().unwrap();
        let took = machine.wait_for(expected, LIMIT).unwrap_or_else(|e| panic!("{what}: {e}"));
        let console = machine.console().unwrap();
        assert_eq!(console.contains(LOADER_SAYS), expected == LOADER_SAYS, "{what}: {console}");
        machine.stop().unwrap();
        println!("{what}: `{expected}` after {:.1} s", took.as_secs_f64());
        assert!(std::fs::read(folder.path().join("disk.raw")).unwrap() == disk, "{what}: the image was written to");
    }
}

/// The `.auth` files, by the firmware's own check: systemd-boot hands them to a firmware without keys, which
/// from then on refuses the unsigned systemd-boot.
#[test]
fn the_firmware_takes_our_updates() {
    let loader = efi("systemd-bootx64.efi");
    let updates = variables::enrolment(keys(), Epoch(1_700_000_000)).unwrap();
    let update = |name: &str| updates[name].as_slice();
    let files = [
        (DEFAULT_LOADER, loader.as_slice()),
        ("loader/loader.conf", b"secure-boot-enroll force\ntimeout 1\n"),
        ("loader/keys/auto/PK.auth", update("PK.auth")),
        ("loader/keys/auto/KEK.auth", update("KEK.auth")),
        ("loader/keys/auto/db.auth", update("db.auth")),
    ];
    let (_folder, mut boot) = release(&esp(&files));
    boot.secure_boot = SecureBoot::Off;
    boot.reboot = Reboot::Again;
    let mut machine = boot.start().unwrap();
    let took = machine.wait_for("Access Denied", LIMIT).unwrap();
    println!("enrolled, rebooted and refused after {:.1} s", took.as_secs_f64());
    let console = machine.console().unwrap();
    assert!(console.contains("successfully enrolled"), "{console}");
    machine.stop().unwrap();
}
