//! Kernel modules and sysctls.

use std::collections::BTreeMap;

use super::files::{Files, Wanted};
use super::{Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, read_text, run};
use crate::reboot;

/// Modules that are loaded.
#[derive(Debug)]
pub struct Modules(pub Vec<String>);

impl Work for Modules {
    fn lines(&self) -> Vec<String> {
        self.0.iter().map(|name| format!("module {name}")).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.0.join("\n").into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let release = read_text(machine, "/proc/sys/kernel/osrelease")?.unwrap_or_default();
        let builtin = read_text(machine, &format!("/usr/lib/modules/{}/modules.builtin", release.trim()))?.unwrap_or_default();
        for name in &self.0 {
            // In file names `-` and `_` are both used; the kernel knows `_` only.
            let name = name.replace('-', "_");
            let path = format!("/sys/module/{name}");
            let loaded = machine.attributes(&path).map_err(|e| Failure::io("reading", &path, &e))?.is_some();
            let file = |line: &str| line.rsplit('/').next().is_some_and(|file| file.replace('-', "_") == format!("{name}.ko"));
            if !loaded && !builtin.lines().any(file) {
                return Ok(Verdict::Differs(format!("the module {name} is not loaded")));
            }
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        if !world.machine.live() || self.0.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["-a", "--"];
        arguments.extend(self.0.iter().map(String::as_str));
        run(world.machine, &Command::new("/usr/sbin/modprobe", &arguments)).map(drop)
    }
}

/// sysctls: the file, for devices that come later, and the kernel's values now.
#[derive(Debug)]
pub struct Sysctls {
    values: BTreeMap<String, String>,
    files: Files,
}

const SYSCTLS: &str = "/etc/sysctl.d/60-ingot-profile.conf";

impl Sysctls {
    /// Those of the profile.
    pub fn of(values: &BTreeMap<String, String>) -> Self {
        let text: String = values.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let files = if values.is_empty() { vec![] } else { vec![Wanted::public(SYSCTLS, text)] };
        Self { values: values.clone(), files: Files::of(files).sweep("/etc/sysctl.d", "60-ingot-profile") }
    }
}

/// `net.ipv4.conf.eth0/1.forwarding` is `net/ipv4/conf/eth0.1/forwarding` below /proc/sys (sysctl.d(5)).
fn path(name: &str) -> String {
    let first = name.find(['.', '/']).and_then(|at| name.get(at..at + 1));
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let name: String = if first == Some("/") { name.to_owned() } else { name.chars().map(swap).collect() };
    format!("/proc/sys/{name}")
}

/// The kernel shows lists with tabs.
fn same(found: &str, wanted: &str) -> bool {
    found.split_whitespace().eq(wanted.split_whitespace())
}

impl Work for Sysctls {
    fn lines(&self) -> Vec<String> {
        self.values.iter().map(|(name, value)| format!("{name} = {value}")).collect()
    }

    fn input(&self) -> Vec<u8> {
        self.files.input()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        for (name, value) in self.values.iter().filter(|_| machine.live()) {
            match read_text(machine, &path(name))? {
                Some(found) if same(&found, value) => {}
                Some(found) => return Ok(Verdict::Differs(format!("{name} is `{}`, not `{value}`", found.trim()))),
                None => return Ok(Verdict::Differs(format!("the kernel has no {name}"))),
            }
        }
        self.files.check(machine)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        // What a profile no longer says stays in the kernel, whose own value nobody knows any more.
        let former = read_text(world.machine, SYSCTLS)?.unwrap_or_default();
        let former = former.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
        for name in former.filter(|name| !self.values.contains_key(*name)) {
            reboot::ask(world.machine, &format!("sysctl {name} is no longer set by the profile"))?;
        }
        self.files.apply(world)?;
        for (name, value) in self.values.iter().filter(|_| world.machine.live()) {
            let path = path(name);
            world.machine.write_kernel(&path, value.as_bytes()).map_err(|e| Failure::io("writing", &path, &e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_sysctls() {
        let table = [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ];
        for (name, path) in table {
            assert_eq!(super::path(name), path);
        }
        assert!(super::same("4096\t16384\t4194304\n", "4096 16384 4194304"));
    }
}
