//! Container images from registries (OCI distribution specification 1.1, and Docker's registries before it): their
//! documents for the lock, all their parts for the store.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderName};
use serde::Deserialize;
use trust::Sha256Digest;

use super::network::{Admission, Expected, Manner, Network, Plain};
use super::registries::{Endpoint, Login};
use super::store::Store;
use super::{Piece, missing, nothing_offline, side_by_side};
use crate::containers::{Reference, Version, document};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::lock::{Lock, LockedImage};
use crate::progress::{Progress, Unit};

/// How often one request answers a challenge: a token may run out once, while we wait for another.
const CHALLENGES: u32 = 3;
/// Longest answer of a server that gives tokens, in bytes.
const TOKEN_LIMIT: u64 = 1 << 20;

/// The document behind a reference, `document::LARGEST` bytes at most. It is kept in the store; offline it is the one
/// that came the last time.
///
/// # Errors
/// [`Kind::Missing`] when it cannot be had; [`Kind::Untrusted`] when it is not what a digest says.
pub fn document(network: &Network, store: &Store, reference: &Reference) -> Result<Vec<u8>> {
    // By the public name, so that a mirror leaves no trace.
    let remembered = store.remembered(&format!("image {reference}"));
    let absent = || {
        Error::new(Kind::Missing, format!("{reference} was never fetched, and --offline forbids the network"))
            .hint("run `ingot lock` once without --offline")
    };
    let bytes = match network.is_offline() {
        true => files::read_if_there(&remembered)?.ok_or_else(absent)?,
        false => {
            let visitor = Visitor::new(network, reference, Some(document::ACCEPTED));
            let version = match &reference.version {
                Version::Tag(tag) => tag.clone(),
                Version::Digest(digest) => format!("sha256:{digest}"),
            };
            network.small((&visitor.url("manifests", &version), &visitor), document::LARGEST)?
        }
    };
    let found = Sha256Digest::of(&bytes);
    if let Version::Digest(wanted) = reference.version
        && wanted != found
    {
        return Err(Error::new(Kind::Untrusted, format!("{reference}: the registry has another document, sha256:{found}")));
    }
    store.insert(&mut bytes.as_slice(), bytes.len() as u64, &found)?;
    files::write_atomic(&remembered, &bytes)?;
    Ok(bytes)
}

/// A further document of an image, by its digest, from the store or else from the registry.
///
/// # Errors
/// As [`document()`].
pub fn further(network: &Network, store: &Store, reference: &Reference, named: document::Named) -> Result<Vec<u8>> {
    if let Some(bytes) = store.read(named.size, &named.sha256)? {
        return Ok(bytes);
    }
    let by_digest = Reference { version: Version::Digest(named.sha256), ..reference.clone() };
    let bytes = document(network, store, &by_digest)?;
    match bytes.len() as u64 == named.size {
        true => Ok(bytes),
        false => Err(Error::new(Kind::Untrusted, format!("{by_digest}: expected {} bytes, found {}", named.size, bytes.len()))),
    }
}

/// Makes sure that every part of the lock's container images is in the store. What is there is checked by its digest;
/// what is missing or damaged is fetched.
///
/// # Errors
/// [`Kind::Missing`] when a part cannot be had (offline: all that are missing are named), [`Kind::Untrusted`] when a
/// registry has another one than the lock says.
pub fn images(lock: &Lock, store: &Store, network: &Network, progress: &dyn Progress) -> Result<()> {
    let parts = parts(lock)?;
    let wanted = missing(("container images", &parts), store, progress)?;
    if wanted.is_empty() {
        return Ok(());
    }
    if network.is_offline() {
        return Err(nothing_offline("parts of container images", &wanted));
    }
    let total = wanted.iter().fold(0u64, |sum, part| sum.saturating_add(part.named.size));
    let task = progress.begin("fetching container images", total, Unit::Bytes);
    side_by_side(network.jobs(), &wanted, |part| {
        let visitor = Visitor::new(network, &part.reference, part.document.then_some(document::ACCEPTED));
        let url = visitor.url(if part.document { "manifests" } else { "blobs" }, &format!("sha256:{}", part.named.sha256));
        let name = part.label();
        let expected = Expected { name: &name, size: part.named.size, sha256: part.named.sha256 };
        network.download((&url, &visitor), expected, store, &*task)
    })?;
    Ok(())
}

/// A part of an image.
#[derive(Debug, Clone)]
struct Part {
    reference: Reference,
    document: bool,
    named: document::Named,
}

impl Piece for Part {
    fn size(&self) -> u64 {
        self.named.size
    }

    fn sha256(&self) -> Sha256Digest {
        self.named.sha256
    }

    fn label(&self) -> String {
        format!("sha256:{} of {}", self.named.sha256.to_string().get(..12).unwrap_or_default(), self.reference)
    }
}

/// All parts of all images, each once.
fn parts(lock: &Lock) -> Result<Vec<Part>> {
    let mut parts = BTreeMap::new();
    for LockedImage { reference, documents, layers, .. } in &lock.containers.images {
        let reference: Reference = reference.parse().map_err(|why: String| Error::new(Kind::Document, why))?;
        for (document, named) in documents.iter().map(|n| (true, n)).chain(layers.iter().map(|n| (false, n))) {
            let part = || Part { reference: reference.clone(), document, named: *named };
            parts.entry(named.sha256).or_insert_with(part);
        }
    }
    Ok(parts.into_values().collect())
}

/// Asks a registry for parts of one repository.
#[derive(Debug)]
struct Visitor<'a> {
    network: &'a Network,
    endpoint: Endpoint,
    repository: String,
    accept: Option<&'static str>,
    challenges: AtomicU32,
}

impl<'a> Visitor<'a> {
    fn new(network: &'a Network, reference: &Reference, accept: Option<&'static str>) -> Self {
        let endpoint = network.options.registries.endpoint(reference);
        let repository = format!("{}{}", endpoint.prefix, reference.repository);
        Self { network, endpoint, repository, accept, challenges: AtomicU32::new(0) }
    }

    fn url(&self, what: &str, version: &str) -> String {
        format!("{}/v2/{}/{what}/{version}", self.endpoint.base, self.repository)
    }

    /// What an admission is kept under.
    fn place(&self) -> String {
        format!("{}/{}", self.endpoint.base, self.repository)
    }

    fn login(&self) -> Option<&'a Login> {
        self.network.options.registries.login(self.endpoint.host())
    }

    /// A token from the server that the registry names (distribution specification, token authentication).
    fn token(&self, challenge: &Challenge) -> Result<String> {
        let realm = challenge.get("realm").ok_or_else(|| self.refused("it names no server that gives tokens"))?;
        let safe = realm.starts_with("https://") || (self.endpoint.is_open() && realm.starts_with("http://"));
        if !safe || realm.contains(['#', ' ', '@']) {
            return Err(self.refused("the server it names for tokens cannot be trusted with a password"));
        }
        let own = format!("repository:{}:pull", self.repository);
        let mut url = format!("{realm}{}scope={}", if realm.contains('?') { '&' } else { '?' }, query(&own));
        if let Some(service) = challenge.get("service") {
            url = format!("{url}&service={}", query(service));
        }
        let bytes = match self.login() {
            Some(login) => self.network.small((&url, &Basic(login)), TOKEN_LIMIT),
            None => self.network.small((&url, &Plain), TOKEN_LIMIT),
        };
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = bytes.map_err(|error| error.hint(self.hint()))?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        token.filter(|token| !token.is_empty()).ok_or_else(|| self.refused("the answer of its server holds no token"))
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Kind::Missing, format!("the registry {} wants to know who asks: {why}", self.endpoint.host()))
            .hint(self.hint())
    }

    fn hint(&self) -> String {
        format!(
            "--registry-auth FILE names a config.json, as `docker login` writes it, with an entry `{}` under `auths`",
            self.endpoint.host()
        )
    }
}

impl Manner for Visitor<'_> {
    fn headers(&self) -> Vec<(HeaderName, String)> {
        let admissions = self.network.admissions.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = admissions.get(&self.place()).map(|admission| (AUTHORIZATION, admission.0.clone()));
        self.accept.map(|accept| (ACCEPT, accept.to_owned())).into_iter().chain(admission).collect()
    }

    fn challenged(&self, challenge: &str) -> Result<bool> {
        if self.challenges.fetch_add(1, Ordering::Relaxed) >= CHALLENGES {
            return Err(self.refused("what it was told is not enough"));
        }
        let challenge = Challenge::parse(challenge);
        let value = match challenge.scheme.as_str() {
            "bearer" => format!("Bearer {}", self.token(&challenge)?),
            "basic" => match self.login() {
                Some(login) => format!("Basic {}", login.0),
                None => return Err(self.refused("there are no credentials for it")),
            },
            _ => return Err(self.refused("in a way that ingot does not know")),
        };
        self.network.admissions.lock().unwrap_or_else(PoisonError::into_inner).insert(self.place(), Admission(value));
        Ok(true)
    }

    fn absent(&self) -> &'static str {
        "check the name, or take the image from another registry with --registry REGISTRY=URL"
    }
}

/// A server that gives tokens, asked with a password.
struct Basic<'a>(&'a Login);

impl Manner for Basic<'_> {
    fn headers(&self) -> Vec<(HeaderName, String)> {
        vec![(AUTHORIZATION, format!("Basic {}", self.0.0))]
    }

    fn challenged(&self, _: &str) -> Result<bool> {
        Ok(false)
    }

    fn absent(&self) -> &'static str {
        "the registry names a server for tokens that does not give any"
    }
}

/// `WWW-Authenticate` (RFC 9110 section 11.6.1), the first challenge of it.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// In lower case.
    scheme: String,
    parameters: BTreeMap<String, String>,
}

impl Challenge {
    fn parse(text: &str) -> Self {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = BTreeMap::new();
        while let Some((name, behind)) = rest.split_once('=') {
            let (value, left) = match behind.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => behind.split_once(',').unwrap_or((behind, "")),
            };
            parameters.insert(name.trim_matches([',', ' ']).to_ascii_lowercase(), value.trim().to_owned());
            rest = left;
        }
        Self { scheme: scheme.to_ascii_lowercase(), parameters }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

/// Percent-encodes a value of a query.
fn query(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
