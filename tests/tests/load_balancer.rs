//! Two load balancers in one network, as stories: the installer itself makes them, with the HAProxy and keepalived of the
//! image's Debian, in namespaces of their own. Needs root. `INGOT_TEST_INSTALLER` names the installer's program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "test code"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ingot_tests::programs::{Said, must, oracle_root, said, top};

/// The network in which clients and backends live, and in front of it everything else.
const NET: &str = "lbt-net";

fn shell(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euc", script]).stdin(Stdio::null());
    command
}

/// Ends a process whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bridge with its clients and backends; takes all names with it when it goes.
struct Network {
    folder: tempfile::TempDir,
    backends: Vec<Killed>,
}

impl Network {
    fn new() -> Self {
        Self::remove();
        let folder = tempfile::tempdir().unwrap();
        must(&mut shell(&format!(
            "ip netns add {NET}; ip -n {NET} link set lo up; ip -n {NET} link add br0 type bridge; ip -n {NET} link set br0 up
             for host in 1 21 22 23; do ip -n {NET} addr add 10.0.0.$host/24 dev br0; done
             cd {0}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem 2>&1
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=kubernetes -keyout key.pem -out cp.csr 2>&1
             openssl x509 -req -in cp.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out cert.pem 2>&1",
            folder.path().display()
        )));
        let mut network = Self { folder, backends: Vec::new() };
        for number in 1..=3 {
            let own = network.folder.path().display();
            let script = format!(
                "exec ip netns exec {NET} /usr/bin/python3 {}/tests/tests/load_balancer/server.py cp-{number} 6443 \
                 {own}/cert.pem {own}/key.pem 10.0.0.2{number}",
                top().display()
            );
            network.backends.push(Killed(shell(&script).stderr(Stdio::null()).spawn().unwrap()));
        }
        network
    }

    fn remove() {
        for name in [NET, "lbt-a", "lbt-b", "lbt-c", "lbt-s"] {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }

    /// A namespace with a card in the network.
    fn join(name: &str, host: u8) {
        must(&mut shell(&format!(
            "ip netns add {name}; ip -n {name} link set lo up
             ip -n {name} link add eth0 type veth peer name {name} netns {NET}; ip -n {NET} link set {name} master br0 up
             ip -n {name} addr add 10.0.0.{host}/24 dev eth0; ip -n {name} link set eth0 up
             ip -n {name} route add default via 10.0.0.1
             ip netns exec {name} sysctl -qw net.ipv4.ip_nonlocal_bind=1"
        )));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.backends.clear();
        Self::remove();
    }
}

/// A balancer's machine: its processes live and die with `power`.
struct Machine {
    name: &'static str,
    folder: PathBuf,
    power: Killed,
}

impl Machine {
    fn start(network: &Network, name: &'static str) -> Self {
        let folder = network.folder.path().join(name);
        let scripts = top().join("tests/tests/load_balancer");
        fs::create_dir_all(folder.join("boot")).unwrap();
        fs::create_dir_all(folder.join("state")).unwrap();
        fs::copy(installer(), folder.join("installer")).unwrap();
        fs::copy(scripts.join("systemctl.sh"), folder.join("systemctl")).unwrap();
        fs::copy(top().join("tests/golden/base/root/usr/share/ingot/trust/allowed_signers"), folder.join("signers")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "bash"]);
        command.arg(scripts.join("machine.sh")).arg(oracle_root()).arg(&folder).stdin(Stdio::null());
        let power = Killed(command.spawn().unwrap());
        let machine = Self { name, folder, power };
        until(Duration::from_secs(10), || said(&mut machine.inside("test -e /run/booted")).code == 0);
        machine
    }

    /// A command in the machine.
    fn inside(&self, script: &str) -> Command {
        let pid = self.power.0.id();
        let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let child = child.split_whitespace().next().unwrap_or("0").to_owned();
        let mut command = Command::new("nsenter");
        command.args(["--target", &child, "--mount", "--uts", "--pid", "--net", "--root", "--wd", "/bin/bash", "-euc", script]);
        command.stdin(Stdio::null()).env("PATH", "/usr/sbin:/usr/bin");
        command
    }

    /// What `ingot-installer run` says to a profile.
    fn run(&self, profile: &str) -> Said {
        let mut writing = self.inside("cat > /profile.toml").stdin(Stdio::piped()).spawn().unwrap();
        writing.stdin.take().unwrap().write_all(profile.as_bytes()).unwrap();
        assert!(writing.wait().unwrap().success());
        said(&mut self.inside("exec ingot-installer run --profile /profile.toml"))
    }

    fn is_made(&self, profile: &str) {
        let said = self.run(profile);
        assert!(said.code == 0, "{}: {}\n{}", self.name, said.err, self.logs());
    }

    fn has_address(&self) -> bool {
        let list = said(Command::new("ip").args(["-n", self.name, "-br", "addr", "show", "eth0"]));
        list.out.contains("10.0.0.10/")
    }

    /// Waits until it has the virtual address.
    fn takes_the_address(&self) {
        let begin = Instant::now();
        while !self.has_address() {
            assert!(begin.elapsed() < Duration::from_secs(8), "{} does not take the address:\n{}", self.name, self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        said(&mut self.inside("cat /run/told /run/haproxy.log /run/keepalived.log /etc/haproxy/haproxy.cfg || true")).out
    }

    /// The power is cut: nothing says goodbye, the folder of its state stays.
    fn cut(mut self) {
        self.power.0.kill().unwrap();
        self.power.0.wait().unwrap();
        until(Duration::from_secs(3), || said(Command::new("ip").args(["netns", "pids", self.name])).out.trim().is_empty());
        // What the dead machine's kernel had goes too.
        must(&mut shell(&format!("ip -n {0} addr del 10.0.0.10/24 dev eth0 2>/dev/null || true", self.name)));
        assert!(self.folder.join("state").is_dir());
    }
}

fn installer() -> PathBuf {
    let path =
        std::env::var_os("INGOT_TEST_INSTALLER").map_or_else(|| top().join("target/release/ingot-installer"), PathBuf::from);
    assert!(path.is_file(), "{} is missing: run ci/compile first", path.display());
    path
}

fn until(most: Duration, holds: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < most, "it did not come true within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begin.elapsed()
}

/// A connection over TLS through the virtual address that stays open.
struct Client {
    child: Killed,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Client {
    fn open() -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NET, "openssl", "s_client", "-quiet", "-connect", "10.0.0.10:6443"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok());
        });
        Self { child: Killed(child), input, lines }
    }

    /// Which backend answers; `None` for a connection that is broken.
    fn ask(&mut self) -> Option<String> {
        self.ask_within(Duration::from_millis(1500))
    }

    fn ask_within(&mut self, most: Duration) -> Option<String> {
        let _ = self.input.write_all(b"hello\n");
        let line = self.lines.recv_timeout(most).ok()?;
        line.strip_suffix(" hello").map(str::to_owned)
    }

    fn ended(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_some()
    }
}

/// A new connection. It is given up soon: one to an address that is just moving would wait for TCP to try again.
fn answers() -> Option<String> {
    Client::open().ask_within(Duration::from_millis(500))
}

fn profile(network: &Network, host: u8, backends: &str) -> String {
    let ca = fs::read_to_string(network.folder.path().join("ca.pem")).unwrap();
    let peer = 23 - host;
    format!(
        "schema = 1\n[node]\nname = \"lb-{host}\"\nrole = \"load-balancer\"\n[time]\nwait_secs = 0\n\
         [cluster]\nname = \"site\"\nkind = \"workload\"\nendpoint = \"10.0.0.10:6443\"\nca = \"\"\"\n{ca}\"\"\"\n\
         [load_balancer]\naddresses = [{{ address = \"10.0.0.10/24\" }}]\nmetrics = \"10.0.0.{host}:9101\"\n\
         [load_balancer.vrrp]\nid = 51\npeers = [\"10.0.0.{peer}\"]\n\
         [[load_balancer.frontends]]\nname = \"api\"\nport = 6443\ncheck_millis = 300\nbackends = [{backends}]\n"
    )
}

const BOTH: &str = r#"{ name = "cp-1", address = "10.0.0.21" }, { name = "cp-2", address = "10.0.0.22" }"#;
const DRAINED: &str = r#"{ name = "cp-1", address = "10.0.0.21", weight = 0 }, { name = "cp-3", address = "10.0.0.23" }"#;

#[test]
fn two_balancers_share_an_address_and_keep_connections() {
    let network = Network::new();
    Network::join("lbt-a", 11);
    Network::join("lbt-b", 12);
    let a = Machine::start(&network, "lbt-a");
    let b = Machine::start(&network, "lbt-b");
    a.is_made(&profile(&network, 11, BOTH));
    a.takes_the_address();
    b.is_made(&profile(&network, 12, BOTH));
    until(Duration::from_secs(5), || answers().is_some());
    assert_eq!(said(&mut a.inside("exec ingot-installer check-haproxy")).code, 0, "{}", a.logs());
    listens_only_where_it_should(&a);

    // The standby dies: nobody notices. It comes back, and does not take the address.
    let mut held = Client::open();
    assert!(held.ask().is_some());
    b.cut();
    assert!(held.ask().is_some() && !held.ended());
    let b = Machine::start(&network, "lbt-b");
    b.is_made(&profile(&network, 12, BOTH));
    std::thread::sleep(Duration::from_secs(3));
    assert!(a.has_address() && !b.has_address() && held.ask().is_some());

    // The one with the address dies: the other one answers within 3 s.
    let begin = Instant::now();
    a.cut();
    until(Duration::from_secs(3), || answers().is_some());
    let moved = begin.elapsed();
    eprintln!("the address moved, and was answered, within {moved:?}");
    assert!(moved < Duration::from_secs(3), "{moved:?}");
    let mut held = Client::open();
    let backend = held.ask().unwrap();
    let a = Machine::start(&network, "lbt-a");
    a.is_made(&profile(&network, 11, BOTH));
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.has_address() && !a.has_address(), "nopreempt");
    assert_eq!(held.ask().as_deref(), Some(backend.as_str()));

    another_profile(&network, &b, (&mut held, &backend));
}

/// A backend is drained, one leaves, one comes; then a configuration that HAProxy refuses.
fn another_profile(network: &Network, balancer: &Machine, (held, backend): (&mut Client, &str)) {
    balancer.is_made(&profile(network, 12, DRAINED));
    until(Duration::from_secs(5), || answers().as_deref() == Some("cp-3"));
    for _ in 0..3 {
        assert_eq!(answers().as_deref(), Some("cp-3"), "no new connection to one that is drained or gone");
    }
    assert_eq!(held.ask().as_deref(), Some(backend), "the open connection stays\n{}", balancer.logs());
    let told = said(&mut balancer.inside("cat /run/told")).out;
    assert_eq!(told.matches("keepalived").count(), 2, "only HAProxy is told: {told}");
    balancer.is_made(&profile(network, 12, DRAINED));
    assert_eq!(said(&mut balancer.inside("cat /run/told")).out, told, "nothing changed, nobody is told");

    let text = profile(network, 12, BOTH);
    let (before, rest) = text.split_once("-----BEGIN CERTIFICATE-----\n").unwrap();
    let broken = format!("{before}-----BEGIN CERTIFICATE-----\nMIIB{rest}");
    let said = balancer.run(&broken);
    assert!(said.code == 1 && said.err.contains("INGOT-N0901"), "{} {}", said.code, said.err);
    assert!(said.err.contains("cluster-ca-"), "{}", said.err);
    assert_eq!(answers().as_deref(), Some("cp-3"));
    assert_eq!(held.ask().as_deref(), Some(backend));
}

/// Statistics on the address of the profile, the frontend on the virtual address, and nothing else.
fn listens_only_where_it_should(balancer: &Machine) {
    let list = said(&mut balancer.inside("ss -Hltn | awk '{print $4}' | sort -u")).out;
    assert_eq!(list.lines().collect::<Vec<_>>(), ["10.0.0.10:6443", "10.0.0.11:9101"]);
}

#[test]
fn strangers_keep_a_balancer_from_starting() {
    let network = Network::new();
    Network::join("lbt-c", 13);
    Network::join("lbt-s", 99);
    let text = profile(&network, 11, BOTH).replace("10.0.0.11:9101", "10.0.0.13:9101").replace("id = 51", "id = 77");
    let machine = Machine::start(&network, "lbt-c");
    must(Command::new("ip").args(["-n", "lbt-s", "addr", "add", "10.0.0.10/24", "dev", "eth0"]));
    let mac = must(&mut shell("ip -n lbt-s -br link show eth0")).split_whitespace().nth(2).unwrap().to_owned();
    let told = machine.run(&text);
    assert!(told.code == 75 && told.err.contains("INGOT-N0902") && told.err.contains(&mac), "{} {}", told.code, told.err);
    assert_eq!(said(&mut machine.inside("test -e /run/keepalived.pid")).code, 1);
    must(Command::new("ip").args(["-n", "lbt-s", "addr", "del", "10.0.0.10/24", "dev", "eth0"]));

    let script = Path::new("tests/tests/load_balancer/stranger.py");
    let mut stranger = Command::new("ip");
    stranger.args(["netns", "exec", "lbt-s", "/usr/bin/python3"]).arg(top().join(script)).args(["10.0.0.99", "77"]);
    let stranger = Killed(stranger.spawn().unwrap());
    let told = machine.run(&text);
    assert!(told.code == 75 && told.err.contains("INGOT-N0903") && told.err.contains("10.0.0.99"), "{} {}", told.code, told.err);
    drop(stranger);
    // Nobody is there any more: it serves.
    machine.is_made(&text);
    machine.takes_the_address();
}
