//! `[cluster.api_server]`: what the API server of a control plane is told beyond kubeadm's own settings.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::node::Role;
use crate::rule::Rule;
use crate::rules;

/// `[cluster.api_server]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "ApiServer"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Further names and addresses in its certificate; the endpoint, the node and its address are there by themselves.
    #[serde(default)]
    pub names: Vec<Text>,
    /// Audit policy: the text of an `audit.k8s.io/v1` Policy. The log is /var/log/kubernetes/audit.log, kept for 30 days and 1 GB at most; no audit by default.
    pub audit_policy: Option<Text>,
    /// Further arguments, without `--`.
    #[serde(default)]
    pub arguments: BTreeMap<Text, Text>,
}

/// Settings of the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiServer {
    /// Further names in its certificate.
    pub names: Vec<String>,
    /// Audit policy.
    pub audit_policy: Option<String>,
    /// Further arguments.
    pub arguments: BTreeMap<String, String>,
}

/// How the arguments begin that kubeadm or the installer sets.
const OWN_ARGUMENTS: [&str; 16] = [
    "advertise-address",
    "allow-privileged",
    "anonymous-auth",
    "audit-",
    "authorization-mode",
    "bind-address",
    "client-ca-file",
    "enable-bootstrap-token-auth",
    "encryption-provider-config",
    "etcd-",
    "insecure-",
    "secure-port",
    "service-account-",
    "service-cluster-ip-range",
    "tls-",
    "token-auth-file",
];

const NAME: Rule = Rule {
    what: "name in a certificate",
    expected: "a DNS name or an address",
    holds: |text| rules::DOMAIN.holds(text) || text.parse::<std::net::IpAddr>().is_ok(),
};

const POLICY: Rule = Rule {
    what: "audit policy",
    expected: "a document with `apiVersion: audit.k8s.io/v1` and `kind: Policy`, at most 64 KiB",
    holds: |text| {
        let has = |line: &str| text.lines().any(|other| other.trim_end() == line);
        let binary = |letter: char| letter.is_control() && !['\n', '\r', '\t'].contains(&letter);
        text.len() <= 64 << 10 && !text.contains(binary) && has("apiVersion: audit.k8s.io/v1") && has("kind: Policy")
    },
};

pub(crate) fn check(check: &mut Check<'_>, written: Option<&Located<Written>>, role: Role) -> ApiServer {
    let Some(written) = written else { return ApiServer::default() };
    if role != Role::ControlPlane {
        let message = format!("a {} has no API server", role.name());
        check.faults.add_with_hint(written.place(), message, "leave `[cluster.api_server]` out");
    }
    let own = |name: &str| OWN_ARGUMENTS.iter().any(|own| name == *own || (own.ends_with('-') && name.starts_with(own)));
    for name in written.arguments.keys().filter(|name| own(name)) {
        check.faults.add(name.place(), format!("the argument {} is set by kubeadm or the installer", quoted(name)));
    }
    check.twice("name", &written.names);
    ApiServer {
        names: check.list(&written.names, &NAME),
        audit_policy: check.optional(written.audit_policy.as_ref(), &POLICY),
        arguments: written
            .arguments
            .iter()
            .map(|(k, v)| (check.text(k, &rules::ARGUMENT), check.text(v, &rules::LINE)))
            .collect(),
    }
}
