use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;

use super::super::openpgp::tests::{Gnupg, day, repository};
use super::super::solve::tests::definition;
use super::*;

/// A mirror in memory that notes what is asked of it.
#[derive(Default)]
struct Mirror {
    files: BTreeMap<String, Vec<u8>>,
    asked: Mutex<Vec<String>>,
}

impl Download for Mirror {
    fn get(&self, _: &str, path: &str, _: u64) -> Result<Vec<u8>> {
        self.asked.lock().unwrap().push(path.to_owned());
        self.files.get(path).cloned().ok_or_else(|| Error::new(Kind::Missing, format!("{path} is not there")))
    }

    fn get_verified(&self, repository: &str, path: &str, size: u64, sha256: Sha256Digest) -> Result<Vec<u8>> {
        let bytes = self.get(repository, path, size)?;
        match Sha256Digest::of(&bytes) == sha256 && bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(Error::new(Kind::Untrusted, format!("{path} is another file"))),
        }
    }
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A release with these fields over these files, below `folder`.
fn release(fields: &str, files: &[(&str, &[u8])]) -> String {
    let mut text = format!("Suite: stable\nCodename: trixie\nDate: Thu, 10 Sep 2026 12:00:00 UTC\n{fields}SHA256:\n");
    for (path, bytes) in files {
        writeln!(text, " {} {} {path}", Sha256Digest::of(bytes), bytes.len()).unwrap();
    }
    text
}

fn run(gpg: &Gnupg, key: &str, suite: &str, text: &str, files: &[(&str, &[u8])]) -> (Result<Indexes>, Vec<String>) {
    let mut mirror = Mirror::default();
    let folder = Source { repository: &repository(Vec::new()), suite, download: &Mirror::default() }.folder();
    mirror.files.insert(format!("{folder}InRelease"), gpg.sign(10, key, text));
    mirror.files.extend(files.iter().map(|(path, bytes)| (format!("{folder}{path}"), bytes.to_vec())));
    let mut wanted = definition(&[]);
    wanted.repositories = vec![Repository { suites: vec![suite.to_owned()], ..repository(vec![gpg.export(key)]) }];
    let found = indexes(&wanted, &mirror, day(12));
    (found, mirror.asked.into_inner().unwrap())
}

#[test]
fn only_what_the_signed_release_vouches_for_is_taken() {
    let gpg = Gnupg::new();
    let key = gpg.key("ed", "ed25519", "sign,cert", "never");
    let (amd64, all) = (xz(b"amd64"), xz(b"all"));
    let files: [(&str, &[u8]); 3] = [
        ("main/binary-amd64/Packages", b"amd64"),
        ("main/binary-amd64/Packages.xz", &amd64),
        ("main/binary-all/Packages.xz", &all),
    ];
    let separate = "Architectures: all amd64\n";
    let (found, asked) = run(&gpg, &key, "trixie", &release(separate, &files), &files);
    let found = found.unwrap();
    assert_eq!(found.indexes.iter().map(|index| index.text.as_str()).collect::<Vec<_>>(), ["amd64", "all"]);
    assert_eq!(
        asked,
        ["dists/trixie/InRelease", "dists/trixie/main/binary-amd64/Packages.xz", "dists/trixie/main/binary-all/Packages.xz"]
    );
    assert_eq!(found.releases[0].signed_by, key);
    assert_eq!((found.releases[0].date, found.indexes[0].priority), (day(10), 500));

    let merged =
        "Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\nNotAutomatic: yes\nButAutomaticUpgrades: yes\n";
    let (found, _) = run(&gpg, &key, "trixie", &release(merged, &files), &files);
    let found = found.unwrap();
    assert_eq!((found.indexes.len(), found.indexes[0].priority), (1, 100));

    // By digest first, by name where the mirror has no such folder.
    let by_hash = release("Acquire-By-Hash: yes\n", &files);
    let (found, asked) = run(&gpg, &key, "trixie", &by_hash, &files);
    assert!(found.is_ok());
    assert_eq!(asked[1], format!("dists/trixie/main/binary-amd64/by-hash/SHA256/{}", Sha256Digest::of(&amd64)));

    let packed = gzip(b"flat");
    let flat: [(&str, &[u8]); 2] = [("Packages", b"flat"), ("Packages.gz", &packed)];
    for (suite, path) in [("/", "Packages.gz"), ("./", "Packages.gz"), ("deb/", "deb/Packages.gz")] {
        let (found, asked) = run(&gpg, &key, suite, &release("", &flat), &flat);
        assert_eq!((found.unwrap().indexes[0].text.as_str(), asked[1].as_str()), ("flat", path), "{suite}");
    }
}

#[test]
fn what_does_not_hold_is_refused() {
    let gpg = Gnupg::new();
    let key = gpg.key("ed", "ed25519", "sign,cert", "never");
    let amd64 = xz(b"amd64");
    let good: [(&str, &[u8]); 2] = [("main/binary-amd64/Packages", b"amd64"), ("main/binary-amd64/Packages.xz", &amd64)];
    let other: [(&str, &[u8]); 1] = [("main/binary-amd64/Packages.xz", b"other")];
    let bomb = xz(&vec![b'\n'; 1 << 20]);
    let bomb: [(&str, &[u8]); 2] = [("main/binary-amd64/Packages", b"small"), ("main/binary-amd64/Packages.xz", &bomb)];
    let broken: [(&str, &[u8]); 1] = [("main/binary-amd64/Packages.xz", b"no xz at all")];
    let latin = xz(b"\xe9");
    let latin: [(&str, &[u8]); 1] = [("main/binary-amd64/Packages.xz", &latin)];
    let elsewhere: [(&str, &[u8]); 1] = [("contrib/binary-amd64/Packages.xz", &amd64)];
    for (suite, text, files, kind, expected) in [
        ("trixie", release("", &good), &other[..], Kind::Untrusted, "is another file"),
        ("trixie", release("", &good), &[][..], Kind::Missing, "is not there"),
        ("bookworm", release("", &good), &good[..], Kind::Untrusted, "asked for the suite `bookworm`"),
        ("trixie", release("Valid-Until: Fri, 11 Sep 2026 00:00:00 UTC\n", &good), &good[..], Kind::Untrusted, "was valid until"),
        ("trixie", release("Architectures: arm64\n", &good), &good[..], Kind::Document, "only for arm64"),
        ("trixie", release("", &elsewhere), &elsewhere[..], Kind::Document, "there is no component `main` for amd64"),
        ("trixie", release("", &bomb), &bomb[..], Kind::Document, "it grows beyond 5 bytes"),
        ("trixie", release("", &broken), &broken[..], Kind::Document, "it is broken"),
        ("trixie", release("", &latin), &latin[..], Kind::Document, "no UTF-8"),
        ("/", release("", &good), &good[..], Kind::Document, "the release lists no `Packages`"),
    ] {
        let error = run(&gpg, &key, suite, &text, files).0.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(expected), "{expected}: {error}");
        assert!(error.to_string().starts_with(&format!("reading the suite `{suite}` of the repository `debian`: ")), "{error}");
    }
}
