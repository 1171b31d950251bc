//! kubeadm's configuration: JSON documents (which are YAML), for the version of the image. Pure.
//!
//! | from | differs |
//! |---|---|
//! | v1beta2 | the DNS add-on's `type` is said; `timeoutForControlPlane` and `discovery.timeout` |
//! | v1beta3 | without that type; `nodeRegistration.imagePullPolicy` |
//! | v1beta4 | `timeouts` for both; arguments are lists of names and values, environment-free |
//!
//! What differs from node to node stands in the kubelet's own arguments (`kubelet.rs`): the cluster keeps one
//! KubeletConfiguration for all.

use std::collections::BTreeMap;

use profile::Profile;
use profile::cluster::{Cluster, Join};
use profile::node::{Effect, Role, Taint};
use profile::secret::Secret;
use serde_json::{Value, json};
use trust::Sha256Digest;

use super::api::host;
use super::containerd::SOCKET;
use super::control_plane::{AUDIT, AUDIT_LOG, ENCRYPTION, FOLDER, TOKENS};
use super::release::{self, Api, Release};
use crate::facts::Facts;
use crate::failure::{Failure, Result};
use crate::report::codes;
use crate::secrets::Secrets;

/// How long a bootstrap token made here is good.
const TOKEN_TIME: &str = "24h0m0s";
/// How long kubeadm waits for what it starts.
const PATIENCE: &str = "8m0s";
/// Nobody looks into the programs of a control plane from outside.
const PROFILING: (&str, &str) = ("profiling", "false");
/// How long kubeadm waits for cluster-info; it was there a moment ago.
const DISCOVERY: &str = "2m0s";

/// What a configuration is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// Its cluster.
    pub cluster: &'a Cluster,
    /// How it joins.
    pub join: &'a Join,
    /// Kubernetes of the image.
    pub release: &'a Release,
    /// The machine.
    pub facts: &'a Facts,
    /// Secrets of the profile.
    pub secrets: &'a Secrets,
}

/// The documents as one text.
fn text(documents: &[Value]) -> Result<Secret> {
    let mut all = String::new();
    for document in documents {
        let json = serde_json::to_string_pretty(document)
            .map_err(|e| Failure::new(&codes::INPUT_OUTPUT, format!("writing kubeadm's configuration: {e}")))?;
        all += "---\n";
        all += &json;
        all.push('\n');
    }
    Ok(Secret::new(all))
}

/// Adds a key where there is a value.
fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(key.to_owned(), value);
    }
}

impl Source<'_> {
    /// For `kubeadm init` and its phases.
    ///
    /// # Errors
    /// A version or a secret is missing.
    pub fn init(&self) -> Result<Secret> {
        let api = release::api(self.release)?;
        let mut init = json!({
            "apiVersion": api.name(),
            "kind": "InitConfiguration",
            "nodeRegistration": self.registration(api)?,
        });
        put(&mut init, "localAPIEndpoint", self.local_endpoint());
        if let Some(token) = &self.join.token {
            let token = json!({
                "token": self.secrets.get(token)?.expose(),
                "ttl": TOKEN_TIME,
                "usages": ["signing", "authentication"],
                "groups": ["system:bootstrappers:kubeadm:default-node-token"],
            });
            put(&mut init, "bootstrapTokens", Some(json!([token])));
        }
        put(&mut init, "certificateKey", self.certificate_key()?);
        if api >= Api::V1Beta4 {
            put(
                &mut init,
                "timeouts",
                Some(json!({ "controlPlaneComponentHealthCheck": PATIENCE, "kubeletHealthCheck": PATIENCE })),
            );
        }
        text(&[init, self.cluster_configuration(api)?, self.kubelet(), self.proxy()])
    }

    /// For `kubeadm join`.
    ///
    /// # Errors
    /// A version or a secret is missing.
    pub fn join(&self, pins: &[String]) -> Result<Secret> {
        let api = release::api(self.release)?;
        let token = self.join.token.as_ref().ok_or_else(|| {
            Failure::new(&codes::NOT_A_PROFILE, "the profile has no `[cluster.join] token`, and the cluster is there already")
        })?;
        let token = self.secrets.get(token)?.expose();
        let mut discovery = json!({
            "bootstrapToken": {
                "apiServerEndpoint": host(&self.cluster.endpoint),
                "token": token,
                "caCertHashes": pins,
            },
            "tlsBootstrapToken": token,
        });
        let mut join = json!({
            "apiVersion": api.name(),
            "kind": "JoinConfiguration",
            "nodeRegistration": self.registration(api)?,
        });
        if api >= Api::V1Beta4 {
            let timeouts = json!({
                "discovery": DISCOVERY,
                "controlPlaneComponentHealthCheck": PATIENCE,
                "kubeletHealthCheck": PATIENCE,
                "tlsBootstrap": PATIENCE,
            });
            put(&mut join, "timeouts", Some(timeouts));
        } else {
            put(&mut discovery, "timeout", Some(json!(DISCOVERY)));
        }
        put(&mut join, "discovery", Some(discovery));
        if self.profile.node.role == Role::ControlPlane {
            let mut plane = json!({});
            put(&mut plane, "localAPIEndpoint", self.local_endpoint());
            put(&mut plane, "certificateKey", self.certificate_key()?);
            put(&mut join, "controlPlane", Some(plane));
        }
        text(&[join])
    }

    fn certificate_key(&self) -> Result<Option<Value>> {
        let key = self.join.certificate_key.as_ref().map(|key| self.secrets.get(key)).transpose()?;
        Ok(key.map(|key| json!(key.expose())))
    }

    /// Where the API server listens; kubeadm takes the address towards the gateway by default.
    fn local_endpoint(&self) -> Option<Value> {
        self.profile.kubelet.node_address.map(|address| json!({ "advertiseAddress": address.to_string(), "bindPort": 6443 }))
    }

    fn registration(&self, api: Api) -> Result<Value> {
        let mut node = json!({ "name": self.profile.node.name, "criSocket": SOCKET });
        if api >= Api::V1Beta3 {
            put(&mut node, "imagePullPolicy", Some(json!("IfNotPresent")));
        }
        let taints = &self.profile.node.taints;
        if !taints.is_empty() {
            let minor = release::version(self.release)?.minor;
            let plane = self.profile.node.role == Role::ControlPlane;
            // Naming some takes kubeadm's own away.
            let own = if plane { release::control_plane_taints(minor) } else { &[] };
            let own = own.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" }));
            put(&mut node, "taints", Some(own.chain(taints.iter().map(taint)).collect()));
        }
        Ok(node)
    }

    fn cluster_configuration(&self, api: Api) -> Result<Value> {
        let Source { cluster, release, .. } = *self;
        let (arguments, volumes) = self.api_server();
        let mut server = json!({ "certSANs": self.names() });
        put(&mut server, "extraArgs", (!arguments.is_empty()).then(|| listed(&arguments, api)));
        put(&mut server, "extraVolumes", (!volumes.is_empty()).then(|| Value::from(volumes)));
        let mut dns = dns(&release.coredns)?;
        if api <= Api::V1Beta3 {
            put(&mut server, "timeoutForControlPlane", Some(json!(PATIENCE)));
        }
        if api == Api::V1Beta2 {
            put(&mut dns, "type", Some(json!("CoreDNS")));
        }
        let quiet = json!({ "extraArgs": listed(&BTreeMap::from([PROFILING].map(|(name, value)| (name.to_owned(), value.to_owned()))), api) });
        Ok(json!({
            "apiVersion": api.name(),
            "kind": "ClusterConfiguration",
            "clusterName": cluster.name,
            "kubernetesVersion": format!("v{}", release::version(release)?),
            "controlPlaneEndpoint": host(&cluster.endpoint),
            "imageRepository": release.image_repository,
            "networking": {
                "podSubnet": cluster.pod_network.to_string(),
                "serviceSubnet": cluster.service_network.to_string(),
                "dnsDomain": cluster.dns_domain,
            },
            "apiServer": server,
            "controllerManager": quiet,
            "scheduler": quiet,
            "dns": dns,
        }))
    }

    /// Names in the API server's certificate, beyond kubeadm's own.
    fn names(&self) -> Vec<String> {
        let mut names = vec![self.cluster.endpoint.host.clone()];
        names.extend(self.profile.kubelet.node_address.map(|address| address.to_string()));
        for name in &self.cluster.api_server.names {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Digest of all the API server's settings, and its arguments as they stand in its manifest.
    pub fn settings(&self) -> (String, Vec<String>) {
        let (arguments, volumes) = self.api_server();
        let all = json!({ "names": self.names(), "arguments": arguments, "volumes": volumes });
        let arguments = arguments.iter().map(|(name, value)| format!("--{name}={value}")).collect();
        (Sha256Digest::of(all.to_string().as_bytes()).to_string(), arguments)
    }

    /// Arguments of the API server, and the folders it sees.
    fn api_server(&self) -> (BTreeMap<String, String>, Vec<Value>) {
        let Cluster { api_server, encryption_key, load_balancer_token, registrar, .. } = self.cluster;
        let tokens = load_balancer_token.is_some() || registrar.is_some();
        let mut arguments = api_server.arguments.clone();
        arguments.entry(PROFILING.0.to_owned()).or_insert_with(|| PROFILING.1.to_owned());
        let mut volumes = Vec::new();
        let mut set = |name: &str, value: &str| {
            arguments.insert(name.to_owned(), value.to_owned());
        };
        if encryption_key.is_some() {
            set("encryption-provider-config", ENCRYPTION);
        }
        if tokens {
            set("token-auth-file", TOKENS);
        }
        if api_server.audit_policy.is_some() {
            set("audit-policy-file", AUDIT);
            set("audit-log-path", &format!("{AUDIT_LOG}/audit.log"));
            set("audit-log-maxage", "30");
            set("audit-log-maxbackup", "9");
            set("audit-log-maxsize", "100");
        }
        if encryption_key.is_some() || tokens || api_server.audit_policy.is_some() {
            volumes.push(volume("ingot", FOLDER, true));
        }
        if api_server.audit_policy.is_some() {
            volumes.push(volume("audit-log", AUDIT_LOG, false));
        }
        (arguments, volumes)
    }

    fn kubelet(&self) -> Value {
        let driver = if self.facts.legacy_cgroups { "cgroupfs" } else { "systemd" };
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": driver,
            "rotateCertificates": true,
            // A node that becomes Ready says so within two seconds, not ten; what has not changed is told as seldom as ever.
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "5m0s",
        })
    }

    fn proxy(&self) -> Value {
        let mut proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
        });
        // The kernel's table of connections is the host's: a container may not set its size.
        let none = json!({ "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" });
        put(&mut proxy, "conntrack", self.facts.container.then_some(none));
        proxy
    }
}

fn taint(taint: &Taint) -> Value {
    let mut object = json!({ "key": taint.key, "effect": effect(taint.effect) });
    put(&mut object, "value", (!taint.value.is_empty()).then(|| json!(taint.value)));
    object
}

/// As Kubernetes writes it.
pub fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    }
}

fn volume(name: &str, path: &str, read_only: bool) -> Value {
    json!({ "name": name, "hostPath": path, "mountPath": path, "readOnly": read_only, "pathType": "DirectoryOrCreate" })
}

/// Arguments as the version wants them.
fn listed(arguments: &BTreeMap<String, String>, api: Api) -> Value {
    match api {
        Api::V1Beta2 | Api::V1Beta3 => json!(arguments),
        Api::V1Beta4 => arguments.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect(),
    }
}

/// Repository and tag of the DNS image: kubeadm appends its name itself.
fn dns(image: &str) -> Result<Value> {
    let split = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    let parts = split.and_then(|(name, tag)| Some((name.rsplit_once('/')?.0, tag)));
    let (repository, tag) = parts.ok_or_else(|| {
        let message = format!("{}: expected an image with a tag in `coredns`, found `{image}`", release::PATH);
        Failure::new(&codes::KUBERNETES_UNKNOWN, message)
    })?;
    Ok(json!({ "imageRepository": repository, "imageTag": tag }))
}

#[cfg(test)]
mod tests;
