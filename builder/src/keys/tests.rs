//! Keys against OpenSSH's own programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use trust::{AllowedSigners, Namespace, Policy, RevokedKeys};

use super::*;
use crate::progress::{Silent, Task, Unit};
use crate::run::Program;

const HINT: &str = "apt install openssh-client";
const BYTES: &[u8] = b"manifest\n";

fn tool(name: &str, arguments: &[&str]) -> Vec<u8> {
    tool_with(name, arguments, Path::new("/nonexistent")).unwrap()
}

fn tool_with(name: &str, arguments: &[&str], socket: &Path) -> Result<Vec<u8>> {
    let program = Program::find(name, HINT)?.env("SSH_AUTH_SOCK", socket);
    arguments.iter().fold(program, |program, argument| program.arg(*argument)).output()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `ssh-keygen -Y verify` and our own verification, which must agree.
fn both_accept(folder: &Path, signers: &str, principal: &str, signature: &str) {
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).unwrap();
        folder.join(name)
    };
    let (allowed, sig, message) = (write("as", signers.as_bytes()), write("m.sig", signature.as_bytes()), write("m", BYTES));
    let script = r#"ssh-keygen -Y verify -f "$0" -I "$1" -n ingot-release -s "$2" <"$3""#;
    tool("sh", &["-c", script, text(&allowed), principal, text(&sig), text(&message)]);
    let policy = Policy {
        signers: &AllowedSigners::parse(signers).unwrap(),
        revoked: &RevokedKeys::default(),
        namespace: Namespace::Release,
        at: 0,
    };
    trust::verify(BYTES, signature, &policy).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn new_keys_sign_what_openssh_accepts_the_same_way_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeySet::create(&folder.path().join("a/keys"), "Example Corp. (ops)", &[]).unwrap();
    assert!(!keys.development);
    let signature = keys.release.sign(Namespace::Release, BYTES).unwrap();
    both_accept(folder.path(), &keys.allowed_signers, "Example-Corp.-ops", &signature);
    assert_eq!(signature, keys.release.sign(Namespace::Release, BYTES).unwrap());
    let again = KeySet::load(&keys.folder, None).unwrap();
    assert_eq!(signature, again.release.sign(Namespace::Release, BYTES).unwrap());
    assert_ne!(signature, again.release.sign(Namespace::Profile, BYTES).unwrap());
    // ssh-keygen makes the very same text of the same key and bytes.
    fs::write(folder.path().join("m"), BYTES).unwrap();
    let _ = fs::remove_file(folder.path().join("m.sig"));
    let private = keys.folder.join("release");
    tool("ssh-keygen", &["-q", "-Y", "sign", "-n", "ingot-release", "-f", text(&private), text(&folder.path().join("m"))]);
    assert_eq!(fs::read_to_string(folder.path().join("m.sig")).unwrap(), signature);
    assert_eq!([mode(&keys.folder), mode(&private), mode(&keys.folder.join("release.pub"))], [0o700, 0o600, 0o644]);
}

#[test]
fn keys_are_never_overwritten_and_come_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("keys");
    // Longer than a certificate's name may be: the Secure Boot keys, which come last, fail.
    KeySet::create(&place, &"x".repeat(48), &[]).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing half-made stays");
    let keys = KeySet::create(&place, "x", &[]).unwrap();
    let before = fs::read(place.join("release")).unwrap();
    let error = KeySet::create(&place, "x", &[]).unwrap_err();
    assert_eq!((error.kind(), before), (Kind::Usage, fs::read(place.join("release")).unwrap()));
    assert!(!KeySet::load_or_develop(&place, None, &Silent).unwrap().development, "real keys in the usual place are taken");
    drop(keys);
    for owner in ["", " x", "a\nb", "()", &"x".repeat(49)] {
        assert_eq!(KeySet::create(&folder.path().join("y"), owner, &[]).unwrap_err().kind(), Kind::Usage, "{owner:?}");
    }
    assert_eq!(KeySet::load(&folder.path().join("y"), None).unwrap_err().kind(), Kind::Missing);
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn development_keys_are_made_once_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("keys");
    let notes = Notes::default();
    let [first, second] = [(); 2].map(|()| KeySet::load_or_develop(&place, None, &notes).unwrap());
    assert_eq!(first.release.public(), second.release.public());
    assert!(first.development && first.allowed_signers.contains(DEVELOPMENT));
    assert!(fs::read_to_string(place.join("release.pub")).unwrap().contains(DEVELOPMENT));
    let notes = notes.0.lock().unwrap();
    assert!(notes.len() == 2 && notes.iter().all(|note| note.contains(DEVELOPMENT)), "{notes:?}");
    let place = &folder.path().join("race");
    let many: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..3).map(|_| scope.spawn(move || KeySet::load_or_develop(place, None, &Silent).unwrap())).collect();
        started.into_iter().map(|thread| thread.join().unwrap().allowed_signers).collect()
    });
    assert!(many.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn key_files_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-f", text(&path("locked"))]);
    tool("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", text(&path("weak"))]);
    fs::write(path("none"), "hello").unwrap();
    fs::write(path("damaged"), "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n").unwrap();
    fs::set_permissions(path("damaged"), fs::Permissions::from_mode(0o600)).unwrap();
    for (name, kind, expected) in [
        ("locked", Kind::Missing, "needs an ssh-agent"),
        ("locked.pub", Kind::Missing, "needs an ssh-agent"),
        ("none", Kind::Document, "expected an OpenSSH key"),
        ("damaged", Kind::Document, "expected an OpenSSH key"),
        ("absent", Kind::Failed, "absent"),
    ] {
        let error = SigningKey::open(&path(name), None).unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(expected), "{name}: {error:?}");
    }
    let weak = SigningKey::open(&path("weak"), None).unwrap().sign(Namespace::Release, BYTES).unwrap_err();
    assert!(weak.kind() == Kind::Untrusted && weak.to_string().contains("RSA with 2048 bits"), "{weak}");
    fs::set_permissions(path("weak"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(SigningKey::open(&path("weak"), None).unwrap_err().kind(), Kind::Untrusted);
}

/// A real ssh-agent, ended with the test.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("agent");
        let program = Program::find("ssh-agent", HINT).unwrap().arg("-D").arg("-a").arg(&socket);
        let process = program.command().stdout(std::process::Stdio::null()).spawn().unwrap();
        let agent = Self { process, socket };
        for _ in 0..200 {
            if std::os::unix::net::UnixStream::connect(&agent.socket).is_ok() {
                return agent;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("ssh-agent did not open its socket");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_agent_signs_and_what_it_lacks_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(folder.path());
    for (kind, bits) in [("ed25519", "256"), ("rsa", "3072"), ("ecdsa", "256")] {
        let key = folder.path().join(kind);
        tool("ssh-keygen", &["-q", "-t", kind, "-b", bits, "-N", "", "-C", kind, "-f", text(&key)]);
        let public = key.with_extension("pub");
        let release = SigningKey::open(&public, Some(&agent.socket)).unwrap();
        let missing = release.sign(Namespace::Release, BYTES).unwrap_err();
        assert!(missing.kind() == Kind::Missing && missing.to_string().contains("expected the key SHA256:"), "{missing}");
        tool_with("ssh-add", &["-q", text(&key)], &agent.socket).unwrap();
        let signature = release.sign(Namespace::Release, BYTES).unwrap();
        both_accept(folder.path(), &format!("ops {}", fs::read_to_string(&public).unwrap()), "ops", &signature);
        if kind != "ecdsa" {
            let file = SigningKey::open(&key, None).unwrap();
            assert_eq!(file.sign(Namespace::Release, BYTES).unwrap(), signature);
        }
    }
    tool_with("ssh-add", &["-q", "-D"], &agent.socket).unwrap_or_default();
    let socket = agent.socket.clone();
    drop(agent);
    let gone =
        SigningKey::open(&folder.path().join("rsa.pub"), Some(&socket)).unwrap().sign(Namespace::Release, BYTES).unwrap_err();
    assert!(gone.kind() == Kind::Missing && gone.to_string().contains("reaching the ssh-agent"), "{gone}");
}

#[test]
fn an_agent_that_talks_nonsense_is_told() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("x").unwrap();
    for (number, answer) in [
        &b""[..],
        b"\0\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01\x0e",
        b"\0\0\0\x09\x0e\0\0\0\x05abcd",
        b"\0\0\0\x02\x07\0",
        b"\0\0\0\x09abc",
    ]
    .into_iter()
    .enumerate()
    {
        let socket = folder.path().join(number.to_string());
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        let agent = SigningKey::Agent { socket, public: Box::new(key.public().clone()) };
        assert_eq!(agent.sign(Namespace::Release, BYTES).unwrap_err().kind(), Kind::Failed, "{answer:?}");
        server.join().unwrap();
    }
}
