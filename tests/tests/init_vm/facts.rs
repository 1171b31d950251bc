//! Stands in for systemd in the VM story of the initrd: tells what it sees as process 1, reads a
//! file of the root, powers off. Built by `init_vm.rs` as a static program of its own.

use std::fs;

fn main() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}"));
    println!("FACT process {}", std::process::id());
    println!("FACT machine-id {}", read("/etc/machine-id").trim());
    println!("FACT etc of the image: {}", read("/etc/hello").trim());
    println!("FACT etc written: {:?}", fs::write("/etc/new", "x"));
    println!("FACT usr written: {:?}", fs::write("/usr/new", "x").map_err(|error| error.kind()));
    println!("FACT initrd's files: {}", fs::metadata("/modules").is_ok());
    println!("FACT dm name {}", read("/sys/block/dm-0/dm/name").trim());
    for line in read("/proc/mounts").lines() {
        println!("FACT mount {line}");
    }
    println!("FACT reading");
    let intact = fs::read("/usr/share/data").is_ok_and(|bytes| bytes.len() == 1 << 20);
    println!("FACT data intact: {intact}");
    let _ = fs::write("/proc/sysrq-trigger", "o");
    std::thread::sleep(std::time::Duration::from_secs(60));
}
