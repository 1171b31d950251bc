//! Real Kubernetes for tests: the repository and the registry that `ci/kubernetes serve` offers, and releases of the
//! cluster's roles made from them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fixture::{definitions, scratch};
use crate::programs::{cache, ingot, must, tool, top};

/// The Kubernetes of the repository.
pub const VERSION: &str = "1.20";
/// The registry that its images are named after.
pub const REGISTRY: &str = "k8s.gcr.io";
/// Making it takes about ten minutes where nothing is there yet.
const PATIENCE: Duration = Duration::from_secs(1500);

/// Repository and registry, served as long as this lives.
#[derive(Debug)]
pub struct Upstream {
    process: Child,
    folder: tempfile::TempDir,
}

impl Upstream {
    /// Makes what is missing and serves it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes something outside of the process")]
    pub fn new() -> Self {
        let folder = scratch();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(top().join("ci/kubernetes"));
        command.arg("serve").arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut upstream = Self { process: command.spawn().expect("ci/kubernetes starts"), folder };
        let started = Instant::now();
        while !upstream.folder.path().join("endpoints").exists() {
            let ended = upstream.process.try_wait().unwrap();
            let said = || fs::read_to_string(upstream.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "ci/kubernetes ended:\n{}", said());
            assert!(started.elapsed() < PATIENCE, "ci/kubernetes serves nothing:\n{}", said());
            sleep(Duration::from_millis(100));
        }
        upstream
    }

    /// The value of a line of `endpoints`: `repository`, `key`, `registry`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> String {
        let text = fs::read_to_string(self.folder.path().join("endpoints")).unwrap();
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        text.lines().find_map(of).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Arguments for `ingot lock` and `ingot build`. As mirrors the ports of this run leave no trace in lock and image.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mirror = format!("kubernetes={}", self.endpoint("repository"));
        let registry = format!("{REGISTRY}=http://{}", self.endpoint("registry"));
        let mut arguments = self.without_network();
        arguments.extend(["--mirror".to_owned(), mirror, "--registry".to_owned(), registry]);
        arguments
    }

    /// The same without what is only needed to fetch.
    #[must_use]
    pub fn without_network(&self) -> Vec<String> {
        let key = format!("kubernetes={}", self.endpoint("key"));
        ["--kubernetes", VERSION, "--repository-key", &key].map(str::to_owned).to_vec()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // The end of its standard input is what it ends at.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Release folders of the control plane and the worker, made in one go by the first test that asks.
///
/// # Panics
/// When they cannot be built.
#[must_use]
pub fn releases(upstream: &Upstream) -> [PathBuf; 2] {
    let folder = cache().join("releases").join("kubernetes");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.with_extension("busy")).unwrap();
    lock.lock().unwrap();
    let definitions = definitions();
    let roles = ["control-plane", "linux-worker"].map(|role| definitions.join(format!("{role}.toml")));
    must(ingot(["build", "--quiet"]).args(&roles).args(upstream.arguments()).arg("--output").arg(&folder));
    ["control-plane", "linux-worker"].map(|role| folder.join(role))
}

/// The release folder of one definition with Kubernetes, as [`releases`].
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn release(upstream: &Upstream, name: &str) -> PathBuf {
    let folder = cache().join("releases").join(name);
    fs::create_dir_all(cache().join("releases")).unwrap();
    let lock = File::create(folder.with_extension("busy")).unwrap();
    lock.lock().unwrap();
    must(ingot(["build", "--quiet"]).arg(definition(name)).args(upstream.arguments()).arg("--output").arg(&folder));
    folder
}

/// A program of the Kubernetes that the packages are made of.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    cache().join("kubernetes/bin").join(name)
}

/// The definition of a role among the shipped ones.
#[must_use]
pub fn definition(role: &str) -> PathBuf {
    definitions().join(Path::new(role).with_extension("toml"))
}

/// The CA that is made beforehand.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// The digest of its public key.
    pub pin: String,
}

impl Authority {
    /// Made in this folder.
    ///
    /// # Panics
    /// When openssl does not start.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let script = r#"cd "$1"
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -key ca.key -days 3650 -subj /CN=kubernetes -out ca.crt -addext basicConstraints=critical,CA:TRUE \
                -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign
            openssl x509 -in ca.crt -pubkey -noout | openssl pkey -pubin -outform der | sha256sum | cut -c1-64 >pin"#;
        must(tool("bash", ["-euc", script, "authority"]).arg(folder));
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        Self { certificate: read("ca.crt"), key: read("ca.key"), pin: read("pin").trim().to_owned() }
    }
}
