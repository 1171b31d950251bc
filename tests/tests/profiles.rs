//! The shipped load balancer under Secure Boot, given its signed profile by each way there is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "test code"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ingot_tests::fixture::{copy_sparse, definitions, load_balancer_that_reports, release, scratch};
use ingot_tests::machine::{Run, boot, boot_until};
use ingot_tests::profiles::{Authority, balancer, free_port, signed};
use ingot_tests::programs::{must, said, tool};

/// A boot takes about 40 s here; a loaded machine may take some times that.
const PATIENCE: u64 = 400;

fn assert_healthy(run: &Run) {
    assert_eq!(run.fact("reported"), Some("yes"), "{}", run.console);
    assert_eq!(run.fact("running"), Some("running"), "failed: {:?}\n{}", run.fact("failed"), run.console);
    assert_eq!(run.fact("failed"), Some(""));
    assert_eq!(run.fact("secure_boot"), Some("1"));
    run.assert_says("ingot: ready");
}

/// Asks the API through the machine's virtual address while `work` lasts: the status of the first answer.
fn asking<T>(port: u16, work: impl FnOnce() -> T) -> (T, String) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut last = String::new();
            while !over.load(Ordering::Relaxed) && last != "200" {
                let url = format!("https://127.0.0.1:{port}/readyz");
                last = said(&mut tool("curl", ["-sk", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}", &url])).out;
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
            last
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, asked.join().unwrap())
    })
}

#[test]
fn it_serves_on_the_virtual_address_and_later_boots_need_no_medium() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let authority = Authority::new(folder.path());
    let port = free_port();
    let _server = authority.serve(port, None);
    let path = signed(folder.path(), &balancer("lb-1", &authority, port, ""));
    let disk = folder.path().join("disk.qcow2");
    let outside = free_port();
    let forward = format!("{outside}:10.0.2.100:6443");
    let keep = ["--keep", disk.to_str().unwrap(), "--forward", &forward];
    let given = [&keep[..], &["--profile", path.to_str().unwrap(), "--via", "smbios"]].concat();
    let (first, answer) = asking(outside, || boot(&release, PATIENCE, &given));
    assert_healthy(&first);
    first.assert_says("taken from SMBIOS type 11 credential");
    assert_eq!(answer, "200", "HAProxy answers on the virtual address\n{}", first.console);
    assert!(first.fact("haproxy").unwrap().contains("UP"), "{:?}", first.fact("haproxy"));
    assert_eq!(first.fact("host_name"), Some("lb-1"));
    assert_eq!(first.fact("status"), Some("ready"));
    assert_eq!(first.fact("boot_complete"), Some("active"));
    costs_little(&first);
    let listening: Vec<&str> = first.fact("listening").unwrap().split_ascii_whitespace().collect();
    let asked = ["tcp/10.0.2.100:6443", "tcp/10.0.2.15:9101"];
    let local = |entry: &&&str| !entry.contains("127.0.0.5") && !entry.contains("%lan:68");
    let others: Vec<_> = listening.iter().filter(|entry| !asked.contains(entry)).filter(local).collect();
    assert!(others.is_empty(), "nothing listens that the profile did not ask for: {others:?}");

    let (second, answer) = asking(outside, || boot(&release, PATIENCE, &keep));
    assert_healthy(&second);
    second.assert_says("taken from state partition");
    assert_eq!(answer, "200", "{}", second.console);
    assert_eq!(second.fact("machine_id"), first.fact("machine_id"));
    assert_eq!((second.fact("boots"), second.fact("etc_kept")), (Some("2"), None));

    // A copy of the machine has another identity: it says so, and takes no address.
    let copy = folder.path().join("copy.qcow2");
    copy_sparse(&disk, &copy);
    let clone = boot_until(&release, PATIENCE, &["--keep", copy.to_str().unwrap()], &["INGOT-N0401", "ingot: ready"]);
    clone.assert_says("INGOT-N0401");
    assert!(!clone.console.contains("ingot: ready"), "{}", clone.console);
}

/// Compares the CPU of a first boot with that of the same image without the installer: systemd-repart makes the state
/// partition, and the image has what the installer rendered.
fn costs_little(first: &Run) {
    let cpu = |run: &Run, key: &str| run.fact(key).and_then(|value| value.parse::<f64>().ok()).expect("a number of milliseconds");
    let folder = definitions().join("bare");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let unpack = format!("base64 -d | tar -xz -C {}", folder.display());
    let packed = folder.join("packed");
    fs::write(&packed, first.fact("rendered").unwrap()).unwrap();
    must(tool("bash", ["-euc", &unpack]).stdin(fs::File::open(&packed).unwrap()));
    let mut text = fs::read_to_string(definitions().join("load-balancer-bare.toml.in")).unwrap();
    for path in must(tool("find", ["etc", "-type", "f"]).current_dir(&folder)).lines() {
        text += &format!("[[file]]\npath = \"/{path}\"\nsource = \"bare/{path}\"\n");
    }
    fs::write(definitions().join("load-balancer-bare.toml"), text).unwrap();
    let bare = boot(&release("load-balancer-bare"), PATIENCE, &[]);
    assert_healthy(&bare);
    assert!(bare.fact("haproxy").unwrap().contains("active active"), "{:?}", bare.fact("haproxy"));
    assert!(bare.fact("partitions").unwrap().contains("state"));
    // The guest takes time in which its host does something else for its own: the host's count is the better one.
    let (with, without) = (first.cpu.as_secs_f64(), bare.cpu.as_secs_f64());
    let added = (with - without) / without;
    let (state, own, all) = (cpu(first, "state_cpu"), cpu(first, "installer_cpu"), cpu(first, "all_cpu"));
    eprintln!("first boot: {with:.1} s of CPU, {without:.1} without the installer: {added:.3} more");
    eprintln!("in it: {state} ms the making of the state partition, {own} ms all else of the installer, {all} ms everything");
    assert!(state > 0.0 && own > 0.0 && own / (all - own - state) <= 0.2, "{own} of {all} ms");
    // What others on this host do to caches is in it.
    assert!(added <= 0.35, "{with} s, {without} s without the installer");
}

/// Boots once with these arguments, until the machine is ready.
fn ready(image: &Path, arguments: &[&str], source: &str) {
    let run = boot_until(image, PATIENCE, arguments, &["ingot: ready", "ingot: INGOT-N"]);
    run.assert_says("ingot: ready");
    assert!(run.console.contains(&format!("profile: taken from {source}")), "{source}:\n{}", run.console);
}

/// A FAT or ISO image with these files.
fn fat(folder: &Path, label: &str, files: &[(&Path, &str)]) -> PathBuf {
    let image = folder.join(format!("{label}.img"));
    let _ = fs::remove_file(&image);
    must(tool("mkfs.vfat", ["-C", "-n", label]).arg(&image).arg("8192"));
    for (file, name) in files {
        must(tool("mcopy", ["-i"]).arg(&image).arg(file).arg(format!("::{name}")));
    }
    image
}

#[test]
fn each_way_brings_the_profile() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let authority = Authority::new(folder.path());
    let path = signed(folder.path(), &balancer("lb-2", &authority, 16443, ""));
    let signature = folder.path().join("profile.toml.sig");
    let given = path.to_str().unwrap();
    ready(&release, &["--profile", given, "--via", "fw-cfg"], "fw_cfg");
    ready(&release, &["--profile", given, "--via", "disk"], "profile.toml on disk INGOT");

    let files = folder.path().join("iso");
    fs::create_dir(&files).unwrap();
    fs::copy(&path, files.join("profile.toml")).unwrap();
    fs::copy(&signature, files.join("profile.toml.sig")).unwrap();
    let iso = folder.path().join("ingot.iso");
    must(tool("genisoimage", ["-quiet", "-J", "-R", "-V", "INGOT", "-o"]).arg(&iso).arg(&files));
    ready(&release, &["--drive", iso.to_str().unwrap()], "profile.toml on disk INGOT");

    let meta = folder.path().join("meta-data");
    fs::write(&meta, "").unwrap();
    let cidata = fat(folder.path(), "CIDATA", &[(&path, "user-data"), (&signature, "user-data.sig"), (&meta, "meta-data")]);
    ready(&release, &["--drive", cidata.to_str().unwrap()], "user-data on disk CIDATA");

    let image = folder.path().join("esp.raw");
    copy_sparse(&release.join("load-balancer-report.raw"), &image);
    must(tool("cp", ["-r"]).arg(release.join("secure-boot")).arg(folder.path()));
    let esp = format!("{}@@1M", image.display());
    must(&mut tool("mmd", ["-i", &esp, "::/ingot"]));
    must(tool("mcopy", ["-i", &esp]).arg(&path).arg(&signature).arg("::/ingot"));
    ready(&image, &[], "/ingot/profile.toml on the EFI system partition");
}

#[test]
fn a_server_brings_the_profile_and_the_machine_starts_again_with_its_state() {
    let folder = scratch();
    let authority = Authority::new(folder.path());
    let port = free_port();
    let path = signed(folder.path(), &balancer("lb-3", &authority, 16443, ""));
    let files = folder.path().join("www");
    fs::create_dir(&files).unwrap();
    fs::copy(&path, files.join("profile.toml")).unwrap();
    fs::copy(folder.path().join("profile.toml.sig"), files.join("profile.toml.sig")).unwrap();
    let _server = authority.serve(port, Some(&files));
    let text = format!(
        "schema = 1\nextends = \"load-balancer-report.toml\"\nname = \"load-balancer-https\"\n[kernel]\ncommand_line = [\n  \
         \"ingot.profile=https://10.0.2.2:{port}/profile.toml\",\n  \"ingot.profile_ca={}\",\n]\n[[file]]\npath = \
         \"/usr/share/ingot/role\"\ncontent = \"load-balancer\\n\"\n",
        authority.pin()
    );
    fs::write(definitions().join("load-balancer-https.toml"), text).unwrap();
    let release = release("load-balancer-https");
    let disk = folder.path().join("disk.qcow2");
    let run = boot_until(&release, PATIENCE, &["--keep", disk.to_str().unwrap()], &["reboot: "]);
    run.assert_says("INGOT-N0710");
    let run = boot(&release, PATIENCE, &["--keep", disk.to_str().unwrap()]);
    assert_healthy(&run);
    run.assert_says("profile: taken from https://10.0.2.2");
}

#[test]
fn a_tpm_unlocks_the_state_and_another_machine_does_not() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let authority = Authority::new(folder.path());
    let more = "[disks.state]\nencryption = \"tpm2\"\n";
    let path = signed(folder.path(), &balancer("lb-4", &authority, 16443, more));
    let disk = folder.path().join("disk.qcow2");
    let keep = ["--keep", disk.to_str().unwrap(), "--tpm"];
    let first = boot(&release, PATIENCE, &[&keep[..], &["--profile", path.to_str().unwrap()]].concat());
    assert_healthy(&first);
    assert!(first.fact("var").unwrap().contains("/dev/mapper/state"), "{:?}", first.fact("var"));
    let second = boot(&release, PATIENCE, &keep);
    assert_healthy(&second);
    assert_eq!(second.fact("boots"), Some("2"), "the TPM gave the key again\n{}", second.console);
    // Without its TPM the disk tells nothing, and is not made anew.
    let stolen = boot_until(&release, PATIENCE, &keep[..2], &["INGOT-N0707: ", "ingot: ready"]);
    stolen.assert_says("INGOT-N0707");
    let third = boot(&release, PATIENCE, &keep);
    assert_eq!(third.fact("boots"), Some("3"), "{}", third.console);
}

#[test]
fn a_profile_nobody_signed_changes_nothing() {
    let release = load_balancer_that_reports();
    let folder = scratch();
    let authority = Authority::new(folder.path());
    let path = signed(folder.path(), &balancer("lb-5", &authority, 16443, ""));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("lb-5", "evil")).unwrap();
    let run = boot(&release, PATIENCE, &["--profile", path.to_str().unwrap()]);
    run.assert_says("INGOT-N0302");
    assert!(!run.console.contains("making the state partition"), "{}", run.console);
    assert_eq!(run.fact("host_name"), Some("localhost"));
    assert!(run.fact("partitions").is_some_and(|partitions| !partitions.contains("state")), "{:?}", run.fact("partitions"));
}
