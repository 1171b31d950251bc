//! Signed profiles for machines of the tests, and what they talk to on this host.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::programs::{cache, ingot, must, tool};

/// A port of this host that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Writes `profile.toml` into `folder` and signs it with the keys the test images trust.
pub fn signed(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("profile.toml");
    fs::write(&path, text).unwrap();
    // The keys are made by the first build; the signature is OpenSSH's, so that its form is not ours alone.
    must(&mut ingot(["keys", "show"]));
    let signature = folder.join("profile.toml.sig");
    let _ = fs::remove_file(&signature);
    must(tool("ssh-keygen", ["-q", "-Y", "sign", "-n", "ingot-profile", "-f"]).arg(cache().join("keys/release")).arg(&path));
    assert!(signature.is_file());
    path
}

/// The profile of a load balancer in QEMU's user network: a virtual address, and one API server, a port of this host.
pub fn balancer(name: &str, authority: &Authority, port: u16, more: &str) -> String {
    let ca = authority.certificate();
    format!(
        r#"schema = 1
serial = 1
[node]
name = "{name}"
role = "load-balancer"
[cluster]
name = "site-a"
kind = "workload"
endpoint = "10.0.2.100:6443"
ca = """
{ca}"""
[time]
wait_secs = 1
[[interface]]
name = "lan"
match = {{ name = "e*" }}
addresses = ["10.0.2.15/24"]
gateways = ["10.0.2.2"]
[load_balancer]
addresses = [{{ address = "10.0.2.100/24" }}]
metrics = "10.0.2.15:9101"
[load_balancer.vrrp]
id = 51
peers = ["10.0.2.16"]
[[load_balancer.frontends]]
name = "api"
port = 6443
backends = [{{ name = "cp-1", address = "10.0.2.2", port = {port} }}]
{more}"#
    )
}

/// A CA and a server certificate for `10.0.2.2` (this host, as QEMU's machines see it) and `127.0.0.1`.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Made in this folder.
    pub fn new(folder: &Path) -> Self {
        let script = r#"cd "$1"
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -key ca.key -days 3650 -subj /CN=test-ca -out ca.crt -addext basicConstraints=critical,CA:TRUE \
                -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test-server -keyout server.key -out server.csr
            printf 'subjectAltName=IP:10.0.2.2,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >server.ext
            openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.crt"#;
        must(tool("bash", ["-euc", script, "authority"]).arg(folder));
        Self { folder: folder.to_owned() }
    }

    /// The CA's certificate, PEM.
    pub fn certificate(&self) -> String {
        fs::read_to_string(self.folder.join("ca.crt")).unwrap()
    }

    /// The CA's private key, PEM (SEC 1: kubeadm takes an EC key in no other form).
    pub fn key(&self) -> String {
        fs::read_to_string(self.folder.join("ca.key")).unwrap()
    }

    /// `sha256:` and the digest of the CA's public key, as kubeadm writes it.
    pub fn pin(&self) -> String {
        let script = r#"openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum"#;
        let said = must(tool("bash", ["-euc", script, "pin"]).arg(self.folder.join("ca.crt")));
        format!("sha256:{}", said.split(' ').next().unwrap())
    }

    /// A TLS server of `folder`'s files; without one it answers 200 to everything.
    pub fn serve(&self, port: u16, folder: Option<&Path>) -> Server {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept"]).arg(format!("127.0.0.1:{port}"));
        for (option, file) in [("-cert", "server.crt"), ("-key", "server.key"), ("-cert_chain", "ca.crt")] {
            command.arg(option).arg(self.folder.join(file));
        }
        match folder {
            Some(folder) => command.arg("-WWW").current_dir(folder),
            None => command.arg("-www"),
        };
        Server(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("openssl starts"))
    }
}

/// A server that ends with its test.
#[derive(Debug)]
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
