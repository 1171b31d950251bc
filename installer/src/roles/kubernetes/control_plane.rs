//! What the API server of a control plane reads besides kubeadm's own files: rendered at every boot.

use profile::cluster::Cluster;
use serde_json::json;

use super::registration::REGISTRAR;
use crate::failure::Result;
use crate::secrets::Secrets;
use crate::steps::files::{Files, Wanted};

/// Where it is; the API server's container sees it.
pub const FOLDER: &str = "/etc/kubernetes/ingot";
/// Keys of Secrets in etcd.
pub const ENCRYPTION: &str = "/etc/kubernetes/ingot/encryption.yaml";
/// The static tokens of load balancers and registrars.
pub const TOKENS: &str = "/etc/kubernetes/ingot/tokens.csv";
/// The audit policy.
pub const AUDIT: &str = "/etc/kubernetes/ingot/audit.yaml";
/// Where the audit log is.
pub const AUDIT_LOG: &str = "/var/log/kubernetes";

/// The user that a load balancer is.
pub const BALANCER: &str = "ingot-load-balancer";

/// The step `control-plane-files`.
///
/// # Errors
/// A secret is missing.
pub fn files(cluster: &Cluster, secrets: &Secrets) -> Result<Files> {
    let mut files = Vec::new();
    if let Some(key) = &cluster.encryption_key {
        let key = json!({ "name": "key1", "secret": secrets.get(key)?.expose() });
        // What was written before the key is still read.
        let rule = json!({
            "resources": ["secrets"],
            "providers": [{ "secretbox": { "keys": [key] } }, { "identity": {} }],
        });
        let document =
            json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [rule] });
        files.push(Wanted::private(ENCRYPTION, format!("{document}\n")));
    }
    let mut tokens = String::new();
    if let Some(token) = &cluster.load_balancer_token {
        tokens += &format!("{},{BALANCER},{BALANCER},\"ingot:load-balancers\"\n", secrets.get(token)?.expose());
    }
    if let Some(registrar) = &cluster.registrar {
        tokens += &format!("{},{REGISTRAR},{REGISTRAR},\"ingot:registrars\"\n", secrets.get(&registrar.token)?.expose());
    }
    if !tokens.is_empty() {
        files.push(Wanted::private(TOKENS, tokens));
    }
    if let Some(policy) = &cluster.api_server.audit_policy {
        files.push(Wanted::private(AUDIT, policy.as_str()));
    }
    Ok(Files::of(files).sweep(FOLDER, ""))
}

/// What a load balancer may do in the cluster: look at Services and Nodes, say which address a Service has, and tell
/// what happened.
pub fn balancer_rights() -> String {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": BALANCER },
        "rules": [
            { "apiGroups": [""], "resources": ["services", "nodes"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["services/status"], "verbs": ["patch", "update"] },
            { "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": BALANCER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": BALANCER },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": BALANCER }],
    });
    format!("---\n{role}\n---\n{binding}\n")
}
