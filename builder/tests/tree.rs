//! The tree stage with real packages, scripts and namespaces: as root, and as an ordinary user
//! with a range of subordinate ids. The program starts itself again for both, hence its own main.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "it is its own test harness")]

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ingot::epoch::Epoch;
use ingot::lock::{Lock, LockedPackage};
use ingot::progress::Silent;
use ingot::run::Program;
use ingot::tree::deb::Deb;
use ingot::tree::kept::Kept;
use ingot::tree::{BaseInput, ContentId, ContentSink, Contents, Entry, Node, Tree, base, namespace, sandbox, stored};
use trust::Sha256Digest;

const EPOCH: Epoch = Epoch(1_700_000_000);

type Outcome = Result<(), Box<dyn std::error::Error>>;

type Test = fn() -> Outcome;

/// All tests by name.
const TESTS: [(&str, Test); 4] = [
    ("tree::root_and_user_make_the_same_tree", root_and_user_make_the_same_tree),
    ("tree::a_damaged_cache_is_made_again", a_damaged_cache_is_made_again),
    ("tree::what_fails_says_why", what_fails_says_why),
    ("tree::layers_do_not_show", layers_do_not_show),
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.first().and_then(|a| a.to_str()) {
        Some(sandbox::SUBCOMMAND) => sandbox::sandbox_main(&arguments[1..]).map_err(Into::into),
        Some("build") => build(&arguments[1..]),
        Some("remove") => remove(&arguments[1..]),
        Some("dump") => dump(Path::new(&arguments[1])),
        _ => return harness(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// The little of libtest that cargo and nextest ask for.
fn harness(arguments: &[OsString]) -> ExitCode {
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let wanted: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| wanted.iter().all(|w| *w == "terse" || if has("--exact") { name == *w } else { name.contains(w) });
    if has("--list") {
        TESTS.iter().filter(|(name, _)| chosen(name) && !has("--ignored")).for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let result = test();
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if let Err(error) = result {
            println!("{error}");
            failed += 1;
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes offers and remembers nothing.
struct Nobody;
impl ContentSink for Nobody {
    fn offer(&self, _: ContentId, _: &Arc<[u8]>) {}
}

/// Names of the lower layers' packages (`a,b;c`), for `build`.
const LEVELS: &str = "INGOT_TEST_LEVELS";
/// Set where layers are kept, for `build`.
const KEPT: &str = "INGOT_TEST_KEPT";

/// `build CACHE INDEX EXCLUDE,.. DEB...`: what the program does up to the base tree.
fn build(arguments: &[OsString]) -> Outcome {
    let [cache, out, exclude, debs @ ..] = arguments else { return Err("build CACHE INDEX EXCLUDE,.. DEB...".into()) };
    namespace::enter()?;
    let debs: Vec<PathBuf> = debs.iter().map(PathBuf::from).collect();
    let lock = lock(&debs)?;
    let exclude: Vec<String> = exclude.to_string_lossy().split(',').filter(|e| !e.is_empty()).map(str::to_owned).collect();
    let ids = [("pinned".to_owned(), 321), ("messagebus".to_owned(), 390)];
    let names = |level: &str| level.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut levels: Vec<_> = std::env::var(LEVELS).iter().flat_map(|all| all.split(';')).map(names).collect();
    levels.push(Vec::new());
    let kept = std::env::var_os(KEPT).map(|_| Kept::begin(Path::new(cache))).transpose()?;
    let input = BaseInput {
        lock: &lock,
        debs: &debs,
        levels: &levels,
        ids: &ids,
        exclude: &exclude,
        keep: &[],
        epoch: EPOCH,
        cache: Path::new(cache),
        kept: kept.as_ref(),
    };
    let base = base(&input, &Nobody, &Silent)?;
    for entry in base.tree.entries.values() {
        if let Node::File { content, .. } = &entry.node {
            base.read(content)?;
        }
    }
    std::fs::write(out, stored::write(&base.tree))?;
    // proc(5): fields 14 to 17 are ticks (1/100 s) of this process and of the children it waited for.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4).collect();
    println!("ticks, own user and system, scripts user and system: {}", ticks.join(" "));
    Ok(())
}

/// `remove PATH..`: what a build as an ordinary user left belongs to ids of its range.
fn remove(paths: &[OsString]) -> Outcome {
    namespace::enter()?;
    Ok(paths.iter().try_for_each(|path| ingot::files::remove(Path::new(path)))?)
}

/// `dump INDEX`: an index for people and for diff(1).
fn dump(index: &Path) -> Outcome {
    let tree = stored::read(&std::fs::read(index)?).ok_or("not an index")?;
    for (path, e) in &tree.entries {
        let path = String::from_utf8_lossy(path);
        println!("/{path} {:o} {}:{} @{} {:?} {:?}", e.mode, e.uid, e.gid, e.mtime, e.node, e.xattrs);
    }
    Ok(())
}

fn lock(debs: &[PathBuf]) -> Result<Lock, Box<dyn std::error::Error>> {
    let mut packages = Vec::new();
    for path in debs {
        let control = Deb::open(path)?.control()?;
        packages.push(LockedPackage {
            name: control.name().to_owned(),
            version: control.field("version").to_owned(),
            architecture: control.field("architecture").to_owned(),
            repository: "test".to_owned(),
            suite: "test".to_owned(),
            path: String::new(),
            size: std::fs::metadata(path)?.len(),
            sha256: Sha256Digest::of(&std::fs::read(path)?),
            because: "wanted".to_owned(),
        });
    }
    Ok(Lock {
        resolution: Sha256Digest([0; 32]),
        architecture: "amd64".to_owned(),
        epoch: EPOCH,
        releases: Vec::new(),
        packages,
        containers: ingot::lock::Containers::default(),
    })
}

/// A folder for one test, with packages and a copy of this program that every user may run.
struct Bench {
    folder: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let caches = ["cache", "cache-of-user"].map(|name| self.path(name));
        let program = caches.into_iter().fold(Program::at(self.path("program")).arg("remove"), |p, cache| p.arg(cache));
        if let Err(error) = program.output() {
            println!("{error}");
        }
    }
}

impl Bench {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::Builder::new().prefix("ingot-tree-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let bench = Self { folder };
        std::fs::copy("/proc/self/exe", bench.path("program"))?;
        std::fs::set_permissions(bench.path("program"), std::fs::Permissions::from_mode(0o755))?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a package of what `fill` puts into a folder, and of control files (name, text).
    fn deb(
        &self,
        name: &str,
        control: &[(&str, &str)],
        fill: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let root = self.path(&format!("{name}.d"));
        std::fs::create_dir_all(root.join("DEBIAN"))?;
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755))?;
        let head = format!(
            "Package: {name}\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: none <none@example.org>\nDescription: test\n"
        );
        std::fs::write(root.join("DEBIAN/control"), head)?;
        for (file, text) in control {
            let path = root.join("DEBIAN").join(file);
            let old = if *file == "control" { std::fs::read_to_string(&path)? } else { String::new() };
            std::fs::write(&path, old + text)?;
            let script = file.ends_with("inst");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(if script { 0o755 } else { 0o644 }))?;
        }
        fill(&root)?;
        let deb = self.path(&format!("{name}.deb"));
        let tool = Program::find("dpkg-deb", "apt-get install dpkg")?.env("SOURCE_DATE_EPOCH", "1600000000");
        tool.arg("-Zgzip").arg("-z1").arg("--root-owner-group").arg("--build").arg(&root).arg(&deb).output()?;
        std::fs::remove_dir_all(&root)?;
        Ok(deb)
    }

    /// A package with what scripts need, taken from this machine: a shell, dpkg and a few tools.
    fn toolbox(&self) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let tools = [
            "dash",
            "dpkg",
            "dpkg-query",
            "dpkg-trigger",
            "dpkg-split",
            "dpkg-deb",
            "dpkg-divert",
            "rm",
            "tar",
            "diff",
            "ldconfig",
            "start-stop-daemon",
            "touch",
            "cat",
            "chown",
            "mknod",
            "ln",
            "setcap",
            "hostname",
            "sleep",
        ];
        let control = [("control", "Essential: yes\nProvides: sh (= 1)\n")];
        self.deb("toolbox", &control, |root| {
            for folder in ["usr/bin", "dev", "proc", "run", "sys", "tmp", "etc", "usr/share/base-passwd", "var/log"] {
                std::fs::create_dir_all(root.join(folder))?;
            }
            std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
            for tool in tools {
                let failed = |e: ingot::error::Error| std::io::Error::other(format!("{e:?}"));
                let found =
                    Program::find(tool, "install the Debian packages dpkg, libcap2-bin, diffutils, hostname").map_err(failed)?;
                let path = PathBuf::from(found.to_string());
                std::fs::copy(&path, root.join("usr/bin").join(tool))?;
                // A script, as ldconfig is on some systems, has no libraries: ldd says so by its code.
                let listed = Program::find("ldd", "install libc-bin").map_err(failed)?.arg(&path).output().unwrap_or_default();
                for library in String::from_utf8_lossy(&listed).split_whitespace().filter(|word| word.starts_with('/')) {
                    let library = library.trim_start_matches('/').trim_start_matches("usr/");
                    let to = root.join("usr").join(library);
                    std::fs::create_dir_all(to.parent().unwrap_or(root))?;
                    std::fs::copy(Path::new("/").join(library), &to)?;
                }
            }
            let real = std::fs::canonicalize("/sbin/ldconfig")?;
            std::fs::copy(real, root.join("usr/bin/ldconfig.real"))?;
            symlink("dash", root.join("usr/bin/sh"))?;
            std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
            std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
            std::fs::write(root.join("usr/share/base-passwd/passwd.master"), "root:*:0:0::/root:/bin/sh\n")
        })
    }

    /// A package that uses all of it.
    fn worker(&self) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let postinst = "#!/bin/sh\nset -e\n\
            if [ \"$1\" = triggered ]; then echo \"$2\" > /etc/triggered; exit 0; fi\n\
            [ \"$(hostname)\" = localhost ]\n[ \"$SOURCE_DATE_EPOCH\" = 1700000000 ]\n[ \"$DEBIAN_FRONTEND\" = noninteractive ]\n\
            [ -z \"$SUDO_USER$USER\" ]\n[ -e /etc/from-preinst ]\n[ ! -e /host-was-here ]\n: > /dev/null\n\
            if mknod /device c 1 3 2> /dev/null; then echo device nodes must not be; exit 1; fi\n\
            ssh-keygen -q -f /etc/key && [ ! -e /etc/key ]\n\
            echo 'pinned:x:998:997::/:/bin/false' >> /etc/passwd\necho 'pinned:x:997:' >> /etc/group\n\
            echo made > /etc/made; chown 998:997 /etc/made\n\
            setcap cap_net_raw+ep /usr/bin/tool\n\
            echo log > /var/log/worker.log; echo id > /etc/machine-id; echo x > /tmp/x; echo y > /run/y\n\
            dpkg-trigger ping\n";
        let control = [
            ("control", "Pre-Depends: sh\nMulti-Arch: same\n"),
            ("preinst", "#!/bin/sh\necho $DPKG_MAINTSCRIPT_PACKAGE > /etc/from-preinst\n"),
            ("postinst", postinst),
            ("triggers", "interest-noawait ping\ninterest-noawait /usr/share/files\n"),
            ("conffiles", "/etc/worker.conf\n"),
        ];
        self.deb("worker", &control, |root| {
            std::fs::create_dir_all(root.join("etc/shared"))?;
            std::fs::create_dir_all(root.join("usr/bin"))?;
            std::fs::create_dir_all(root.join("usr/share/doc/worker"))?;
            std::fs::write(root.join("etc/worker.conf"), "setting = 1\n")?;
            std::fs::write(root.join("usr/share/doc/worker/README"), "text")?;
            std::fs::write(root.join("usr/bin/tool"), "#!/bin/sh\n")?;
            std::fs::write(root.join("usr/bin/suid"), "x")?;
            std::fs::set_permissions(root.join("usr/bin/suid"), std::fs::Permissions::from_mode(0o4755))?;
            std::fs::set_permissions(root.join("etc/shared"), std::fs::Permissions::from_mode(0o2775))?;
            std::fs::hard_link(root.join("usr/bin/suid"), root.join("usr/bin/another"))?;
            symlink("tool", root.join("usr/bin/link"))
        })
    }

    fn build(&self, cache: &str, debs: &[PathBuf]) -> Result<Tree, Box<dyn std::error::Error>> {
        self.build_with(&[], cache, debs)
    }

    fn build_with(&self, variables: &[(&str, &str)], cache: &str, debs: &[PathBuf]) -> Result<Tree, Box<dyn std::error::Error>> {
        let index = self.path("index");
        let program = Program::at(self.path("program")).arg("build").arg(self.path(cache)).arg(&index).arg("usr/share/doc");
        let program = variables.iter().fold(program, |program, (name, value)| program.env(name, value));
        debs.iter().fold(program, |program, deb| program.arg(deb)).output()?;
        Ok(stored::read(&std::fs::read(index)?).ok_or("the index cannot be read")?)
    }

    /// The same as user `nobody`, who gets a range of ids for as long as it takes.
    fn build_as_user(&self, debs: &[PathBuf]) -> Result<Tree, Box<dyn std::error::Error>> {
        let folder = self.folder.path().display();
        std::fs::create_dir_all(self.path("cache-of-user"))?;
        std::fs::write(self.path("ranges"), "nobody:300000:65536\n")?;
        let debs: Vec<String> = debs.iter().map(|deb| deb.display().to_string()).collect();
        let script = format!(
            "set -e; cd {folder}; chown nobody cache-of-user; mount --bind ranges /etc/subuid; mount --bind ranges /etc/subgid; \
             umask 077; exec setpriv --reuid=nobody --regid=nogroup --clear-groups \
             ./program build cache-of-user cache-of-user/result usr/share/doc {}",
            debs.join(" ")
        );
        for file in [Path::new("/etc/subuid"), Path::new("/etc/subgid")] {
            if !file.exists() {
                return Err(format!("{} is not there: install the package uidmap", file.display()).into());
            }
        }
        Program::find("unshare", "install util-linux")?.arg("-m").arg("sh").arg("-c").arg(script).output()?;
        Ok(stored::read(&std::fs::read(self.path("cache-of-user/result"))?).ok_or("the index cannot be read")?)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn at<'a>(tree: &'a Tree, path: &str) -> Result<&'a Entry, String> {
    tree.entries.get(path.as_bytes()).ok_or_else(|| format!("/{path} is not in the tree"))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}").into()) }
}

fn root_and_user_make_the_same_tree() -> Outcome {
    let bench = Bench::new()?;
    let debs = [bench.toolbox()?, bench.worker()?];
    let tree = bench.build("cache", &debs)?;
    let made = at(&tree, "etc/made")?;
    same("the pinned user", (made.uid, made.gid, made.mtime), (321, 321, 1_700_000_000))?;
    let tool = at(&tree, "usr/bin/tool")?;
    let capability = tool.xattrs.get(b"security.capability".as_slice()).map(|value| (value.len(), value[3]));
    same("the capability, in revision 2", capability, Some((20, 2)))?;
    same("a time of a package", at(&tree, "usr/bin/link")?.mtime, 1_600_000_000)?;
    same("a mode", at(&tree, "etc/shared")?.mode, 0o2775)?;
    same("a set-uid file", at(&tree, "usr/bin/suid")?.mode, 0o4755)?;
    let group = |path| at(&tree, path).map(|e| if let Node::File { link, .. } = e.node { link } else { None });
    same("a hard link", (group("usr/bin/suid")?.is_some(), group("usr/bin/another")?), (true, group("usr/bin/suid")?))?;
    for there in ["etc/worker.conf", "etc/triggered", "etc/from-preinst", "var/lib/dpkg/info/worker:amd64.list", "var/log"] {
        at(&tree, there)?;
    }
    let gone = ["etc/machine-id", "var/log/worker.log", "usr/share/doc/worker/README", "tmp/x", "run/y", "device", "run/ingot"];
    for path in gone.into_iter().chain(["usr/sbin/policy-rc.d", "var/lib/dpkg/lock"]) {
        same(path, tree.entries.contains_key(path.as_bytes()), false)?;
    }
    let again = if is_root() { bench.build_as_user(&debs)? } else { bench.build("cache-of-user", &debs)? };
    let differing = tree.entries.iter().find(|(path, entry)| again.entries.get(*path) != Some(entry));
    same("what differs", differing, None)?;
    same("all entries", tree == again, true)
}

fn a_damaged_cache_is_made_again() -> Outcome {
    let bench = Bench::new()?;
    let debs = [bench.toolbox()?];
    let tree = bench.build("cache", &debs)?;
    let key = std::fs::read_dir(bench.path("cache/base"))?.next().ok_or("no entry")??.path();
    let mut index = std::fs::read(key.join("index"))?;
    let middle = index.len() / 2;
    index[middle] ^= 1;
    std::fs::write(key.join("index"), index)?;
    same("the tree made again", bench.build("cache", &debs)? == tree, true)?;
    if is_root() {
        std::fs::write(key.join("root/etc/group"), "root:x:0:evil\n")?;
        let error = bench.build("cache", &debs).err().map(|e| format!("{e:?}")).unwrap_or_default();
        same("a changed file is noticed", error.contains("etc/group was changed"), true)?;
    }
    // What a killed build leaves is cleared away.
    std::fs::create_dir_all(bench.path("cache/work/0/root"))?;
    std::fs::write(bench.path("cache/work/0.lock"), "")?;
    let _ = bench.build("cache", &debs);
    same("leftovers", std::fs::read_dir(bench.path("cache/work"))?.count(), 0)
}

fn what_fails_says_why() -> Outcome {
    let bench = Bench::new()?;
    let toolbox = bench.toolbox()?;
    let says = |debs: &[PathBuf], said: &[&str]| -> Outcome {
        let error = bench.build("cache", debs).err().map(|e| format!("{e:?}")).ok_or("expected a failure")?;
        for text in said {
            same(&format!("`{text}` in the message {error}"), error.contains(text), true)?;
        }
        Ok(())
    };
    let script = "#!/bin/sh\necho the reason is plain\nsleep 100 &\nexit 3\n";
    let failing = bench.deb("failing", &[("postinst", script)], |_| Ok(()))?;
    says(&[failing, toolbox.clone()], &["configuring the packages", "the reason is plain", "failing"])?;
    let write = |root: &Path, path: &str, text: &str| {
        std::fs::create_dir_all(root.join(path).parent().unwrap_or(root))?;
        std::fs::write(root.join(path), text)
    };
    let one = bench.deb("one", &[], |root| write(root, "etc/same", "one"))?;
    let two = bench.deb("two", &[], |root| write(root, "etc/same", "two"))?;
    says(&[one.clone(), toolbox.clone(), two], &["`one` and `two` both bring /etc/same", "without"])?;
    let three = bench.deb("three", &[("control", "Replaces: one\n")], |root| write(root, "etc/same", "three"))?;
    for order in [[one.clone(), three.clone(), toolbox.clone()], [three, one, toolbox.clone()]] {
        let tree = bench.build("cache", &order)?;
        let id = match &at(&tree, "etc/same")?.node {
            Node::File { content, .. } => *content,
            other => return Err(format!("{other:?}").into()),
        };
        same("the replacing file", id, ContentId::of(b"three"))?;
    }
    // A link to a folder of the machine, and a file "in" it.
    let outside = bench.path("outside");
    std::fs::create_dir(&outside)?;
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o777))?;
    let lure = bench.deb("lure", &[], |root| symlink(&outside, root.join("escape")))?;
    let prey = bench.deb("prey", &[], |root| write(root, "escape/file", "x"))?;
    let _ = bench.build("cache", &[lure, prey, toolbox]);
    same("files outside", std::fs::read_dir(&outside)?.count(), 0)
}

fn layers_do_not_show() -> Outcome {
    let bench = Bench::new()?;
    let write = |root: &Path, path: &str, text: &str| {
        std::fs::create_dir_all(root.join(path).parent().unwrap_or(root))?;
        std::fs::write(root.join(path), text)
    };
    let triggered = "#!/bin/sh\nif [ \"$1\" = triggered ]; then echo \"$2\" > /etc/lower-triggered; fi\n";
    let control = [("postinst", triggered), ("triggers", "interest-noawait /usr/share/files\n")];
    let lower = bench.deb("lower", &control, |root| write(root, "etc/shared/lower", "lower"))?;
    let upper = bench.deb("upper", &[], |root| write(root, "usr/share/files/upper", "upper"))?;
    let debs = [lower.clone(), bench.toolbox()?, upper, bench.worker()?];
    let levels = (LEVELS, "lower");
    let in_place = bench.build_with(&[levels], "cache", &debs)?;
    same("what a later file sets off", at(&in_place, "etc/lower-triggered").is_ok(), true)?;
    same("a time of a package, below what came later", at(&in_place, "etc/shared/lower")?.mtime, 1_600_000_000)?;
    same("layers of a single image", bench.path("cache/layers").exists(), false)?;
    // Times of folders that both bring something into may be another package's.
    let alike = |one: &Entry, other: &Entry| {
        one == other || (one.node == Node::Folder && Entry { mtime: one.mtime, ..other.clone() } == *one)
    };
    let mut plain = bench.build("plain", &debs)?;
    // There its postinst found the file in place, and nothing was to be set off.
    plain.entries.insert(b"etc/lower-triggered".to_vec(), at(&in_place, "etc/lower-triggered")?.clone());
    let differing =
        in_place.entries.iter().find(|(path, entry)| plain.entries.get(*path).is_none_or(|other| !alike(entry, other)));
    same("what is another without layers", differing.map(|(path, _)| String::from_utf8_lossy(path)), None)?;
    same("entries", plain.entries.len(), in_place.entries.len())?;
    let several = [levels, (KEPT, "1")];
    same("a layer that is kept", bench.build_with(&several, "several", &debs)? == in_place, true)?;
    let kept = std::fs::read_dir(bench.path("several/layers"))?.next().ok_or("no layer was kept")??.path();
    ingot::files::remove(&bench.path("several/base"))?;
    same("a layer from the cache", bench.build_with(&several, "several", &debs)? == in_place, true)?;
    if is_root() {
        std::fs::write(kept.join("root/etc/shared/lower"), "evil!")?;
        ingot::files::remove(&bench.path("several/base"))?;
        same("a damaged layer", bench.build_with(&several, "several", &debs)? == in_place, true)?;
    }
    // What comes later replaces a file: only without layers.
    let control = [("control", "Replaces: lower\n")];
    let replacing = bench.deb("replacing", &control, |root| write(root, "etc/shared/lower", "replaced"))?;
    let [_, toolbox, ..] = &debs;
    let tree = bench.build_with(&several, "several", &[lower, replacing, toolbox.clone()])?;
    let id = match &at(&tree, "etc/shared/lower")?.node {
        Node::File { content, .. } => *content,
        other => return Err(format!("{other:?}").into()),
    };
    same("the replacing file", id, ContentId::of(b"replaced"))
}
