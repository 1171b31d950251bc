//! Whether a chain of certificates is what it should be, told apart by cause.

use rustls::CertificateError;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use trust::Sha256Digest;

use crate::find::https::roots_verifier;

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is by another CA, or no certificate at all.
    Untrusted(String),
    /// Its time has not come.
    NotYetValid(String),
    /// Its time is over.
    Expired(String),
    /// It is for other names.
    WrongName(String),
}

/// Compares a chain (DER, the server's own first) with roots (PEM), a host name or address, and a time.
///
/// # Errors
/// What is wrong.
pub fn judge(chain: &[Vec<u8>], roots: &[u8], host: &str, at: u64) -> Result<(), Fault> {
    let untrusted = |why: String| Fault::Untrusted(why);
    let name = ServerName::try_from(host.to_owned()).map_err(|e| untrusted(format!("`{host}`: {e}")))?;
    let verifier = roots_verifier(roots).map_err(untrusted)?;
    let certificates: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (first, others) = certificates.split_first().ok_or_else(|| untrusted("no certificate was shown".to_owned()))?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    verifier.verify_server_cert(first, others, &name, &[], now).map(drop).map_err(|error| fault(error, at))
}

fn fault(error: rustls::Error, at: u64) -> Fault {
    let day = |time: UnixTime| date(time.as_secs());
    let rustls::Error::InvalidCertificate(error) = error else { return Fault::Untrusted(error.to_string()) };
    match error {
        CertificateError::NotValidYetContext { not_before, .. } => {
            Fault::NotYetValid(format!("it is valid from {}, but this machine's clock says {}", day(not_before), date(at)))
        }
        CertificateError::NotValidYet => Fault::NotYetValid(format!("it is not valid yet at {}", date(at))),
        CertificateError::ExpiredContext { not_after, .. } => {
            Fault::Expired(format!("it was valid until {}, but this machine's clock says {}", day(not_after), date(at)))
        }
        CertificateError::Expired => Fault::Expired(format!("it is expired at {}", date(at))),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str().into_owned();
            Fault::WrongName(format!("it is for {}, not for {expected}", names(&presented)))
        }
        CertificateError::NotValidForName => Fault::WrongName("it is for other names".to_owned()),
        // kubeadm gives every cluster's CA the same name: only the key tells them apart.
        CertificateError::BadSignature => Fault::Untrusted("it is by another CA of the same name".to_owned()),
        CertificateError::UnknownIssuer => Fault::Untrusted("it is by another CA".to_owned()),
        other => Fault::Untrusted(other.to_string()),
    }
}

/// rustls writes `DnsName("x")` and `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let bare =
        |name: &String| name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')')).replace('"', "");
    let all: Vec<String> = presented.iter().map(bare).collect();
    if all.is_empty() { "no name at all".to_owned() } else { all.join(", ") }
}

/// A time as people write it.
pub fn date(at: u64) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|at| jiff::Timestamp::from_second(at).ok())
        .map_or_else(|| format!("{at} s after 1970"), |time| time.to_string())
}

/// SHA-256 over the public key of each certificate in a PEM text, as kubeadm pins them.
pub fn pins(pem: &[u8]) -> Vec<String> {
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    certificates
        .filter_map(|certificate| {
            let parsed = ParsedCertificate::try_from(&certificate).ok()?;
            Some(format!("sha256:{}", Sha256Digest::of(parsed.subject_public_key_info().as_ref())))
        })
        .collect()
}
