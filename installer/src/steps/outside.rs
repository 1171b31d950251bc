//! How the machine reaches what is outside (DNS, registries, proxy), and the further files of a profile.

use std::collections::BTreeMap;
use std::fmt::Write;

use profile::Profile;
use profile::files::{Content, File};
use profile::network::Network;
use profile::registry::{Proxy, Registry};

use super::accounts::{self, number};
use super::files::{Files, Wanted};
use super::{How, UnitAction};
use crate::facts::Accounts;
use crate::failure::Result;
use crate::machine::Attributes;
use crate::secrets::Secrets;

/// DNS for all interfaces: resolved.
pub fn dns(network: &Network) -> Files {
    let folder = "/etc/systemd/resolved.conf.d";
    let mut text = "# Made by ingot-installer.\n[Resolve]\n".to_owned();
    let servers: Vec<String> = network.dns.iter().map(ToString::to_string).collect();
    if !servers.is_empty() {
        // `~.`: these are asked for everything, those of an interface for its own domains only.
        let domains: Vec<&str> = network.search.iter().map(String::as_str).chain(["~."]).collect();
        text += &format!("DNS={}\nFallbackDNS=\nDomains={}\n", servers.join(" "), domains.join(" "));
    } else if !network.search.is_empty() {
        text += &format!("Domains={}\n", network.search.join(" "));
    }
    let none = servers.is_empty() && network.search.is_empty();
    let files = if none { vec![] } else { vec![Wanted::public(format!("{folder}/50-ingot.conf"), text)] };
    Files::of(files).sweep(folder, "50-ingot").tell(UnitAction::new(How::Restart, "systemd-resolved.service"))
}

/// containerd's hosts.toml of each registry; it is read at each pull, so nobody is told.
///
/// # Errors
/// A password is missing.
pub fn registries(registries: &[Registry], secrets: &Secrets) -> Result<Files> {
    let mut files = Files { list: Some("/run/ingot/registries"), ..Files::default() };
    for registry in registries {
        let name = if registry.host == "*" { "_default" } else { registry.host.as_str() };
        // containerd(8) takes `_PORT_` for a port, as `:` may not stand in some file names.
        let folder = format!("/etc/containerd/certs.d/{}", folder_name(name));
        if let Some(ca) = &registry.ca {
            files.files.push(Wanted::public(format!("{folder}/ca.crt"), ca.as_str()));
        }
        let content = hosts_toml(registry, &folder, secrets)?;
        let path = format!("{folder}/hosts.toml");
        files.files.push(if registry.login.is_some() { Wanted::private(path, content) } else { Wanted::public(path, content) });
    }
    Ok(files)
}

/// `host:5000` is the folder `host_5000_`.
fn folder_name(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => format!("{name}_{port}_"),
        _ => host.to_owned(),
    }
}

fn hosts_toml(registry: &Registry, folder: &str, secrets: &Secrets) -> Result<String> {
    let mut text = "# Made by ingot-installer.\n".to_owned();
    let upstream = match registry.host.as_str() {
        "*" => None,
        "docker.io" => Some("https://registry-1.docker.io".to_owned()),
        host => Some(format!("https://{host}")),
    };
    if let Some(upstream) = upstream.as_ref().filter(|_| !registry.mirrors_only) {
        let _ = writeln!(text, "server = {upstream:?}");
    }
    let header = match &registry.login {
        Some((name, password)) => {
            let both = profile::secret::Secret::new(format!("{name}:{}", secrets.get(password)?.expose()));
            Some(base64(both.expose().as_bytes()))
        }
        None => None,
    };
    // Without a mirror the registry itself is the one with the CA and the login.
    let own = upstream.into_iter().filter(|_| registry.mirrors.is_empty() && (registry.ca.is_some() || header.is_some()));
    for host in registry.mirrors.iter().cloned().chain(own) {
        let _ = writeln!(text, "\n[host.{host:?}]\n  capabilities = [\"pull\", \"resolve\"]");
        if registry.ca.is_some() {
            let _ = writeln!(text, "  ca = \"{folder}/ca.crt\"");
        }
        if let Some(header) = &header {
            let _ = writeln!(text, "  [host.{host:?}.header]\n    Authorization = [\"Basic {header}\"]");
        }
    }
    Ok(text)
}

/// Base64 (RFC 4648 section 4) with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0_usize, |group, at| group << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS.get(group >> (18 - 6 * at) & 63).copied().unwrap_or(b'=');
            text.push(if at > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

/// The programs that fetch.
const FETCHERS: [&str; 2] = ["containerd.service", "kubelet.service"];

/// The proxy, for the units that fetch.
///
/// # Errors
/// The password is missing.
pub fn proxy(profile: &Profile, secrets: &Secrets) -> Result<Files> {
    let mut files = Files { list: Some("/run/ingot/proxy"), ..Files::default() };
    let units: &[&str] = if profile.node.role.is_node() { &FETCHERS } else { &[] };
    if let Some(proxy) = &profile.proxy {
        let none_for = none_for(profile, proxy);
        let mut text = "# Made by ingot-installer.\n".to_owned();
        for (name, url) in [("HTTP_PROXY", &proxy.http), ("HTTPS_PROXY", &proxy.https)] {
            let _ = writeln!(text, "{name}={}", with_login(url, proxy, secrets)?);
        }
        let _ = writeln!(text, "NO_PROXY={}", none_for.join(","));
        for unit in units {
            // A file of its own: what stands in a unit, `systemctl show` tells to everybody.
            let file = format!("/etc/systemd/system/{unit}.d/50-ingot-proxy");
            let unit = format!("# Made by ingot-installer.\n[Service]\nEnvironmentFile={file}.env\n");
            files.files.push(Wanted::private(format!("{file}.env"), text.clone()));
            files.files.push(Wanted::public(format!("{file}.conf"), unit));
        }
    }
    for unit in units {
        files = files.tell(UnitAction::new(How::ReadUnits, "")).tell(UnitAction::new(How::Restart, unit));
    }
    Ok(files)
}

fn with_login(url: &str, proxy: &Proxy, secrets: &Secrets) -> Result<String> {
    let (Some((name, password)), Some((scheme, rest))) = (&proxy.login, url.split_once("://")) else { return Ok(url.to_owned()) };
    Ok(format!("{scheme}://{}:{}@{rest}", percent(name), percent(secrets.get(password)?.expose())))
}

/// RFC 3986 section 2.1: all but the unreserved characters.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Those of the profile, the machine itself, and the networks it is in.
pub(crate) fn none_for(profile: &Profile, proxy: &Proxy) -> Vec<String> {
    let mut all = proxy.none_for.clone();
    all.extend(["localhost", "127.0.0.0/8", "::1"].map(str::to_owned));
    all.extend(profile.network.interfaces.iter().flat_map(|interface| &interface.addresses).map(ToString::to_string));
    if let Some(cluster) = &profile.cluster {
        all.extend([cluster.endpoint.host.clone(), ".svc".to_owned(), format!(".{}", cluster.dns_domain)]);
        all.extend([cluster.pod_network, cluster.service_network].map(|network| network.to_string()));
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|entry| seen.insert(entry.clone()));
    all
}

/// The further files of a profile.
///
/// # Errors
/// A secret or an owner does not exist.
pub fn further(files: &[File], secrets: &Secrets, (accounts, users): (&Accounts, &BTreeMap<String, u32>)) -> Result<Files> {
    let mut wanted = Files { list: Some("/run/ingot/files"), ..Files::default() };
    for file in files {
        let content = match &file.content {
            Content::Text(text) => profile::secret::Secret::new(text.clone()),
            Content::Secret(source) => secrets.get(source)?.clone(),
        };
        let owner = |name: &str, text: &str| number(name, text, users).map_err(|e| e.context(format!("the file {}", file.path)));
        let attributes = Attributes {
            mode: file.mode,
            uid: if file.owner == "root" { 0 } else { owner(&file.owner, &accounts.passwd)? },
            gid: if file.group == "root" { 0 } else { owner(&file.group, &accounts.group)? },
        };
        wanted.files.push(Wanted { path: file.path.clone(), content, attributes });
    }
    Ok(wanted)
}

/// What the machine keeps of an accepted profile.
#[derive(Clone)]
pub struct Keep {
    /// The profile's text.
    pub profile: String,
    /// Its signature.
    pub signature: Option<String>,
    /// The note of [`crate::verify::former::FORMER`].
    pub former: String,
    /// The note of [`crate::verify::identity::IDENTITY`].
    pub identity: String,
}

impl std::fmt::Debug for Keep {
    /// Without the profile: it may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keep(..)")
    }
}

impl Keep {
    /// Its files. The signature first: bytes without it would not be taken.
    pub fn files(&self) -> Files {
        let path = crate::find::KEPT;
        let signature = self.signature.iter().map(|text| Wanted::private(format!("{path}.sig"), text.as_str()));
        let mut files: Vec<Wanted> = signature.collect();
        files.push(Wanted::private(path, self.profile.as_str()));
        files.push(Wanted::private(crate::verify::former::FORMER, self.former.as_str()));
        files.push(Wanted::private(crate::verify::identity::IDENTITY, self.identity.as_str()));
        Files::of(files)
    }
}

/// The numbers of the profile's users, for [`further`].
pub fn users(profile: &Profile) -> BTreeMap<String, u32> {
    accounts::numbers(&profile.access)
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn what_urls_and_file_names_would_misread() {
        assert_eq!(super::percent("p@ss:w/rd"), "p%40ss%3Aw%2Frd");
        assert_eq!(super::folder_name("10.0.0.2:5000"), "10.0.0.2_5000_");
        assert_eq!(super::folder_name("registry.k8s.io"), "registry.k8s.io");
    }
}
