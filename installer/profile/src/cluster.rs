//! `[cluster]`: the cluster this machine belongs to, and how it joins.

use serde::Deserialize;

use crate::address::{Endpoint, Prefix};
use crate::check::{Check, Text};
use crate::document::{Located, quoted};
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
    expected: "one block from `-----BEGIN ... PRIVATE KEY-----` to its end",
    holds: |text| ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"].iter().any(|kind| rules::pem(text, kind)),
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
    let cluster = Cluster {
        name: check.text(&written.name, &rules::NAME),
        kind: written.kind,
        endpoint: Endpoint { host: String::new(), port: 0 },
        kubernetes,
        pod_network: pods?,
        service_network: services?,
        dns_domain: check.optional(written.dns_domain.as_ref(), &rules::DOMAIN).unwrap_or_else(|| "cluster.local".to_owned()),
        ca: check.optional(written.ca.as_ref(), &rules::CERTIFICATES),
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
        joins && role == Role::ControlPlane && written.certificate_key.is_none() && written.ca_key.is_none(),
        "a further control plane needs the certificates of the cluster",
        "add `certificate_key` or `ca_key` to `[cluster.join]`",
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
    }
}
