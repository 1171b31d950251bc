//! Every byte of a release is judged by the tools of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::Path;

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::programs::{cache, ingot, must, oracle, said, tool};

/// The manifest, as anybody would read it.
fn manifest(release: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(release.join("manifest.json")).unwrap()).unwrap()
}

/// Start and size in bytes of a partition, by its label's end.
fn partition(release: &Path, role: &str) -> (u64, u64) {
    let listing = must(tool("sfdisk", ["--json"]).arg(release.join("load-balancer.raw")));
    let table: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let kind = match role {
        "esp" => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "root" => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        _ => "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5",
    };
    let found = table["partitiontable"]["partitions"].as_array().unwrap().iter().find(|p| p["type"] == kind).expect(role);
    (found["start"].as_u64().unwrap() * 512, found["size"].as_u64().unwrap() * 512)
}

/// Copies a partition out of the raw image.
fn extract(release: &Path, role: &str, to: &Path) {
    let (start, size) = partition(release, role);
    must(
        tool("dd", ["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"])
            .arg(format!("if={}", release.join("load-balancer.raw").display()))
            .arg(format!("of={}", to.display()))
            .arg(format!("skip={start}"))
            .arg(format!("count={size}")),
    );
    fs::OpenOptions::new().write(true).open(to).unwrap().set_len(size).unwrap();
}

#[test]
fn partition_table_is_clean_and_starts_at_mebibytes() {
    let release = load_balancer();
    let raw = release.join("load-balancer.raw");
    assert!(must(tool("sgdisk", ["--verify"]).arg(&raw)).contains("No problems found"));
    for role in ["esp", "root", "verity"] {
        assert_eq!(partition(&release, role).0 % (1 << 20), 0, "{role}");
    }
}

#[test]
fn system_partition_is_clean_fat_and_holds_what_the_firmware_looks_for() {
    let release = load_balancer();
    let folder = scratch();
    let esp = folder.path().join("esp");
    extract(&release, "esp", &esp);
    let verdict = must(tool("fsck.fat", ["-n", "-v"]).arg(&esp));
    for complaint in ["differ", "Orphan", "wrong", "Bad", "Reclaim", "Free cluster", "removed", "xpected", "Dirty"] {
        assert!(!verdict.contains(complaint), "{verdict}");
    }
    let listing = must(tool("mdir", ["-/", "-b", "-i"]).arg(&esp));
    for file in ["/EFI/BOOT/BOOTX64.EFI", "/EFI/Linux/", "/loader/loader.conf"] {
        assert!(listing.contains(file), "{file} is not in\n{listing}");
    }
}

#[test]
fn root_is_read_by_fsck_and_by_the_kernel_alike() {
    let release = load_balancer();
    let folder = scratch();
    extract(&release, "root", &folder.path().join("root.erofs"));
    let script = "fsck.erofs /mnt/root.erofs && mkdir /tmp/x && fsck.erofs --extract=/tmp/x --no-preserve /mnt/root.erofs >/dev/null \
        && cd /tmp/x && find . -type f -print0 | sort -z | xargs -0 sha256sum >/mnt/by-fsck";
    must(&mut oracle(folder.path(), script));
    let mounted = r#"mkdir "$1/m" && mount -t erofs -o ro,loop "$1/root.erofs" "$1/m" && cd "$1/m" && find . -type f -print0 | sort -z | xargs -0 sha256sum >"$1/by-kernel""#;
    must(tool("unshare", ["--mount", "--propagation", "private", "bash", "-euc", mounted, "mount"]).arg(folder.path()));
    let by_fsck = fs::read_to_string(folder.path().join("by-fsck")).unwrap();
    assert!(by_fsck.lines().count() > 2000, "{} files", by_fsck.lines().count());
    assert!(
        by_fsck == fs::read_to_string(folder.path().join("by-kernel")).unwrap(),
        "fsck.erofs and the kernel read different files"
    );
}

#[test]
fn verity_tree_is_what_veritysetup_makes() {
    let release = load_balancer();
    let folder = scratch();
    extract(&release, "root", &folder.path().join("root"));
    extract(&release, "verity", &folder.path().join("verity"));
    let hash = manifest(&release)["root"]["hash"].as_str().unwrap().to_owned();
    must(tool("veritysetup", ["verify"]).arg(folder.path().join("root")).arg(folder.path().join("verity")).arg(&hash));
    let mut wrong = hash.into_bytes();
    wrong[0] = if wrong[0] == b'0' { b'1' } else { b'0' };
    let refused = said(
        tool("veritysetup", ["verify"])
            .arg(folder.path().join("root"))
            .arg(folder.path().join("verity"))
            .arg(String::from_utf8(wrong).unwrap()),
    );
    assert_ne!(refused.code, 0);
}

#[test]
fn boot_files_carry_the_key_of_the_release_and_no_other() {
    let release = load_balancer();
    let certificate = cache().join("keys/db.crt");
    let uki = release.join("load-balancer.efi");
    must(tool("sbverify", ["--cert"]).arg(&certificate).arg(&uki));
    assert_ne!(said(tool("sbverify", ["--cert"]).arg(cache().join("keys/KEK.crt")).arg(&uki)).code, 0);
    let folder = scratch();
    fs::copy(&uki, folder.path().join("uki.efi")).unwrap();
    let seen = must(&mut oracle(folder.path(), "ukify inspect /mnt/uki.efi"));
    let hash = manifest(&release)["root"]["hash"].as_str().unwrap().to_owned();
    for section in [".osrel", ".cmdline", ".linux", ".initrd", ".uname", &hash] {
        assert!(seen.contains(section), "{section} is not in\n{seen}");
    }
}

#[test]
fn every_disk_format_holds_the_same_disk() {
    let release = load_balancer();
    let raw = release.join("load-balancer.raw");
    for (format, name) in [("qcow2", "load-balancer.qcow2"), ("vhdx", "load-balancer.vhdx")] {
        let image = release.join(name);
        must(tool("qemu-img", ["check", "-f", format]).arg(&image));
        assert!(
            must(tool("qemu-img", ["compare", "-f", "raw", "-F", format]).arg(&raw).arg(&image)).contains("Images are identical")
        );
    }
}

#[test]
fn signatures_are_ones_that_ssh_keygen_accepts() {
    let release = load_balancer();
    let signers = cache().join("keys/allowed_signers");
    let principal = fs::read_to_string(&signers).unwrap().split_whitespace().next().unwrap().to_owned();
    for file in ["manifest.json", "SHA256SUMS"] {
        let verify = |bytes: &Path| {
            let mut command = tool("ssh-keygen", ["-Y", "verify", "-n", "ingot-release", "-I", &principal, "-f"]);
            command.arg(&signers).arg("-s").arg(release.join(format!("{file}.sig"))).stdin(fs::File::open(bytes).unwrap());
            said(&mut command)
        };
        assert_eq!(verify(&release.join(file)).code, 0, "{file}: {}", verify(&release.join(file)).err);
        assert_ne!(verify(&release.join("load-balancer.spdx.json")).code, 0, "{file}");
    }
    must(tool("sha256sum", ["--check", "--strict", "SHA256SUMS"]).current_dir(&release));
}

#[test]
fn systemd_dissect_finds_a_discoverable_image() {
    let release = load_balancer();
    let folder = scratch();
    ingot_tests::fixture::copy_sparse(&release.join("load-balancer.raw"), &folder.path().join("image.raw"));
    let seen = must(&mut oracle(
        folder.path(),
        "systemd-dissect --json=short --no-pager --mtree /mnt/image.raw >/dev/null 2>&1 || true; systemd-dissect --no-pager /mnt/image.raw",
    ));
    for word in ["root", "root-verity", "esp"] {
        assert!(seen.contains(word), "{word} is not in\n{seen}");
    }
}

#[test]
fn own_verification_names_every_check_and_sees_every_change() {
    let release = load_balancer();
    let good = said(ingot(["verify", "--json"]).arg(&release));
    assert_eq!(good.code, 0, "{}{}", good.out, good.err);
    let folder = scratch();
    for (file, code) in
        [("load-balancer.raw", 4), ("load-balancer.qcow2", 4), ("load-balancer.efi", 4), ("manifest.json", 4), ("SHA256SUMS", 4)]
    {
        let copy = folder.path().join("release");
        let _ = fs::remove_dir_all(&copy);
        must(tool("cp", ["-r", "--sparse=always"]).arg(&release).arg(&copy));
        let path = copy.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let refused = said(ingot(["verify"]).arg(&copy));
        assert_eq!(refused.code, code, "{file}: {}{}", refused.out, refused.err);
        assert!((refused.out + &refused.err).contains(file), "{file} is not named");
    }
}
