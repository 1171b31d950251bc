//! Two load balancers from the shipped image in one network: they serve, one replaces the other, nothing is open or told that
//! should not be, and a later start changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "test code")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::network::Network;
use ingot_tests::node::Node;
use ingot_tests::profiles::{Authority, signed};
use ingot_tests::programs::{said, top};

/// A start takes some seconds; a loaded machine may take many times that.
const PATIENCE: u64 = 120;
const SECRET: &str = "s3cr3tVq";

/// Ends a process whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn profile(own: u8, authority: &Authority, more: &str) -> String {
    let (ca, peer) = (authority.certificate(), 23 - own);
    format!(
        r#"schema = 1
[node]
name = "lb-{own}"
role = "load-balancer"
[cluster]
name = "site-a"
kind = "workload"
endpoint = "10.77.0.10:6443"
ca = """
{ca}"""
[time]
wait_secs = 0
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["10.77.0.{own}/24"]
gateways = ["10.77.0.1"]
[load_balancer]
addresses = [{{ address = "10.77.0.10/24" }}]
metrics = "10.77.0.{own}:9101"
[load_balancer.vrrp]
id = 51
peers = ["10.77.0.{peer}"]
{more}
[[load_balancer.frontends]]
name = "api"
port = 6443
check_millis = 500
backends = [{{ name = "cp-1", address = "10.77.0.1", port = 16443 }}]
"#
    )
}

/// A backend over TLS in the network, which answers each line with its name.
fn backend(network: &Network, folder: &std::path::Path) -> Killed {
    let mut command = network.command("/usr/bin/python3");
    command.arg(top().join("tests/tests/load_balancer/server.py")).args(["cp-1", "16443"]);
    command.arg(folder.join("server.crt")).arg(folder.join("server.key")).arg("10.77.0.1");
    Killed(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Whether a new connection through the virtual address is answered, given up after half a second.
fn answers(network: &Network) -> bool {
    let script = "printf 'hello\\n' | timeout 0.5 openssl s_client -quiet -connect 10.77.0.10:6443 2>/dev/null | head -n 1";
    said(network.command("bash").args(["-c", script])).out.contains("cp-1 hello")
}

/// A connection that stays open.
struct Held {
    child: Killed,
    answers: BufReader<std::process::ChildStdout>,
}

impl Held {
    fn open(network: &Network) -> Self {
        let mut command = network.command("openssl");
        command.args(["s_client", "-quiet", "-connect", "10.77.0.10:6443"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child: Killed(child), answers }
    }

    /// Ends with the time limit of the test where no answer comes.
    fn asks(&mut self) -> String {
        self.child.0.stdin.as_mut().unwrap().write_all(b"held\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }
}

fn has_address(node: &Node) -> bool {
    node.run("ip -br addr show").out.contains("10.77.0.10/")
}

fn ready(node: &mut Node) {
    node.wait_until_up(PATIENCE);
    node.wait_for("ingot-installer status", 60);
}

#[test]
fn one_replaces_the_other_within_three_seconds_and_connections_stay() {
    let release = load_balancer();
    let (network, folder) = (Network::new(), scratch());
    let authority = Authority::new(folder.path());
    let _backend = backend(&network, folder.path());
    let start = |own: u8| {
        let place = folder.path().join(own.to_string());
        fs::create_dir(&place).unwrap();
        let profile = signed(&place, &profile(own, &authority, ""));
        Node::start(&network, &format!("lb-{own}"), &release, Some(&profile))
    };
    let mut one = start(11);
    ready(&mut one);
    let mut two = start(12);
    ready(&mut two);
    one.wait_for("ip -br addr show | grep -q 10.77.0.10/", 20);
    assert!(!has_address(&two));
    let begin = Instant::now();
    while !answers(&network) {
        assert!(begin.elapsed() < Duration::from_secs(10), "{}", one.tell());
    }

    one.kill();
    let begin = Instant::now();
    while !answers(&network) {
        assert!(begin.elapsed() < Duration::from_secs(3), "{}", two.tell());
    }
    eprintln!("the address moved, and was answered, within {:?}", begin.elapsed());
    let mut held = Held::open(&network);
    assert_eq!(held.asks(), "cp-1 held\n");
    one.start_again();
    ready(&mut one);
    assert!(has_address(&two) && !has_address(&one), "nopreempt");
    assert_eq!(held.asks(), "cp-1 held\n", "the connection through the survivor stays");
}

/// A pool of key-value pairs as Hyper-V's daemon keeps it (`tools/hv/hv_kvp_daemon.c`): 512 bytes of key, 2048 of value.
fn pool(pairs: &[(String, &[u8])]) -> Vec<u8> {
    let mut pool = Vec::new();
    for (key, value) in pairs {
        let record = pool.len();
        pool.extend(key.as_bytes());
        pool.resize(record + 512, 0);
        pool.extend(*value);
        pool.resize(record + 2560, 0);
    }
    pool
}

#[test]
fn a_hyper_v_host_brings_the_profile_once_its_daemon_runs() {
    let release = load_balancer();
    let (network, folder) = (Network::new(), scratch());
    let authority = Authority::new(folder.path());
    let _backend = backend(&network, folder.path());
    let path = signed(folder.path(), &profile(11, &authority, ""));
    let (text, signature) = (fs::read(&path).unwrap(), fs::read(path.with_added_extension("sig")).unwrap());
    let parts = text.chunks(1000).enumerate().map(|(number, part)| (format!("ingot.profile.{number}"), part));
    let pairs: Vec<_> = parts.chain([("ingot.profile.sig".to_owned(), &signature[..])]).collect();
    // The daemon starts long after the installer: first there is nothing.
    let mut node = Node::start(&network, "lb-11", &release, None);
    node.wait_for("grep -q INGOT-N0101 /run/ingot/status.json", PATIENCE);
    let kept = node.state().join("var/lib/hyperv");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join(".kvp_pool_0"), pool(&pairs)).unwrap();
    node.wait_for("ingot-installer status", PATIENCE);
    assert!(node.must("cat /run/ingot/status.json").contains("Hyper-V key-value pool 0"));
    assert_eq!(node.must("hostname").trim(), "lb-11");
}

/// The highest exposure `systemd-analyze security` may see, in tenths: the role's daemons, and the installer, which is
/// root's hand in the machine.
const EXPOSURES: [(&str, u32); 5] = [
    ("haproxy.service", 35),
    ("keepalived.service", 40),
    ("ingot-ready.service", 20),
    ("ingot-installer.service", 65),
    ("ingot-state.service", 60),
];

#[test]
fn a_later_start_changes_nothing_nothing_is_open_and_no_secret_is_told() {
    let release = load_balancer();
    let (network, folder) = (Network::new(), scratch());
    let authority = Authority::new(folder.path());
    let _backend = backend(&network, folder.path());
    let password = format!("password = \"{SECRET}\"");
    let path = signed(folder.path(), &profile(11, &authority, &password));
    let mut node = Node::start(&network, "lb-11", &release, Some(&path));
    ready(&mut node);

    for (unit, most) in EXPOSURES {
        let said = node.run(&format!("systemd-analyze security --no-pager --threshold={most} {unit}"));
        let score = said.out.lines().last().unwrap_or_default().to_owned();
        assert_eq!(said.code, 0, "{unit}: {score} {}", said.err);
        eprintln!("{score}");
    }
    node.wait_for("ip -br addr show | grep -q 10.77.0.10/", 20);
    let listening = node.must("ss -Hltnu | awk '{ print $1 \"/\" $5 }' | grep -vE '127\\.0\\.0\\.5[34]|%lo:53' | sort -u");
    assert_eq!(listening.split_whitespace().collect::<Vec<_>>(), ["tcp/10.77.0.10:6443", "tcp/10.77.0.11:9101"]);
    tells_no_secret(&node);

    // Again, as at each later boot: nobody is told, and it costs little.
    let units = "systemctl show -p Id,InvocationID,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic \
                 haproxy keepalived systemd-networkd systemd-resolved systemd-timesyncd";
    let before = node.must(units);
    let spent = node.must(
        "for _ in 1 2 3 4 5 6 7 8 9 10; do ingot-installer run >/run/again 2>&1 || exit 1; done; times >/run/times; tail -n 1 /run/times",
    );
    assert_eq!(node.must(units), before, "a unit was touched\n{}", node.run("cat /run/again").out);
    let cpu: f64 =
        spent.split_whitespace().map(|part| part.trim_start_matches("0m").trim_end_matches('s').parse::<f64>().unwrap()).sum();
    // The kernel counts in ticks: of ten runs one sees more.
    let cpu = cpu / 10.0;
    eprintln!("a run that changes nothing: {cpu:.3} s of CPU");
    assert!(cpu > 0.0 && cpu < 0.1, "{cpu} s");

    node.kill();
    node.give(None);
    node.start_again();
    ready(&mut node);
    assert!(node.must("cat /run/ingot/status.json").contains("state partition"), "the kept profile is the source");
    assert_eq!(node.must("systemctl show -P NRestarts haproxy keepalived ingot-installer").trim().replace("\n\n", " "), "0 0 0");
    let reloads = node.run("journalctl -b --no-pager -o cat | grep -cE 'Reload(ing|ed) (haproxy|keepalived)'").out;
    assert_eq!(reloads.trim(), "0", "nothing is told to load again what it has");
    tells_no_secret(&node);
}

fn tells_no_secret(node: &Node) {
    let bundle =
        "ingot-installer diagnose --bundle /run/bundle.tar.gz >/run/diagnosed 2>&1; gzip -dc /run/bundle.tar.gz | grep -ac";
    for script in [
        format!("journalctl --no-pager -o export | grep -ac {SECRET}"),
        format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -av 'grep -a' | grep -ac {SECRET}"),
        format!("{bundle} {SECRET}"),
        format!("find /etc /run /state /var -xdev -type f -perm /o=r -exec grep -al {SECRET} {{}} + | wc -l"),
        format!("ingot-installer plan | grep -ac {SECRET}"),
    ] {
        assert_eq!(node.run(&script).out.trim(), "0", "{script}\n{}", node.run("cat /run/diagnosed").out);
    }
    // It is there, where it must be: the search above can find.
    assert_ne!(node.run(&format!("grep -c {SECRET} /etc/keepalived/keepalived.conf")).out.trim(), "0");
}
