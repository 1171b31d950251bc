//! Signatures by the real `ssh-keygen`, and everything that must not pass.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

const BYTES: &[u8] = b"{\"name\":\"load-balancer\"}\n";

/// Runs OpenSSH's tool, which `ci/setup` installs.
#[allow(clippy::disallowed_methods, reason = "tests ask the reference tool")]
fn ssh_keygen(arguments: &[&str]) {
    let output =
        Command::new("ssh-keygen").args(arguments).output().expect("ssh-keygen must be installed: apt install openssh-client");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Key {
    folder: tempfile::TempDir,
}

impl Key {
    fn new(kind: &str, bits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        ssh_keygen(&["-q", "-t", kind, "-b", bits, "-N", "", "-C", "test key", "-f", path.to_str().unwrap()]);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn public(&self) -> String {
        std::fs::read_to_string(self.path("key.pub")).unwrap()
    }

    fn sign(&self, namespace: &str, bytes: &[u8], options: &[&str]) -> String {
        std::fs::write(self.path("m"), bytes).unwrap();
        let _ = std::fs::remove_file(Path::new(&self.path("m.sig")));
        ssh_keygen(&[&["-q", "-Y", "sign", "-n", namespace, "-f", &self.path("key")], options, &[&self.path("m")]].concat());
        std::fs::read_to_string(self.path("m.sig")).unwrap()
    }

    fn signers(&self, options: &str) -> AllowedSigners {
        AllowedSigners::parse(&format!("ops@example {options} {}", self.public())).unwrap()
    }
}

fn check(signature: &str, bytes: &[u8], signers: &AllowedSigners) -> Result<Signer, Untrusted> {
    let policy = Policy { signers, revoked: &RevokedKeys::default(), namespace: Namespace::Release, at: 1_750_000_000 };
    verify(bytes, signature, &policy).map(|verified| {
        assert_eq!(*verified.get(), bytes);
        verified.signer().clone()
    })
}

#[test]
fn signatures_of_ssh_keygen_hold() {
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("rsa", "3072")] {
        let key = Key::new(kind, bits);
        for options in [&[][..], &["-O", "hashalg=sha256"]] {
            let signature = key.sign("ingot-release", BYTES, options);
            let signer =
                check(&signature, BYTES, &key.signers("namespaces=\"ingot-release\"")).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!((signer.principals.join(","), signer.comment.as_str()), ("ops@example".into(), "test key"));
            // Other wrapping, other line ends: the same signature.
            let body: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
            check(&format!("{BEGIN}\r\n{body}\r\n{END}"), BYTES, &key.signers("")).unwrap();
        }
    }
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A security key in software (PROTOCOL.u2f): public key blob and signature blob over `data`.
fn security_key(kind: &str, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use ring::{digest, rand, signature as sig};
    let random = rand::SystemRandom::new();
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let (flags, counter) = (1u8, 7u32.to_be_bytes());
    let signed = [hash(b"ssh:").as_ref(), &[flags], &counter, hash(data).as_ref()].concat();
    let (key, raw) = if kind.contains("ed25519") {
        let pair = sig::Ed25519KeyPair::from_pkcs8(sig::Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
        (prefixed(sig::KeyPair::public_key(&pair).as_ref()), pair.sign(&signed).as_ref().to_vec())
    } else {
        let form = &sig::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = sig::EcdsaKeyPair::generate_pkcs8(form, &random).unwrap();
        let pair = sig::EcdsaKeyPair::from_pkcs8(form, pair.as_ref(), &random).unwrap();
        let mpint = |bytes: &[u8]| {
            let bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            prefixed(&[&[0][..usize::from(bytes[0] >> 7)], &bytes].concat())
        };
        let raw = pair.sign(&random, &signed).unwrap();
        let (r, s) = raw.as_ref().split_at(32);
        ([prefixed(b"nistp256"), prefixed(sig::KeyPair::public_key(&pair).as_ref())].concat(), [mpint(r), mpint(s)].concat())
    };
    let key = [prefixed(kind.as_bytes()), key, prefixed(b"ssh:")].concat();
    (key, [&prefixed(kind.as_bytes()), &prefixed(&raw), &[flags][..], &counter].concat())
}

#[test]
fn signatures_of_security_keys_hold() {
    for kind in ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"] {
        let data = SshSig::signed_data("ingot-release", HashAlg::Sha512, BYTES).unwrap();
        let (key, blob) = security_key(kind, &data);
        let body = [
            b"SSHSIG\0\0\0\x01",
            &prefixed(&key)[..],
            &prefixed(b"ingot-release"),
            &prefixed(b""),
            &prefixed(b"sha512"),
            &prefixed(&blob),
        ]
        .concat();
        let signature = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(body));
        let line = format!("ops {kind} {}\n", STANDARD.encode(key));
        check(&signature, BYTES, &AllowedSigners::parse(&line).unwrap()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert!(matches!(check(&signature, b"x", &AllowedSigners::parse(&line).unwrap()), Err(Untrusted::Forged(_))));
        // OpenSSH is of the same opinion about what this test made.
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name).to_str().unwrap().to_owned();
            std::fs::write(&path, text).unwrap();
            path
        };
        let (line, signature, bytes) = (file("allowed", line.as_bytes()), file("sig", signature.as_bytes()), file("m", BYTES));
        let script = r#"ssh-keygen -Y verify -f "$0" -I ops -n ingot-release -s "$1" <"$2""#;
        #[allow(clippy::disallowed_methods, reason = "tests ask the reference tool")]
        let output = Command::new("sh").args(["-c", script, &line, &signature, &bytes]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_is_not_allowed_is_refused_with_its_reason() {
    let key = Key::new("ed25519", "256");
    let signature = key.sign("ingot-release", BYTES, &[]);
    let fingerprint = check(&signature, BYTES, &key.signers("")).unwrap().fingerprint;
    let refused = |signature: &str, bytes: &[u8], options: &str, expected: &str| {
        let error = check(signature, bytes, &key.signers(options)).unwrap_err().to_string();
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
    };
    refused(&signature, b"{\"name\":\"load-balancer\"}", "", "does not belong to these bytes");
    refused(&signature, b"", "", "does not belong");
    refused(&key.sign("ingot-profile", BYTES, &[]), BYTES, "", "for `ingot-release`, found one for `ingot-profile`");
    refused(&key.sign("file", BYTES, &[]), BYTES, "", "found one for `file`");
    refused(
        &signature,
        BYTES,
        "namespaces=\"ingot-profile,ingot-m*\"",
        "(line 1 of the allowed signers) may not sign `ingot-release`",
    );
    refused(
        &signature,
        BYTES,
        "valid-before=20240101Z",
        "not valid any more at 2025-06-15T15:06:40Z, but up to 2024-01-01T00:00:00Z",
    );
    refused(&signature, BYTES, "valid-after=20300101", "not valid yet");
    let other = Key::new("ed25519", "256");
    assert_eq!(check(&signature, BYTES, &other.signers("")), Err(Untrusted::UnknownKey(fingerprint.clone())));
    // Of several lines with one key, one that allows it is enough.
    let lines = format!("old valid-before=20200101 {}new {}", key.public(), key.public());
    assert_eq!(check(&signature, BYTES, &AllowedSigners::parse(&lines).unwrap()).unwrap().principals, ["new"]);
    let revoked = RevokedKeys::parse(&key.public()).unwrap();
    let policy = Policy { signers: &key.signers(""), revoked: &revoked, namespace: Namespace::Release, at: 0 };
    assert_eq!(verify(BYTES, &signature, &policy), Err(Untrusted::Revoked(fingerprint)));
}

#[test]
fn weak_keys_are_refused() {
    for (kind, bits, expected) in [("rsa", "2048", "RSA with 2048 bits"), ("ecdsa", "384", "nistp384")] {
        let key = Key::new(kind, bits);
        let error = check(&key.sign("ingot-release", BYTES, &[]), BYTES, &key.signers("")).unwrap_err();
        assert!(matches!(&error, Untrusted::Weak(found) if found.contains(expected)), "{error}");
    }
}

#[test]
fn damaged_signatures_are_refused() {
    let key = Key::new("ed25519", "256");
    let signature = key.sign("ingot-release", BYTES, &[]);
    let signers = key.signers("");
    for text in [
        String::new(),
        BEGIN.to_owned(),
        END.to_owned(),
        format!("{BEGIN}{END}"),
        format!("{BEGIN}\n!!!!\n{END}"),
        format!("{BEGIN}\nU1NIU0lH\n{END}"),
        format!("{BEGIN}\nü\n{END}"),
        "A".repeat(LIMIT + 1),
        format!("{BEGIN}\n{}\n{END}", "A".repeat(LIMIT - 100)),
        format!("{signature}{signature}"),
        signature.replace("SSH SIGNATURE", "PGP SIGNATURE"),
    ] {
        assert!(matches!(check(&text, BYTES, &signers), Err(Untrusted::NotASignature(_))), "{text:.60}");
    }
    for end in 0..signature.trim().len() {
        assert!(check(&signature[..end], BYTES, &signers).is_err(), "cut at {end}");
    }
    // Every single bit counts.
    let body: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
    let raw = STANDARD.decode(body).unwrap();
    let armor = |raw: &[u8]| format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(raw));
    assert!(check(&armor(&raw), BYTES, &signers).is_ok());
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&armor(&flipped), BYTES, &signers).is_err(), "bit {bit}");
    }
    assert!(check(&armor(&[&raw[..], &[0]].concat()), BYTES, &signers).is_err(), "one byte too many");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,300}", raw in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&text);
        let tail = [b"SSHSIG\0\0\0\x01", &raw[..]].concat();
        for bytes in [&raw, &tail] {
            let _ = read(&format!("{BEGIN}\n{}\n{END}", STANDARD.encode(bytes)));
        }
    }
}
