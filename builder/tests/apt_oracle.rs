//! Compares our choice of packages with apt's, on a frozen Debian index.
//!
//! Where the two differ, our exact list is given to apt: it must install that list and nothing
//! else. Then the difference is a free choice (of a provider or an alternative) under the rules
//! stated in `lock::solve`, and no missing, superfluous or conflicting package.
//!
//! `INGOT_TEST_INDEX` names the folder of the index (default: `target/frozen-index`, made by
//! `ci/frozen-index`); `INGOT_TEST_SETS` how many random sets are compared (default 40).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "all of this file is a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ingot::definition::{Budgets, Definition, DiskShape, Kernel, Repository, Role, Units, Wanted};
use ingot::epoch::Epoch;
use ingot::error::Result;
use ingot::lock::{Download, Indexes, indexes, resolve};
use ingot::run::Program;
use trust::Sha256Digest;

const ROLES: [(&str, &[&str]); 4] = [
    ("refused", &["exim4-daemon-light", "postfix"]),
    (
        "load-balancer",
        &[
            "systemd",
            "systemd-sysv",
            "systemd-resolved",
            "systemd-timesyncd",
            "udev",
            "dbus",
            "linux-image-cloud-amd64",
            "openssh-server",
            "nftables",
            "haproxy (>= 3.0)",
            "keepalived",
            "ca-certificates",
            "iproute2",
            "libpam-systemd",
            "kmod",
            "e2fsprogs",
            "cryptsetup",
            "tpm2-tools",
        ],
    ),
    (
        "linux-worker",
        &["systemd-sysv", "linux-image-cloud-amd64", "containerd", "conntrack", "ethtool", "socat", "ebtables", "nfs-common"],
    ),
    ("control-plane", &["systemd-sysv", "linux-image-cloud-amd64", "containerd", "etcd-server", "openssh-server", "chrony"]),
];

#[test]
fn our_choice_is_apts_or_one_that_apt_accepts() {
    let folder = index_folder();
    let found = frozen(&folder);
    let apt = Apt::new(&folder);
    let essential = names_of(&resolve(&definition(&[]), &found).unwrap(), Some("essential"));
    let roles = ROLES.iter().map(|(role, wanted)| (format!("role {role}"), wanted.iter().map(ToString::to_string).collect()));
    let random = random_sets(&found, number_of_sets()).into_iter().enumerate();
    let sets: Vec<(String, Vec<String>)> = roles.chain(random.map(|(at, wanted)| (format!("random {at}"), wanted))).collect();
    let case = Case { found: &found, apt: &apt, essential: &essential };
    let halves = sets.split_at(sets.len() / 2);
    let (mut tally, other) = std::thread::scope(|scope| {
        let second = scope.spawn(|| Tally::of(halves.1, &case));
        (Tally::of(halves.0, &case), second.join().unwrap())
    });
    tally.add(other);
    println!("{tally:?}");
    assert_eq!(tally.both_refuse, 1, "two mail servers exclude each other");
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(tally.equal * 10 >= tally.all() * 8, "far fewer equal choices than usual: {tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    both_refuse: usize,
    explained: usize,
    wrong: Vec<String>,
}

struct Case<'a> {
    found: &'a Indexes,
    apt: &'a Apt,
    essential: &'a BTreeSet<String>,
}

impl Tally {
    fn of(sets: &[(String, Vec<String>)], case: &Case<'_>) -> Self {
        let mut tally = Self::default();
        sets.iter().for_each(|(title, wanted)| tally.compare(title, wanted, case));
        tally
    }

    fn add(&mut self, other: Self) {
        self.equal += other.equal;
        self.both_refuse += other.both_refuse;
        self.explained += other.explained;
        self.wrong.extend(other.wrong);
    }

    fn all(&self) -> usize {
        self.equal + self.both_refuse + self.explained + self.wrong.len()
    }

    fn compare(&mut self, title: &str, wanted: &[String], case: &Case<'_>) {
        let asked: BTreeSet<String> =
            wanted.iter().map(|relation| name_of(relation)).chain(case.essential.iter().cloned()).collect();
        let ours = resolve(&definition(wanted), case.found).map(|lock| names_of(&lock, None));
        match (ours, case.apt.install(&asked)) {
            (Ok(ours), Some(theirs)) if ours == theirs => self.equal += 1,
            (Err(_), None) => self.both_refuse += 1,
            (Err(error), Some(_)) => self.wrong.push(format!("{title} {wanted:?}: apt finds a way, we say {error}")),
            (Ok(ours), theirs) => {
                let theirs = theirs.unwrap_or_default();
                let more: Vec<_> = ours.difference(&theirs).collect();
                let less: Vec<_> = theirs.difference(&ours).collect();
                println!("{title} {wanted:?}: we also take {more:?}, apt also takes {less:?}");
                match case.apt.install(&ours) {
                    Some(again) if again == ours => self.explained += 1,
                    again => self.wrong.push(format!("{title} {wanted:?}: given our list, apt says {again:?}")),
                }
            }
        }
    }
}

/// A private apt: own state, own cache, an empty machine, the frozen index as its only source.
struct Apt {
    root: tempfile::TempDir,
}

impl Apt {
    fn new(folder: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        for path in ["etc/apt/apt.conf.d", "etc/apt/preferences.d", "lists/partial", "cache/archives/partial", "state"] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        std::fs::write(root.path().join("status"), "").unwrap();
        let source = format!("deb [trusted=yes] file:{} trixie main\n", folder.display());
        std::fs::write(root.path().join("etc/apt/sources.list"), source).unwrap();
        let place = root.path().display();
        let settings = format!(
            "Dir::Etc \"{place}/etc/apt\"; Dir::State \"{place}/state\"; Dir::State::status \"{place}/status\";\n\
             Dir::State::lists \"{place}/lists\"; Dir::Cache \"{place}/cache\";\n\
             APT::Architecture \"amd64\"; APT::Architectures {{ \"amd64\"; }}; APT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\"; Acquire::Languages \"none\";\n"
        );
        std::fs::write(root.path().join("apt.conf"), settings).unwrap();
        let apt = Self { root };
        apt.command().arg("update").output().expect("apt must read the frozen index");
        apt
    }

    /// The settings go into the one file apt reads before any of the machine's own.
    fn command(&self) -> Program {
        let apt = Program::find("apt-get", "apt is the oracle of this test: run ci/setup").unwrap();
        apt.env("APT_CONFIG", self.root.path().join("apt.conf"))
    }

    /// What apt would install for these names; `None` where it refuses.
    fn install(&self, names: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        // Three times as fast as --simulate, which also orders the steps: 'URL' FILE SIZE DIGEST.
        let command = self.command().arg("--print-uris").arg("--yes").arg("--no-install-recommends").arg("install");
        let said = names.iter().fold(command, |command, name| command.arg(name)).output().ok()?;
        let said = String::from_utf8(said).unwrap();
        let files = said.lines().filter(|line| line.starts_with('\'')).filter_map(|line| line.split(' ').nth(1));
        Some(files.filter_map(|file| file.split('_').next()).map(str::to_owned).collect())
    }
}

/// Reads the frozen folder as a mirror.
struct Mirror(PathBuf);

impl Download for Mirror {
    fn get(&self, _: &str, path: &str, _: u64) -> Result<Vec<u8>> {
        ingot::files::read(&self.0.join(path))
    }

    fn get_verified(&self, _: &str, path: &str, _: u64, sha256: Sha256Digest) -> Result<Vec<u8>> {
        let bytes = ingot::files::read(&self.0.join(path))?;
        assert_eq!(Sha256Digest::of(&bytes), sha256, "{path}");
        Ok(bytes)
    }
}

fn frozen(folder: &Path) -> Indexes {
    let found = indexes(&definition(&[]), &Mirror(folder.to_owned()), Epoch(4_000_000_000));
    found.unwrap_or_else(|error| panic!("{error:?}\nno usable index in {}: run `ci/frozen-index`", folder.display()))
}

fn definition(wanted: &[String]) -> Definition {
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let certificates = std::fs::read(key).unwrap_or_else(|e| panic!("{key}: {e}; install debian-archive-keyring (ci/setup)"));
    let repository = Repository {
        name: "debian".to_owned(),
        url: "http://deb.debian.org/debian".to_owned(),
        suites: vec!["trixie".to_owned()],
        components: vec!["main".to_owned()],
        keys: vec![(key.into(), certificates)],
        fingerprints: Vec::new(),
        priority: 500,
    };
    Definition {
        description: None,
        name: "test".to_owned(),
        version: "1".to_owned(),
        role: Role::LoadBalancer,
        architecture: "amd64".to_owned(),
        repositories: vec![repository],
        install: wanted.iter().map(|relation| Wanted { relation: relation.clone(), origin: "test".to_owned() }).collect(),
        without: Vec::new(),
        pins: Vec::new(),
        ids: Vec::new(),
        kubernetes: None,
        containers: Vec::new(),
        files: Vec::new(),
        exclude: Vec::new(),
        keep: Vec::new(),
        users: Vec::new(),
        units: Units::default(),
        kernel: Kernel::default(),
        disk: DiskShape { esp: 0, slot: 0, verity: 0 },
        budgets: Budgets::default(),
        sources: Vec::new(),
        resolution: Sha256Digest::of(b""),
        digest: Sha256Digest::of(b""),
    }
}

fn names_of(lock: &ingot::lock::Lock, because: Option<&str>) -> BTreeSet<String> {
    let packages = lock.packages.iter().filter(|package| because.is_none_or(|because| package.because == because));
    packages.map(|package| package.name.clone()).collect()
}

fn name_of(relation: &str) -> String {
    relation.split(' ').next().unwrap_or_default().to_owned()
}

/// One to six names each, drawn with a fixed seed.
fn random_sets(found: &Indexes, number: usize) -> Vec<Vec<String>> {
    let text = &found.indexes[0].text;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Package: ")).collect();
    let mut seed = 20_260_912_u64;
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % limit
    };
    (0..number).map(|_| (0..=next(6)).map(|_| names[next(names.len())].to_owned()).collect()).collect()
}

#[allow(clippy::disallowed_methods, reason = "a test's own settings")]
fn index_folder() -> PathBuf {
    let named = std::env::var_os("INGOT_TEST_INDEX").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/frozen-index"));
    folder.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; run `ci/frozen-index`", folder.display()))
}

#[allow(clippy::disallowed_methods, reason = "a test's own settings")]
fn number_of_sets() -> usize {
    std::env::var("INGOT_TEST_SETS").map_or(40, |text| text.parse().expect("INGOT_TEST_SETS is a number"))
}
