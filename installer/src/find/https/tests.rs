//! Against a real TLS server on this machine, with certificates by openssl.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::find::fixture::{Fake, tool};

/// A time at which the certificates are valid: tomorrow's.
fn tomorrow(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("ca.pem")).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        + 86_400
}

/// `NAME.pem` and `NAME.key` of a CA.
fn authority(folder: &Path, name: &str) {
    tool(
        folder,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// `leaf.pem` and `leaf.key` for 127.0.0.1, by `ca`.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    authority(at, "ca");
    authority(at, "other");
    std::fs::write(at.join("extension"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    tool(at, "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=leaf -keyout leaf.key -out leaf.csr");
    tool(at, "openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extension -out leaf.pem");
    folder
}

fn certificate(folder: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap()
}

fn pin(folder: &Path, name: &str) -> Trust {
    let certificate = certificate(folder, name);
    let key = ParsedCertificate::try_from(&certificate).unwrap().subject_public_key_info();
    // The same as openssl and kubeadm make of it.
    tool(folder, &format!("openssl x509 -in {name}.pem -noout -pubkey -out {name}.pub"));
    tool(folder, &format!("openssl pkey -pubin -in {name}.pub -outform DER -out {name}.spki"));
    assert_eq!(std::fs::read(folder.join(format!("{name}.spki"))).unwrap(), key.as_ref());
    Trust::Pin(Sha256Digest::of(key.as_ref()))
}

/// Answers one connection with `answer`, showing the certificates `chain`.
fn serve(folder: &Path, chain: &[&str], answer: Vec<u8>) -> (String, JoinHandle<()>) {
    let chain = chain.iter().map(|name| certificate(folder, name)).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("leaf.key")).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}/profile.toml", listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        let mut request = [0; 4096];
        // A client that does not trust the server hangs up.
        if stream.read(&mut request).is_ok() {
            let _ = stream.write_all(&answer);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (url, server)
}

fn said(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLocation: https://127.0.0.1/\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn only_the_pinned_authority_is_trusted() {
    let folder = certificates();
    let at = folder.path();
    let pem = |name: &str| Trust::Roots(std::fs::read(at.join(format!("{name}.pem"))).unwrap());
    let day = tomorrow(at);
    for (trust, chain, time, expected) in [
        (pin(at, "ca"), vec!["leaf", "ca"], day, None),
        (pin(at, "ca"), vec!["leaf", "other", "ca"], day, None),
        (pem("ca"), vec!["leaf"], day, None),
        // The CA is not sent along.
        (pin(at, "ca"), vec!["leaf"], day, Some("UnknownIssuer")),
        // A CA that is sent along, pinned, but did not sign.
        (pin(at, "other"), vec!["leaf", "other", "ca"], day, Some("invalid peer certificate")),
        (pin(at, "leaf"), vec!["leaf", "ca"], day, Some("UnknownIssuer")),
        (pem("other"), vec!["leaf", "ca"], day, Some("UnknownIssuer")),
        (Trust::Roots(Vec::new()), vec!["leaf", "ca"], day, Some("roots cannot be used")),
        (pin(at, "ca"), vec!["leaf", "ca"], day + 60 * 86_400, Some("expired")),
        (pin(at, "ca"), vec!["leaf", "ca"], 0, Some("not valid yet")),
    ] {
        let (url, server) = serve(at, &chain, said("200 OK", b"schema = 1\n"));
        let answer = get(&Request { url: url.clone(), trust, limit: 100, at: time });
        match expected {
            None => assert_eq!(answer, Ok(Answer::Bytes(b"schema = 1\n".to_vec())), "{chain:?}"),
            Some(expected) => {
                let reason = answer.unwrap_err().reason;
                assert!(reason.contains(expected), "{chain:?} {expected}: {reason}");
            }
        }
        // One that was not asked still waits.
        let _ = std::net::TcpStream::connect(url.trim_start_matches("https://").trim_end_matches("/profile.toml"));
        server.join().unwrap();
    }
}

#[test]
fn answers_are_bounded_and_told_apart() {
    let folder = certificates();
    let at = folder.path();
    let trust = pin(at, "ca");
    let endless = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), vec![b'x'; 5000]].concat();
    for (answer, expected) in [
        (said("404 Not Found", b"no"), Ok(Answer::Missing)),
        (said("200 OK", b""), Ok(Answer::Bytes(Vec::new()))),
        (said("302 Found", b""), Err(("the server said 302", false))),
        (said("403 Forbidden", b""), Err(("the server said 403", false))),
        (said("503 Service Unavailable", b""), Err(("the server said 503", true))),
        (said("200 OK", &[b'x'; 101]), Err(("expected 100 bytes at most", false))),
        (endless, Err(("expected 100 bytes at most", false))),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort".to_vec(), Err(("cannot be asked", true))),
        (b"rubbish\r\n\r\n".to_vec(), Err(("cannot be asked", true))),
    ] {
        let (url, server) = serve(at, &["leaf", "ca"], answer);
        let got = get(&Request { url, trust: trust.clone(), limit: 100, at: tomorrow(at) });
        match expected {
            Ok(expected) => assert_eq!(got, Ok(expected)),
            Err((reason, later)) => {
                let trouble = got.unwrap_err();
                assert!(trouble.reason.contains(reason) && trouble.later == later, "{trouble:?}");
            }
        }
        server.join().unwrap();
    }
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let trouble = get(&Request { url: format!("https://{free}/x"), trust, limit: 1, at: 0 }).unwrap_err();
    assert!(trouble.later && trouble.reason.contains("refused"), "{trouble:?}");
}

#[test]
fn the_command_line_is_read_strictly() {
    let pin = format!("ingot.profile_ca=sha256:{}", "ab".repeat(32));
    let machine = |line: &str| Fake::new(&[(COMMAND_LINE, line.as_bytes())]);
    for (line, expected) in [
        (format!("ingot.profile=https://a/b {pin}"), Ok(Some("https://a/b"))),
        (format!("ingot.profile=https://a/b ingot.profile=https://a/b {pin}"), Ok(Some("https://a/b"))),
        (format!("ingot.profile= {pin}"), Ok(None)),
        ("xingot.profile=https://a/b".to_owned(), Ok(None)),
        (format!("ingot.profile=https://a/b ingot.profile=https://a/c {pin}"), Err("found 2 that differ")),
        (format!("ingot.profile=http://a/b {pin}"), Err("expected `https://")),
        (format!("ingot.profile=https://u:p@a/b {pin}"), Err("without a user")),
        (format!("ingot.profile=https://a/b#c {pin}"), Err("without a user")),
        (format!("ingot.profile=file:///etc/x {pin}"), Err("expected `https://")),
        (format!("ingot.profile=/b {pin}"), Err("expected an https address")),
        (format!("ingot.profile=https://a/{{uuid}} {pin}"), Err("wants the machine's UUID")),
        (format!("ingot.profile=https://a/{} {pin}", "x".repeat(3000)), Err("up to 2048 bytes")),
        ("ingot.profile=https://a/b ingot.profile_ca=ab".to_owned(), Err("expected `ingot.profile_ca=sha256:`")),
        ("ingot.profile=https://a/b ingot.profile_ca=sha256:ab".to_owned(), Err("expected 64 hexadecimal digits")),
        ("ingot.profile=https://a/b".to_owned(), Err("expected roots in /usr/share/ingot/trust/https_roots.pem")),
    ] {
        match (named(&machine(&line)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.map(|(url, _)| url.to_string()).as_deref(), expected, "{line}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{line}: {error}"),
            (found, _) => panic!("{line}: {found:?}"),
        }
    }
    let rooted = machine("ingot.profile=https://a/b").file(SYSTEM_ROOTS, b"system").file(ROOTS, b"own");
    assert_eq!(named(&rooted).unwrap().unwrap().1, Trust::Roots(b"own".to_vec()));
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(line in "(ingot\\.profile(_ca)?=)?(https://)?(?s).{0,80}") {
        let _ = named(&Fake::new(&[(COMMAND_LINE, line.as_bytes())]));
    }
}
