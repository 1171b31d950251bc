//! `diagnose` and its bundle against a scripted machine and network.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::*;
use crate::machine::net::Reply;
use crate::machine::played::Played;
use crate::machine::scripted::{Faults, Scripted};
use crate::machine::{Output, Space};

/// Every kind of secret a profile can hold, each with letters that files and URLs write in another way.
const PROFILE: &str = r#"schema = 1
serial = 4
[node]
name = "cp-1"
role = "control-plane"
[cluster]
name = "main"
kind = "workload"
endpoint = "api.example.org:6443"
ca = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
[cluster.join]
first = true
token = "abcdef.0123456789abcdef"
certificate_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
ca_key = """
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIBsecretsecretsecretsecretsecretsecretsecretsecretAAAA
-----END EC PRIVATE KEY-----
"""
[network]
dns = ["10.0.0.2", "10.0.0.3"]
[time]
servers = ["10.0.0.4"]
[[access.users]]
name = "ops"
ssh_keys = []
password_hash = "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./0123456789"
[[registry]]
host = "registry.example.org"
mirrors_only = true
mirrors = ["https://mirror.example.org"]
username = "puller"
password = "p@ss/w%rd+1"
[proxy]
http = "http://proxy.example.org:3128"
username = "me"
password = "pr%xy\\\"pass"
[[file]]
path = "/etc/app/secret"
secret = { credential = "app" }
[report]
url = "https://events.example.org/"
token = "bearer-token-xyz"
"#;

fn put(root: &std::path::Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn machine() -> (tempfile::TempDir, Scripted) {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    put(at, "/state/ingot/profile.toml", PROFILE);
    put(at, "/run/credentials/@system/app", "cred-secret-value\n");
    put(at, "/proc/self/mounts", "/dev/sda9 /state ext4 rw,nosuid 0 0\n");
    put(
        at,
        "/proc/net/tcp",
        "  sl  local_address\n   0: 00000000:192B 00000000:0000 0A 0 0 0 0 0 4711 1\n   1: 00000000:280A 00000000:0000 0A 0 0 0 0 0 4712 1\n",
    );
    put(at, "/proc/77/comm", "nginx\n");
    std::fs::create_dir_all(at.join("proc/77/fd")).unwrap();
    std::os::unix::fs::symlink("socket:[4711]", at.join("proc/77/fd/3")).unwrap();
    put(at, "/sys/class/net/eth0/mtu", "1500\n");
    let machine = Scripted::new(at, Faults::default());
    (root, machine)
}

fn said(out: &str) -> Output {
    Output { code: Some(0), out: out.to_owned(), tail: String::new() }
}

fn network() -> Played {
    let dns = |packet: &[u8]| {
        let mut reply = packet.to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x83]);
        reply
    };
    let ntp = |_: &[u8]| {
        let mut reply = vec![0x24, 2];
        reply.resize(48, 0);
        // 300 s behind the machine's clock.
        let seconds = u32::try_from(1_800_000_000_u64 - 300 + 2_208_988_800).unwrap();
        reply[40..44].copy_from_slice(&seconds.to_be_bytes());
        reply
    };
    let ping = |size: u32| format!("/usr/bin/ping -n -q -c 1 -W 1 -M do -s {size} 10.0.0.1");
    let mut net = Played::default();
    net.udp.insert("10.0.0.2:53".parse::<SocketAddr>().unwrap(), Box::new(dns));
    net.udp.insert("10.0.0.4:123".parse::<SocketAddr>().unwrap(), Box::new(ntp));
    let route = r#"[{"dst":"default","gateway":"10.0.0.1","dev":"eth0"}]"#;
    net.programs.insert("/usr/bin/ip -j -4 route show default".to_owned(), said(route));
    net.programs.insert(ping(8), said(""));
    net.programs.insert(ping(1372), said(""));
    let failed = "haproxy.service loaded failed failed HAProxy\n";
    net.programs.insert("/usr/bin/systemctl list-units --state=failed --plain --no-legend --no-pager".to_owned(), said(failed));
    let challenge = Some("Basic realm=\"x\"".to_owned());
    net.web.insert("https://mirror.example.org/v2/".to_owned(), Ok(Reply { status: 401, challenge, ..Reply::default() }));
    net
}

fn found<'f>(findings: &'f [Finding], test: &str) -> Vec<(Level, Option<&'static str>, &'f str)> {
    findings
        .iter()
        .filter(|finding| finding.test == test)
        .map(|finding| (finding.level, finding.code, finding.seen.as_str()))
        .collect()
}

#[test]
fn the_service_agent_is_heard() {
    let root = tempfile::tempdir().unwrap();
    let profile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/20-load-balancer/profile.toml"));
    put(root.path(), "/state/ingot/profile.toml", &profile.unwrap());
    let services = |report: Option<&str>| {
        report.into_iter().for_each(|text| put(root.path(), "/run/ingot/agent.json", text));
        let (_, findings) = diagnose(&Scripted::new(root.path(), Faults::default()));
        found(&findings, "services").into_iter().map(|(level, code, seen)| (level, code, seen.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(services(None)[0].1, Some("INGOT-N0802"));
    let report = |troubles: &str, notes: &str| {
        format!(
            r#"{{"schema":1,"state":"serving","holder":true,"services":3,"nodes":2,"addresses":3,"reloads":1,"troubles":[{troubles}],"notes":[{notes}]}}"#
        )
    };
    let well = services(Some(&report("", "")));
    assert_eq!(well, [(Level::Ok, None, "serving: 3 services on 2 nodes; this machine gives addresses away".to_owned())]);
    let troubles = r#"{"code":"INGOT-N1044","message":"401"},{"code":"INGOT-N1042","message":"refused"}"#;
    let ill = services(Some(&report(troubles, r#""shop/web: PoolExhausted: x""#)));
    let levels: Vec<_> = ill.iter().map(|(level, code, _)| (*level, *code)).collect();
    assert_eq!(levels, [(Level::Fail, Some("INGOT-N1044")), (Level::Warn, Some("INGOT-N1042")), (Level::Warn, None)]);
}

#[test]
fn each_test_says_what_it_saw() {
    let (_root, mut machine) = machine();
    machine.net = Arc::new(network());
    machine.space = Space { total: 10 << 30, free: 100 << 20 };
    let (_, findings) = diagnose(&machine);
    let one = |test: &str, level: Level, code: &str, words: &str| {
        let found = found(&findings, test);
        let fits = |(l, c, seen): &(Level, Option<&str>, &str)| *l == level && c.unwrap_or("") == code && seen.contains(words);
        assert!(found.iter().any(fits), "{test}: {found:?}, expected {level:?} {code} {words}");
    };
    // This machine has no list of signers, so it takes no profile; the kept one is what is tested with.
    one("profile", Level::Fail, "INGOT-N0303", "tested with the kept one of cp-1");
    one("installer", Level::Warn, "INGOT-N0802", "has not begun");
    one("units", Level::Fail, "INGOT-N1121", "haproxy.service");
    one("disk", Level::Warn, "INGOT-N1119", "100 of 10240 MiB");
    one("gateway", Level::Ok, "", "10.0.0.1 answers");
    one("dns", Level::Ok, "", "10.0.0.2 answers");
    one("dns", Level::Fail, "INGOT-N1101", "10.0.0.3");
    one("dns", Level::Fail, "INGOT-N1102", "api.example.org");
    one("clock", Level::Fail, "INGOT-N1103", "300 s early");
    one("mtu", Level::Fail, "INGOT-N1115", "1500 bytes do not reach 10.0.0.1; at least 1400 do");
    one("api", Level::Fail, "INGOT-N1102", "api.example.org");
    one("ports", Level::Fail, "INGOT-N1106", "port 6443 is for kube-apiserver, but nginx has it");
    one("ports", Level::Ok, "", "2379 free for etcd");
    one("registry", Level::Fail, "INGOT-N1118", "answers 401 to user name and password");
    assert!(failed(&findings));
    let text = words(&findings);
    assert!(text.contains("FAIL ports     INGOT-N1106: port 6443"), "{text}");
    assert!(text.lines().count() > findings.len());
    let value: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
    assert_eq!(value["failed"], true);
}

#[test]
fn an_empty_machine_is_told_about_as_well() {
    let root = tempfile::tempdir().unwrap();
    let (_, findings) = diagnose(&Scripted::new(root.path(), Faults::default()));
    assert!(found(&findings, "disk").iter().any(|(level, code, _)| *level == Level::Fail && *code == Some("INGOT-N1120")));
    assert!(found(&findings, "profile").iter().all(|(level, ..)| *level == Level::Fail));
    assert_eq!(found(&findings, "vrrp").first().map(|(level, ..)| *level), Some(Level::Skip));
}

/// In whatever form: as it is, in base64 at each offset, in percent and hex digits, as JSON and systemd write it.
fn forms(secret: &str) -> Vec<String> {
    let percent: String = secret
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let json = serde_json::to_string(secret).unwrap();
    let mut all = vec![secret.to_owned(), percent.clone(), percent.replace('%', "%%"), json.trim_matches('"').to_owned()];
    all.extend((0..3).map(|shift| {
        let coded = STANDARD_NO_PAD.encode(format!("{}{secret}", "x".repeat(shift)));
        // Letters that hold bits of the secret only.
        coded[(shift * 8).div_ceil(6)..(shift + secret.len()) * 8 / 6].to_owned()
    }));
    all
}

/// Base64 of longer texts that hold it.
fn wrapped(secret: &str) -> Vec<String> {
    (0..6).map(|before| STANDARD.encode(format!("{}{secret}:tail", &"before"[..before]))).collect()
}

#[test]
fn no_secret_is_in_the_bundle() {
    let (root, mut machine) = machine();
    let at = root.path();
    let secrets = [
        "0123456789abcdef",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "MHcCAQEEIBsecretsecretsecretsecretsecretsecretsecretsecretAAAA",
        "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./0123456789",
        "p@ss/w%rd+1",
        "pr%xy\\\"pass",
        "cred-secret-value",
        "bearer-token-xyz",
    ];
    // Each secret in each form in each place that is collected.
    let all: String = secrets
        .iter()
        .flat_map(|secret| [forms(secret), wrapped(secret)].concat())
        .map(|form| format!("value {form} end\n"))
        .collect();
    for path in [
        "/etc/containerd/certs.d/a/hosts.toml",
        "/etc/systemd/system/x.d/50-ingot-proxy.conf",
        "/etc/haproxy/haproxy.cfg",
        "/state/ingot/journal",
        "/run/ingot/pending",
    ] {
        put(at, path, &all);
    }
    put(at, "/etc/keepalived/keepalived.conf", "    auth_pass ab1\n");
    put(at, "/etc/kubernetes/admin.conf", "client-key-data: QUJD\n");
    put(at, "/etc/kubernetes/pki/ca.key", "KEYKEYKEY\n");
    put(at, "/etc/kubernetes/manifests/etcd.yaml", "kind: Pod\n");
    let mut net = network();
    net.programs.insert("/usr/bin/df -h".to_owned(), said(&all));
    machine.net = Arc::new(net);
    let (subject, findings) = diagnose(&machine);
    std::fs::create_dir_all(at.join("tmp")).unwrap();
    write_bundle(&machine, &subject, &findings, "/tmp/bundle.tar.gz").unwrap();
    let file = std::fs::File::open(at.join("tmp/bundle.tar.gz")).unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut entries = std::collections::BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        entries.insert(name, text);
    }
    for name in [
        "diagnose.json",
        "profile.toml",
        "files/etc/kubernetes/manifests/etcd.yaml",
        "programs/df.txt",
        "files/etc/haproxy/haproxy.cfg",
    ] {
        assert!(entries.contains_key(&format!("ingot-support/{name}")), "{name}: {:?}", entries.keys());
    }
    for (name, text) in &entries {
        for secret in secrets {
            for form in forms(secret) {
                assert!(!text.contains(&form), "{name} holds {form}");
            }
        }
        for other in ["ab1", "QUJD", "KEYKEYKEY"] {
            assert!(!text.contains(other), "{name} holds {other}");
        }
    }
    let profile = &entries["ingot-support/profile.toml"];
    assert!(profile.contains("endpoint = \"api.example.org:6443\"") && profile.contains("username = \"puller\""), "{profile}");
    assert!(entries["ingot-support/programs/df.txt"].contains("value [hidden] end"));
}

#[test]
fn a_test_that_hangs_is_named() {
    let (_root, machine) = machine();
    let subject = Arc::new(Subject::of(&machine));
    let findings = run(&subject, Duration::ZERO);
    assert!(findings.iter().any(|finding| finding.code == Some("INGOT-N1126") && finding.level == Level::Warn));
}
