//! The ConfigMap kube-public/cluster-info, which everybody may read: the CA of a cluster, and for each bootstrap token a
//! signature over it (JWS in compact form without its payload, HMAC-SHA256 keyed by the token's secret part), so that who has
//! the token can tell it from a forged one. The cluster removes the signature of a token that expired.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use profile::secret::Secret;
use serde::Deserialize;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    kubeconfig: String,
    signatures: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ConfigMap {
    data: std::collections::BTreeMap<String, String>,
}

/// What a token says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouch {
    /// The signature is by the token.
    Good,
    /// There is no signature for a token of this id.
    None,
    /// There is one, not by this token over this text.
    Bad,
}

impl ClusterInfo {
    /// Reads the answer of the API.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let map: ConfigMap =
            serde_json::from_slice(json).map_err(|_| "expected a ConfigMap, found another document".to_owned())?;
        let mut signatures = map.data;
        let kubeconfig = signatures.remove("kubeconfig").ok_or("expected the key `kubeconfig`, found none")?;
        Ok(Self { kubeconfig, signatures })
    }

    /// Whether it is vouched for by this token (`id.secret`).
    pub fn vouch(&self, token: &Secret) -> Vouch {
        let (id, secret) = token.expose().split_once('.').unwrap_or_default();
        let Some(signature) = self.signatures.get(&format!("jws-kubeconfig-{id}")) else { return Vouch::None };
        let mut parts = signature.trim().split('.');
        let (Some(header), Some(""), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Vouch::Bad;
        };
        let hs256 = URL_SAFE_NO_PAD
            .decode(header)
            .ok()
            .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok())
            .is_some_and(|head| {
                head.get("alg").is_some_and(|alg| alg == "HS256") && head.get("kid").is_some_and(|kid| kid == id)
            });
        let Ok(mac) = URL_SAFE_NO_PAD.decode(mac) else { return Vouch::Bad };
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(&self.kubeconfig));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        if hs256 && ring::hmac::verify(&key, signed.as_bytes(), &mac).is_ok() { Vouch::Good } else { Vouch::Bad }
    }

    /// The ids of the tokens it is vouched for by.
    pub fn tokens(&self) -> Vec<&str> {
        self.signatures.keys().filter_map(|key| key.strip_prefix("jws-kubeconfig-")).collect()
    }

    /// Certificates of the CA (PEM). The kubeconfig is YAML or JSON of a fixed form with one cluster.
    ///
    /// # Errors
    /// There is none.
    pub fn ca(&self) -> Result<String, String> {
        let coded = self.value("certificate-authority-data").ok_or("expected `certificate-authority-data`, found none")?;
        let pem = STANDARD.decode(coded).map_err(|_| "expected base64 in `certificate-authority-data`")?;
        String::from_utf8(pem).map_err(|_| "expected PEM in `certificate-authority-data`".to_owned())
    }

    /// The address of the API that it names.
    pub fn server(&self) -> Option<&str> {
        self.value("server")
    }

    fn value(&self, key: &str) -> Option<&str> {
        let at = self.kubeconfig.find(&format!("{key}:")).map(|at| at + key.len() + 1);
        let json = || self.kubeconfig.find(&format!("\"{key}\":")).map(|at| at + key.len() + 3);
        let rest = self.kubeconfig.get(at.or_else(json)?..)?;
        let value = rest.trim_start().split(['\n', ',', '}']).next()?.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then_some(value)
    }
}
