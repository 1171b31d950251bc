//! The plan of a cluster in a [`Network`]: profiles of its machines, and the machines made of them.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fixture::scratch;
use crate::network::Network;
use crate::node::Node;
use crate::profiles::{Authority, signed};

/// How kubectl is called on a control plane.
pub const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
/// Bootstrap token of clusters here.
pub const TOKEN: &str = "abcdef.0123456789abcdef";
/// How etcdctl is called on a control plane.
pub const ETCDCTL: &str = "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
    --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key";
/// Opens the certificates kept in the cluster.
const CERTIFICATE_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Members of etcd that are well, as the member of this machine sees it.
///
/// # Panics
/// When the tools of this machine do not start.
#[must_use]
pub fn members(plane: &Node) -> usize {
    let said = plane.run(&format!("{ETCDCTL} endpoint health --cluster 2>&1 | grep -c 'is healthy'"));
    said.out.trim().parse().unwrap_or_default()
}

/// Waits until so many nodes are Ready, as the API tells this control plane; gives how long that took.
///
/// # Panics
/// When they are not within `seconds`.
pub fn nodes_ready(plane: &mut Node, count: usize, seconds: u64) -> Duration {
    plane.wait_for(&format!("[ $({KUBECTL} get nodes --no-headers | grep -c ' Ready ') = {count} ]"), seconds)
}

/// See the module. Machines are `10.77.0.OWN`.
#[derive(Debug)]
pub struct Plan {
    /// The network its machines are in.
    pub network: Network,
    /// Where its API is: HOST:PORT.
    pub endpoint: String,
    /// The CA that is made beforehand.
    pub authority: Authority,
    folder: tempfile::TempDir,
    starts: Cell<u32>,
}

impl Plan {
    /// A cluster with its API at `endpoint`, in a network of its own.
    ///
    /// # Panics
    /// When the machine's tools do not do it.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        let folder = scratch();
        let authority = Authority::new(folder.path());
        Self { network: Network::new(), endpoint: endpoint.to_owned(), authority, folder, starts: Cell::new(0) }
    }

    /// Profile of a control plane; `first` makes the cluster. `more` stands in `[cluster]`.
    #[must_use]
    pub fn plane(&self, own: u8, first: bool, more: &str) -> String {
        let (ca, key) = (self.authority.certificate(), self.authority.key());
        let cluster = format!("ca = '''\n{ca}'''\nload_balancer_token = \"balancer-0123456789-0123456789-0123\"\n{more}");
        let key = if first { format!("first = true\nca_key = '''\n{key}'''\n") } else { self.pins() };
        let join = format!("certificate_key = \"{CERTIFICATE_KEY}\"\n{key}");
        self.node(&format!("cp-{own}"), "control-plane", own, &cluster, &join)
    }

    /// Profile of a worker.
    #[must_use]
    pub fn worker(&self, own: u8) -> String {
        self.node(&format!("w-{own}"), "linux-worker", own, "", &self.pins())
    }

    fn pins(&self) -> String {
        format!("ca_pins = [\"{}\"]\n", self.authority.pin())
    }

    fn node(&self, name: &str, role: &str, own: u8, cluster: &str, join: &str) -> String {
        format!(
            r#"{}labels = {{ "example.org/pool" = "tests" }}
[kubelet]
node_address = "10.77.0.{own}"
{}{cluster}
[cluster.join]
token = "{TOKEN}"
{join}"#,
            Self::head(own),
            self.cluster(),
        )
        .replace("NAME", name)
        .replace("ROLE", role)
    }

    /// Profile of a load balancer, one of a pair: the control planes `planes` behind the address of the endpoint.
    #[must_use]
    pub fn balancer(&self, own: u8, peer: u8, planes: &[u8], more: &str) -> String {
        let (host, port) = self.endpoint.split_once(':').expect("HOST:PORT");
        let backends: Vec<_> =
            planes.iter().map(|plane| format!("{{ name = \"cp-{plane}\", address = \"10.77.0.{plane}\" }}")).collect();
        format!(
            r#"{}{}ca = '''
{}'''
[load_balancer]
addresses = [{{ address = "{host}/24" }}]
{more}
[load_balancer.vrrp]
id = 51
peers = ["10.77.0.{peer}"]
[[load_balancer.frontends]]
name = "api"
port = {port}
check_millis = 500
backends = [{}]
"#,
            Self::head(own),
            self.cluster(),
            self.authority.certificate(),
            backends.join(", ")
        )
        .replace("NAME", &format!("lb-{own}"))
        .replace("ROLE", "load-balancer")
    }

    fn cluster(&self) -> String {
        format!("[cluster]\nname = \"tests\"\nkind = \"workload\"\nendpoint = \"{}\"\n", self.endpoint)
    }

    fn head(own: u8) -> String {
        format!(
            r#"schema = 1
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["10.77.0.{own}/24"]
gateways = ["10.77.0.1"]
[node]
name = "NAME"
role = "ROLE"
"#
        )
    }

    /// Signs a profile with the keys that images of tests trust.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn signed(&self, text: &str) -> PathBuf {
        self.starts.set(self.starts.get() + 1);
        let own = self.folder.path().join(self.starts.get().to_string());
        fs::create_dir(&own).unwrap();
        signed(&own, text)
    }

    /// Starts a machine with this profile, and does not wait.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(&self, name: &str, release: &Path, text: &str) -> Node {
        Node::start(&self.network, name, release, Some(&self.signed(text)))
    }
}
