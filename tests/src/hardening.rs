//! What the CIS benchmark for Kubernetes asks of a node, looked up in a running one. Left out, since a cluster that joins
//! by tokens cannot have it: `anonymous-auth=false` of the API server (1.2.1: cluster-info is read by who has no
//! certificate yet; RBAC gives it nothing else), and `kubelet-certificate-authority` (1.2.5: serving certificates of
//! kubelets are their own).

use serde_json::{Value, json};

use crate::cluster::ETCDCTL;
use crate::node::Node;

/// Files that are there, and the permissions nobody may have of them.
const FILES: [(&str, &str); 6] = [
    ("/etc/kubernetes/*.conf", "077"),
    ("/var/lib/kubelet/pki/*.pem /var/lib/kubelet/pki/*.key", "077"),
    ("/etc/kubernetes/ingot.json", "077"),
    ("/var/lib/kubelet/config.yaml /etc/kubernetes/pki/ca.crt /etc/cni/net.d/*", "022"),
    ("/usr/lib/systemd/system/kubelet.service /usr/lib/systemd/system/kubelet.service.d/*", "022"),
    ("/etc/containerd/config.toml /run/containerd/containerd.sock", "007"),
];

/// The same on control planes.
const CONTROL_PLANE_FILES: [(&str, &str); 5] = [
    ("/etc/kubernetes/manifests/*.yaml", "077"),
    ("/etc/kubernetes/pki/*.key /etc/kubernetes/pki/etcd/*.key", "077"),
    ("/etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/kubernetes/pki", "022"),
    ("/etc/kubernetes/ingot/*", "077"),
    ("/var/lib/etcd /var/lib/etcd/member /var/log/kubernetes", "077"),
];

/// Arguments that programs must have; one that ends with `=` may have any value.
const ARGUMENTS: [(&str, &[&str]); 4] = [
    (
        "kube-apiserver",
        &[
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--profiling=false",
            "--client-ca-file=",
            "--etcd-cafile=",
            "--kubelet-client-certificate=",
            "--service-account-key-file=",
            "--tls-cert-file=",
            "--audit-policy-file=",
            "--audit-log-path=",
            "--audit-log-maxage=30",
            "--audit-log-maxbackup=9",
            "--audit-log-maxsize=100",
            "--encryption-provider-config=",
        ],
    ),
    (
        "kube-controller-manager",
        &[
            "--profiling=false",
            "--use-service-account-credentials=true",
            "--service-account-private-key-file=",
            "--root-ca-file=",
            "--bind-address=127.0.0.1",
        ],
    ),
    ("kube-scheduler", &["--profiling=false", "--bind-address=127.0.0.1"]),
    (
        "etcd",
        &["--client-cert-auth=true", "--peer-client-cert-auth=true", "--cert-file=", "--peer-cert-file=", "--trusted-ca-file="],
    ),
];

/// Arguments that none of them may have.
const FORBIDDEN: [&str; 7] = [
    "--authorization-mode=AlwaysAllow",
    "AlwaysAdmit",
    "--auto-tls=true",
    "--peer-auto-tls=true",
    "--insecure-bind-address",
    "--basic-auth-file",
    "--service-account-lookup=false",
];

/// Wants nothing amiss on a control plane, whose profile has an audit policy and an encryption key, and on these workers.
///
/// # Panics
/// With everything that is amiss.
pub fn assert_hardened(plane: &Node, workers: &[&Node]) {
    let mut amiss = files(plane, &[&FILES[..], &CONTROL_PLANE_FILES].concat());
    for node in workers {
        amiss.extend(files(node, &FILES));
    }
    for node in [plane].iter().chain(workers) {
        amiss.extend(leaks(node));
        amiss.extend(kubelet(plane, node.name()));
    }
    amiss.extend(arguments(plane));
    amiss.extend(secrets_in_etcd(plane));
    assert!(amiss.is_empty(), "{amiss:#?}");
}

fn files(node: &Node, wanted: &[(&str, &str)]) -> Vec<String> {
    let mut amiss = Vec::new();
    for (paths, mask) in wanted {
        let wrong =
            format!(r"find -L {paths} -maxdepth 0 \( -perm /{mask} -o ! -uid 0 -o ! -gid 0 \) -printf '%p is %m %u:%g\n'");
        let said = node.run(&wrong);
        // A path that is not there is one that is looked for in the wrong place.
        amiss.extend((said.code != 0).then(|| format!("{}: {paths}: {}", node.name(), said.err)));
        amiss.extend(said.out.lines().map(|line| format!("{}: {line}, none of {mask} is allowed", node.name())));
    }
    amiss
}

/// Files that everybody may read, with something that nobody should.
fn leaks(node: &Node) -> Vec<String> {
    let folders = "/etc /state/kubernetes /state/ingot /var/lib/kubelet /var/log /run/ingot";
    let words = "PRIVATE KEY|client-key-data|token: |aescbc|secretbox";
    let script = format!("find {folders} -xdev -type f -perm /044 -exec grep -lE '{words}' {{}} + | sort");
    let said = node.run(&script);
    // Namespaces of pods hold what they are given; documentation speaks of keys.
    let ours = |line: &&str| !line.starts_with("/var/lib/kubelet/pods/") && !line.starts_with("/etc/ssl/");
    said.out.lines().filter(ours).map(|line| format!("{}: everybody may read {line}", node.name())).collect()
}

/// The settings that the kubelet of this node says it runs with.
fn kubelet(plane: &Node, name: &str) -> Vec<String> {
    let text =
        plane.must(&format!("kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /api/v1/nodes/{name}/proxy/configz"));
    let document: Value = serde_json::from_str(&text).unwrap();
    let settings = &document["kubeletconfig"];
    let mut amiss = Vec::new();
    for (pointer, wanted) in [
        ("/authentication/anonymous/enabled", json!(false)),
        ("/authentication/webhook/enabled", json!(true)),
        ("/authentication/x509/clientCAFile", json!("/etc/kubernetes/pki/ca.crt")),
        ("/authorization/mode", json!("Webhook")),
        ("/rotateCertificates", json!(true)),
        ("/makeIPTablesUtilChains", json!(true)),
        ("/healthzBindAddress", json!("127.0.0.1")),
        // Left out where it is 0.
        ("/readOnlyPort", Value::Null),
    ] {
        let found = settings.pointer(pointer).cloned().unwrap_or_default();
        amiss.extend((found != wanted).then(|| format!("kubelet of {name}: {pointer} is {found}, not {wanted}")));
    }
    let idle = settings["streamingConnectionIdleTimeout"].as_str().unwrap_or("0s");
    amiss.extend((idle == "0s").then(|| format!("kubelet of {name}: idle streams live for ever")));
    amiss
}

fn arguments(plane: &Node) -> Vec<String> {
    let mut amiss = Vec::new();
    for (program, wanted) in ARGUMENTS {
        let line = plane.must(&format!("tr '\\0' '\\n' </proc/$(pgrep -o -f '^{program} ')/cmdline"));
        let has = |argument: &&str| {
            line.lines().any(|found| found == *argument || (argument.ends_with('=') && found.starts_with(argument)))
        };
        amiss
            .extend(wanted.iter().filter(|argument| !has(argument)).map(|argument| format!("{program} runs without {argument}")));
        amiss.extend(FORBIDDEN.iter().filter(|words| line.contains(**words)).map(|words| format!("{program} runs with {words}")));
    }
    let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --as system:anonymous --as-group system:unauthenticated";
    for what in ["secrets", "pods", "nodes", "configmaps"] {
        let said = plane.run(&format!("{kubectl} get --raw /api/v1/{what}"));
        amiss.extend((!said.err.contains("(Forbidden)")).then(|| format!("anybody may list {what}: {}{}", said.out, said.err)));
    }
    amiss
}

/// Secrets lie in etcd as nobody reads them without the key.
fn secrets_in_etcd(plane: &Node) -> Option<String> {
    plane
        .must("kubectl --kubeconfig /etc/kubernetes/admin.conf create secret generic hardening --from-literal=word=plainly-seen");
    let said = plane.must(&format!("{ETCDCTL} get /registry/secrets/default/hardening | tr -d '\\0'"));
    let sealed = said.contains("k8s:enc:secretbox:v1:key1:") && !said.contains("plainly-seen");
    (!sealed).then(|| format!("a Secret in etcd is not encrypted: {said}"))
}
