//! Against real TLS servers on this machine that play an API, with certificates by openssl.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::find::fixture::tool;
use crate::machine::{Ownership, Real};

const TOKEN: &str = "abcdef.0123456789abcdef";

/// A CA and a certificate by it for 127.0.0.1, and another CA.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["ca", "other"] {
        tool(
            at,
            &format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=kubernetes -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    for (name, alt) in [("leaf", "IP:127.0.0.1"), ("named", "DNS:kubernetes,IP:10.0.0.1")] {
        std::fs::write(at.join("extension"), format!("subjectAltName={alt}\nbasicConstraints=CA:FALSE\n")).unwrap();
        tool(
            at,
            &format!(
                "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=kube-apiserver -keyout {name}.key -out {name}.csr"
            ),
        );
        tool(
            at,
            &format!(
                "openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extension -out {name}.pem"
            ),
        );
    }
    folder
}

fn pem(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{name}.pem"))).unwrap()
}

/// cluster-info as kubeadm and the controller write it; the signature is by openssl.
fn info(folder: &Path, ca: &str, token: Option<&str>) -> String {
    let ca = STANDARD.encode(pem(folder, ca));
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: https://10.0.0.10:6443\n  name: \"\"\ncontexts: null\nkind: Config\n"
    );
    let mut data = serde_json::Map::new();
    if let Some(token) = token {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, &token[..6]));
        std::fs::write(folder.join("signed"), format!("{header}.{}", URL_SAFE_NO_PAD.encode(&kubeconfig))).unwrap();
        tool(folder, &format!("openssl dgst -sha256 -hmac {} -binary -out mac signed", &token[7..]));
        let mac = URL_SAFE_NO_PAD.encode(std::fs::read(folder.join("mac")).unwrap());
        data.insert(format!("jws-kubeconfig-{}", &token[..6]), format!("{header}..{mac}").into());
    }
    data.insert("kubeconfig".to_owned(), kubeconfig.into());
    serde_json::json!({ "kind": "ConfigMap", "apiVersion": "v1", "data": data }).to_string()
}

/// An API that answers every request so, until the test ends.
fn serve(folder: &Path, leaf: &str, status: &str, body: String) -> Endpoint {
    let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{leaf}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{leaf}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let config = Arc::new(config);
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    listen(move |socket| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
        let mut request = [0; 4096];
        if stream.read(&mut request).is_ok_and(|length| length > 0) {
            assert!(!String::from_utf8_lossy(&request).contains("0123456789abcdef"), "the token is not sent");
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    })
}

fn listen(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    Endpoint { host: "127.0.0.1".to_owned(), port }
}

struct Case<'a> {
    ca: Option<&'a str>,
    pins: &'a [String],
    token: &'a str,
    days: i64,
}

fn looked(folder: &Path, endpoint: &Endpoint, case: &Case<'_>) -> Result<Joinable, Trouble> {
    let made = std::fs::metadata(folder.join("ca.pem")).unwrap().modified().unwrap();
    let made = made.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let at = made.saturating_add_signed(case.days * 86_400);
    let ca = case.ca.map(|name| pem(folder, name));
    let token = Secret::new(case.token.to_owned());
    let machine = Real::new(Path::new("/"), Ownership::Ignored);
    let target = Target { endpoint, ca: ca.as_deref(), ca_pins: case.pins, token: Some(&token), at };
    find(&*machine.net(), &target)
}

/// What kubeadm and the controller manager of 1.20.2 wrote for this token.
#[test]
fn a_real_cluster_vouches() {
    let info = ClusterInfo::read(include_bytes!("cluster-info-1.20.json")).unwrap();
    assert_eq!(info.vouch(&Secret::new(TOKEN.to_owned())), Vouch::Good);
    assert_eq!(info.vouch(&Secret::new(TOKEN.replace("cdef", "cdee"))), Vouch::None);
    assert_eq!(info.vouch(&Secret::new("abcdef.0123456789abcdee".to_owned())), Vouch::Bad);
    assert!(info.ca().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

#[test]
fn each_cause_has_its_name() {
    let folder = certificates();
    let at = folder.path();
    let good = serve(at, "leaf", "200 OK", info(at, "ca", Some(TOKEN)));
    let pin = pins(pem(at, "ca").as_bytes());
    let other = pins(pem(at, "other").as_bytes());
    let unsigned = serve(at, "leaf", "200 OK", info(at, "ca", None));
    let forged = serve(at, "leaf", "200 OK", info(at, "ca", Some("abcdef.xxxxxxxxxxxxxxxx")));
    let liar = serve(at, "leaf", "200 OK", info(at, "other", Some(TOKEN)));
    let named = serve(at, "named", "200 OK", info(at, "ca", Some(TOKEN)));
    let plain = listen(|mut socket| {
        let _ = socket.write_all(b"SSH-2.0-x\r\n");
    });
    let forbidden = serve(at, "leaf", "403 Forbidden", "{}".to_owned());
    let broken = serve(at, "leaf", "200 OK", "<html>".to_owned());
    let busy = serve(at, "leaf", "503 Service Unavailable", String::new());
    let closed =
        Endpoint { host: "127.0.0.1".to_owned(), port: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let nowhere = Endpoint { host: "api.invalid".to_owned(), port: 6443 };
    let case = Case { ca: Some("ca"), pins: &[], token: TOKEN, days: 1 };
    let by_pin = Case { ca: None, pins: &pin, ..case };
    let number =
        |result: Result<Joinable, Trouble>| result.err().map(|trouble| (trouble.code().number, trouble.seen().to_owned()));
    for (name, endpoint, case, expected) in [
        ("good by CA", &good, &case, None),
        ("good by pin", &good, &by_pin, None),
        ("nowhere", &nowhere, &case, Some(("INGOT-N1102", "api.invalid"))),
        ("closed", &closed, &case, Some(("INGOT-N1107", "refused"))),
        ("no TLS", &plain, &case, Some(("INGOT-N1122", "127.0.0.1"))),
        ("other CA", &good, &Case { ca: Some("other"), ..case }, Some(("INGOT-N1108", "another CA"))),
        ("expired", &good, &Case { days: 60, ..case }, Some(("INGOT-N1109", "valid until"))),
        ("too early", &good, &Case { days: -60, ..case }, Some(("INGOT-N1109", "valid from"))),
        ("other name", &named, &case, Some(("INGOT-N1110", "kubernetes, 10.0.0.1, not for 127.0.0.1"))),
        ("no signature", &unsigned, &case, Some(("INGOT-N1111", "no token `abcdef` any more; it knows none"))),
        ("other token", &good, &Case { token: "ghijkl.0123456789abcdef", ..case }, Some(("INGOT-N1111", "it knows abcdef"))),
        ("other secret", &good, &Case { token: "abcdef.1111111111111111", ..case }, Some(("INGOT-N1112", "abcdef"))),
        ("forged", &forged, &case, Some(("INGOT-N1112", "abcdef"))),
        ("other pin", &good, &Case { ca: None, pins: &other, ..case }, Some(("INGOT-N1114", "pinned is sha256:"))),
        ("other CA inside", &liar, &by_pin, Some(("INGOT-N1114", "the CA in cluster-info is sha256:"))),
        ("forbidden", &forbidden, &case, Some(("INGOT-N1113", "403"))),
        ("no ConfigMap", &broken, &case, Some(("INGOT-N1122", "ConfigMap"))),
        ("busy", &busy, &case, Some(("INGOT-N1122", "503"))),
    ] {
        let found = number(looked(at, endpoint, case));
        match (&found, expected) {
            (None, None) => {}
            (Some((code, seen)), Some((wanted, words))) => {
                assert!(*code == wanted && seen.contains(words), "{name}: {code} {seen}");
                assert!(!seen.contains("0123456789abcdef"), "{name}: {seen}");
            }
            _ => panic!("{name}: {found:?}, expected {expected:?}"),
        }
    }
    let joinable = looked(at, &good, &by_pin).unwrap();
    assert_eq!((joinable.ca_pem, joinable.server.as_deref()), (pem(at, "ca"), Some("https://10.0.0.10:6443")));
}
