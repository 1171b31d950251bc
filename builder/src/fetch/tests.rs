//! Fetching against a small HTTP server that misbehaves on request.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trust::Sha256Digest;

use super::*;
use crate::epoch::Epoch;
use crate::lock::Download;
use crate::progress::{Silent, Task};

/// What the server does with one request for `path` from byte `from` on, the `count`th of that path.
type Answer = dyn Fn(&str, Option<usize>, u32) -> Reply + Send + Sync;

enum Reply {
    Full(Vec<u8>),
    /// Says it has all, sends only the first bytes.
    Cut(Vec<u8>, usize),
    Part(Vec<u8>, usize),
    /// No length; the connection ends it.
    Endless(Vec<u8>),
    Status(u16),
    Silence,
}

/// Requests seen: path, and from which byte on.
type Asked = Mutex<Vec<(String, Option<usize>)>>;

struct Server {
    url: String,
    asked: Arc<Asked>,
}

impl Server {
    fn start(answer: impl Fn(&str, Option<usize>, u32) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<(String, Option<usize>)> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, asked: &Asked, answer: &Answer) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let from = head.to_lowercase().split("range: bytes=").nth(1).map(|rest| rest.split('-').next().unwrap().parse().unwrap());
    let count = {
        let mut asked = asked.lock().unwrap();
        asked.push((path.clone(), from));
        asked.iter().filter(|(p, _)| *p == path).count() as u32
    };
    let close = "Connection: close\r\n\r\n";
    let (head, body) = match answer(&path, from, count) {
        Reply::Full(body) => (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}", body.len()), body),
        Reply::Cut(body, at) => (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}", body.len()), body[..at].to_vec()),
        Reply::Part(body, at) => {
            let (last, all) = (body.len() - 1, body.len());
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {at}-{last}/{all}\r\nContent-Length: {}\r\n{close}",
                all - at
            );
            (head, body[at..].to_vec())
        }
        Reply::Endless(body) => (format!("HTTP/1.1 200 OK\r\n{close}"), body),
        Reply::Status(code) => (format!("HTTP/1.1 {code} Reason\r\nContent-Length: 0\r\n{close}"), Vec::new()),
        Reply::Silence => {
            thread::sleep(Duration::from_secs(2));
            return None;
        }
    };
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

/// Remembers notes and counts progress.
#[derive(Default)]
struct Heard {
    notes: Mutex<Vec<String>>,
}

impl Progress for Heard {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
}

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    network: Network,
    repositories: Vec<Repository>,
}

fn options() -> Options {
    Options { attempts: 3, pause: Duration::from_millis(1), patience: Duration::from_millis(300), ..Options::default() }
}

fn world(url: &str, options: Options) -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let repository = Repository {
        name: "debian".into(),
        url: url.into(),
        suites: vec!["trixie".into()],
        components: vec!["main".into()],
        keys: Vec::new(),
        fingerprints: Vec::new(),
        priority: 500,
    };
    World { _folder: folder, store, network: Network::new(options), repositories: vec![repository] }
}

impl World {
    fn packages(&self, lock: &Lock) -> Result<Vec<PathBuf>> {
        packages(lock, &self.repositories, &self.store, &self.network, &Silent)
    }

    fn source(&self) -> Source<'_> {
        Source { repositories: &self.repositories, store: &self.store, network: &self.network, progress: &Silent }
    }
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(70_000 + name.len()).collect()
}

fn lock(names: &[&str]) -> Lock {
    let package = |name: &&str| LockedPackage {
        name: (*name).to_owned(),
        version: "1-1".into(),
        architecture: "amd64".into(),
        repository: "debian".into(),
        suite: "trixie".into(),
        path: format!("pool/{name}"),
        size: content(name).len() as u64,
        sha256: Sha256Digest::of(&content(name)),
        because: "wanted".into(),
    };
    Lock {
        resolution: Sha256Digest::of(b""),
        architecture: "amd64".into(),
        epoch: Epoch(0),
        releases: Vec::new(),
        packages: names.iter().map(package).collect(),
        containers: crate::lock::Containers::default(),
    }
}

fn file_of(path: &str) -> Vec<u8> {
    content(path.trim_start_matches("/pool/"))
}

/// Answers properly.
fn good(path: &str, from: Option<usize>, _: u32) -> Reply {
    let body = file_of(path);
    from.map_or(Reply::Full(body.clone()), |at| Reply::Part(body, at))
}

#[test]
fn packages_come_in_lock_order_and_only_once() {
    let server = Server::start(good);
    let world = world(&server.url, options());
    let lock = lock(&["zlib", "haproxy", "keepalived", "haproxy", "nftables"]);
    let paths = world.packages(&lock).unwrap();
    for (path, package) in paths.iter().zip(&lock.packages) {
        assert_eq!(std::fs::read(path).unwrap(), content(&package.name));
    }
    assert_eq!(server.asked().len(), 4);
    assert_eq!(world.packages(&lock).unwrap(), paths);
    assert_eq!(server.asked().len(), 4, "nothing is fetched twice");
}

#[test]
fn a_broken_download_is_continued_where_it_ended() {
    let server = Server::start(|path, from, count| match (from, count) {
        (None, 1) => Reply::Cut(file_of(path), 50_000),
        _ => good(path, from, count),
    });
    let world = world(&server.url, options());
    world.packages(&lock(&["haproxy"])).unwrap();
    assert_eq!(server.asked(), [("/pool/haproxy".to_owned(), None), ("/pool/haproxy".to_owned(), Some(50_000))]);
}

#[test]
fn a_part_left_by_a_killed_build_is_continued_and_a_damaged_one_begun_again() {
    for (left, expected) in [(content("haproxy")[..100].to_vec(), vec![Some(100)]), (vec![0; 100], vec![Some(100), None])] {
        let server = Server::start(good);
        let world = world(&server.url, options());
        let lock = lock(&["haproxy"]);
        let part = world._folder.path().join(format!("partial/{}.part", lock.packages[0].sha256));
        std::fs::write(&part, left).unwrap();
        let paths = world.packages(&lock).unwrap();
        assert_eq!(std::fs::read(&paths[0]).unwrap(), content("haproxy"));
        assert_eq!(server.asked().into_iter().map(|(_, from)| from).collect::<Vec<_>>(), expected);
        assert!(!part.exists());
    }
}

#[test]
fn a_server_that_cannot_continue_is_asked_for_all() {
    for code in [200, 416] {
        let server = Server::start(move |path, from, count| match (count, from) {
            (1, _) => Reply::Cut(file_of(path), 10),
            (_, Some(_)) if code == 416 => Reply::Status(416),
            _ => Reply::Full(file_of(path)),
        });
        let world = world(&server.url, options());
        world.packages(&lock(&["haproxy"])).unwrap();
    }
}

#[test]
fn troubles_that_pass_are_waited_for() {
    for code in [500, 503, 429, 408] {
        let server =
            Server::start(move |path, from, count| if count < 3 { Reply::Status(code) } else { good(path, from, count) });
        let world = world(&server.url, options());
        world.packages(&lock(&["haproxy"])).unwrap();
        assert_eq!(server.asked().len(), 3);
    }
    let server = Server::start(|path, from, count| if count < 2 { Reply::Silence } else { good(path, from, count) });
    world(&server.url, options()).packages(&lock(&["haproxy"])).unwrap();
}

#[test]
fn troubles_that_stay_are_told() {
    let (name, text) = ("haproxy", content("haproxy"));
    let (longer, other, shorter) = ([&text[..], b"!"].concat(), vec![b'x'; text.len()], text[..500].to_vec());
    let cases: [(_, Bad, _, _, _); 6] = [
        ("gone", |_| Reply::Status(404), Kind::Missing, "no such file (404", 1),
        ("forbidden", |_| Reply::Status(403), Kind::Missing, "403", 1),
        ("down", |_| Reply::Status(503), Kind::Missing, "the last of 3 attempts", 3),
        ("longer", |w| Reply::Endless(w.longer.clone()), Kind::Untrusted, "more than the expected 70007 bytes", 1),
        ("other", |w| Reply::Full(w.other.clone()), Kind::Untrusted, "expected 70007 bytes with sha256", 1),
        ("shorter", |w| Reply::Full(w.shorter.clone()), Kind::Missing, "ended after 500 bytes", 3),
    ];
    for (case, reply, kind, text, requests) in cases {
        let worst = Worst { longer: longer.clone(), other: other.clone(), shorter: shorter.clone() };
        let server = Server::start(move |_, _, _| reply(&worst));
        let world = world(&server.url, options());
        let error = world.packages(&lock(&[name])).unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        assert!(error.to_string().contains(text), "{case}: {error}");
        assert!(error.to_string().contains("/pool/haproxy"), "{case}: {error}");
        assert_eq!(server.asked().len(), requests, "{case}");
        assert_eq!(
            matches!(case, "gone" | "other"),
            error.hints().iter().any(|hint| hint.contains("ingot lock --update")),
            "{case}"
        );
        let sound = world.store.check(content(name).len() as u64, &Sha256Digest::of(&content(name))).unwrap();
        assert_eq!(sound, store::Entry::Absent, "{case}");
    }
}

type Bad = fn(&Worst) -> Reply;

struct Worst {
    longer: Vec<u8>,
    other: Vec<u8>,
    shorter: Vec<u8>,
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = world(&url, options()).packages(&lock(&["haproxy"])).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(error.hints().iter().any(|hint| hint.contains("--mirror")));
}

#[test]
fn offline_opens_no_connection_and_names_all_that_is_missing() {
    let server = Server::start(good);
    let mut world = world(&server.url, options());
    world.packages(&lock(&["haproxy"])).unwrap();
    world.source().get("debian", "dists/trixie/InRelease", 100_000).unwrap();
    let asked = server.asked().len();
    world.network = Network::new(Options { offline: true, ..options() });
    world.packages(&lock(&["haproxy"])).unwrap();
    let error = world.packages(&lock(&["haproxy", "zlib", "keepalived"])).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(
        error.to_string().contains("2 packages") && error.to_string().ends_with("keepalived 1-1 (amd64), zlib 1-1 (amd64)"),
        "{error}"
    );
    assert_eq!(world.source().get("debian", "dists/trixie/InRelease", 100_000).unwrap(), file_of("/dists/trixie/InRelease"));
    for result in [
        world.source().get("debian", "dists/sid/InRelease", 100_000),
        world.source().get_verified("debian", "x", 3, Sha256Digest::of(b"abc")),
    ] {
        assert_eq!(result.unwrap_err().kind(), Kind::Missing);
    }
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn a_damaged_entry_is_noted_and_fetched_again() {
    let server = Server::start(good);
    let world = world(&server.url, options());
    let lock = lock(&["haproxy", "zlib"]);
    let paths = world.packages(&lock).unwrap();
    let mut bytes = content("haproxy");
    bytes[12_345] ^= 1;
    std::fs::write(&paths[0], bytes).unwrap();
    let heard = Heard::default();
    packages(&lock, &world.repositories, &world.store, &world.network, &heard).unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), content("haproxy"));
    let notes = heard.notes.lock().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("haproxy 1-1 (amd64) is damaged"), "{notes:?}");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn two_builds_with_one_store_fetch_each_file_once() {
    let server = Server::start(|path, from, count| {
        thread::sleep(Duration::from_millis(30));
        good(path, from, count)
    });
    let world = world(&server.url, Options { patience: Duration::from_secs(5), ..options() });
    let lock = lock(&["haproxy", "zlib", "keepalived"]);
    let failures = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| failures.fetch_add(u32::from(world.packages(&lock).is_err()), Ordering::Relaxed));
        }
    });
    assert_eq!(failures.into_inner(), 0);
    let mut counts = BTreeMap::new();
    server.asked().into_iter().for_each(|(path, _)| *counts.entry(path).or_insert(0) += 1);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

#[test]
fn files_for_the_lock_are_limited_checked_and_come_through_the_mirror() {
    let server = Server::start(good);
    let mirrors = Mirrors::parse(&[format!("debian={}", server.url)]).unwrap();
    let world = world("http://public.invalid/debian", Options { mirrors, ..options() });
    let source = world.source();
    let text = file_of("/dists/a");
    let size = text.len() as u64;
    assert_eq!(source.get("debian", "dists/a", size).unwrap(), text);
    assert_eq!(source.get("debian", "dists/a", size - 1).unwrap_err().kind(), Kind::Untrusted);
    assert_eq!(source.get("debain", "dists/a", size).unwrap_err().kind(), Kind::Document);
    assert_eq!(source.get("debian", "../a", size).unwrap_err().kind(), Kind::Document);
    let digest = Sha256Digest::of(&text);
    assert_eq!(source.get_verified("debian", "dists/a", size, digest).unwrap(), text);
    let asked = server.asked().len();
    assert_eq!(source.get_verified("debian", "dists/a", size, digest).unwrap(), text);
    assert_eq!(server.asked().len(), asked);
    let wrong = source.get_verified("debian", "dists/a", size, Sha256Digest::of(b"")).unwrap_err();
    assert_eq!(wrong.kind(), Kind::Untrusted);
}
