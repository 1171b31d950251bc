//! A workload cluster registers at its management cluster: the Secret `NAME-kubeconfig` there, of the form that Cluster API
//! tools read, by which the management cluster reaches this one.
//!
//! | identity | in | made by | may |
//! |---|---|---|---|
//! | ServiceAccount [`MANAGER`] | the workload cluster | its first control plane, with the add-ons | what [`manager`] says: look at workloads, Nodes and their state, cordon, drain, remove Nodes; no Secrets |
//! | user [`REGISTRAR`] | the management cluster | its control planes, as a static token | make, read and change Secrets of one namespace |
//!
//! The ServiceAccount's token is that of a Secret of type `kubernetes.io/service-account-token`, which every version of
//! Kubernetes fills in; it does not end, and deleting the Secret takes it back. The upkeep registers, so that a management
//! cluster may come later: it compares what is there with what should be, every few minutes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profile::address::Endpoint;
use profile::secret::Secret;
use serde_json::{Value, json};

use super::api::{self, Answer, As, CA, Change, Patience, Way};
use crate::failure::{Failure, Result};
use crate::machine::net::Sent;
use crate::machine::{Machine, read_text};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

/// The user that registers at a management cluster.
pub const REGISTRAR: &str = "ingot-registrar";
/// The ServiceAccount of a workload cluster that its management cluster is.
pub const MANAGER: &str = "ingot-manager";

const NAMESPACE: &str = "kube-system";
const TOKEN: &str = "/api/v1/namespaces/kube-system/secrets/ingot-manager-token";
const LABEL: &str = "cluster.x-k8s.io/cluster-name";
const TYPE: &str = "cluster.x-k8s.io/secret";

/// How long the cluster may take to make the token.
const WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// The API group of rights.
const RBAC: &str = "rbac.authorization.k8s.io";

fn documents(all: &[Value]) -> String {
    all.iter().map(|one| format!("---\n{one}\n")).collect()
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "apiGroup": RBAC, "kind": kind, "name": name })
}

/// Manifests of a management cluster: what a registrar may do.
pub fn registrar(namespace: &str) -> String {
    let api = format!("{RBAC}/v1");
    let meta = json!({ "name": REGISTRAR, "namespace": namespace });
    let rule = json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "patch"] });
    let own = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    let rights = [
        json!({ "apiVersion": api, "kind": "Role", "metadata": meta, "rules": [rule] }),
        json!({
            "apiVersion": api,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": reference("Role", REGISTRAR),
            "subjects": [reference("User", REGISTRAR)],
        }),
    ];
    let own = if namespace == "default" { String::new() } else { documents(&[own]) };
    own + &documents(&rights)
}

/// Manifests of a workload cluster: its manager, and what that may do.
pub fn manager() -> String {
    let api = format!("{RBAC}/v1");
    let meta = json!({ "name": MANAGER, "namespace": NAMESPACE });
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let look = ["get", "list", "watch"];
    let core = ["namespaces", "pods", "services", "endpoints", "events", "persistentvolumes", "persistentvolumeclaims"];
    let rules = json!([
        rule(&[""], &core, &look),
        rule(&[""], &["nodes"], &["get", "list", "watch", "patch", "update", "delete"]),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(&["apps"], &["deployments", "daemonsets", "replicasets", "statefulsets"], &look),
        rule(&["policy"], &["poddisruptionbudgets"], &look),
        json!({ "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version"], "verbs": ["get"] }),
    ]);
    documents(&[
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": false }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": format!("{MANAGER}-token"),
                "namespace": NAMESPACE,
                "annotations": { "kubernetes.io/service-account.name": MANAGER },
            },
            "type": "kubernetes.io/service-account-token",
        }),
        json!({ "apiVersion": api, "kind": "ClusterRole", "metadata": { "name": MANAGER }, "rules": rules }),
        json!({
            "apiVersion": api,
            "kind": "ClusterRoleBinding",
            "metadata": { "name": MANAGER },
            "roleRef": reference("ClusterRole", MANAGER),
            "subjects": [{ "kind": "ServiceAccount", "name": MANAGER, "namespace": NAMESPACE }],
        }),
    ])
}

/// The step `registration`.
#[derive(Debug)]
pub struct Registration {
    /// Name of this cluster.
    pub cluster: String,
    /// Where its API is.
    pub endpoint: Endpoint,
    /// Where that of the management cluster is.
    pub management: Endpoint,
    /// Certificates of its CA.
    pub ca: String,
    /// Token of the registrar.
    pub token: Secret,
    /// Namespace of the Secret.
    pub namespace: String,
}

impl Registration {
    fn way(&self) -> Way<'_> {
        Way { endpoint: &self.management, roots: self.ca.clone().into_bytes(), own: None, token: Some(self.token.clone()) }
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{}-kubeconfig", self.namespace, self.cluster)
    }

    /// The kubeconfig of the manager, or why there is none yet.
    fn kubeconfig(&self, machine: &dyn Machine) -> Result<Result<Secret, String>> {
        let secret = match api::get(machine, &self.endpoint, As::Admin, TOKEN)? {
            Answer::Object(secret) => secret,
            Answer::Missing => return Ok(Err(format!("this cluster has no {MANAGER} yet"))),
            Answer::Silent(reason) => return Ok(Err(format!("this cluster cannot be asked: {reason}"))),
        };
        let coded = secret.pointer("/data/token").and_then(Value::as_str);
        let token = coded.and_then(|coded| String::from_utf8(STANDARD.decode(coded).ok()?).ok()).map(Secret::new);
        let Some(token) = token.filter(|token| !token.expose().is_empty()) else {
            return Ok(Err(format!("the token of {MANAGER} is not made yet")));
        };
        let Some(ca) = read_text(machine, CA)? else { return Ok(Err(format!("there is no {CA}"))) };
        Ok(Ok(kubeconfig(&self.cluster, &api::host(&self.endpoint), &STANDARD.encode(ca), &token)))
    }

    /// The Secret as it should be.
    fn object(&self, kubeconfig: &Secret) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": format!("{}-kubeconfig", self.cluster),
                "namespace": self.namespace,
                "labels": { LABEL: self.cluster },
            },
            "type": TYPE,
            "data": { "value": STANDARD.encode(kubeconfig.expose()) },
        })
    }

    fn failed(&self, why: &str) -> Failure {
        let message = format!("{} at {}: {why}", self.cluster, api::host(&self.management));
        Failure::new(&codes::NOT_REGISTERED, message)
    }
}

/// A kubeconfig with one cluster and one user. Names of clusters are letters, digits and `-`, tokens and base64 need no quotes.
fn kubeconfig(cluster: &str, host: &str, ca: &str, token: &Secret) -> Secret {
    let token = token.expose();
    Secret::new(format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: https://{host}\n    \
        certificate-authority-data: {ca}\nusers:\n- name: {MANAGER}\n  user:\n    token: {token}\ncontexts:\n- \
        name: {MANAGER}@{cluster}\n  context:\n    cluster: {cluster}\n    user: {MANAGER}\ncurrent-context: {MANAGER}@{cluster}\n"
    ))
}

/// How the Secret that is there differs.
fn differs(found: &Value, wanted: &Value) -> Option<&'static str> {
    let other = |path: &str| found.pointer(path) != wanted.pointer(path);
    if other("/data/value") {
        return Some("it is registered with another kubeconfig");
    }
    let label = found.get("metadata").and_then(|meta| meta.get("labels")?.get(LABEL));
    let labelled = label == wanted.get("metadata").and_then(|meta| meta.get("labels")?.get(LABEL));
    (!labelled || other("/type")).then_some("its Secret is of another form")
}

impl Work for Registration {
    fn lines(&self) -> Vec<String> {
        vec![format!("{} is known to the management cluster at {}", self.cluster, api::host(&self.management))]
    }

    fn input(&self) -> Vec<u8> {
        self.lines().concat().into_bytes()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let wanted = match self.kubeconfig(machine)? {
            Ok(kubeconfig) => self.object(&kubeconfig),
            Err(reason) => return Ok(Verdict::Differs(reason)),
        };
        Ok(match self.way().get(machine, &self.path()) {
            Answer::Object(found) => differs(&found, &wanted).map_or(Verdict::Holds, |how| Verdict::Differs(how.to_owned())),
            Answer::Missing => Verdict::Differs("it is not registered yet".to_owned()),
            Answer::Silent(reason) => Verdict::Differs(format!("the management cluster cannot be asked: {reason}")),
        })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let mut made = None;
        let patience = Patience { step: "registration", what: "the token of the manager", most: WAIT };
        let waited = patience.until(world, || {
            Ok(match self.kubeconfig(machine)? {
                Ok(kubeconfig) => {
                    made = Some(kubeconfig);
                    None
                }
                Err(reason) => Some(reason),
            })
        });
        waited.map_err(|failure| self.failed(&failure.to_string()))?;
        let object = made.map(|kubeconfig| self.object(&kubeconfig)).unwrap_or_default();
        let path = format!("{}?fieldManager=ingot&force=true", self.path());
        match self.way().change(machine, &path, Sent::Apply, &object) {
            Change::Done => Ok(()),
            Change::Refused(_, reason) | Change::Silent(reason) => Err(self.failed(&reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_of_a_secret() {
        let registration = Registration {
            cluster: "site-a".to_owned(),
            endpoint: "10.0.0.10:6443".parse().unwrap(),
            management: "[fd00::1]:6443".parse().unwrap(),
            ca: String::new(),
            token: Secret::new("t".to_owned()),
            namespace: "default".to_owned(),
        };
        let text = kubeconfig("site-a", "10.0.0.10:6443", "Q0E=", &Secret::new("a.b-c_d".to_owned()));
        let wanted = registration.object(&text);
        let mut found = wanted.clone();
        found["metadata"]["labels"]["other"] = json!("1");
        found["metadata"]["uid"] = json!("2");
        assert_eq!(differs(&found, &wanted), None);
        for (path, how) in [("/data/value", "kubeconfig"), ("/type", "form"), ("/metadata/labels", "form")] {
            let mut found = wanted.clone();
            *found.pointer_mut(path).unwrap() = json!("x");
            assert!(differs(&found, &wanted).unwrap().ends_with(how), "{path}");
        }
        assert_eq!(registration.path(), "/api/v1/namespaces/default/secrets/site-a-kubeconfig");
        assert!(registration.lines()[0].ends_with("at [fd00::1]:6443"));
    }

    #[test]
    fn rights_are_stated_and_hold_no_star() {
        let all = manager() + &registrar("default") + &registrar("clusters");
        assert!(!all.contains('*') && all.matches("\"secrets\"").count() == 2, "{all}");
        assert_eq!(all.matches("\"kind\":\"Namespace\"").count(), 1);
    }
}
