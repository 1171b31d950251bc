//! OpenPGP: takes the signed text out of an InRelease file (RFC 9580 section 7) and decides whether
//! a signature over it counts. rPGP does the arithmetic; the policy is here.
//!
//! A signature counts when it was made by a certificate of the repository's key files, with the
//! primary key or a signing subkey bound both ways, that was neither expired nor revoked when it
//! signed, with RSA of 2048 bits or more or Ed25519, and SHA-2 or SHA-3 throughout.

use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Packet, PacketParser, RevocationCode, Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, PublicParams, Tag};
use rsa::traits::PublicKeyParts;

use crate::definition::Repository;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

const RSA_BITS: usize = 2048;
/// More signatures or certificates than this are an attack on our time.
const MANY: usize = 64;
const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// Certificates that may sign a repository.
#[derive(Debug)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
    fingerprints: Vec<String>,
}

/// Text with a signature that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The signed text, lines ended by `\n`.
    pub text: String,
    /// Fingerprint of the primary key, in capital hexadecimal digits.
    pub fingerprint: String,
}

impl Keyring {
    /// Reads the key files of a repository, armored or binary.
    ///
    /// # Errors
    /// [`Kind::Document`] naming the file that holds no certificate, or a fingerprint no file has.
    pub fn of(repository: &Repository) -> Result<Self> {
        let mut certificates = Vec::new();
        for (name, bytes) in &repository.keys {
            let found = read_certificates(bytes).map_err(|why| {
                Error::new(Kind::Document, format!("the key file {} of `{}`: {why}", name.display(), repository.name))
                    .hint("an OpenPGP certificate is expected, as `gpg --export` or `gpg --export --armor` writes it")
            })?;
            certificates.extend(found);
        }
        let fingerprints: Vec<String> = repository.fingerprints.iter().map(|text| normal(text)).collect();
        let ring = Self { certificates, fingerprints };
        if let Some(lost) = ring.fingerprints.iter().find(|wanted| !ring.knows(wanted)) {
            return Err(Error::new(
                Kind::Document,
                format!("the fingerprint {lost} of `{}` is in none of its key files", repository.name),
            ));
        }
        Ok(ring)
    }

    fn knows(&self, wanted: &str) -> bool {
        self.certificates.iter().any(|certificate| {
            fingerprint(certificate) == wanted || certificate.public_subkeys.iter().any(|sub| fingerprint(&sub.key) == wanted)
        })
    }

    /// Checks an InRelease file and gives its signed text.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] with what is wrong with each signature.
    pub fn verify(&self, in_release: &[u8], now: Epoch) -> Result<Signed> {
        let refuse = |why: String| Error::new(Kind::Untrusted, why);
        let text = std::str::from_utf8(in_release).map_err(|_| refuse("the signed file is no UTF-8 text".to_owned()))?;
        let (signed, armor) = split(text).map_err(|why| refuse(format!("the signed file: {why}")))?;
        let signatures = read_signatures(armor).map_err(|why| refuse(format!("its signature: {why}")))?;
        let mut reasons = Vec::new();
        for signature in &signatures {
            match self.accept(signature, signed.as_bytes(), now) {
                Ok(fingerprint) => return Ok(Signed { text: signed, fingerprint }),
                Err(why) => reasons.push(why),
            }
        }
        reasons.dedup();
        Err(refuse(format!("no signature of the release counts: {}", reasons.join("; ")))
            .hint("if the repository has a new key, get it from its maintainers over a trusted way and add it to `keys`"))
    }

    /// The fingerprint of the certificate whose signature this is, if it counts.
    fn accept(&self, signature: &Signature, text: &[u8], now: Epoch) -> Result<String, String> {
        let made = check_signature(signature)?;
        if signature.typ() != Some(SignatureType::Text) {
            return Err("a signature is not one over text".to_owned());
        }
        if made > now.0.saturating_add(600) {
            return Err(format!("a signature is of {}, later than now ({now})", Epoch(made)));
        }
        if let Some(length) = signature.signature_expiration_time().map(|length| u64::from(length.as_secs()))
            && length != 0
            && made.saturating_add(length) < now.0
        {
            return Err(format!("a signature expired at {}", Epoch(made.saturating_add(length))));
        }
        let mut known = None;
        for certificate in &self.certificates {
            let primary = fingerprint(certificate);
            let allowed = |key: &str| self.fingerprints.is_empty() || self.fingerprints.iter().any(|f| f == key || *f == primary);
            if allowed(&primary) && signature.verify(&certificate.primary_key, text).is_ok() {
                known = Some(check_primary(certificate, made).and_then(|flags| match flags {
                    Some(false) => Err("the primary key may not sign".to_owned()),
                    _ => Ok(()),
                }));
            }
            for sub in certificate.public_subkeys.iter().filter(|sub| allowed(&fingerprint(&sub.key))) {
                if signature.verify(&sub.key, text).is_ok() {
                    known = Some(check_primary(certificate, made).and_then(|_| check_subkey(certificate, sub, made)));
                }
            }
            match known {
                Some(Ok(())) => return Ok(primary),
                Some(Err(why)) => return Err(format!("the key {primary}: {why}")),
                None => {}
            }
        }
        Err(format!("the signature by {} is of no known key, or the text was changed", issuer(signature)))
    }
}

/// Splits a cleartext signature into the signed text and the armored signature.
/// Strict: nothing before, no other headers, every line with a dash escaped.
fn split(text: &str) -> Result<(String, &str), String> {
    let body = text.strip_prefix(BEGIN).map(|rest| rest.trim_start_matches([' ', '\t', '\r']));
    let body = body.and_then(|rest| rest.strip_prefix('\n')).ok_or(format!("expected `{BEGIN}` at the start"))?;
    let mut signed = String::with_capacity(body.len());
    let mut in_headers = true;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim_end_matches([' ', '\t', '\r', '\n']);
        if in_headers {
            match line {
                "" => in_headers = false,
                _ if line.starts_with("Hash: ") => {}
                _ => return Err(format!("unexpected header `{line}`")),
            }
            continue;
        }
        if line == SIGNATURE {
            // The line end before the signature is not signed.
            signed.pop();
            return Ok((signed, body.get(start..).unwrap_or_default()));
        }
        let plain = match line.strip_prefix("- ") {
            Some(plain) => plain,
            None if line.starts_with('-') => return Err(format!("the line `{line}` is not escaped")),
            None => line,
        };
        signed.push_str(plain);
        signed.push('\n');
    }
    Err("there is no signature after the text".to_owned())
}

fn read_signatures(armor: &str) -> Result<Vec<Signature>, String> {
    const END: &str = "-----END PGP SIGNATURE-----";
    let (block, rest) = armor.split_once(END).ok_or("its end is missing")?;
    if !rest.trim().is_empty() {
        return Err("there is something after it".to_owned());
    }
    let block = format!("{block}{END}\n");
    let mut dearmor = pgp::armor::Dearmor::new(block.as_bytes());
    dearmor.read_header().map_err(|e| e.to_string())?;
    let mut signatures = Vec::new();
    for packet in PacketParser::new(std::io::BufReader::new(dearmor)).take(MANY) {
        // Signatures of kinds we cannot read do not count, and do not spoil the others.
        if let Ok(Packet::Signature(signature)) = packet {
            signatures.push(signature);
        }
    }
    if signatures.is_empty() { Err("there is none that can be read".to_owned()) } else { Ok(signatures) }
}

fn read_certificates(bytes: &[u8]) -> Result<Vec<SignedPublicKey>, String> {
    const BLOCK: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let starts: Vec<usize> = memchr::memmem::find_iter(bytes, BLOCK).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let blocks: Vec<&[u8]> = match starts.is_empty() {
        true => vec![bytes],
        false => starts.iter().zip(ends).filter_map(|(start, end)| bytes.get(*start..end)).collect(),
    };
    let mut certificates = Vec::new();
    for block in blocks.into_iter().take(MANY) {
        let (found, _) = SignedPublicKey::from_reader_many(block).map_err(|e| e.to_string())?;
        // A certificate rPGP cannot read (an algorithm of the future) is not used; others are.
        certificates.extend(found.take(MANY).flatten());
    }
    if certificates.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(certificates) }
}

/// What must hold for any signature that is relied on. Gives the time it was made.
fn check_signature(signature: &Signature) -> Result<u64, String> {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha224, Sha256, Sha384, Sha512};
    match signature.hash_alg() {
        Some(Sha224 | Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512) => {}
        Some(weak) => return Err(format!("a signature uses {weak}, which is not accepted")),
        None => return Err("a signature of an unknown version".to_owned()),
    }
    let config = signature.config().ok_or("a signature of an unknown version")?;
    let known = |data: &SubpacketData| {
        !matches!(data, SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_))
    };
    if let Some(odd) = config.hashed_subpackets().find(|packet| packet.is_critical && !known(&packet.data)) {
        return Err(format!("a signature has a critical part that is not understood ({:?})", odd.data));
    }
    signature.created().map(|time| u64::from(time.as_secs())).ok_or_else(|| "a signature says no time".to_owned())
}

fn check_algorithm(key: &impl KeyDetails) -> Result<(), String> {
    match key.public_params() {
        PublicParams::RSA(parameters) if parameters.key.n().bits() >= RSA_BITS => Ok(()),
        PublicParams::RSA(parameters) => {
            Err(format!("RSA of {} bits, at least {RSA_BITS} are needed", parameters.key.n().bits()))
        }
        PublicParams::Ed25519(_) | PublicParams::EdDSALegacy(_) => Ok(()),
        _ => Err(format!("the algorithm {:?} is not accepted (RSA and Ed25519 are)", key.algorithm())),
    }
}

/// Checks the primary key as it was at `at`. Gives whether it may sign, where it says so.
fn check_primary(certificate: &SignedPublicKey, at: u64) -> Result<Option<bool>, String> {
    let key = &certificate.primary_key;
    check_algorithm(key)?;
    for revocation in &certificate.details.revocation_signatures {
        if check_signature(revocation).is_ok() && revocation.verify_key(key).is_ok() && revokes(revocation, at) {
            return Err("it was revoked".to_owned());
        }
    }
    let mut bindings = Vec::new();
    for signature in &certificate.details.direct_signatures {
        if check_signature(signature).is_ok() && signature.verify_key(key).is_ok() {
            bindings.push(signature);
        }
    }
    for user in &certificate.details.users {
        let own = |signature: &&Signature| {
            check_signature(signature).is_ok() && signature.verify_certification(key, Tag::UserId, &user.id).is_ok()
        };
        let valid: Vec<&Signature> = user.signatures.iter().filter(own).collect();
        if !valid.iter().any(|s| s.typ() == Some(SignatureType::CertRevocation) && revokes(s, at)) {
            bindings.extend(valid.into_iter().filter(|s| s.typ() != Some(SignatureType::CertRevocation)));
        }
    }
    let binding = in_force(bindings, at).ok_or("it has no self-signature that is accepted")?;
    check_lifetime(key, binding, at)?;
    Ok(says_sign(binding))
}

/// Checks a signing subkey as it was at `at`: bound by the primary key, and binding it in turn.
fn check_subkey(certificate: &SignedPublicKey, sub: &SignedPublicSubKey, at: u64) -> Result<(), String> {
    check_algorithm(&sub.key)?;
    let own = |s: &&Signature| check_signature(s).is_ok() && s.verify_subkey_binding(&certificate.primary_key, &sub.key).is_ok();
    let valid: Vec<&Signature> = sub.signatures.iter().filter(own).collect();
    if valid.iter().any(|s| s.typ() == Some(SignatureType::SubkeyRevocation) && revokes(s, at)) {
        return Err("its subkey was revoked".to_owned());
    }
    let bindings = valid.into_iter().filter(|s| s.typ() == Some(SignatureType::SubkeyBinding)).collect();
    let binding = in_force(bindings, at).ok_or("its subkey has no binding that is accepted")?;
    check_lifetime(&sub.key, binding, at)?;
    if says_sign(binding) != Some(true) {
        return Err("its subkey may not sign".to_owned());
    }
    let back = binding.embedded_signature().ok_or("its subkey does not bind the primary key")?;
    check_signature(back)?;
    back.verify_primary_key_binding(&sub.key, &certificate.primary_key)
        .map_err(|_| "its subkey does not bind the primary key".to_owned())
}

/// The newest signature made by then. A key file may hold only a later one (the key was renewed
/// since): then the earliest of those.
fn in_force(mut signatures: Vec<&Signature>, at: u64) -> Option<&Signature> {
    let made = |signature: &Signature| signature.created().map_or(0, |time| u64::from(time.as_secs()));
    signatures.sort_by_key(|signature| made(signature));
    let before = signatures.partition_point(|signature| made(signature) <= at);
    signatures.get(before.saturating_sub(1)).copied()
}

fn check_lifetime(key: &impl KeyDetails, binding: &Signature, at: u64) -> Result<(), String> {
    let created = u64::from(key.created_at().as_secs());
    if created > at {
        return Err(format!("it was made at {}, after the signature ({})", Epoch(created), Epoch(at)));
    }
    match binding.key_expiration_time().map(|length| u64::from(length.as_secs())) {
        Some(length) if length != 0 && created.saturating_add(length) <= at => {
            Err(format!("it expired at {}, before the signature ({})", Epoch(created.saturating_add(length)), Epoch(at)))
        }
        _ => Ok(()),
    }
}

/// A key that was replaced or retired was good before; for every other reason it never was.
fn revokes(revocation: &Signature, at: u64) -> bool {
    let soft = matches!(
        revocation.revocation_reason_code(),
        Some(RevocationCode::KeySuperseded | RevocationCode::KeyRetired | RevocationCode::CertUserIdInvalid)
    );
    !soft || revocation.created().is_none_or(|time| u64::from(time.as_secs()) <= at)
}

/// What the key flags say about signing; `None` where there are no flags.
fn says_sign(binding: &Signature) -> Option<bool> {
    binding.config()?.hashed_subpackets().find_map(|packet| match &packet.data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    })
}

fn fingerprint(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

fn issuer(signature: &Signature) -> String {
    match (signature.issuer_fingerprint().first(), signature.issuer_key_id().first()) {
        (Some(fingerprint), _) => format!("{fingerprint:X}"),
        (None, Some(id)) => format!("{id:?}"),
        (None, None) => "an unnamed key".to_owned(),
    }
}

/// A fingerprint as people write it, in capital digits without spaces.
fn normal(text: &str) -> String {
    text.trim_start_matches("0x").chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()).collect()
}

#[cfg(test)]
#[path = "openpgp_tests.rs"]
pub(super) mod tests;
