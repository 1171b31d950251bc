//! `[cluster.management]` of workload clusters, `[cluster.registrar]` of management clusters: how the one is known to the other.

use serde::Deserialize;

use crate::address::Endpoint;
use crate::check::{Check, Text};
use crate::cluster::{BALANCER_TOKEN, Kind};
use crate::document::Located;
use crate::node::Role;
use crate::rules;
use crate::secret::SecretSource;

/// `[cluster.management]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Management"))]
#[serde(deny_unknown_fields)]
pub struct WrittenManagement {
    /// Where the management cluster's API is reached: `10.0.0.20:6443`.
    pub endpoint: Text,
    /// Certificate of the management cluster's CA, PEM.
    pub ca: Text,
    /// Token of its `[cluster.registrar]`. A secret.
    pub token: Located<SecretSource>,
    /// Namespace there for the Secret NAME-kubeconfig; `default` by default. Must be that of its `[cluster.registrar]`.
    pub namespace: Option<Text>,
}

/// `[cluster.registrar]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Registrar"))]
#[serde(deny_unknown_fields)]
pub struct WrittenRegistrar {
    /// Token by which workload clusters register here: 32 to 128 letters, digits, `-` and `_`, the same on all control planes. A secret.
    pub token: Located<SecretSource>,
    /// The one namespace in which they may make, read and change Secrets; `default` by default.
    pub namespace: Option<Text>,
}

/// The management cluster of a workload cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Management {
    /// Where its API is.
    pub endpoint: Endpoint,
    /// Certificates of its CA, PEM.
    pub ca: String,
    /// Token of the registrar.
    pub token: SecretSource,
    /// Where the Secret is.
    pub namespace: String,
}

/// How workload clusters register at a management cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registrar {
    /// Their token.
    pub token: SecretSource,
    /// Where they may.
    pub namespace: String,
}

fn namespace(check: &mut Check<'_>, written: Option<&Text>) -> String {
    check.optional(written, &rules::NAME).unwrap_or_else(|| "default".to_owned())
}

/// Both belong to control planes of one kind of cluster.
fn place(check: &mut Check<'_>, token: &Located<SecretSource>, section: &str, right: bool, kind: &str, role: Role) {
    if role != Role::ControlPlane {
        let message = format!("`[cluster.{section}]` is for control planes only: a {} must not have it", role.name());
        check.faults.add(token.place(), message);
    } else if !right {
        check.faults.add(token.place(), format!("`[cluster.{section}]` is for a cluster with `kind = \"{kind}\"`"));
    }
}

pub(crate) fn management(check: &mut Check<'_>, written: &WrittenManagement, kind: Kind, role: Role) -> Option<Management> {
    place(check, &written.token, "management", kind == Kind::Workload, "workload", role);
    let endpoint = check.endpoint(&written.endpoint);
    let (ca, token) = (check.text(&written.ca, &rules::CERTIFICATES), check.secret(&written.token, &BALANCER_TOKEN));
    let namespace = namespace(check, written.namespace.as_ref());
    Some(Management { endpoint: endpoint?, ca, token, namespace })
}

pub(crate) fn registrar(check: &mut Check<'_>, written: &WrittenRegistrar, kind: Kind, role: Role) -> Registrar {
    place(check, &written.token, "registrar", kind == Kind::Management, "management", role);
    let token = check.secret(&written.token, &BALANCER_TOKEN);
    Registrar { token, namespace: namespace(check, written.namespace.as_ref()) }
}

#[cfg(test)]
mod tests {
    use crate::Profile;

    #[test]
    fn sections_of_one_kind_and_role_only() {
        let ca = "-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----";
        let token = "token = \"registrar-0123456789-0123456789-0123\"";
        let management = format!("[cluster.management]\nendpoint = \"10.0.0.20:6443\"\nca = \"{ca}\"\n{token}\n");
        let registrar = format!("[cluster.registrar]\n{token}\n");
        for (kind, role, section, fault) in [
            ("workload", "control-plane", &management, None),
            ("management", "control-plane", &registrar, None),
            ("management", "control-plane", &management, Some("is for a cluster with `kind = \"workload\"`")),
            ("workload", "control-plane", &registrar, Some("is for a cluster with `kind = \"management\"`")),
            ("workload", "load-balancer", &management, Some("a load-balancer must not have it")),
        ] {
            let join = if role == "control-plane" { "[cluster.join]\nfirst = true\n" } else { "" };
            let text = format!(
                "schema = 1\n[node]\nname = \"a\"\nrole = \"{role}\"\n[cluster]\nname = \"c\"\nkind = \"{kind}\"\nendpoint = \"10.0.0.10:6443\"\n{section}{join}"
            );
            let refused = Profile::parse("p", text.as_bytes()).err().map(|refused| refused.to_string());
            match fault {
                None => assert_eq!(refused, None),
                Some(words) => assert!(refused.as_ref().is_some_and(|refused| refused.contains(words)), "{refused:?}"),
            }
        }
    }
}
