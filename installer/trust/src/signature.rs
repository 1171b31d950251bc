//! The one verification. A signature is SSHSIG (OpenSSH's PROTOCOL.sshsig) over exact bytes; what
//! passes comes out as [`Verified`], and nothing else makes one.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PublicKey, SshSig, public::KeyData};

use crate::signers::{Allowed, AllowedSigners, Limits, RevokedKeys, listed};

/// Longest signature that is looked at, in bytes of text.
pub const LIMIT: usize = 16 * 1024;
/// Shortest RSA modulus that is accepted, in bits.
pub const RSA_BITS: usize = 3072;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// What a signature is for. One made for one purpose says nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// Manifests and sums of a release: `ingot-release`.
    Release,
    /// Profiles of machines: `ingot-profile`.
    Profile,
    /// Media: `ingot-media`.
    Media,
}

impl Namespace {
    /// The word inside the signature.
    pub fn as_str(self) -> &'static str {
        match self {
            Namespace::Release => "ingot-release",
            Namespace::Profile => "ingot-profile",
            Namespace::Media => "ingot-media",
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What must hold for bytes to be trusted.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Who may sign.
    pub signers: &'a AllowedSigners,
    /// Who may no longer.
    pub revoked: &'a RevokedKeys,
    /// What the bytes are.
    pub namespace: Namespace,
    /// The time at which a key must be valid: seconds since 1970.
    pub at: u64,
}

/// Why bytes are not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The text is no SSH signature.
    #[error("expected an SSH signature, found {0}")]
    NotASignature(String),
    /// The kind of key or signature is not accepted.
    #[error("expected an Ed25519, ECDSA P-256 or RSA (from {RSA_BITS} bits, SHA-512) signature, found {0}")]
    Weak(String),
    /// It was made for another purpose.
    #[error("expected a signature for `{expected}`, found one for `{found}`")]
    OtherNamespace {
        /// What was asked for.
        expected: Namespace,
        /// What the signature says.
        found: String,
    },
    /// Nobody who may sign has that key.
    #[error("the key {0} is not among the allowed signers")]
    UnknownKey(String),
    /// The key was withdrawn.
    #[error("the key {0} is revoked")]
    Revoked(String),
    /// The key may sign, but not this.
    #[error("the key {fingerprint} (line {line} of the allowed signers) may not sign `{namespace}`")]
    NotForThis {
        /// SHA-256 of the key as OpenSSH shows it.
        fingerprint: String,
        /// Where it stands.
        line: usize,
        /// What was asked for.
        namespace: Namespace,
    },
    /// The key may sign at another time.
    #[error("the key {fingerprint} (line {line} of the allowed signers) is not valid {when}")]
    NotNow {
        /// SHA-256 of the key as OpenSSH shows it.
        fingerprint: String,
        /// Where it stands.
        line: usize,
        /// `any more, since ...` or `yet, before ...`.
        when: String,
    },
    /// The signature is not one of these bytes by that key.
    #[error("the signature by {0} does not belong to these bytes: they were changed, or it was")]
    Forged(String),
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Principals of the line that allowed the key.
    pub principals: Vec<String>,
    /// SHA-256 of the key as OpenSSH shows it: `SHA256:...`.
    pub fingerprint: String,
    /// Comment of that line.
    pub comment: String,
}

/// Something whose signature holds. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signer: Signer,
}

impl<T> Verified<T> {
    /// What was signed.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What was signed, no longer marked as such.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// By whom.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What `read` makes of it: as trustworthy as it was.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn try_map<U, E>(self, read: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        Ok(Verified { value: read(self.value)?, signer: self.signer })
    }
}

/// Checks that `signature` was made over exactly `bytes`, by a key that `policy` allows to sign that
/// at that time.
///
/// # Errors
/// [`Untrusted`] with the first thing that does not hold.
pub fn verify<'a>(bytes: &'a [u8], signature: &str, policy: &Policy<'_>) -> Result<Verified<&'a [u8]>, Untrusted> {
    let signature = read(signature)?;
    strong_enough(&signature)?;
    if signature.namespace() != policy.namespace.as_str() {
        let found = signature.namespace().chars().take(80).flat_map(char::escape_debug).collect();
        return Err(Untrusted::OtherNamespace { expected: policy.namespace, found });
    }
    let key = signature.public_key();
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    if policy.revoked.contains(&fingerprint) {
        return Err(Untrusted::Revoked(fingerprint));
    }
    let entry = allowing(key, &fingerprint, policy)?;
    PublicKey::from(key.clone())
        .verify(policy.namespace.as_str(), bytes, &signature)
        .map_err(|_| Untrusted::Forged(fingerprint.clone()))?;
    let signer = Signer { principals: entry.principals.clone(), fingerprint, comment: entry.comment.clone() };
    Ok(Verified { value: bytes, signer })
}

/// The armor, wrapped at whatever width (OpenSSH takes any), and what is inside.
fn read(text: &str) -> Result<SshSig, Untrusted> {
    let refuse = |found: &str| Untrusted::NotASignature(found.to_owned());
    if text.len() > LIMIT {
        return Err(refuse(&format!("{} bytes of text", text.len())));
    }
    let inside = text.trim().strip_prefix(BEGIN).ok_or_else(|| refuse(&format!("no `{BEGIN}` at its beginning")))?;
    let inside = inside.strip_suffix(END).ok_or_else(|| refuse(&format!("no `{END}` at its end")))?;
    let compact: String = inside.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let blob = STANDARD.decode(&compact).map_err(|e| refuse(&format!("no base64: {e}")))?;
    well_framed(&blob).ok_or_else(|| refuse("fields whose lengths do not fit together"))?;
    // ssh-key takes the width that ssh-keygen writes.
    let lines: Vec<_> = compact.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
    let signature = SshSig::from_pem(format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))).map_err(|e| refuse(&e.to_string()))?;
    match signature.version() {
        SshSig::VERSION => Ok(signature),
        other => Err(refuse(&format!("version {other} of the format"))),
    }
}

/// Whether all fields fill exactly what their lengths say; ssh-key's decoder forgives where they do not.
fn well_framed(blob: &[u8]) -> Option<()> {
    let (_version, mut rest) = blob.strip_prefix(b"SSHSIG")?.split_at_checked(4)?;
    let [key, _namespace, _reserved, _hash, signature] = [(); 5].map(|()| string(&mut rest));
    let mut key = key?;
    while !key.is_empty() {
        string(&mut key)?;
    }
    let mut signature = signature?;
    let algorithm = string(&mut signature)?;
    string(&mut signature)?;
    // Security keys add one byte of flags and a counter (PROTOCOL.u2f).
    let tail = if algorithm.starts_with(b"sk-") { 5 } else { 0 };
    (rest.is_empty() && signature.len() == tail).then_some(())
}

/// Takes a `string` (RFC 4251 section 5) off the front.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(text)
}

/// Only algorithms that OpenSSH itself still signs with, and a signature of the kind its key makes.
fn strong_enough(signature: &SshSig) -> Result<(), Untrusted> {
    let sound = match (signature.public_key(), signature.algorithm()) {
        (KeyData::Ed25519(_), Algorithm::Ed25519) | (KeyData::SkEd25519(_), Algorithm::SkEd25519) => true,
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }) => key.curve() == EcdsaCurve::NistP256,
        (KeyData::SkEcdsaSha2NistP256(_), Algorithm::SkEcdsaSha2NistP256) => true,
        (KeyData::Rsa(key), Algorithm::Rsa { hash: Some(HashAlg::Sha512) }) => {
            let modulus = key.n.as_positive_bytes().unwrap_or_default();
            let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            if (modulus.len() * 8).saturating_sub(unused) < RSA_BITS {
                return Err(Untrusted::Weak(format!("RSA with {} bits", (modulus.len() * 8).saturating_sub(unused))));
            }
            true
        }
        _ => false,
    };
    let found = || format!("a `{}` signature with a `{}` key", signature.algorithm(), signature.public_key().algorithm());
    if sound { Ok(()) } else { Err(Untrusted::Weak(found())) }
}

/// The line that allows `key` what `policy` asks, or the reason of the last one that does not.
fn allowing<'a>(key: &KeyData, fingerprint: &str, policy: &Policy<'a>) -> Result<&'a Allowed, Untrusted> {
    let mut reason = Untrusted::UnknownKey(fingerprint.to_owned());
    for entry in policy.signers.entries.iter().filter(|entry| entry.key == *key) {
        let not_now = |when: String| Untrusted::NotNow { fingerprint: fingerprint.to_owned(), line: entry.line, when };
        reason = match &entry.limits {
            Limits { namespaces: Some(list), .. } if !listed(list, policy.namespace.as_str()) => {
                Untrusted::NotForThis { fingerprint: fingerprint.to_owned(), line: entry.line, namespace: policy.namespace }
            }
            Limits { after: Some(after), .. } if policy.at < *after => {
                not_now(format!("yet at {}, but from {} on", time(policy.at), time(*after)))
            }
            Limits { before: Some(before), .. } if policy.at > *before => {
                not_now(format!("any more at {}, but up to {}", time(policy.at), time(*before)))
            }
            _ => return Ok(entry),
        };
    }
    Err(reason)
}

fn time(seconds: u64) -> String {
    let known = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| format!("@{seconds}"), |time| time.to_string())
}

#[cfg(test)]
mod tests;
