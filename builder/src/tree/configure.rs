//! Maintainer scripts: what has to run, in which order, and what stands in for the costly parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::run::ending;
use crate::tree::database::FOLDER;
use crate::tree::deb::Control;
use crate::tree::glob::Filter;
use crate::tree::sandbox::{self, Plan, Preinst};
use crate::tree::staging::Staging;
use crate::tree::unpack::Package;

/// Asked by invoke-rc.d before it touches a service; 101 forbids it.
const POLICY: &[u8] = b"usr/sbin/policy-rc.d";
/// Lines of the scripts' output that an error shows.
const TAIL_LINES: usize = 25;

/// Keys made here would be the same on all machines; the machine makes its own.
const NO_HOST_KEYS: &str = "#!/bin/sh\nexit 0\n";
/// `ca-certificates` asks twice, once without hooks and then by its trigger: the second does it all.
const CERTIFICATES_ONCE: &str =
    "#!/bin/sh\nfor a; do [ \"$a\" = --hooksdir ] && exit 0; done\nexec /usr/sbin/update-ca-certificates \"$@\"\n";
/// The hardware database that the image will not hold need not be compiled.
const NO_HWDB: &str = "#!/bin/sh\nexit 0\n";
/// What `systemd-hwdb` writes.
const HWDB: &[u8] = b"usr/lib/udev/hwdb.bin";

/// Runs the maintainer scripts of `packages` in `staging`, and those of other packages that wait for `triggers`. `work` takes
/// the plan and the log.
///
/// # Errors
/// When a script fails or a package is not configured afterwards, with the end of what was said.
pub fn configure(
    staging: &Staging,
    (packages, triggers): (&[Package], Vec<String>),
    filter: &Filter,
    epoch: Epoch,
    work: &Path,
) -> Result<()> {
    let plan = Plan { triggers, ..plan(staging, packages, filter, epoch) };
    let (plan_path, log_path) = (work.join("plan.json"), work.join("configure.log"));
    let text = serde_json::to_vec(&plan).map_err(|e| Error::new(Kind::Failed, format!("writing the plan: {e}")))?;
    files::write_atomic(&plan_path, &text)?;
    staging.write(POLICY, b"#!/bin/sh\nexit 101\n", 0o755)?;
    let log = files::create(&log_path)?;
    let status = sandbox::start(&[plan_path.as_os_str()], |_| log.try_clone().map(Stdio::from))?;
    staging.remove(POLICY)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&files::read(&log_path)?).into_owned();
        return Err(Error::new(
            Kind::Failed,
            format!("configuring the packages: the sandbox {}\n{}", ending(status), tail(&said)),
        )
        .hint("the lines above are the end of what the maintainer scripts said"));
    }
    check(staging, packages)
}

/// The end of a log, indented.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

fn plan(staging: &Staging, packages: &[Package], filter: &Filter, epoch: Epoch) -> Plan {
    let mut stand_ins = vec![
        ("ssh-keygen".to_owned(), NO_HOST_KEYS.to_owned()),
        ("update-ca-certificates".to_owned(), CERTIFICATES_ONCE.to_owned()),
    ];
    if without_hwdb(filter) {
        stand_ins.push(("systemd-hwdb".to_owned(), NO_HWDB.to_owned()));
    }
    let preinst = |package: &Control| Preinst {
        package: package.name().to_owned(),
        architecture: package.field("architecture").to_owned(),
        script: format!("/{FOLDER}/info/{}.preinst", package.info_name()).into(),
    };
    let order = Order::new(packages.iter().map(|package| &package.control));
    let base = ["base-passwd", "base-files"];
    let all: Vec<&str> = base.into_iter().chain(packages.iter().map(|p| p.control.name())).collect();
    let preinsts = order.behind(&all, &["pre-depends"]);
    let essential: Vec<&str> =
        packages.iter().filter(|p| p.control.field("essential") == "yes").map(|p| p.control.name()).collect();
    let first = order.behind(&essential, &["pre-depends", "depends"]);
    Plan {
        root: staging.path().to_owned(),
        epoch: epoch.0,
        stand_ins,
        preinsts: preinsts.into_iter().filter(|p| p.files.contains_key("preinst")).map(preinst).collect(),
        first: first.into_iter().map(|p| p.name().to_owned()).collect(),
        triggers: Vec::new(),
        command: Vec::new(),
    }
}

/// Whether the tree will hold no compiled hardware database. Part of what decides a base tree.
pub fn without_hwdb(filter: &Filter) -> bool {
    filter.excludes(HWDB)
}

/// Packages behind those they need.
pub(super) struct Order<'a> {
    packages: BTreeMap<&'a str, &'a Control>,
    provided: BTreeMap<&'a str, &'a Control>,
}

impl<'a> Order<'a> {
    pub(super) fn new(packages: impl Iterator<Item = &'a Control> + Clone) -> Self {
        let mut provided = BTreeMap::new();
        for package in packages.clone() {
            for name in package.relations("provides") {
                provided.entry(name).or_insert(package);
            }
        }
        Self { packages: packages.map(|p| (p.name(), p)).collect(), provided }
    }

    /// `names` and all they need by `fields`, each behind its needs; circles are cut where they close.
    pub(super) fn behind(&self, names: &[&str], fields: &[&str]) -> Vec<&'a Control> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for name in names {
            // An explicit stack, since a long chain must not overflow the program's own.
            let mut stack = vec![(*name, false)];
            while let Some((name, done)) = stack.pop() {
                let Some(package) = self.packages.get(name).or_else(|| self.provided.get(name)).copied() else { continue };
                let own = package.name();
                if done {
                    out.push(package);
                } else if seen.insert(own) {
                    stack.push((own, true));
                    let needs = fields.iter().flat_map(|field| package.relations(field));
                    let needs: Vec<_> = needs.map(|need| (need, false)).collect();
                    stack.extend(needs.into_iter().rev());
                }
            }
        }
        out
    }
}

/// Every package must be `install ok installed`.
fn check(staging: &Staging, packages: &[Package]) -> Result<()> {
    let status = staging.read(format!("{FOLDER}/status").as_bytes())?.unwrap_or_default();
    let text = String::from_utf8_lossy(&status);
    let mut installed = BTreeSet::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        if field("Status: ") == "install ok installed" {
            installed.insert(field("Package: ").to_owned());
        }
    }
    let missing: Vec<&str> = packages.iter().map(|p| p.control.name()).filter(|name| !installed.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("configuring the packages: not installed afterwards: {}", missing.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rest: &str) -> Control {
        let text = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{rest}");
        Control::parse(&text, BTreeMap::new()).unwrap()
    }

    #[test]
    fn packages_come_behind_what_they_need() {
        let packages = [
            package("a", "Pre-Depends: c (>= 1), virtual\nDepends: d\n"),
            package("b", "Provides: virtual (= 2)\nPre-Depends: a\n"),
            package("c", "Pre-Depends: missing | c\n"),
            package("d", "Depends: a\n"),
        ];
        let names = |list: Vec<&Control>| list.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>().join(" ");
        let order = Order::new(packages.iter());
        assert_eq!(names(order.behind(&["a", "b", "c", "d"], &["pre-depends"])), "c b a d");
        assert_eq!(names(order.behind(&["d"], &["pre-depends", "depends"])), "c b a d");
    }

    #[test]
    fn a_chain_of_many_packages_is_no_recursion() {
        let packages: Vec<_> = (0..50_000).map(|n| package(&format!("p{n}"), &format!("Depends: p{}\n", n + 1))).collect();
        assert_eq!(Order::new(packages.iter()).behind(&["p0"], &["depends"]).len(), 50_000);
    }

    #[test]
    fn the_tail_is_short_and_indented() {
        let text = (0..100).map(|n| format!("line {n}\n\n")).collect::<String>();
        assert_eq!(tail(&text).lines().count(), TAIL_LINES);
        assert!(tail(&text).ends_with("  | line 99"));
        assert_eq!(tail(""), "");
    }
}
