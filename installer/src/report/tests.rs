//! Who is told what, against scripted machines, a real server, and another reader of the host's pool.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::events::{Event, KEPT, Outbox, Sender, kept};
use super::*;
use crate::blot::Blot;
use crate::find::fixture::{pool, tool};
use crate::machine::net::{Ask, Reply, Whom};
use crate::machine::played::Played;
use crate::machine::scripted::{Faults, Scripted};
use crate::machine::{Ownership, Real};
use crate::report::host::POOL;
use profile::secret::Secret;

fn machine() -> (tempfile::TempDir, Scripted) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("run")).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    (root, machine)
}

fn failure() -> Failure {
    Failure::new(&codes::GATEWAY_SILENT, format!("10.0.0.1 did not answer; hunter22 {}", "ä".repeat(1500)))
}

fn telling(ask: Option<Ask>) -> Targets {
    let sender = Sender { name: "lb-1".to_owned(), ..Sender::default() };
    Targets { post: ask, sender, blot: Blot::of([&Secret::new("hunter22".to_owned())]), ..Targets::default() }
}

#[test]
fn the_host_reads_what_it_is_told() {
    let (root, machine) = machine();
    std::fs::create_dir_all(root.path().join("sys/bus/vmbus/devices/a")).unwrap();
    std::fs::create_dir_all(root.path().join("var/lib/hyperv")).unwrap();
    let file = root.path().join(POOL.trim_start_matches('/'));
    // Another's record, one of ours from before, and one that was cut off.
    let mut before = pool(&[("Other", b"stays"), ("Ingot.Code", b"old"), ("Ingot.Gone", b"x")]);
    before.extend([b'x'; 100]);
    std::fs::write(&file, before).unwrap();
    let report = Report::new(&machine);
    report.tell(telling(None));
    report.stage("network");
    report.planned(7);
    let pairs = |name: &str| crate::find::read_pool(&std::fs::read(&file).unwrap()).unwrap().get(name).cloned();
    let text = |name: &str| pairs(name).map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(text("Other").as_deref(), Some("stays"));
    assert_eq!(text("Ingot.State").as_deref(), Some("running"));
    assert_eq!((text("Ingot.Stage").as_deref(), text("Ingot.Code"), text("Ingot.Gone")), (Some("network"), None, None));
    report.failed(&failure());
    assert_eq!(text("Ingot.State").as_deref(), Some("failed"));
    assert_eq!(text("Ingot.Code").as_deref(), Some("INGOT-N0502"));
    assert_eq!(text("Ingot.Progress").as_deref(), Some("0/7"));
    let message: String =
        ["Ingot.Message", "Ingot.Message.1", "Ingot.Message.2", "Ingot.Message.3"].iter().filter_map(|key| text(key)).collect();
    let status = report.status().failure.unwrap().message;
    assert_eq!(message, status);
    assert!(!status.contains("hunter22"), "{status}");
    // Whole records, and not one more for telling it often.
    let length = std::fs::metadata(&file).unwrap().len();
    (0..50).for_each(|number| report.stage(&format!("stage {number}")));
    assert_eq!((std::fs::metadata(&file).unwrap().len(), length % 2560), (length, 0));
    // The profile does not want it: ours go, the other stays.
    report.tell(Targets { hyper_v: false, ..telling(None) });
    report.stage("quiet");
    assert_eq!((std::fs::metadata(&file).unwrap().len(), text("Other").as_deref()), (2560, Some("stays")));
}

#[test]
fn without_a_hyperv_host_there_is_no_pool() {
    let (root, machine) = machine();
    let report = Report::new(&machine);
    report.failed(&failure());
    assert!(!root.path().join("var/lib/hyperv").exists());
}

#[test]
fn a_held_pool_holds_nobody() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pool");
    std::fs::write(&path, "abc").unwrap();
    let machine = Real::new(root.path(), Ownership::Ignored);
    let mut change = |before: &[u8]| [before, b"d"].concat();
    machine.rewrite("/pool", 10, &mut change).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    assert!(machine.rewrite("/pool", 3, &mut change).is_err());
    machine.rewrite("/pool", 10, &mut |_| b"ab".to_vec()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"ab");
}

#[test]
fn waiting_is_told_now_and_then() {
    let (_root, machine) = machine();
    let report = Report::new(&machine);
    for _ in 0..100 {
        report.waiting("gateway", "10.0.0.1", Duration::from_secs(50));
        machine.sleep(Duration::from_millis(500));
    }
    let lines = machine.lines.borrow().clone();
    assert_eq!(
        lines,
        [
            "ingot: gateway: waiting for 10.0.0.1, at most 50 s",
            "ingot: gateway: still waiting for 10.0.0.1, 35 s left",
            "ingot: gateway: still waiting for 10.0.0.1, 20 s left",
            "ingot: gateway: still waiting for 10.0.0.1, 5 s left"
        ]
    );
}

const URL: &str = "https://events.example.org/ingot";

fn ask() -> Ask {
    Ask { authorization: Some(Secret::new("Bearer t0ken".to_owned())), ..Ask::get(URL, Whom::Roots(Vec::new()), 0) }
}

#[test]
fn events_are_delivered_with_those_of_before() {
    let (_root, mut machine) = machine();
    let ok = Reply { status: 202, ..Reply::default() };
    machine.net = std::sync::Arc::new(Played { web: [(URL.to_owned(), Ok(ok))].into(), ..Played::default() });
    let earlier = vec![Event { event: "failed".to_owned(), ..Event::default() }];
    std::fs::create_dir_all(_root.path().join("run/ingot")).unwrap();
    std::fs::write(_root.path().join(KEPT.trim_start_matches('/')), serde_json::to_vec(&earlier).unwrap()).unwrap();
    let report = Report::new(&machine);
    report.stage("find");
    report.tell(telling(Some(ask())));
    report.planned(3);
    report.applying("gateway", "the password hunter22 is in no event");
    report.warn(&failure());
    report.ready();
    report.finish();
    let asked = machine.net.asked.lock().unwrap();
    let bodies: Vec<serde_json::Value> =
        asked.iter().map(|ask| serde_json::from_slice(ask.post.as_ref().unwrap()).unwrap()).collect();
    assert!(asked.iter().all(|ask| ask.authorization.as_ref().unwrap().expose() == "Bearer t0ken"));
    let mut events: Vec<&serde_json::Value> = Vec::new();
    for body in &bodies {
        assert_eq!(body["machine"]["name"], "lb-1");
        for event in body["events"].as_array().unwrap() {
            if !events.contains(&event) {
                events.push(event);
            }
        }
    }
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["failed", "stage", "step", "warning", "ready"]);
    assert_eq!((&events[2]["number"], &events[2]["of"], &events[2]["step"]), (&1.into(), &3.into(), &"gateway".into()));
    assert!(!serde_json::to_string(&bodies).unwrap().contains("hunter22"));
    assert!(kept(&machine).is_empty());
}

#[test]
fn events_nobody_takes_are_kept_and_bounded() {
    let (_root, machine) = machine();
    let report = Report::new(&machine);
    report.tell(telling(Some(ask())));
    (0..200).for_each(|number| report.stage(&format!("{number}")));
    let start = Instant::now();
    report.finish();
    assert!(start.elapsed() < Duration::from_secs(6));
    let left = kept(&machine);
    assert_eq!((left.len(), left.last().unwrap().stage.as_str()), (64, "199"));
    assert!(machine.lines.borrow().last().unwrap().contains("INGOT-N1123"));
}

#[test]
fn a_server_that_says_nothing_holds_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = [0; 100];
        let _ = socket.read(&mut bytes);
        std::thread::sleep(Duration::from_secs(4));
        let _ = socket.write(b"x");
    });
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("run/ingot")).unwrap();
    let machine = Real::new(root.path(), Ownership::Ignored);
    let mut outbox = Outbox::default();
    tool(
        root.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -keyout key -out ca.pem",
    );
    let roots = Whom::Roots(std::fs::read(root.path().join("ca.pem")).unwrap());
    let net = Real::new(std::path::Path::new("/"), Ownership::Ignored).net();
    outbox.send(net, Ask::get(url, roots, 1_800_000_000), Sender::default());
    let start = Instant::now();
    outbox.push(Event::default());
    assert!(start.elapsed() < Duration::from_millis(500), "pushing waits for nobody");
    assert_eq!(outbox.finish(&machine, Duration::from_secs(1)), 1);
    assert!(start.elapsed() < Duration::from_secs(3));
    server.join().unwrap();
}
