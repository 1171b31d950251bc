//! Definitions that are right: merging, defaults, digests, finding.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Definition, FileContent, Folder, Overrides, find_in, load, load_with, parse};
use crate::error::Kind;

const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n";

/// A folder in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>, PathBuf);

impl Memory {
    fn with(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect(), PathBuf::new())
    }
}

impl Folder for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        self.1.join(path)
    }
}

const BASE: &str = r#"
schema = 1
version = "1"
[[repository]]
name = "debian"
url = "https://deb.debian.org/debian/"
suites = ["trixie"]
components = ["main"]
keys = ["keys/a.asc"]
[[repository]]
name = "own"
url = "https://example.org/x"
suites = ["./"]
keys = ["keys/a.asc"]
priority = 100
[packages]
install = ["systemd", "nano", "vim | emacs", "curl (>=8)"]
without = ["dracut", "apt"]
[[pin]]
package = "*"
release = "own"
priority = 50
[ids]
messagebus = 990
[tree]
exclude = ["a/**", "b"]
[[file]]
path = "/etc/motd"
content = "base"
[[file]]
path = "/etc/z"
folder = true
[[user]]
name = "admin"
uid = 1000
[units]
enable = ["a.service", "b.service"]
mask = ["c.timer"]
[kernel]
command_line = ["quiet"]
[disk]
slot = "512 MiB"
[budgets]
uki = "20 MiB"
"#;

const ROLE: &str = r#"
schema = 1
extends = "base/base.toml"
name = "lb"
role = "load-balancer"
version = "2"
[[repository]]
name = "own"
url = "http://example.org/y"
suites = ["stable"]
components = ["main", "extra"]
keys = ["b.gpg"]
fingerprints = ["04b54c3cdca79751b16bc6b5225629df75b188bd"]
[packages]
install = ["haproxy (>= 3.0)", "systemd"]
remove = ["nano", "vim | emacs", "apt"]
[[pin]]
package = "haproxy"
version = "3.0.*"
priority = 990
[ids]
messagebus = 991
haproxy = 980
[tree]
exclude = ["b", "c"]
[[file]]
path = "/etc/motd"
source = "files/motd"
mode = "0600"
group = "adm"
[[file]]
path = "/etc/l"
link = "motd"
[[user]]
name = "admin"
uid = 1001
groups = ["adm"]
[units]
enable = ["c.timer"]
mask = ["b.service"]
[budgets]
root = "400 MiB"
"#;

fn files() -> Memory {
    let files = [("role.toml", ROLE), ("base/base.toml", BASE), ("base/keys/a.asc", KEY), ("b.gpg", KEY), ("files/motd", "role")];
    Memory::with(&files)
}

fn role(files: &Memory) -> Definition {
    parse(Path::new("role.toml"), files).unwrap()
}

#[test]
fn a_role_over_its_base() {
    let mut definition = role(&files());
    // Bytes as text, for whoever reads the snapshot.
    for file in &mut definition.files {
        if let FileContent::Bytes(bytes) = &file.content {
            file.content = FileContent::Link(format!("bytes of {}", String::from_utf8_lossy(bytes)));
        }
    }
    for (_, key) in definition.repositories.iter_mut().flat_map(|repository| &mut repository.keys) {
        assert_eq!(std::mem::take(key), KEY.as_bytes());
    }
    insta::assert_debug_snapshot!(definition);
}

#[test]
fn digests_follow_values_only() {
    let first = role(&files());
    let changed = |change: &dyn Fn(&mut Memory)| {
        let mut files = files();
        change(&mut files);
        let definition = role(&files);
        (definition.resolution == first.resolution, definition.digest == first.digest)
    };
    let edit = |name: &'static str, from: &'static str, to: &'static str| {
        move |files: &mut Memory| {
            let text = files.0.get_mut(Path::new(name)).unwrap();
            let edited = String::from_utf8_lossy(text).replace(from, to);
            assert_ne!(edited.as_bytes(), text.as_slice(), "{from}");
            *text = edited.into_bytes();
        }
    };
    type Case<'a> = (&'a str, (bool, bool), &'a dyn Fn(&mut Memory));
    let cases: [Case<'_>; 16] = [
        ("nothing", (true, true), &|_| {}),
        ("place", (true, true), &|files| files.1 = PathBuf::from("/somewhere/else")),
        ("comment", (true, true), &edit("role.toml", "name = \"lb\"", "name   = 'lb' # a comment")),
        ("line ends", (true, true), &edit("base/base.toml", "\n", "\r\n")),
        ("spaces of a relation", (true, true), &edit("base/base.toml", "curl (>=8)", "curl  ( >= 8 )")),
        ("order of packages", (true, true), &edit("base/base.toml", "\"systemd\", \"nano\"", "\"nano\", \"systemd\"")),
        (
            "order of files",
            (true, true),
            &edit(
                "base/base.toml",
                "[[file]]\npath = \"/etc/z\"\nfolder = true\n[[user]]",
                "[[file]]\nfolder = true\npath = \"/etc/z\"\n[[user]]",
            ),
        ),
        ("slash", (true, true), &edit("base/base.toml", "debian/\"", "debian\"")),
        ("name of a key file", (true, true), &|files| {
            let key = files.0.remove(Path::new("b.gpg")).unwrap();
            files.0.insert(PathBuf::from("c.gpg"), key);
            edit("role.toml", "b.gpg", "c.gpg")(files);
        }),
        ("key", (false, false), &edit("b.gpg", "\n", "\n\n")),
        ("url", (false, false), &edit("role.toml", "example.org/y", "example.org/z")),
        ("package", (false, false), &edit("role.toml", "haproxy (>= 3.0)", "haproxy (>= 3.1)")),
        ("pin", (false, false), &edit("role.toml", "990", "989")),
        ("content", (true, false), &edit("files/motd", "role", "other")),
        ("version", (true, false), &edit("role.toml", "version = \"2\"", "version = \"3\"")),
        ("budget", (true, false), &edit("role.toml", "400 MiB", "401 MiB")),
    ];
    for (what, same, change) in cases {
        assert_eq!(changed(change), same, "{what}");
    }
}

#[test]
fn every_image_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let mut bases = Vec::new();
    let mut loaded = Vec::new();
    let mut used: Vec<PathBuf> = Vec::new();
    // The key of the public repository of Kubernetes is not ours to hand on.
    let key = format!("kubernetes={}", folder.join("keys/debian-trixie-stable.asc").display());
    let overrides = Overrides::new(&[], &[key], None).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if std::fs::read_to_string(&path).unwrap().contains("\nrole = ") {
            let definition = load_with(&path, &overrides).unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(Some(definition.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            used.extend(definition.sources);
            loaded.push(definition.name);
        } else {
            bases.push(path);
        }
    }
    assert!(loaded.contains(&"load-balancer".to_owned()));
    for base in bases {
        assert!(used.contains(&base), "no image extends {}", base.display());
    }
}

#[test]
fn images_are_found_by_name_or_path() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let path = folder.join("load-balancer.toml");
    assert_eq!(find_in(&folder, "load-balancer").unwrap(), path);
    assert_eq!(find_in(Path::new("nowhere"), path.to_str().unwrap()).unwrap(), path);
    for (wrong, hint) in [
        ("loadbalancer", "did you mean `load-balancer`?"),
        ("windows", "there are: "),
        ("../images/base", "give the path of a TOML file, or the name of an image"),
        ("gone.toml", "give the path of a TOML file, or the name of an image"),
        ("", "there are: "),
        ("a\0b", "there are: "),
    ] {
        let error = find_in(&folder, wrong).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.hints()[0].starts_with(hint), "{wrong}: {error:?}");
    }
    let error = find_in(Path::new("/nowhere"), "x").unwrap_err();
    assert!(error.hints()[0].starts_with("/nowhere holds no definitions"), "{error:?}");
}

proptest::proptest! {
    #[test]
    fn no_document_makes_it_panic(keys in proptest::collection::vec((0usize..KEYS.len(), 0usize..VALUES.len()), 0..12)) {
        let text: String = keys.iter().map(|(key, value)| format!("{}{}\n", KEYS[*key], VALUES[*value])).collect();
        let _ = parse(Path::new("x"), &Memory::with(&[("x", &format!("schema = 1\n{text}"))]));
    }
}

const KEYS: &[&str] = &[
    "name = ",
    "version = ",
    "extends = ",
    "role = ",
    "packages.install = ",
    "packages.remove = ",
    "ids = ",
    "file = ",
    "user = ",
    "units = ",
    "kernel.command_line = ",
    "disk.slot = ",
    "disk.verity = ",
    "budgets.root = ",
    "pin = ",
    "repository = ",
    "tree.exclude = ",
];

const VALUES: &[&str] = &[
    "1",
    "-1",
    "''",
    "'x'",
    "'/'",
    "'a b'",
    "[]",
    "['']",
    "['a | b (>= 1)']",
    "{}",
    "[{}]",
    "18446744073709551615",
    "'16777215 TiB'",
    "'\u{202e}'",
    "\"\\u0000\"",
    "[{ path = '/', content = '' }, { path = '//', link = '' }, { path = '', folder = true }]",
    "[{ name = 'a', uid = 1, home = '' }]",
    "{ a = 1, b = 1, '' = 2 }",
    "[{ package = '*', priority = 0 }]",
    "[{ name = 'd', url = '', suites = ['/'], keys = ['..', 'x'] }]",
    "true",
    "1979-05-27",
];

const CLUSTER: &str = r#"
schema = 1
name = "node"
version = "1"
role = "linux-worker"
[kubernetes]
version = "1.34"
keys = ["k.asc"]
images = ["pause", "kube-proxy"]
[[container_image]]
reference = "quay.io/cilium/cilium:v1.18.2"
[packages]
install = ["kubeadm"]
"#;

#[test]
fn a_kubernetes_brings_its_repository_pins_and_images() {
    let folder = Memory::with(&[("a.toml", CLUSTER), ("k.asc", KEY)]);
    let definition = parse(Path::new("a.toml"), &folder).unwrap();
    let repository = &definition.repositories[0];
    assert_eq!(
        (repository.name.as_str(), repository.url.as_str()),
        ("kubernetes", "https://pkgs.k8s.io/core:/stable:/v1.34/deb")
    );
    assert_eq!((repository.suites.as_slice(), repository.keys.len()), (["/".to_owned()].as_slice(), 1));
    let pins: Vec<String> = definition
        .pins
        .iter()
        .map(|pin| format!("{} {}", pin.package, pin.version.as_deref().or(pin.release.as_deref()).unwrap_or_default()))
        .collect();
    assert_eq!(pins, ["kubeadm 1.34.*", "kubectl 1.34.*", "kubelet 1.34.*", "cri-tools kubernetes", "kubernetes-cni kubernetes"]);
    let kubernetes = definition.kubernetes.as_ref().unwrap();
    assert_eq!(
        (kubernetes.images.as_slice(), kubernetes.origin.as_str()),
        (["kube-proxy".to_owned(), "pause".to_owned()].as_slice(), "a.toml:7:11")
    );
    assert_eq!(definition.containers, ["quay.io/cilium/cilium:v1.18.2"]);
    // What is over it adds images, and may take another patch level from another place.
    let over = "schema = 1\nextends = \"a.toml\"\n[kubernetes]\nversion = \"1.34.2\"\nimages = [\"etcd\"]\n\
        [[repository]]\nname = \"kubernetes\"\nurl = \"https://in.example/k\"\nsuites = [\"/\"]\nkeys = [\"k.asc\"]\n";
    let told = parse(Path::new("b.toml"), &Memory::with(&[("a.toml", CLUSTER), ("b.toml", over), ("k.asc", KEY)])).unwrap_err();
    assert!(told.to_string().contains("`k.asc` is for the public repository of Kubernetes, which is not used"), "{told}");
    let plain = CLUSTER.replace("keys = [\"k.asc\"]\n", "");
    let over = parse(Path::new("b.toml"), &Memory::with(&[("a.toml", &plain), ("b.toml", over), ("k.asc", KEY)])).unwrap();
    assert_eq!(over.repositories.len(), 1);
    assert_eq!(over.repositories[0].url, "https://in.example/k");
    assert_eq!((over.kubernetes.unwrap().images.len(), over.pins[0].version.as_deref()), (3, Some("1.34.2-*")));
}

#[test]
fn every_word_about_kubernetes_and_its_images_makes_the_lock_stale() {
    let resolution =
        |text: &str| parse(Path::new("a.toml"), &Memory::with(&[("a.toml", text), ("k.asc", KEY)])).unwrap().resolution;
    let before = resolution(CLUSTER);
    for (from, to) in [
        ("\"1.34\"", "\"1.35\""),
        ("\"1.34\"", "\"1.34.1\""),
        ("\"pause\", ", ""),
        ("v1.18.2", "v1.18.3"),
        ("keys =", "channel = \"prerelease\"\nkeys ="),
        ("keys =", "image_repository = \"in.example/k\"\nkeys ="),
    ] {
        assert_ne!(before, resolution(&CLUSTER.replace(from, to)), "{to}");
    }
    assert_eq!(before, resolution(&CLUSTER.replace("[\"pause\", \"kube-proxy\"]", "[\"kube-proxy\", \"pause\"]")));
}

#[test]
fn the_command_line_goes_before_the_definition_and_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("a.toml"), folder.path().join("other.asc"));
    std::fs::write(&file, CLUSTER).unwrap();
    std::fs::write(&key, KEY).unwrap();
    // The definition's own key is not there, and not asked for.
    let keys = [format!("kubernetes={}", key.display())];
    let overrides = Overrides::new(&["kubernetes=http://in.example/k/".to_owned()], &keys, Some("1.20")).unwrap();
    let definition = load_with(&file, &overrides).unwrap();
    assert_eq!(
        (definition.repositories[0].url.as_str(), definition.kubernetes.as_ref().unwrap().version.as_str()),
        ("http://in.example/k", "1.20")
    );
    assert_eq!(definition.pins[0].version.as_deref(), Some("1.20.*"));
    overrides.check(std::slice::from_ref(&definition)).unwrap();
    let told = load(&file).unwrap_err().to_string();
    assert!(told.contains("Release.key -o") && told.contains("--repository-key kubernetes=FILE"), "{told}");
    let misspelt = Overrides::new(&["kubernets=http://x".to_owned()], &[], None).unwrap();
    let error = misspelt.check(std::slice::from_ref(&definition)).unwrap_err();
    assert!(error.kind() == Kind::Usage && error.to_string().contains("`kubernets`"), "{error}");
    let other = Definition { kubernetes: None, ..definition };
    assert!(overrides.check(&[other]).unwrap_err().to_string().contains("holds a Kubernetes"));
    for (repositories, keys, version) in [
        (vec!["kubernetes".to_owned()], Vec::new(), None),
        (vec!["kubernetes=ftp://x".to_owned()], Vec::new(), None),
        (Vec::new(), vec!["=file".to_owned()], None),
        (Vec::new(), Vec::new(), Some("v1.34")),
    ] {
        assert_eq!(Overrides::new(&repositories, &keys, version).unwrap_err().kind(), Kind::Usage);
    }
}
