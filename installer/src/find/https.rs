//! Source 6: a server that the signed command line names.
//!
//! | parameter | meaning |
//! |---|---|
//! | `ingot.profile=https://host/path` | where; `{uuid}` stands for the machine's UUID, as all machines of an image have one command line |
//! | `ingot.profile_ca=sha256:HEX` | the CA: SHA-256 of its public key (DER SubjectPublicKeyInfo, as kubeadm writes it). The server sends that CA's certificate along |
//!
//! Without a pin the roots in [`ROOTS`] count, else those in [`SYSTEM_ROOTS`]. No redirect is
//! followed and no proxy asked. Times of certificates are compared with a clock that is never before
//! the image was made.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use profile::secret::Secret;
use reqwest::{StatusCode, Url, redirect};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, time_provider::TimeProvider,
};
use trust::Sha256Digest;

use super::{Found, Held, PROFILE_LIMIT, Reader, disk, optional};
use crate::verify;

/// Roots for the server of profiles that the image brings, in PEM.
pub const ROOTS: &str = "/usr/share/ingot/trust/https_roots.pem";
/// Roots of the system (package ca-certificates).
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

const COMMAND_LINE: &str = "/proc/cmdline";
const ROOTS_LIMIT: usize = 4 << 20;
const URL_LIMIT: usize = 2048;
/// How long connecting and the whole answer may take.
const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(30);

/// One question to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `https://...`.
    pub url: String,
    /// Whose certificates count.
    pub trust: Trust,
    /// Bytes of the answer at most.
    pub limit: usize,
    /// The time to compare certificates with: seconds since 1970.
    pub at: u64,
}

/// Whose certificates count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The CA whose public key has this digest.
    Pin(Sha256Digest),
    /// These roots, in PEM.
    Roots(Vec<u8>),
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file.
    Bytes(Vec<u8>),
    /// It has no such file.
    Missing,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Trouble {
    /// What happened.
    pub reason: String,
    /// Whether asking again may help.
    pub later: bool,
}

impl Trouble {
    fn now(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), later: false }
    }

    fn later(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), later: true }
    }
}

/// Asks the server, where the command line names one and no other source has a profile.
pub(super) fn look(reader: &dyn Reader, found: &mut Found) {
    const SOURCE: &str = "https";
    let (url, trust) = match named(reader) {
        Ok(Some(named)) => named,
        Ok(None) => return found.skip(SOURCE, "the command line names no `ingot.profile=`"),
        Err(reason) => return found.skip(SOURCE, format!("broken: {reason}")),
    };
    if let Some(first) = found.candidates.first() {
        let reason = format!("not asked: {} has a profile", first.source);
        return found.skip(url.as_str(), reason);
    }
    let at = verify::Time::of(reader).map_or_else(|_| reader.clock(), |time| time.not_before());
    let ask = |url: &Url, limit| reader.get(&Request { url: url.as_str().to_owned(), trust: trust.clone(), limit, at });
    let mut signature_url = url.clone();
    signature_url.set_path(&format!("{}.sig", url.path()));
    let answers = ask(&url, PROFILE_LIMIT).and_then(|profile| match profile {
        Answer::Missing => Ok(None),
        Answer::Bytes(profile) => Ok(Some((profile, ask(&signature_url, trust::signature::LIMIT)?))),
    });
    match answers {
        Ok(Some((profile, signature))) => {
            let signature = if let Answer::Bytes(bytes) = signature { Some(bytes) } else { None };
            found.take(url.to_string(), Held { profile, signature });
        }
        Ok(None) => found.skip(url.as_str(), "the server has no such file"),
        Err(trouble) => {
            found.unreachable |= trouble.later;
            found.skip(url.as_str(), trouble.reason);
        }
    }
}

/// Says which server will be asked when the network is there.
pub(super) fn name(reader: &dyn Reader, found: &mut Found) {
    match (named(reader), found.candidates.is_empty()) {
        (Ok(Some((url, _))), true) => {
            found.unreachable = true;
            found.skip(url.as_str(), "not asked: the network is not there yet");
        }
        // Nobody to ask, or no need to: said in the same words as ever.
        _ => look(reader, found),
    }
}

fn named(reader: &dyn Reader) -> Result<Option<(Url, Trust)>, String> {
    let bytes = reader.read(COMMAND_LINE, 64 << 10).map_err(|e: io::Error| format!("reading {COMMAND_LINE}: {e}"))?;
    let line = String::from_utf8_lossy(&bytes);
    let Some(text) = parameter(&line, "ingot.profile")? else { return Ok(None) };
    let uuid = disk::product_uuid(reader);
    let url = url(text, uuid.as_deref())?;
    let trust = match parameter(&line, "ingot.profile_ca")? {
        Some(pin) => Trust::Pin(read_pin(pin)?),
        None => Trust::Roots(roots(reader)?),
    };
    Ok(Some((url, trust)))
}

/// The value of a parameter, which stands there once or says the same each time.
fn parameter<'a>(line: &'a str, name: &str) -> Result<Option<&'a str>, String> {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    let values: Vec<&str> = line.split_whitespace().filter_map(value).collect();
    if values.iter().any(|value| Some(value) != values.first()) {
        return Err(format!("expected `{name}=` once on the command line, found {} that differ", values.len()));
    }
    Ok(values.first().copied().filter(|value| !value.is_empty()))
}

fn url(text: &str, uuid: Option<&str>) -> Result<Url, String> {
    let shown = || text.chars().take(200).flat_map(char::escape_debug).collect::<String>();
    let filled = match (text.contains("{uuid}"), uuid) {
        (true, None) => return Err(format!("`{}` wants the machine's UUID, which the firmware does not tell", shown())),
        (true, Some(uuid)) => text.replace("{uuid}", uuid),
        (false, _) => text.to_owned(),
    };
    let url = Url::parse(&filled).map_err(|e| format!("expected an https address, found `{}`: {e}", shown()))?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if url.scheme() != "https" || !url.has_host() || !plain || text.len() > URL_LIMIT {
        return Err(format!(
            "expected `https://host/path` without a user or `#` and up to {URL_LIMIT} bytes, found `{}`",
            shown()
        ));
    }
    Ok(url)
}

fn read_pin(text: &str) -> Result<Sha256Digest, String> {
    let digits = text.strip_prefix("sha256:").ok_or("expected `ingot.profile_ca=sha256:` and 64 hexadecimal digits")?;
    digits.parse().map_err(|e| format!("`ingot.profile_ca`: {e}"))
}

pub(crate) fn roots(reader: &dyn Reader) -> Result<Vec<u8>, String> {
    for path in [ROOTS, SYSTEM_ROOTS] {
        if let Some(pem) = optional(reader, path, ROOTS_LIMIT)? {
            return Ok(pem);
        }
    }
    Err(format!("expected roots in {ROOTS} or {SYSTEM_ROOTS}, or `ingot.profile_ca=sha256:...`; found none"))
}

/// Asks one server for one file: bounded in size and time, and in whom it trusts.
///
/// # Errors
/// Why there is no answer.
pub fn get(request: &Request) -> Result<Answer, Trouble> {
    let client = client(tls(&request.trust, request.at).map_err(Trouble::now)?).connect_timeout(CONNECT).timeout(WHOLE);
    let client = client.build().map_err(|e| Trouble::now(format!("preparing the HTTP client: {}", reasons(&e))))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Trouble::later(format!("starting the network: {e}")))?;
    runtime.block_on(async {
        let failed = |e: reqwest::Error| Trouble::later(format!("cannot be asked: {}", reasons(&e)));
        let mut response = client.get(&request.url).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::Missing),
            status => return Err(refused(status)),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len().saturating_add(chunk.len()) > request.limit {
                return Err(Trouble::now(format!("expected {} bytes at most, found more", request.limit)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer::Bytes(bytes))
    })
}

/// The one kind of client: no redirect, no proxy of the environment, nothing but https.
pub(crate) fn client(tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .user_agent(concat!("ingot-installer/", env!("CARGO_PKG_VERSION")))
}

fn refused(status: StatusCode) -> Trouble {
    let busy = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    Trouble { reason: format!("the server said {status}"), later: busy || status.is_server_error() }
}

/// The whole chain of reasons; the address is told elsewhere.
pub(crate) fn reasons(error: &reqwest::Error) -> String {
    let mut text = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(reason) = cause {
        text.push(reason.to_string());
        cause = reason.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text.join(": ") }
}

/// Whom to trust, at this time.
pub(crate) fn tls(trust: &Trust, at: u64) -> Result<ClientConfig, String> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pin(pin) => Arc::new(Pinned { pin: *pin, provider: Arc::new(ring::default_provider()) }),
        Trust::Roots(pem) => roots_verifier(pem)?,
    };
    verified_by(verifier, at, None)
}

/// Certificates count that these roots, in PEM, stand for.
pub(crate) fn roots_verifier(pem: &[u8]) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    roots.add_parsable_certificates(certificates);
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build();
    built.map_err(|e| format!("the roots cannot be used: {e}"))
}

/// TLS in which this verifier decides, at this time; who asks proves who it is by certificate and key (PEM), if it has some.
pub(crate) fn verified_by(verifier: Arc<dyn ServerCertVerifier>, at: u64, own: Option<&Secret>) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Fixed(at)));
    let config = config.with_safe_default_protocol_versions().map_err(|e| format!("preparing TLS: {e}"))?;
    let config = config.dangerous().with_custom_certificate_verifier(verifier);
    let Some(own) = own else { return Ok(config.with_no_client_auth()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(own.expose().as_bytes()).filter_map(Result::ok).collect();
    let key = PrivateKeyDer::from_pem_slice(own.expose().as_bytes()).map_err(|_| "there is no key beside the certificate")?;
    config.with_client_auth_cert(chain, key).map_err(|e| format!("the own certificate cannot be used: {e}"))
}

/// The time of the request: this program asks no clock.
#[derive(Debug)]
struct Fixed(u64);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// Trusts one CA, whose certificate the server sends along: everything else is checked as ever.
#[derive(Debug)]
struct Pinned {
    pin: Sha256Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |certificate: &&CertificateDer<'_>| {
            ParsedCertificate::try_from(*certificate)
                .is_ok_and(|parsed| Sha256Digest::of(parsed.subject_public_key_info().as_ref()) == self.pin)
        };
        let authority = intermediates.iter().find(pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
