//! The configuration of each version, as text. `INGOT_BLESS=1` writes what is expected.

use std::fs;
use std::path::Path;

use profile::Profile;

use super::*;

const PLANE: &str = include_str!("../../../../../tests/golden/21-control-plane/profile.toml");

fn release(version: &str) -> Release {
    let (repository, coredns) = match version {
        "1.20.2" => ("k8s.gcr.io", "k8s.gcr.io/coredns:1.7.0"),
        _ => ("registry.k8s.io", "registry.k8s.io/coredns/coredns:v1.11.1"),
    };
    let json = json!({
        "schema": 1, "version": version, "image_repository": repository, "pause": "p:1", "coredns": coredns, "etcd": "e:1", "cni_bin": "/opt/cni/bin",
    });
    serde_json::from_value(json).unwrap()
}

fn both(text: &str, version: &str, facts: &Facts) -> Result<(Secret, Secret)> {
    let profile = Profile::parse("p", text.as_bytes()).unwrap_or_else(|refused| panic!("{refused}"));
    let cluster = profile.cluster.as_ref().unwrap();
    let (release, secrets) = (release(version), Secrets::default());
    let join = cluster.join.as_ref().unwrap();
    let source = Source { profile: &profile, cluster, join, release: &release, facts, secrets: &secrets };
    Ok((source.init()?, source.join(&["sha256:0123".to_owned()])?))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the test")]
fn every_version_of_the_configuration() {
    for version in ["1.20.2", "1.28.4", "1.34.2"] {
        let (init, join) = both(PLANE, version, &Facts::default()).unwrap();
        for (name, text) in [("init", init), ("join", join)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/roles/kubernetes/golden/{name}-{version}.yaml"));
            if std::env::var_os("INGOT_BLESS").is_some() {
                fs::write(&path, text.expose()).unwrap();
            }
            assert_eq!(text.expose(), fs::read_to_string(&path).unwrap(), "{}", path.display());
        }
    }
}

#[test]
fn machines_and_profiles_that_say_less() {
    let least = "schema = 1\n[node]\nname = \"cp-1\"\nrole = \"control-plane\"\n[cluster]\nname = \"c\"\nkind = \"workload\"\n\
        endpoint = \"[fd00::10]:6443\"\n[cluster.join]\nfirst = true\ntoken = \"abcdef.0123456789abcdef\"\n";
    let container = Facts { container: true, legacy_cgroups: true, ..Facts::default() };
    let (init, join) = both(least, "1.34.2", &container).unwrap();
    for wanted in ["\"[fd00::10]:6443\"", "\"cgroupfs\"", "\"maxPerCore\": 0"] {
        assert!(init.expose().contains(wanted), "{wanted}");
    }
    for none in ["extraVolumes", "certificateKey", "localAPIEndpoint", "taints"] {
        assert!(!init.expose().contains(none) && !join.expose().contains(none), "{none}");
    }
    assert!(join.expose().contains("\"controlPlane\": {}"));
    assert_eq!(both(least, "1.14.0", &container).unwrap_err().code(), &codes::KUBERNETES_UNKNOWN);
}

#[test]
fn the_image_of_the_dns() {
    for (image, repository, tag) in [
        ("k8s.gcr.io/coredns:1.7.0", "k8s.gcr.io", "1.7.0"),
        ("registry.k8s.io/coredns/coredns:v1.11.1", "registry.k8s.io/coredns", "v1.11.1"),
        ("10.0.0.2:5000/a/coredns:1", "10.0.0.2:5000/a", "1"),
    ] {
        assert_eq!(dns(image).unwrap(), json!({ "imageRepository": repository, "imageTag": tag }));
    }
    for wrong in ["coredns", "a/coredns", "10.0.0.2:5000/coredns", ""] {
        assert!(dns(wrong).is_err(), "{wrong}");
    }
}
