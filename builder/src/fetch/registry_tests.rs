//! Registries that behave, that want a password, that hand out tokens which run out, that break off, and that lie.
//! `tests/tests/kubernetes_images.rs` has the real one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::fetch::{Options, Registries};
use crate::lock::Containers;
use crate::progress::Silent;

const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const LAYER: &[u8] = &[7; 100_000];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    path: String,
    authorization: Option<String>,
    accept: Option<String>,
    from: Option<usize>,
}

struct Reply {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    /// Send this many bytes of the body only.
    cut: Option<usize>,
}

fn ok(body: impl AsRef<[u8]>) -> Reply {
    Reply { status: "200 OK", headers: String::new(), body: body.as_ref().to_vec(), cut: None }
}

fn who(challenge: &str) -> Reply {
    Reply { status: "401 Unauthorized", headers: format!("WWW-Authenticate: {challenge}\r\n"), body: Vec::new(), cut: None }
}

type Answer = dyn Fn(&Asked, usize) -> Reply + Send + Sync;

struct Server {
    host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` is told how many requests of this path came before.
    fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { host, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, answer: &Answer) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        let value =
            |line: &str| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned());
        head.lines().find_map(value)
    };
    let asked = Asked {
        path: head.split(' ').nth(1).unwrap().to_owned(),
        authorization: field("authorization"),
        accept: field("accept").filter(|accept| accept != "*/*"),
        from: field("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()),
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.clone());
        seen.iter().filter(|other| other.path == asked.path).count() - 1
    };
    let Reply { status, headers, body, cut } = answer(&asked, before);
    let (status, range, sent) = match asked.from {
        Some(from) if status.starts_with("200") => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
            ("206 Partial Content", range, body[from..].to_vec())
        }
        _ => (status, String::new(), body),
    };
    let length = sent.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}{range}Content-Length: {length}\r\nConnection: close\r\n\r\n").ok()?;
    stream.write_all(&sent[..cut.unwrap_or(length).min(length)]).ok()
}

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    network: Network,
}

fn world(server: &Server, logins: Option<&str>, offline: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut registries = Registries::parse(&[format!("r.example=http://{}", server.host)]).unwrap();
    if let Some(logins) = logins {
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{logins}"}}}}}}"#, server.host);
        registries = registries.with_logins("config.json", text.as_bytes()).unwrap();
    }
    let (pause, patience) = (Duration::from_millis(1), Duration::from_millis(500));
    let options = Options { registries, offline, attempts: 3, pause, patience, ..Options::default() };
    World { store: Store::open(folder.path()).unwrap(), _folder: folder, network: Network::new(options) }
}

fn reference() -> Reference {
    "r.example/a/b:1".parse().unwrap()
}

/// A lock of one image with one document and one layer.
fn lock() -> Lock {
    let named = |bytes: &[u8]| document::Named { sha256: Sha256Digest::of(bytes), size: bytes.len() as u64 };
    let image = LockedImage {
        reference: reference().to_string(),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        because: "wanted".to_owned(),
        documents: vec![named(INDEX.as_bytes())],
        layers: vec![named(LAYER)],
    };
    Lock { containers: Containers { kubernetes: None, images: vec![image] }, ..crate::sbom::tests::lock() }
}

/// What the registry has behind a path.
fn content(path: &str) -> Reply {
    if path.contains("/blobs/") { ok(LAYER) } else { ok(INDEX) }
}

#[test]
fn documents_and_layers_come_from_their_own_places_and_only_once() {
    let server = Server::start(|asked, _| content(&asked.path));
    let world = world(&server, None, false);
    assert_eq!(document(&world.network, &world.store, &reference()).unwrap(), INDEX.as_bytes());
    images(&lock(), &world.store, &world.network, &Silent).unwrap();
    images(&lock(), &world.store, &world.network, &Silent).unwrap();
    let paths: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
    // The document came with the lock: only the layer was missing.
    assert_eq!(paths, ["/v2/a/b/manifests/1".to_owned(), format!("/v2/a/b/blobs/sha256:{}", Sha256Digest::of(LAYER))]);
    assert!(server.asked()[0].accept.as_ref().unwrap().contains("vnd.oci.image.index.v1+json"));
    assert_eq!(server.asked()[1].accept, None);
}

#[test]
fn offline_takes_what_came_before_and_names_what_is_missing() {
    let server = Server::start(|asked, _| content(&asked.path));
    let online = world(&server, None, false);
    document(&online.network, &online.store, &reference()).unwrap();
    let asked = server.asked().len();
    let offline = world(&server, None, true);
    assert_eq!(document(&offline.network, &online.store, &reference()).unwrap(), INDEX.as_bytes());
    let error = images(&lock(), &online.store, &offline.network, &Silent).unwrap_err();
    assert!(error.kind() == Kind::Missing && error.to_string().contains("1 parts of container images"), "{error}");
    let error = document(&offline.network, &offline.store, &reference()).unwrap_err();
    assert!(error.to_string().contains("r.example/a/b:1 was never fetched"), "{error}");
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn a_broken_layer_is_continued_with_the_password() {
    let server = Server::start(|asked, before| match (&asked.authorization, before) {
        (None, _) => who("Basic realm=\"x\""),
        (Some(value), _) if value != "Basic dTpw" => who("Basic realm=\"x\""),
        (Some(_), 1) if asked.path.contains("/blobs/") => Reply { cut: Some(40_000), ..content(&asked.path) },
        (Some(_), _) => content(&asked.path),
    });
    let world = world(&server, Some("dTpw"), false);
    let mut lock = lock();
    // One after the other, so that the order of the requests is known.
    lock.containers.images[0].documents[0] = lock.containers.images[0].layers[0];
    lock.containers.images[0].documents.clear();
    images(&lock, &world.store, &world.network, &Silent).unwrap();
    let seen: Vec<(bool, Option<usize>)> = server.asked().iter().map(|a| (a.authorization.is_some(), a.from)).collect();
    assert_eq!(seen, [(false, None), (true, None), (true, Some(40_000))]);
}

#[test]
fn tokens_are_asked_for_kept_and_renewed_when_they_run_out() {
    let hosts: Arc<Mutex<String>> = Arc::default();
    let own = hosts.clone();
    let server = Server::start(move |asked, before| {
        if asked.path.starts_with("/token") {
            return ok(format!(r#"{{"token":"t{before}"}}"#));
        }
        let realm =
            format!("Bearer realm=\"http://{}/token\",service=\"s t\",scope=\"repository:a/b:pull\"", own.lock().unwrap());
        match asked.authorization.as_deref() {
            // The first token is good for documents only, as if it had run out before the layer.
            Some("Bearer t0") if asked.path.contains("/manifests/") => content(&asked.path),
            Some("Bearer t1") => content(&asked.path),
            _ => who(&realm),
        }
    });
    *hosts.lock().unwrap() = server.host.clone();
    let world = world(&server, Some("dTpw"), false);
    document(&world.network, &world.store, &reference()).unwrap();
    images(&lock(), &world.store, &world.network, &Silent).unwrap();
    let tokens: Vec<Asked> = server.asked().into_iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[0].path, "/token?scope=repository:a/b:pull&service=s%20t");
    assert!(tokens.iter().all(|asked| asked.authorization.as_deref() == Some("Basic dTpw")));
    let others = server.asked().into_iter().filter(|asked| !asked.path.starts_with("/token"));
    assert!(
        others.filter_map(|asked| asked.authorization).all(|value| value.starts_with("Bearer t")),
        "the password stays where it belongs"
    );
}

#[test]
fn a_registry_that_lets_nobody_in_is_told_with_the_next_action() {
    for (challenge, logins, words) in [
        ("Basic realm=\"x\"", None, "no credentials"),
        ("Basic realm=\"x\"", Some("dTpw"), "not enough"),
        ("Bearer realm=\"file:///etc/passwd\"", Some("dTpw"), "cannot be trusted"),
        ("Bearer service=\"x\"", None, "names no server"),
        ("Digest realm=\"x\"", None, "does not know"),
        ("", None, "does not know"),
    ] {
        let server = Server::start(move |_, _| who(challenge));
        let world = world(&server, logins, false);
        let error = document(&world.network, &world.store, &reference()).unwrap_err();
        let told = format!("{error:?}");
        assert!(error.kind() == Kind::Missing && told.contains(words) && told.contains("--registry-auth"), "{challenge}: {told}");
        assert!(!told.contains("dTpw"), "{told}");
    }
}

#[test]
fn a_registry_that_lies_is_not_believed() {
    let digest = Sha256Digest::of(b"something else");
    let by_digest: Reference = format!("r.example/a/b@sha256:{digest}").parse().unwrap();
    let server = Server::start(|asked, _| match asked.path.contains("/blobs/") {
        true => ok(vec![8; LAYER.len()]),
        false => ok(INDEX),
    });
    let world = world(&server, None, false);
    let error = document(&world.network, &world.store, &by_digest).unwrap_err();
    assert!(error.kind() == Kind::Untrusted && error.to_string().contains("another document"), "{error}");
    let error = images(&lock(), &world.store, &world.network, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted, "{error}");
    let named = document::Named { sha256: Sha256Digest::of(INDEX.as_bytes()), size: 7 };
    assert_eq!(further(&world.network, &world.store, &reference(), named).unwrap_err().kind(), Kind::Untrusted);
    let absent = Server::start(|_, _| Reply { status: "404 Not Found", headers: String::new(), body: Vec::new(), cut: None });
    let world = self::world(&absent, None, false);
    let error = document(&world.network, &world.store, &reference()).unwrap_err();
    assert!(format!("{error:?}").contains("--registry REGISTRY=URL"), "{error:?}");
    let endless = Server::start(|_, _| ok(vec![b' '; document::LARGEST as usize + 1]));
    let world = self::world(&endless, None, false);
    assert_eq!(document(&world.network, &world.store, &reference()).unwrap_err().kind(), Kind::Untrusted);
}

#[test]
fn challenges_are_read_as_they_are_written() {
    let parsed = Challenge::parse(r#"BEARER Realm="https://a/t?x=1,2", service=plain , scope="repository:a:pull,push""#);
    assert_eq!(parsed.scheme, "bearer");
    assert_eq!(parsed.get("realm"), Some("https://a/t?x=1,2"));
    assert_eq!((parsed.get("service"), parsed.get("scope")), (Some("plain"), Some("repository:a:pull,push")));
    for odd in ["", " ", "=", "Bearer =", "Bearer a=\"", "Bearer ,,,", "Bearer realm"] {
        let _ = Challenge::parse(odd);
    }
}
