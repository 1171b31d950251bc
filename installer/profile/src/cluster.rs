//! `[cluster]`: the cluster this machine belongs to, and how it joins.

use serde::Deserialize;

use crate::address::{Endpoint, Prefix};
use crate::api_server::{self, ApiServer};
use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::management::{self, Management, Registrar, WrittenManagement, WrittenRegistrar};
use crate::node::Role;
use crate::rule::Rule;
use crate::rules;
use crate::secret::SecretSource;

/// What a cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It manages the workload clusters of a site.
    Management,
    /// It runs workloads.
    Workload,
}

/// Who connects the pods of different nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Cni {
    /// A bridge on each node, for nodes that share one network.
    #[default]
    Bridge,
    /// Add-on manifests bring their own.
    None,
}

/// `[cluster]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Cluster"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Name of the cluster. Lower-case letters, digits and `-`, at most 63.
    pub name: Text,
    /// What it is for.
    pub kind: Kind,
    /// Where the API is reached: the virtual address or its DNS name, and the port: `10.0.0.10:6443`.
    pub endpoint: Text,
    /// Kubernetes version: `1.33.2`. Must be the version in the image.
    pub kubernetes: Option<Text>,
    /// Network of the pods; `10.244.0.0/16` by default.
    pub pod_network: Option<Text>,
    /// Network of the services; `10.96.0.0/12` by default.
    pub service_network: Option<Text>,
    /// DNS domain of the services; `cluster.local` by default.
    pub dns_domain: Option<Text>,
    /// Certificate of the cluster's CA, PEM. The load balancer checks API servers against it.
    pub ca: Option<Text>,
    /// Network of the pods: `bridge`, for nodes that share one network, or `none`, where an add-on brings one; `bridge` by default.
    pub cni: Option<Cni>,
    /// Key under which etcd keeps Secrets encrypted (secretbox): 32 bytes in base64, the same on all control planes. A secret; control planes only, from the making of the cluster on.
    pub encryption_key: Option<Located<SecretSource>>,
    /// Token by which load balancers read Services and Nodes: 32 to 128 letters, digits, `-` and `_`, the same on all control planes and load balancers of the cluster. A secret.
    pub load_balancer_token: Option<Located<SecretSource>>,
    /// Settings of the API server; control planes only, the same on all of them.
    pub api_server: Option<Located<api_server::Written>>,
    /// Where this workload cluster registers; control planes only, nowhere by default.
    pub management: Option<WrittenManagement>,
    /// How workload clusters register at this management cluster; control planes only, they do not by default.
    pub registrar: Option<WrittenRegistrar>,
    /// How the machine joins. Required on every role but the load balancer.
    pub join: Option<WrittenJoin>,
}

/// `[cluster.join]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Join"))]
#[serde(deny_unknown_fields)]
pub struct WrittenJoin {
    /// Whether this machine makes the cluster (`true` on one control plane only) or joins it; `false` by default.
    #[serde(default)]
    pub first: bool,
    /// Bootstrap token, `[a-z0-9]{6}.[a-z0-9]{16}`. A secret.
    pub token: Option<Located<SecretSource>>,
    /// Pins of the cluster's CA: `sha256:` and 64 hexadecimal digits over its public key.
    #[serde(default)]
    pub ca_pins: Vec<Text>,
    /// Key that opens the control plane's certificates kept in the cluster, 64 hexadecimal digits. A secret; control planes only.
    pub certificate_key: Option<Located<SecretSource>>,
    /// Private key of the cluster's CA, PEM. A secret; control planes only, for clusters whose CA is made beforehand.
    pub ca_key: Option<Located<SecretSource>>,
    /// Seconds the machine waits for the cluster's API before it gives up (and then tries again from the start); 1800 by default, 10 to 86400.
    pub wait_secs: Option<Located<u32>>,
}

/// The cluster this machine belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Where its API is reached.
    pub endpoint: Endpoint,
    /// Version, where the profile says it.
    pub kubernetes: Option<Version>,
    /// Network of the pods.
    pub pod_network: Prefix,
    /// Network of the services.
    pub service_network: Prefix,
    /// DNS domain of the services.
    pub dns_domain: String,
    /// Certificates of the cluster's CA, PEM.
    pub ca: Option<String>,
    /// Who connects pods.
    pub cni: Cni,
    /// Key of Secrets in etcd.
    pub encryption_key: Option<SecretSource>,
    /// Token of load balancers.
    pub load_balancer_token: Option<SecretSource>,
    /// Settings of the API server.
    pub api_server: ApiServer,
    /// Where it registers.
    pub management: Option<Management>,
    /// How others register here.
    pub registrar: Option<Registrar>,
    /// How the machine joins.
    pub join: Option<Join>,
}

/// How a machine joins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Join {
    /// It makes the cluster.
    pub first: bool,
    /// Bootstrap token.
    pub token: Option<SecretSource>,
    /// Pins of the cluster's CA.
    pub ca_pins: Vec<String>,
    /// Opens the control plane's certificates.
    pub certificate_key: Option<SecretSource>,
    /// Private key of the CA.
    pub ca_key: Option<SecretSource>,
    /// Seconds the API is waited for.
    pub wait_secs: u32,
}

/// A Kubernetes version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 1 until there is another.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch level.
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl std::str::FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: Option<&str>| -> Result<u32, ()> {
            let part =
                part.filter(|part| part.len() <= 4 && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).ok_or(())?;
            part.parse().map_err(|_| ())
        };
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let version = Self { major: number(parts.next())?, minor: number(parts.next())?, patch: number(parts.next())? };
        if parts.next().is_none() && version.major == 1 { Ok(version) } else { Err(()) }
    }
}

const VERSION: Rule = Rule {
    what: "Kubernetes version",
    expected: "three numbers such as `1.33.2`",
    holds: |text| text.parse::<Version>().is_ok(),
};

const CA_KEY: Rule = Rule {
    what: "PEM private key",
    expected: "one block from `-----BEGIN ... PRIVATE KEY-----` to its end: an RSA key, or an EC key as `openssl ec -in KEY` writes it",
    holds: |text| ["EC PRIVATE KEY", "RSA PRIVATE KEY"].iter().any(|kind| rules::pem(text, kind)) || pkcs8_rsa(text),
};

/// kubeadm takes RSA keys alone in this form (RFC 5208: the kind of the key stands first).
fn pkcs8_rsa(text: &str) -> bool {
    let body: String =
        text.lines().filter(|line| !line.starts_with("-----")).flat_map(|line| line.trim().chars()).take(48).collect();
    rules::pem(text, "PRIVATE KEY") && body.contains("qhkiG9w0BAQEF")
}

const ENCRYPTION_KEY: Rule = Rule {
    what: "key",
    expected: "32 bytes in base64: 43 letters, digits, `+`, `/` and one `=`",
    holds: |text| {
        text.len() == 44
            && text
                .strip_suffix('=')
                .is_some_and(|rest| crate::rule::only(rest, 43, |c| crate::rule::alnum(c) || c == '+' || c == '/'))
    },
};

pub(crate) const BALANCER_TOKEN: Rule = Rule {
    what: "token",
    expected: "32 to 128 letters, digits, `-` and `_`",
    holds: |text| text.len() >= 32 && crate::rule::only(text, 128, |c| crate::rule::alnum(c) || c == '-' || c == '_'),
};

pub(crate) fn check(check: &mut Check<'_>, written: &Written, role: Role) -> Option<Cluster> {
    let endpoint = check.endpoint(&written.endpoint);
    let kubernetes = check.optional(written.kubernetes.as_ref(), &VERSION).and_then(|text| text.parse().ok());
    let mut network = |text: &Option<Text>, default: &str| match text {
        Some(text) => check.network(text),
        None => default.parse().ok(),
    };
    let (pods, services) = (network(&written.pod_network, "10.244.0.0/16"), network(&written.service_network, "10.96.0.0/12"));
    let place = [&written.pod_network, &written.service_network].into_iter().flatten().map(Located::place).next();
    if let (Some(pods), Some(services), Some(place)) = (pods, services, place)
        && pods.overlaps(&services)
    {
        check.faults.add(place, format!("the network of the pods {pods} and that of the services {services} overlap"));
    }
    if role.is_node() && written.join.is_none() && check.whole {
        let hint = "add `[cluster.join]` with `token` and `ca_pins`, or with `first = true` on the first control plane";
        check.faults.add_with_hint(written.name.place(), "nothing says how this machine joins its cluster", hint);
    }
    let api_server = api_server::check(check, written.api_server.as_ref(), role);
    if let Some(key) = written.encryption_key.as_ref().filter(|_| role != Role::ControlPlane) {
        check.faults.add(key.place(), format!("`encryption_key` is for control planes only: a {} must not have it", role.name()));
    }
    let balances = matches!(role, Role::ControlPlane | Role::LoadBalancer);
    if let Some(token) = written.load_balancer_token.as_ref().filter(|_| !balances) {
        let message =
            format!("`load_balancer_token` is for control planes and load balancers: a {} must not have it", role.name());
        check.faults.add(token.place(), message);
    }
    let cluster = Cluster {
        name: check.text(&written.name, &rules::NAME),
        kind: written.kind,
        endpoint: Endpoint { host: String::new(), port: 0 },
        kubernetes,
        pod_network: pods?,
        service_network: services?,
        dns_domain: check.optional(written.dns_domain.as_ref(), &rules::DOMAIN).unwrap_or_else(|| "cluster.local".to_owned()),
        ca: check.optional(written.ca.as_ref(), &rules::CERTIFICATES),
        cni: written.cni.unwrap_or_default(),
        encryption_key: written.encryption_key.as_ref().map(|key| check.secret(key, &ENCRYPTION_KEY)),
        load_balancer_token: written.load_balancer_token.as_ref().map(|token| check.secret(token, &BALANCER_TOKEN)),
        api_server,
        management: written.management.as_ref().and_then(|one| management::management(check, one, written.kind, role)),
        registrar: written.registrar.as_ref().map(|one| management::registrar(check, one, written.kind, role)),
        join: written.join.as_ref().map(|join| check_join(check, join, written, role)),
    };
    Some(Cluster { endpoint: endpoint?, ..cluster })
}

fn check_join(check: &mut Check<'_>, written: &WrittenJoin, cluster: &Written, role: Role) -> Join {
    let place = cluster.name.place();
    let mut refuse = |wrong: bool, message: &'static str, hint: &'static str| {
        if wrong && check.whole {
            check.faults.add_with_hint(place, message, hint);
        }
    };
    refuse(
        written.first && role != Role::ControlPlane,
        "only a control plane can be the first of a cluster",
        "leave `first` out",
    );
    refuse(role == Role::LoadBalancer, "a load balancer does not join a cluster", "leave `[cluster.join]` out");
    let joins = !written.first && role.is_node();
    refuse(joins && written.token.is_none(), "joining a cluster takes a bootstrap token", "add `token` to `[cluster.join]`");
    refuse(
        joins && written.ca_pins.is_empty() && cluster.ca.is_none(),
        "nothing says by what the cluster is recognised",
        "add `ca_pins` to `[cluster.join]`, or `ca` to `[cluster]`: without them anybody could answer",
    );
    refuse(
        joins && role == Role::ControlPlane && written.certificate_key.is_none(),
        "a further control plane needs the certificates of the cluster",
        "add `certificate_key` to `[cluster.join]`, the same as that of the first control plane",
    );
    refuse(
        written.first && (cluster.ca.is_some() != written.ca_key.is_some()),
        "a CA that is made beforehand is a certificate and its key",
        "add both `ca` to `[cluster]` and `ca_key` to `[cluster.join]`, or neither",
    );
    for (name, key) in [("certificate_key", &written.certificate_key), ("ca_key", &written.ca_key)] {
        if let Some(key) = key.as_ref().filter(|_| role != Role::ControlPlane) {
            check
                .faults
                .add(key.place(), format!("`{name}` is for control planes only: a {} must not have it", quoted(role.name())));
        }
    }
    check.twice("pin", &written.ca_pins);
    Join {
        first: written.first,
        token: written.token.as_ref().map(|token| check.secret(token, &rules::TOKEN)),
        ca_pins: check.list(&written.ca_pins, &rules::CA_PIN),
        certificate_key: written.certificate_key.as_ref().map(|key| check.secret(key, &rules::CERTIFICATE_KEY)),
        ca_key: written.ca_key.as_ref().map(|key| check.secret(key, &CA_KEY)),
        wait_secs: check.number(written.wait_secs.as_ref(), "wait_secs", 10..=86400, 1800),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_kubeadm_takes() {
        let key = |kind: &str, body: &str| format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n");
        for (kind, body, taken) in [
            ("EC PRIVATE KEY", "MHcCAQEEIBs", true),
            ("RSA PRIVATE KEY", "MIIEpAIBAAKCAQEA", true),
            ("PRIVATE KEY", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ", true),
            ("PRIVATE KEY", "MIIJQgIBADANBgkqhkiG9w0BAQEFAASCCSwwggkoAgEAAoICAQ", true),
            ("PRIVATE KEY", "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg", false),
            ("PRIVATE KEY", "MC4CAQAwBQYDK2VwBCIEIA", false),
            ("CERTIFICATE", "MIIB", false),
        ] {
            assert_eq!(CA_KEY.holds(&key(kind, body)), taken, "{kind} {body}");
        }
    }
}
