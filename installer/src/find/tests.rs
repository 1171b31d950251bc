//! The sources together: which outcome each has, and what comes of several.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::fixture::{Fake, Files, fat, iso, pool, structure};
use super::https::{Answer, Trouble};
use super::*;

const PROFILE: &[u8] = b"schema = 1\n[node]\nname = \"lb-1\"\n";
const OTHER: &[u8] = b"schema = 1\n[node]\nname = \"lb-2\"\n";
const SIGNATURE: &[u8] = b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n";
const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";
const CMDLINE: &str = "/proc/cmdline";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/ingot.profile/raw";

/// The outcome of the source whose name holds `source`.
fn outcome<'a>(found: &'a Found, source: &str) -> &'a str {
    let tried = found.tried.iter().find(|(name, _)| name.contains(source));
    tried.map_or_else(|| panic!("{source} is not among {:#?}", found.tried), |(_, outcome)| outcome)
}

/// That exactly one source, whose name holds `source`, has the profile.
fn only(found: &Found, source: &str, signed: bool) {
    let [candidate] = found.candidates.as_slice() else { panic!("{found:#?}") };
    assert!(candidate.source.contains(source), "{}", candidate.source);
    assert_eq!(String::from_utf8_lossy(&candidate.profile), String::from_utf8_lossy(PROFILE));
    assert_eq!(candidate.signature.as_deref().map(str::as_bytes), signed.then_some(SIGNATURE), "{source}");
}

#[test]
fn a_bare_machine_names_every_source() {
    let found = find(&Fake::new(&[(CMDLINE, b"quiet\n")]));
    let sources: Vec<&str> = found.tried.iter().map(|(source, _)| source.as_str()).collect();
    assert_eq!(
        sources,
        [
            "credential in /run/credentials/@system",
            "SMBIOS type 11 credential",
            "fw_cfg credential",
            "disk labelled INGOT",
            "disk labelled cidata",
            "Hyper-V key-value pool 0",
            "Hyper-V key-value pool 3",
            "EFI system partition",
            "https",
            "state partition",
        ]
    );
    let error = found.choose().unwrap_err();
    assert!(matches!(&error, Undecided::Nothing { later: false, .. }));
    assert_eq!(error.to_string().lines().count(), 11, "{error}");
    assert!(error.hint().contains("labelled INGOT"));
    assert_eq!(error.exit_code(), 5);
}

#[test]
fn credentials_are_read_from_every_place() {
    let mut by_folder = Fake::new(&[
        ("/run/credentials/ingot.service/ingot.profile", PROFILE),
        ("/run/credentials/ingot.service/ingot.profile.sig", SIGNATURE),
    ]);
    by_folder.credentials = Some("/run/credentials/ingot.service".to_owned());
    only(&find(&by_folder), "/run/credentials/ingot.service", true);
    only(&find(&Fake::new(&[("/run/credentials/@system/ingot.profile", PROFILE)])), "@system", false);
    only(&find(&Fake::new(&[(FW_CFG, PROFILE), (&FW_CFG.replace("/raw", ".sig/raw"), SIGNATURE)])), "fw_cfg", true);

    let binary = |name: &str, bytes: &[u8]| format!("io.systemd.credential.binary:{name}={}", STANDARD.encode(bytes));
    let plain = format!("io.systemd.credential:ingot.profile={}", std::str::from_utf8(PROFILE).unwrap());
    let (profile, signature) = (binary("ingot.profile", PROFILE), binary("ingot.profile.sig", SIGNATURE));
    let both = structure(11, &[2], &[&profile, &signature]);
    only(&find(&Fake::new(&[("/sys/firmware/dmi/entries/11-0/raw", &both)])), "SMBIOS", true);
    let table = [structure(0, &[], &["x"]), both.clone(), structure(127, &[], &[])].concat();
    only(&find(&Fake::new(&[("/sys/firmware/dmi/tables/DMI", &table)])), "SMBIOS", true);
    only(&find(&Fake::new(&[("/sys/firmware/dmi/entries/11-0/raw", &structure(11, &[1], &[&plain]))])), "SMBIOS", false);

    for (strings, expected) in [
        (structure(11, &[1], &["io.systemd.credential.binary:ingot.profile=?"]), "broken: expected base64"),
        (structure(11, &[2], &[&profile, &binary("ingot.profile", OTHER)]), "broken: expected one string"),
        (structure(11, &[1], &["io.systemd.credential:ingot.profile="]), "empty"),
        (structure(11, &[1], &["io.systemd.credential:ingot.profiles=x"]), "not there"),
        (both[..both.len() - 2].to_vec(), "broken: /sys/firmware/dmi/entries/11-0/raw"),
    ] {
        let found = find(&Fake::new(&[("/sys/firmware/dmi/entries/11-0/raw", &strings)]));
        assert!(outcome(&found, "SMBIOS").starts_with(expected), "{:?}", found.tried);
        assert!(found.candidates.is_empty());
    }
}

#[test]
fn labelled_disks_of_every_kind_are_read() {
    let files: [(&str, &[u8]); 3] = [("profile.toml", PROFILE), ("profile.toml.sig", SIGNATURE), ("site/readme", b"x")];
    for width in [12, 16, 32] {
        only(&find(&Fake::default().disk("vdb", fat("INGOT", width, &files))), "profile.toml on disk INGOT (/dev/vdb)", true);
    }
    for maker in [
        "genisoimage -R",
        "genisoimage -J",
        "genisoimage -R -J",
        "genisoimage -l -allow-lowercase -allow-multidot",
        "xorriso -as mkisofs",
        "xorriso -as mkisofs -J",
    ] {
        let found = find(&Fake::default().disk("sr0", iso("INGOT", maker, &files)));
        only(&found, "profile.toml on disk INGOT (/dev/sr0)", true);
    }
}

#[test]
fn a_file_for_this_machine_counts_more_than_one_for_any() {
    let own = format!("{UUID}.toml");
    let files: [(&str, &[u8]); 3] = [("profile.toml", OTHER), (&own, PROFILE), (&format!("{own}.sig"), SIGNATURE)];
    let machine = |disk| Fake::new(&[("/sys/class/dmi/id/product_uuid", UUID.to_uppercase().as_bytes())]).disk("vdb1", disk);
    only(&find(&machine(fat("INGOT", 12, &files))), &own, true);
    only(&find(&machine(iso("INGOT", "genisoimage -J", &files))), &own, true);
    only(&find(&machine(iso("INGOT", "genisoimage -R", &files))), &own, true);

    let named = fat("INGOT", 12, &[("LB-1.toml", PROFILE), ("profile.toml", OTHER)]);
    let pool = pool(&[("VirtualMachineName", b"lb-1")]);
    only(&find(&Fake::new(&[("/var/lib/hyperv/.kvp_pool_3", &pool)]).disk("sdb", named.clone())), "lb-1.toml", false);
    only(&find(&Fake::new(&[("/proc/sys/kernel/hostname", b"lb-1\n")]).disk("sdb", named.clone())), "lb-1.toml", false);
    // A name that leads elsewhere names no file.
    let climbing = Fake::new(&[("/proc/sys/kernel/hostname", b"../lb-1\n")]).disk("sdb", named);
    assert_eq!(find(&climbing).candidates[0].profile, OTHER);
}

#[test]
fn nocloud_disks_count_where_they_hold_a_profile() {
    let disk = |files: Files<'_>| Fake::default().disk("sr0", iso("cidata", "genisoimage -J -R", files));
    only(&find(&disk(&[("user-data", PROFILE), ("meta-data", b"")])), "user-data on disk cidata", false);
    only(&find(&disk(&[("user-data", PROFILE), ("meta-data", b""), ("user-data.sig", SIGNATURE)])), "cidata", true);
    only(&find(&disk(&[("user-data", PROFILE), ("meta-data", b""), ("vendor-data", SIGNATURE)])), "cidata", true);
    only(&find(&disk(&[("user-data", PROFILE), ("meta-data", b""), ("vendor-data", b"#cloud-config\n")])), "cidata", false);
    only(&find(&Fake::default().disk("vdb", fat("CIDATA", 12, &[("user-data", PROFILE), ("meta-data", b"x")]))), "CIDATA", false);
    let cases: [(Files<'_>, &str); 4] = [
        (&[("user-data", b""), ("meta-data", b"")], "empty"),
        (
            &[("user-data", b"#cloud-config\n"), ("meta-data", b"")],
            "not a profile: expected `#ingot` or TOML, found `#cloud-config`",
        ),
        (&[("user-data", PROFILE)], "broken: expected meta-data"),
        (&[("meta-data", b"x")], "not there"),
    ];
    for (files, expected) in cases {
        let found = find(&disk(files));
        assert!(outcome(&found, "cidata").starts_with(expected), "{:?}", found.tried);
        assert!(found.candidates.is_empty());
    }
}

#[test]
fn the_system_partition_and_pools_are_read() {
    let partition = |path, bytes| Fake::default().disk("vda1", fat("ESP", 16, &[("EFI/Linux/x.efi", b"MZ"), (path, bytes)]));
    only(&find(&partition("ingot/profile.toml", PROFILE)), "/ingot/profile.toml on the EFI system partition (/dev/vda1)", false);
    only(&find(&partition("loader/credentials/ingot.profile.cred", PROFILE)), "/loader/credentials", false);
    let found = find(&partition("loader/credentials/ingot.profile.cred", b"WhQZht+JQJax1aZemmGLxmAAAA\nBBBB==\n"));
    assert!(outcome(&found, "/loader/credentials").contains("encrypted credential"), "{:?}", found.tried);
    // Without the folder EFI it is somebody's disk.
    let found = find(&Fake::default().disk("vda1", fat("ESP", 16, &[("ingot/profile.toml", PROFILE)])));
    assert_eq!(outcome(&found, "EFI system partition"), "no profile there");

    let pairs = pool(&[("ingot.profile.0", &PROFILE[..9]), ("ingot.profile.1", &PROFILE[9..]), ("ingot.profile.sig", SIGNATURE)]);
    only(&find(&Fake::new(&[("/var/lib/hyperv/.kvp_pool_0", &pairs)])), "pool 0", true);
    only(&find(&Fake::new(&[("/var/lib/hyperv/.kvp_pool_3", &pairs)])), "pool 3", true);
}

#[test]
fn servers_are_asked_where_no_disk_has_a_profile() {
    let line = format!("quiet ingot.profile=https://site.example/{{uuid}}.toml ingot.profile_ca=sha256:{}", "ab".repeat(32));
    let mut machine = Fake::new(&[(CMDLINE, line.as_bytes()), ("/sys/class/dmi/id/product_uuid", UUID.as_bytes())]);
    let url = format!("https://site.example/{UUID}.toml");
    machine.web.insert(url.clone(), Ok(Answer::Bytes(PROFILE.to_vec())));
    machine.web.insert(format!("{url}.sig"), Ok(Answer::Bytes(SIGNATURE.to_vec())));
    only(&find(&machine), &url, true);
    machine.web.remove(&format!("{url}.sig"));
    only(&find(&machine), &url, false);

    let machine = machine.file(FW_CFG, PROFILE);
    let found = find(&machine);
    only(&found, "fw_cfg", false);
    assert_eq!(outcome(&found, &url), "not asked: fw_cfg credential has a profile");

    let mut machine = Fake::new(&[(CMDLINE, line.as_bytes()), ("/sys/class/dmi/id/product_uuid", UUID.as_bytes())]);
    assert_eq!(outcome(&find(&machine), &url), "the server has no such file");
    machine.web.insert(url.clone(), Err(Trouble { reason: "no route".to_owned(), later: true }));
    let found = find(&machine);
    assert!(found.unreachable);
    assert_eq!(found.choose().unwrap_err().exit_code(), 75);
    // A machine that was made goes on with its copy.
    let found = find(&machine.file(KEPT, PROFILE));
    assert_eq!(found.choose().unwrap().source, "state partition");
}

#[test]
fn sources_that_agree_are_one_and_others_an_error() {
    let signed = Candidate { source: "b".to_owned(), profile: PROFILE.to_vec(), signature: Some("s".to_owned()) };
    let bare = Candidate { source: "a".to_owned(), signature: None, ..signed.clone() };
    let other = Candidate { source: "c".to_owned(), profile: OTHER.to_vec(), ..bare.clone() };
    let choose = |candidates: &[&Candidate], kept: Option<&Candidate>| {
        let candidates = candidates.iter().map(|candidate| (*candidate).clone()).collect();
        Found { candidates, kept: kept.cloned(), ..Found::default() }.choose()
    };
    assert_eq!(choose(&[&bare, &signed], None), Ok(signed.clone()));
    assert_eq!(choose(&[&bare], Some(&other)), Ok(bare.clone()), "the copy gives way");
    assert_eq!(choose(&[], Some(&other)), Ok(other.clone()));
    for candidates in [[&bare, &other, &signed], [&bare, &signed, &other]] {
        let error = choose(&candidates, Some(&signed)).unwrap_err();
        assert!(error.to_string().contains("differ: a (SHA-256 ") && error.to_string().contains(" and c (SHA-256 "), "{error}");
        assert!(error.hint().ends_with("a, c") && error.exit_code() == 3);
    }
    // And through the front door.
    let machine = Fake::new(&[(FW_CFG, PROFILE)]).disk("vdb", fat("INGOT", 12, &[("profile.toml", OTHER)]));
    let error = find(&machine).choose().unwrap_err().to_string();
    assert!(error.contains("fw_cfg credential") && error.contains("profile.toml on disk INGOT (/dev/vdb)"), "{error}");
}

#[test]
fn broken_sources_fall_through_with_their_reason() {
    let huge = vec![b'x'; PROFILE_LIMIT + 1];
    let long = vec![b'x'; trust::signature::LIMIT + 1];
    let sig = FW_CFG.replace("/raw", ".sig/raw");
    let cases: [(Files<'_>, &str); 6] = [
        (&[(FW_CFG, b" \n\t")], "empty: 3 bytes"),
        (&[(FW_CFG, &huge)], "broken: expected 1048576 bytes at most"),
        (&[(FW_CFG, PROFILE), (&sig, &long)], "broken: expected 16384 bytes at most"),
        (&[(FW_CFG, PROFILE), (&sig, b"\xff\xfe")], "broken: its signature is not text"),
        (&[(FW_CFG, b"EIO")], "broken: reading"),
        (&[(FW_CFG, PROFILE), (&sig, b"EIO")], "broken: reading"),
    ];
    for (files, expected) in cases {
        let machine = Fake::new(files).disk("vdb", fat("INGOT", 12, &[("profile.toml", PROFILE)])).disk("sr0", Vec::new());
        let found = find(&machine);
        assert!(outcome(&found, "fw_cfg").starts_with(expected), "{:?}", found.tried);
        assert_eq!(outcome(&found, "/dev/sr0"), "cannot be opened: no medium found");
        only(&found, "INGOT", false);
    }
    let found = find(&Fake::default().disk("vdb", fat("INGOT", 12, &[("profile.toml", &huge[..1000 << 10]), ("x", b"")])));
    assert_eq!(found.candidates.len(), 1, "a big one is read whole: {:?}", found.tried);
    let found = find(&Fake::default().disk("vdb", fat("INGOT", 16, &[("profile.toml", &huge)])));
    assert!(outcome(&found, "profile.toml").contains("expected 1048576 bytes at most in `profile.toml`, found 1048577"));
    let found = find(&Fake::default().disk("vdb", fat("INGOT", 16, &[("profile.toml/x", b"")])));
    assert!(outcome(&found, "profile.toml").contains("found a folder"));
    let found = find(&Fake::default().disk("vdb", fat("INGOT", 16, &[("other.toml", b"")])));
    assert_eq!(outcome(&found, "disk INGOT"), "holds none of profile.toml");
}

#[test]
fn a_named_file_is_all_that_is_looked_at() {
    let machine = Fake::new(&[("/a.toml", PROFILE), ("/a.toml.sig", SIGNATURE), (FW_CFG, OTHER)]);
    only(&file(&machine, "/a.toml"), "/a.toml", true);
    assert_eq!(file(&machine, "/b.toml").tried, [("/b.toml".to_owned(), "not there".to_owned())]);
}

#[test]
fn the_system_reads_below_its_root() {
    let folder = super::fixture::folder(&[("proc/cmdline", b"quiet"), ("state/ingot/profile.toml", PROFILE)]);
    std::fs::create_dir_all(folder.path().join("in/dev")).unwrap();
    std::fs::create_dir_all(folder.path().join("in/sys/class/block/vdb")).unwrap();
    std::fs::write(folder.path().join("in/dev/vdb"), fat("INGOT", 12, &[("profile.toml", PROFILE)])).unwrap();
    let machine = crate::machine::Real::new(&folder.path().join("in"), crate::machine::Ownership::Ignored);
    let system = crate::machine::reader::Local(&machine);
    let found = find(&system);
    only(&found, "INGOT (/dev/vdb)", false);
    assert_eq!(found.kept.as_ref().map(|kept| kept.profile.as_slice()), Some(PROFILE));
    assert_eq!(system.read("/proc/cmdline", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert!(system.modified("/proc/cmdline").unwrap() > 1_000_000_000);
}

#[test]
fn credentials_of_any_name_are_found_where_those_of_the_profile_are() {
    let folders = ["/run/credentials/@system".to_owned()];
    let get = |machine: &Fake| named(machine, &folders, "vrrp", 100);
    assert_eq!(get(&Fake::default()), Ok(None));
    assert_eq!(get(&Fake::new(&[("/run/credentials/@system/vrrp", b"a")])), Ok(Some(b"a".to_vec())));
    let strings = structure(11, &[2], &["io.systemd.credential:vrrp=b", "io.systemd.credential:vrrp2=x"]);
    assert_eq!(get(&Fake::new(&[("/sys/firmware/dmi/entries/11-0/raw", &strings)])), Ok(Some(b"b".to_vec())));
    let path = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/vrrp/raw";
    assert_eq!(get(&Fake::new(&[(path, b"c")])), Ok(Some(b"c".to_vec())));
    // A file of its own beside the profile.
    let disk = |label: &str, text: &[u8]| fat(label, 16, &[("profile.toml", PROFILE), ("credentials/vrrp", text)]);
    assert_eq!(get(&Fake::default().disk("vdb", disk("INGOT", b"d"))), Ok(Some(b"d".to_vec())));
    let iso = iso("INGOT", "genisoimage -R", &[("credentials/vrrp", b"d")]);
    assert_eq!(get(&Fake::default().disk("sr0", iso)), Ok(Some(b"d".to_vec())));
    assert_eq!(get(&Fake::default().disk("vdb", disk("OTHER", b"d"))), Ok(None));
    let two = Fake::default().disk("vdb", disk("INGOT", b"d")).disk("vdc", disk("INGOT", b"e"));
    assert!(get(&two).unwrap_err().contains("found two that differ"));
    assert!(get(&Fake::default().disk("vdb", disk("INGOT", &[b'x'; 101]))).is_err(), "larger than is read");
    // The first place counts.
    let both = Fake::new(&[("/run/credentials/@system/vrrp", b"a"), (path, b"c")]).disk("vdb", disk("INGOT", b"d"));
    assert_eq!(get(&both), Ok(Some(b"a".to_vec())));
}
