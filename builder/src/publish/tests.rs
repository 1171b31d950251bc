//! Whole releases into real folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use trust::{AllowedSigners, Policy, RevokedKeys};

use super::*;
use crate::lock::Lock;
use crate::run::Program;
use crate::sbom::tests::{inventory, lock, repositories};

fn manifest_of(lock: &Lock) -> Manifest {
    let digest = Sha256Digest::of(b"d");
    let package = |package: &crate::lock::LockedPackage| manifest::Package {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        sha256: package.sha256,
    };
    let mut packages: Vec<_> = lock.packages.iter().map(package).collect();
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    Manifest {
        format: manifest::FORMAT,
        name: "load-balancer".into(),
        version: "1.0".into(),
        role: "load-balancer".into(),
        architecture: "amd64".into(),
        epoch: lock.epoch.0,
        lock: digest,
        definition: digest,
        inputs: vec![manifest::Input {
            repository: "debian".into(),
            suite: "trixie".into(),
            date: 1,
            sha256: digest,
            signed_by: "AB".into(),
        }],
        root: manifest::Root { hash: digest, salt: String::new(), block_size: 4096, blocks: 1 },
        partitions: Vec::new(),
        packages,
        container_images: crate::containers::listed(lock),
        files: Vec::new(),
    }
}

/// Publishes a release whose image is `image`; `key` is made where there is none.
fn release(target: &Path, image: &[u8], key: &SigningKey) -> Result<PathBuf> {
    let (lock, repositories) = (lock(), repositories());
    let partial = Partial::begin(target)?;
    files::write_atomic(&partial.path().join("load-balancer.raw"), image)?;
    let artifacts = vec![partial.artifact("load-balancer.raw")?];
    publish(
        partial,
        Release {
            manifest: manifest_of(&lock),
            inventory: inventory(&lock, &repositories),
            artifacts,
            documents: vec![("secure-boot/db.auth".into(), b"db".to_vec()), ("secure-boot/PK.auth".into(), b"pk".to_vec())],
            key,
        },
    )
}

fn content(folder: &Path) -> Vec<(String, Vec<u8>, u32)> {
    let read = |name: String| {
        let path = folder.join(&name);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        (name, fs::read(path).unwrap(), mode)
    };
    folder::list(folder).unwrap().into_iter().map(read).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_release_is_complete_signed_and_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("ops").unwrap();
    let first = release(&folder.path().join("a/load-balancer"), b"image", &key).unwrap();
    let second = release(&folder.path().join("b/other-name"), b"image", &key).unwrap();
    assert_eq!(content(&first), content(&second));
    let files = content(&first);
    assert!(files.iter().all(|(_, _, mode)| *mode == 0o644));
    assert_eq!(fs::metadata(first.join("secure-boot")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        files.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        [
            "SHA256SUMS",
            "SHA256SUMS.sig",
            "load-balancer.cyclonedx.json",
            "load-balancer.raw",
            "load-balancer.spdx.json",
            "manifest.json",
            "manifest.json.sig",
            "provenance.json",
            "secure-boot/PK.auth",
            "secure-boot/db.auth",
        ]
    );
    let signers = AllowedSigners::parse(&format!("ops {}", key.public_line().unwrap())).unwrap();
    let policy = Policy { signers: &signers, revoked: &RevokedKeys::default(), namespace: Namespace::Release, at: 0 };
    let text = fs::read(first.join("manifest.json")).unwrap();
    let signature = files::read_text(&first.join("manifest.json.sig")).unwrap();
    let manifest = trust::verify(&text, &signature, &policy).unwrap().try_map(Manifest::parse).unwrap();
    assert_eq!(manifest.get().files.len(), 6);
    // The tools that people have.
    let sums = Program::find("sh", "").unwrap().arg("-c").arg("cd \"$0\" && sha256sum --strict -c SHA256SUMS").arg(&first);
    assert_eq!(String::from_utf8(sums.output().unwrap()).unwrap().lines().filter(|line| line.ends_with(": OK")).count(), 7);
    fs::write(folder.path().join("as"), format!("ops {}", key.public_line().unwrap())).unwrap();
    let script = "ssh-keygen -Y verify -f \"$0/as\" -I ops -n ingot-release -s \"$1/SHA256SUMS.sig\" <\"$1/SHA256SUMS\"";
    Program::find("sh", "").unwrap().arg("-c").arg(script).arg(folder.path()).arg(&first).output().unwrap();
}

#[test]
fn provenance_has_what_its_specification_requires() {
    let (lock, repositories) = (lock(), repositories());
    let subject = Artifact { name: "x.raw".into(), size: 1, sha256: Sha256Digest::of(b"x") };
    let text = provenance(&manifest_of(&lock), &inventory(&lock, &repositories), &[subject]).unwrap();
    let statement: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(
        (&statement["subject"][0]["name"], statement["subject"][0]["digest"]["sha256"].as_str().unwrap().len()),
        (&"x.raw".into(), 64)
    );
    let build = &statement["predicate"]["buildDefinition"];
    assert!(build["buildType"].is_string() && build["externalParameters"]["definition"]["sha256"].is_string());
    assert_eq!(build["resolvedDependencies"].as_array().unwrap().len(), 5);
    assert_eq!(build["resolvedDependencies"][0]["uri"], "https://deb.debian.org/debian/dists/trixie/InRelease");
    assert!(statement["predicate"]["runDetails"]["builder"]["id"].is_string());
}

#[test]
fn a_release_replaces_the_one_before_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("ops").unwrap();
    let target = folder.path().join("load-balancer");
    fs::create_dir(&target).unwrap();
    release(&target, b"one", &key).unwrap();
    release(&target, b"two", &key).unwrap();
    assert_eq!(fs::read(target.join("load-balancer.raw")).unwrap(), b"two");
    assert_eq!(names(folder.path()), ["load-balancer"]);
}

#[test]
fn what_is_no_release_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("ops").unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("thesis.txt"), "x").unwrap();
    std::os::unix::fs::symlink(&home, folder.path().join("link")).unwrap();
    for name in ["home", "link", "home/thesis.txt"] {
        assert_eq!(release(&folder.path().join(name), b"x", &key).unwrap_err().kind(), Kind::Usage, "{name}");
    }
    assert_eq!(release(Path::new("/"), b"x", &key).unwrap_err().kind(), Kind::Usage);
    // Also not when it comes in between.
    let late = folder.path().join("late");
    let partial = Partial::begin(&late).unwrap();
    fs::create_dir(&late).unwrap();
    fs::write(late.join("thesis.txt"), "x").unwrap();
    assert_eq!(partial.publish().unwrap_err().kind(), Kind::Usage);
    assert_eq!(names(folder.path()), ["home", "late", "link"]);
    assert_eq!((names(&home), names(&late)), (vec!["thesis.txt".to_owned()], vec!["thesis.txt".to_owned()]));
}

type Spoil = fn(&Partial, &mut Release<'_>);

#[test]
fn an_error_leaves_the_release_before_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("ops").unwrap();
    let target = folder.path().join("load-balancer");
    release(&target, b"one", &key).unwrap();
    let before = content(&target);
    let (lock, repositories) = (lock(), repositories());
    let cases: [(&str, Spoil); 6] = [
        ("a file that nobody announced", |partial, _| fs::write(partial.path().join("stray"), "x").unwrap()),
        ("a missing file", |partial, _| fs::remove_file(partial.path().join("load-balancer.raw")).unwrap()),
        ("another size", |_, release| release.artifacts[0].size += 1),
        ("a name that leads out", |_, release| release.documents.push(("../x".into(), Vec::new()))),
        ("a name twice", |_, release| release.documents.push(("load-balancer.raw".into(), Vec::new()))),
        ("a link", |partial, _| std::os::unix::fs::symlink("/etc/passwd", partial.path().join("link")).unwrap()),
    ];
    for (case, spoil) in cases {
        let partial = Partial::begin(&target).unwrap();
        fs::write(partial.path().join("load-balancer.raw"), "two").unwrap();
        let artifacts = vec![partial.artifact("load-balancer.raw").unwrap()];
        let inventory = inventory(&lock, &repositories);
        let mut release = Release { manifest: manifest_of(&lock), inventory, artifacts, documents: Vec::new(), key: &key };
        spoil(&partial, &mut release);
        publish(partial, release).expect_err(case);
        assert_eq!(names(folder.path()), ["load-balancer"], "{case}");
        assert_eq!(content(&target), before, "{case}");
    }
}

#[test]
fn partial_folders_of_dead_builds_go_and_those_of_living_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("load-balancer");
    fs::create_dir(folder.path().join(".load-balancer.partial-dead")).unwrap();
    fs::write(folder.path().join(".load-balancer.partial-dead/x"), "x").unwrap();
    fs::create_dir(folder.path().join(".haproxy.partial-other")).unwrap();
    let first = Partial::begin(&target).unwrap();
    let second = Partial::begin(&target).unwrap();
    assert!(first.path().is_dir() && second.path().is_dir() && first.path() != second.path());
    assert_eq!(names(folder.path()).len(), 3);
    drop((first, second));
    assert_eq!(names(folder.path()), [".haproxy.partial-other"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| assert!(Partial::begin(&target).unwrap().path().is_dir())));
        }
    });
}

/// Only run by the next test, in a small file system of its own.
#[test]
#[ignore = "started by a_full_disk_is_told"]
fn inside_a_full_disk() {
    let folder = std::env::temp_dir();
    let key = SigningKey::generate("ops").unwrap();
    let target = folder.join("load-balancer");
    release(&target, b"one", &key).unwrap();
    let before = content(&target);
    let error = release(&target, &vec![1; 1 << 20], &key).unwrap_err();
    assert!(error.to_string().contains("No space left on device") && error.to_string().contains("partial"), "{error}");
    assert!(error.hints().iter().any(|hint| hint.contains("make room")));
    // The image fits, what publish itself writes does not.
    let room = rustix::fs::statvfs(&folder).map(|found| found.f_bavail * found.f_frsize).unwrap();
    let error = release(&target, &vec![1; usize::try_from(room).unwrap() - 8192], &key).unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!((names(&folder), content(&target)), (vec!["load-balancer".to_owned()], before));
}

#[test]
fn a_full_disk_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k none \"$0\" && TMPDIR=\"$0\" exec \"$1\" --exact --ignored publish::tests::inside_a_full_disk";
    let unshare = Program::find("unshare", "apt install util-linux").unwrap();
    let program = unshare.arg("-rm").arg("sh").arg("-c").arg(script).arg(folder.path()).arg(std::env::current_exe().unwrap());
    let output = String::from_utf8(program.output().expect("a user namespace is needed, as for every build")).unwrap();
    assert!(output.contains("1 passed"), "{output}");
}
