//! Keys and signatures come from GnuPG, an implementation that shares nothing with ours.

use std::path::PathBuf;

use super::*;
use crate::run::Program;

/// A GnuPG of its own, whose clock stands where it is told.
pub(in crate::lock) struct Gnupg {
    home: tempfile::TempDir,
}

impl Gnupg {
    pub(in crate::lock) fn new() -> Self {
        let home = tempfile::Builder::new().prefix("ingot-gpg").tempdir().unwrap();
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs gpg on that day of September 2026.
    fn on(&self, day: u32, arguments: &[&str]) -> Vec<u8> {
        let gpg = Program::find("gpg", "gpg is the oracle of this test: run ci/setup").unwrap();
        let gpg = gpg.arg("--homedir").arg(self.home.path()).arg("--batch").arg("--yes").arg("--quiet");
        let gpg = gpg.arg("--faked-system-time").arg(format!("202609{day:02}T120000!"));
        let gpg = gpg.arg("--pinentry-mode").arg("loopback").arg("--passphrase").arg("").arg("--trust-model").arg("always");
        arguments.iter().fold(gpg, |gpg, argument| gpg.arg(*argument)).output().unwrap()
    }

    /// A key `name@example.org` made on day 1 for these uses.
    pub(in crate::lock) fn key(&self, name: &str, algorithm: &str, usage: &str, expires: &str) -> String {
        let address = format!("{name}@example.org");
        self.on(1, &["--quick-generate-key", &address, algorithm, usage, expires]);
        let listed = String::from_utf8(self.on(1, &["--list-keys", "--with-colons", &address])).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr")).unwrap();
        line.trim_matches(|c: char| c == ':' || c.is_lowercase()).to_owned()
    }

    pub(in crate::lock) fn export(&self, fingerprint: &str) -> Vec<u8> {
        self.on(20, &["--export", fingerprint])
    }

    pub(in crate::lock) fn sign(&self, day: u32, key: &str, text: &str) -> Vec<u8> {
        self.sign_with(day, key, text, &[])
    }

    fn sign_with(&self, day: u32, key: &str, text: &str, options: &[&str]) -> Vec<u8> {
        let file = self.path("text");
        crate::files::write_atomic(&file, text.as_bytes()).unwrap();
        let file = file.to_str().unwrap().to_owned();
        self.on(day, &[options, &["--local-user", key, "--output", "-", "--clear-sign", &file]].concat())
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        let conf = Program::find("gpgconf", "").unwrap();
        conf.arg("--homedir").arg(self.home.path()).arg("--kill").arg("all").output().unwrap();
    }
}

pub(in crate::lock) fn repository(keys: Vec<Vec<u8>>) -> Repository {
    Repository {
        name: "debian".to_owned(),
        url: "http://example.org/debian".to_owned(),
        suites: vec!["trixie".to_owned()],
        components: vec!["main".to_owned()],
        keys: keys.into_iter().map(|key| (PathBuf::from("test.gpg"), key)).collect(),
        fingerprints: Vec::new(),
        priority: 500,
    }
}

/// 2026-09-`day`T12:00:00Z
pub(in crate::lock) fn day(day: u64) -> Epoch {
    Epoch(1_788_264_000 + (day - 1) * 86_400)
}

const TEXT: &str = "Origin: Debian\n- dash\n-----x-----\nFrom here\n\ntrailing  \t\nlast\n";
const SIGNED: &str = "Origin: Debian\n- dash\n-----x-----\nFrom here\n\ntrailing\nlast";

fn verify(key: &[u8], signed: &[u8], now: u64) -> Result<Signed> {
    Keyring::of(&repository(vec![key.to_vec()])).unwrap().verify(signed, day(now))
}

fn refused(key: &[u8], signed: &[u8], expected: &str) {
    let error = verify(key, signed, 20).unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted);
    assert!(error.to_string().contains(expected), "{expected}: {error}");
}

#[test]
fn good_signatures_of_known_keys_count() {
    let gpg = Gnupg::new();
    let ed = gpg.key("ed", "ed25519", "sign,cert", "never");
    let rsa = gpg.key("rsa", "rsa2048", "cert", "never");
    gpg.on(1, &["--quick-add-key", &rsa, "ed25519", "sign", "never"]);
    for fingerprint in [&ed, &rsa] {
        let signed = gpg.sign(10, fingerprint, TEXT);
        let found = verify(&gpg.export(fingerprint), &signed, 20).unwrap();
        assert_eq!((found.text.as_str(), &found.fingerprint), (SIGNED, fingerprint));
        // Line ends may change on the way, the text may not.
        let crlf = String::from_utf8(signed.clone()).unwrap().replace('\n', "\r\n");
        assert_eq!(verify(&gpg.export(fingerprint), crlf.as_bytes(), 20).unwrap().text, SIGNED);
        let changed = String::from_utf8(signed.clone()).unwrap().replace("Debian", "Devuan");
        refused(&gpg.export(fingerprint), changed.as_bytes(), "the text was changed");
    }
    let signed = gpg.sign(10, &ed, TEXT);
    refused(&gpg.export(&rsa), &signed, &format!("by {ed} is of no known key"));
    let both = gpg.sign_with(10, &ed, TEXT, &["--local-user", &rsa]);
    assert_eq!(verify(&gpg.export(&rsa), &both, 20).unwrap().fingerprint, rsa);
    assert!(verify(&gpg.export(&ed), &signed, 5).unwrap_err().to_string().contains("later than now"));

    let armored = gpg.on(20, &["--armor", "--export", &ed]);
    let blocks = [armored.clone(), gpg.on(20, &["--armor", "--export", &rsa])].concat();
    assert!(verify(&armored, &signed, 20).is_ok() && verify(&blocks, &signed, 20).is_ok());
    let narrowed = |fingerprint: &str| {
        let fingerprints = vec![fingerprint.to_lowercase()];
        Keyring::of(&Repository { fingerprints, ..repository(vec![blocks.clone()]) })
    };
    assert!(narrowed(&ed).unwrap().verify(&signed, day(20)).is_ok());
    assert!(narrowed(&rsa).unwrap().verify(&signed, day(20)).is_err());
    assert_eq!(narrowed("ABCD").unwrap_err().kind(), Kind::Document);
    assert_eq!(Keyring::of(&repository(vec![b"no key".to_vec()])).unwrap_err().kind(), Kind::Document);
}

#[test]
fn expired_and_revoked_keys_do_not_count() {
    let gpg = Gnupg::new();
    let short = gpg.key("short", "ed25519", "sign,cert", "5d");
    let as_it_was = gpg.export(&short);
    let early = gpg.sign(3, &short, TEXT);
    gpg.on(4, &["--quick-set-expire", &short, "30d"]);
    let late = gpg.sign(15, &short, TEXT);
    // Judged at the time of signing: the old one still counts, the late one with the renewed key only.
    assert!(verify(&as_it_was, &early, 20).is_ok());
    refused(&as_it_was, &late, "it expired at 2026-09-06T12:00:00Z");
    assert!(verify(&gpg.export(&short), &late, 20).is_ok());
    let old = gpg.sign_with(10, &short, TEXT, &["--default-sig-expire", "2d"]);
    refused(&gpg.export(&short), &old, "a signature expired at 2026-09-12");

    let lost = gpg.key("lost", "ed25519", "sign,cert", "never");
    let signed = gpg.sign(10, &lost, TEXT);
    assert!(verify(&gpg.export(&lost), &signed, 20).is_ok());
    let revocation = gpg.path(&format!("openpgp-revocs.d/{lost}.rev"));
    let text = crate::files::read_text(&revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    crate::files::write_atomic(&revocation, text.as_bytes()).unwrap();
    gpg.on(15, &["--import", revocation.to_str().unwrap()]);
    refused(&gpg.export(&lost), &signed, "it was revoked");

    let sub = gpg.key("sub", "ed25519", "cert", "never");
    gpg.on(1, &["--quick-add-key", &sub, "ed25519", "sign", "4d"]);
    let with_short = gpg.export(&sub);
    let listed = String::from_utf8(gpg.on(1, &["--list-keys", "--with-colons", &sub])).unwrap();
    let subkey = listed.lines().filter_map(|line| line.strip_prefix("fpr:::::::::")).nth(1).unwrap().trim_matches(':').to_owned();
    gpg.on(2, &["--quick-set-expire", &sub, "30d", &subkey]);
    refused(&with_short, &gpg.sign(10, &sub, TEXT), "it expired at 2026-09-05");
    let encrypting = gpg.key("enc", "ed25519", "cert", "never");
    assert!(verify(&gpg.export(&encrypting), &early, 20).is_err());
}

#[test]
fn weak_signatures_do_not_count() {
    let gpg = Gnupg::new();
    let ed = gpg.key("ed", "ed25519", "sign,cert", "never");
    refused(&gpg.export(&ed), &gpg.sign_with(10, &ed, TEXT, &["--digest-algo", "SHA1"]), "uses SHA1");
    refused(&gpg.export(&ed), &gpg.sign_with(10, &ed, TEXT, &["--digest-algo", "RIPEMD160"]), "uses RIPEMD160");
    let small = gpg.key("small", "rsa1024", "sign,cert", "never");
    refused(&gpg.export(&small), &gpg.sign(10, &small, TEXT), "RSA of 1024 bits");
    let nist = gpg.key("nist", "nistp256", "sign,cert", "never");
    refused(&gpg.export(&nist), &gpg.sign(10, &nist, TEXT), "is not accepted");
    let binding = {
        let address = "old@example.org";
        gpg.on(1, &["--cert-digest-algo", "SHA1", "--quick-generate-key", address, "ed25519", "sign,cert", "never"]);
        gpg.on(20, &["--export", address])
    };
    refused(&binding, &gpg.sign(10, "old@example.org", TEXT), "no self-signature that is accepted");
}

#[test]
fn hostile_framing_is_refused() {
    let gpg = Gnupg::new();
    let ed = gpg.key("ed", "ed25519", "sign,cert", "never");
    let key = gpg.export(&ed);
    let good = String::from_utf8(gpg.sign(10, &ed, "a\n-b\nc\n")).unwrap();
    assert_eq!(verify(&key, good.as_bytes(), 20).unwrap().text, "a\n-b\nc");
    for (from, to, expected) in [
        ("-----BEGIN PGP SIGNED", "x\n-----BEGIN PGP SIGNED", "expected `-----BEGIN"),
        ("Hash: ", "NotDashEscaped: x\nHash: ", "unexpected header"),
        ("- -b", "-b", "is not escaped"),
        ("-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP SIGNATUR-----", "is not escaped"),
        ("-----END PGP SIGNATURE-----", "", "its end is missing"),
        ("-----END PGP SIGNATURE-----", "-----END PGP SIGNATURE-----\nmore", "something after it"),
        ("\nc\n", "\nc\nd\n", "the text was changed"),
        ("\nc\n", "\n\nc\n", "the text was changed"),
    ] {
        assert!(good.contains(from), "{from}");
        refused(&key, good.replacen(from, to, 1).as_bytes(), expected);
    }
    for end in 0..good.len() - 2 {
        assert!(verify(&key, &good.as_bytes()[..end], 20).is_err(), "cut at {end}");
    }
    for at in (0..key.len()).step_by(7) {
        let mut broken = key.clone();
        broken[at] ^= 0x55;
        if let Ok(ring) = Keyring::of(&repository(vec![broken])) {
            let _ = ring.verify(good.as_bytes(), day(20));
        }
    }
    assert!(verify(&key, b"\xff", 20).is_err());
}
