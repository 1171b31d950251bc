//! Which programs listen on which ports: /proc/net/tcp and tcp6 (proc(5)), and the files of processes.

use std::collections::BTreeMap;

use crate::machine::{Machine, read_text};

/// Port and the names of the programs that listen on it.
pub type Listeners = BTreeMap<u16, Vec<String>>;

/// State `LISTEN` in /proc/net/tcp.
const LISTEN: &str = "0A";

/// Looks at the machine. Programs whose files may not be read are told as `?`.
///
/// # Errors
/// The tables cannot be read.
pub fn listeners(machine: &dyn Machine) -> crate::Result<Listeners> {
    let mut ports: BTreeMap<u64, u16> = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        ports.extend(read_text(machine, table)?.unwrap_or_default().lines().filter_map(listening));
    }
    let mut found: Listeners = ports.values().map(|port| (*port, Vec::new())).collect();
    if ports.is_empty() {
        return Ok(found);
    }
    for process in machine.list("/proc").unwrap_or_default() {
        if !process.bytes().all(|c| c.is_ascii_digit()) {
            continue;
        }
        // A process may end while it is looked at.
        let folder = format!("/proc/{process}/fd");
        for file in machine.list(&folder).unwrap_or_default() {
            let target = machine.link(&format!("{folder}/{file}")).ok().flatten().unwrap_or_default();
            let inode =
                target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).and_then(|text| text.parse().ok());
            let Some(port) = inode.and_then(|inode: u64| ports.get(&inode)) else { continue };
            let name = read_text(machine, &format!("/proc/{process}/comm")).ok().flatten().unwrap_or_default();
            let names = found.entry(*port).or_default();
            if !names.iter().any(|known| known == name.trim()) {
                names.push(name.trim().to_owned());
            }
        }
    }
    Ok(found)
}

/// Inode and port of a line, where it listens.
fn listening(line: &str) -> Option<(u64, u16)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
    Some((fields.get(9)?.parse().ok()?, port))
}
