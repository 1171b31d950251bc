//! The Secure Boot keys: PK (who owns the machine), KEK (who may change the lists), db (who may boot).
//!
//! A folder holds `PK.key`, `PK.crt`, `KEK.key`, `KEK.crt`, `db.key`, `db.crt`: PKCS#8 and X.509, both PEM.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use der::asn1::{BitString, GeneralizedTime, SetOfVec, UtcTime, Utf8StringRef};
use der::oid::ObjectIdentifier;
use der::{Any, DateTime, DecodePem, Encode, EncodePem};
use rsa::pkcs1v15::{Signature, SigningKey, VerifyingKey};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rsa::signature::{SignatureEncoding, Signer as _, Verifier as _};
use rsa::traits::PublicKeyParts;
use rsa::{RsaPrivateKey, RsaPublicKey};
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use uuid::Uuid;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::ext::{AsExtension, Extension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use crate::error::{Context, Error, Kind, Result};
use crate::files;

/// What all firmware takes; longer keys are refused by some.
const KEY_BITS: usize = 2048;
/// The beginning of every certificate's validity. Firmware has no clock it could trust and looks at
/// none, so a fixed date long past spares machines with a wrong clock all trouble.
const VALID_FROM: (u16, u8, u8) = (2020, 1, 1);
/// "No well-defined expiration date", RFC 5280 section 4.1.2.5: a machine in the field must not stop booting.
const VALID_UNTIL: (u16, u8, u8) = (9999, 12, 31);
/// Longest common name that X.520 allows, minus what is put behind the subject.
const MAX_SUBJECT: usize = 64 - " Key Exchange Key".len();

/// A private key with its certificate.
pub struct Signer {
    key: SigningKey<Sha256>,
    certificate: Certificate,
    der: Vec<u8>,
}

/// The three keys of one owner.
#[derive(Debug)]
pub struct SecureBootKeys {
    /// Platform key: signs changes of PK and KEK.
    pub pk: Signer,
    /// Key exchange key: signs changes of db and dbx.
    pub kek: Signer,
    /// Signs what boots: UKI and loader.
    pub db: Signer,
}

impl SecureBootKeys {
    /// The owner in signature lists: derived from the db certificate, so equal keys give equal lists.
    pub fn owner(&self) -> Uuid {
        let digest = Sha256::digest(self.db.certificate_der());
        uuid::Builder::from_custom_bytes(digest.first_chunk().copied().unwrap_or_default()).into_uuid()
    }
}

/// What a key is for, with the names of its files and the end of its certificate's common name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Pk,
    Kek,
    Db,
}

impl Role {
    fn file(self) -> &'static str {
        match self {
            Role::Pk => "PK",
            Role::Kek => "KEK",
            Role::Db => "db",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Role::Pk => "Platform Key",
            Role::Kek => "Key Exchange Key",
            Role::Db => "Boot Signing Key",
        }
    }
}

/// Makes new keys in `folder`. `subject` (1 to 47 characters) begins the certificates' names, as in
/// "Example Works Platform Key".
///
/// # Errors
/// [`Kind::Usage`] for a subject that cannot be a name; [`Kind::Failed`] where a key is in `folder`
/// already, as making another over it would lock out the machines that trust the first.
pub fn create(folder: &Path, subject: &str) -> Result<SecureBootKeys> {
    let length = subject.chars().count();
    if length == 0 || length > MAX_SUBJECT || subject.trim() != subject || subject.chars().any(char::is_control) {
        let text =
            format!("the subject `{subject}` is no name: 1 to {MAX_SUBJECT} characters, no spaces around, no control characters");
        return Err(Error::new(Kind::Usage, text));
    }
    for role in [Role::Pk, Role::Kek, Role::Db] {
        for path in [folder.join(format!("{}.key", role.file())), folder.join(format!("{}.crt", role.file()))] {
            if path.symlink_metadata().is_ok() {
                return Err(Error::new(Kind::Failed, format!("{} is there already", path.display())).hint(
                    "machines that trust the old key would refuse images of the new one: name another folder, or remove it",
                ));
            }
        }
    }
    files::make_folder(folder)?;
    let keys = SecureBootKeys { pk: new(Role::Pk, subject)?, kek: new(Role::Kek, subject)?, db: new(Role::Db, subject)? };
    for (role, signer) in [(Role::Pk, &keys.pk), (Role::Kek, &keys.kek), (Role::Db, &keys.db)] {
        signer.store(folder, role)?;
    }
    Ok(keys)
}

/// Reads the keys that [`create`] made, or that others put under the same names.
///
/// # Errors
/// [`Kind::Missing`] for a file that is not there; [`Kind::Document`] for one that cannot be read, a
/// certificate of another key, or a key that is not RSA with 2048 to 4096 bits.
pub fn load(folder: &Path) -> Result<SecureBootKeys> {
    let load = |role: Role| Signer::load(folder, role.file());
    Ok(SecureBootKeys { pk: load(Role::Pk)?, kek: load(Role::Kek)?, db: load(Role::Db)? })
}

impl Signer {
    /// Joins a private key and its certificate, both PEM.
    ///
    /// # Errors
    /// [`Kind::Document`] where one cannot be read or they do not belong together.
    pub fn from_pem(key: &str, certificate: &[u8]) -> Result<Self> {
        let wrong = |text: String| Error::new(Kind::Document, text);
        let key = RsaPrivateKey::from_pkcs8_pem(key).map_err(|e| {
            wrong(format!("the private key is no RSA key in PKCS#8 PEM: {e}"))
                .hint("convert it with `openssl pkcs8 -topk8 -nodes`")
        })?;
        let certificate =
            Certificate::from_pem(certificate).map_err(|e| wrong(format!("the certificate is no X.509 in PEM: {e}")))?;
        Self::new(key, certificate)
    }

    fn new(key: RsaPrivateKey, certificate: Certificate) -> Result<Self> {
        let wrong = |text: String| Error::new(Kind::Document, text);
        let bits = key.size() * 8;
        if !(2048..=4096).contains(&bits) {
            return Err(wrong(format!("the RSA key has {bits} bits, not 2048 to 4096")));
        }
        if public_key(&certificate)? != key.to_public_key() {
            return Err(wrong(format!("the certificate of {} is for another key", certificate.tbs_certificate.subject)));
        }
        let der = certificate.to_der().map_err(|e| wrong(format!("the certificate cannot be written: {e}")))?;
        Ok(Self { key: SigningKey::new(key), certificate, der })
    }

    fn load(folder: &Path, name: &str) -> Result<Self> {
        let read = |extension: &str| {
            let path = folder.join(format!("{name}.{extension}"));
            let bytes = files::read_if_there(&path)?.ok_or_else(|| {
                Error::new(Kind::Missing, format!("the Secure Boot file {} is not there", path.display()))
                    .hint("make keys with `ingot keys new`, or name the folder that holds them")
            })?;
            Ok((path, bytes))
        };
        let (path, key) = read("key")?;
        let key = zeroize::Zeroizing::new(key);
        warn_if_open(&path);
        let text =
            std::str::from_utf8(&key).map_err(|_| Error::new(Kind::Document, format!("{} is no PEM text", path.display())))?;
        let (_, certificate) = read("crt")?;
        Self::from_pem(text, &certificate).context(format!("reading the Secure Boot key {}", path.display()))
    }

    fn store(&self, folder: &Path, role: Role) -> Result<()> {
        let failed = |e: &dyn fmt::Display| Error::new(Kind::Failed, format!("writing the {} key as PEM: {e}", role.file()));
        let key: &RsaPrivateKey = self.key.as_ref();
        let key = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        let certificate = self.certificate.to_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        // `write_atomic` makes files for their owner only, as all temporary files are.
        files::write_atomic(&folder.join(format!("{}.key", role.file())), key.as_bytes())?;
        files::write_atomic(&folder.join(format!("{}.crt", role.file())), certificate.as_bytes())
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `message`.
    ///
    /// # Errors
    /// Where the key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = self.key.try_sign(message).map_err(|e| Error::new(Kind::Failed, format!("signing: {e}")))?;
        Ok(signature.to_vec())
    }

    /// The certificate that verifiers trust.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The certificate as DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as PEM.
    ///
    /// # Errors
    /// Where it cannot be written, which a parsed certificate always can.
    pub fn certificate_pem(&self) -> Result<String> {
        self.certificate
            .to_pem(LineEnding::LF)
            .map_err(|e| Error::new(Kind::Failed, format!("writing a certificate as PEM: {e}")))
    }
}

impl fmt::Debug for Signer {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.certificate.tbs_certificate.subject)
    }
}

/// Checks an RSASSA-PKCS1-v1_5 signature with SHA-256.
///
/// # Errors
/// [`Kind::Untrusted`] where it is not of `certificate`'s key over `message`.
pub fn verify(certificate: &Certificate, message: &[u8], signature: &[u8]) -> Result<()> {
    let name = &certificate.tbs_certificate.subject;
    let key = VerifyingKey::<Sha256>::new(public_key(certificate)?);
    Signature::try_from(signature)
        .and_then(|signature| key.verify(message, &signature))
        .map_err(|_| Error::new(Kind::Untrusted, format!("the signature is not one of {name}")))
}

fn public_key(certificate: &Certificate) -> Result<RsaPublicKey> {
    let body = &certificate.tbs_certificate;
    let wrong = |e: &dyn fmt::Display| {
        Error::new(Kind::Document, format!("the certificate of {} has no usable RSA key: {e}", body.subject))
    };
    let spki = body.subject_public_key_info.to_der().map_err(|e| wrong(&e))?;
    rsa::pkcs8::DecodePublicKey::from_public_key_der(&spki).map_err(|e| wrong(&e))
}

fn warn_if_open(path: &Path) {
    if let Ok(found) = path.metadata()
        && found.permissions().mode() & 0o077 != 0
    {
        tracing::warn!("{} can be read by others: chmod 600 it", path.display());
    }
}

fn new(role: Role, subject: &str) -> Result<Signer> {
    let failed = |e: &dyn fmt::Display| Error::new(Kind::Failed, format!("making the {} key: {e}", role.file()));
    let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS).map_err(|e| failed(&e))?;
    let certificate = self_signed(&key, role, subject).map_err(|e| failed(&e))?;
    Signer::new(key, certificate)
}

/// An X.509 certificate (RFC 5280) of `key` by itself.
fn self_signed(key: &RsaPrivateKey, role: Role, subject: &str) -> der::Result<Certificate> {
    let public = SubjectPublicKeyInfoOwned::from_key(key.to_public_key()).map_err(|_| der::ErrorKind::Failed)?;
    let identifier = Sha256::digest(public.subject_public_key.raw_bytes());
    // A serial number is positive and not longer than 20 bytes.
    let mut serial: [u8; 16] = identifier.first_chunk().copied().unwrap_or_default();
    serial[0] = serial[0] & 0x7f | 0x40;
    let name = name(&format!("{subject} {}", role.title()))?;
    let signature =
        AlgorithmIdentifierOwned { oid: const_oid::db::rfc5912::SHA_256_WITH_RSA_ENCRYPTION, parameters: Some(Any::null()) };
    let body = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: signature.clone(),
        issuer: name.clone(),
        validity: validity()?,
        extensions: Some(extensions(role, &name, identifier.get(..20).unwrap_or_default())?),
        subject: name,
        subject_public_key_info: public,
        issuer_unique_id: None,
        subject_unique_id: None,
    };
    let signed: Signature =
        SigningKey::<Sha256>::new(key.clone()).try_sign(&body.to_der()?).map_err(|_| der::ErrorKind::Failed)?;
    Ok(Certificate { tbs_certificate: body, signature_algorithm: signature, signature: BitString::from_bytes(&signed.to_vec())? })
}

fn name(common_name: &str) -> der::Result<Name> {
    let value = Any::encode_from(&Utf8StringRef::new(common_name)?)?;
    let part = AttributeTypeAndValue { oid: const_oid::db::rfc4519::CN, value };
    Ok(RdnSequence(vec![RelativeDistinguishedName(SetOfVec::try_from(vec![part])?)]))
}

fn validity() -> der::Result<Validity> {
    let seconds = |(year, month, day): (u16, u8, u8), (hour, minute, second): (u8, u8, u8)| -> der::Result<Duration> {
        Ok(DateTime::new(year, month, day, hour, minute, second)?.unix_duration())
    };
    Ok(Validity {
        not_before: Time::UtcTime(UtcTime::from_unix_duration(seconds(VALID_FROM, (0, 0, 0))?)?),
        not_after: Time::GeneralTime(GeneralizedTime::from_unix_duration(seconds(VALID_UNTIL, (23, 59, 59))?)?),
    })
}

/// None of the three issues certificates: each signs by itself. Only db's key signs code.
fn extensions(role: Role, subject: &Name, identifier: &[u8]) -> der::Result<Vec<Extension>> {
    let mut all = Vec::new();
    all.push(BasicConstraints { ca: false, path_len_constraint: None }.to_extension(subject, &all)?);
    all.push(KeyUsage(KeyUsages::DigitalSignature.into()).to_extension(subject, &all)?);
    if role == Role::Db {
        let code_signing: ObjectIdentifier = const_oid::db::rfc5280::ID_KP_CODE_SIGNING;
        all.push(ExtendedKeyUsage(vec![code_signing]).to_extension(subject, &all)?);
    }
    all.push(SubjectKeyIdentifier(der::asn1::OctetString::new(identifier)?).to_extension(subject, &all)?);
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::OnceLock;

    /// Keys for tests, made once in each test process.
    pub fn keys() -> &'static SecureBootKeys {
        static KEYS: OnceLock<SecureBootKeys> = OnceLock::new();
        KEYS.get_or_init(|| {
            let key = |role| new(role, "Ingot Test").unwrap();
            SecureBootKeys { pk: key(Role::Pk), kek: key(Role::Kek), db: key(Role::Db) }
        })
    }

    #[test]
    fn made_keys_are_loaded_again_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let made = create(&folder, "Wörks & Söhne").unwrap();
        let loaded = load(&folder).unwrap();
        assert_eq!(made.db.certificate_der(), loaded.db.certificate_der());
        assert_eq!(made.owner(), loaded.owner());
        assert_eq!(made.pk.sign(b"x").unwrap(), loaded.pk.sign(b"x").unwrap());
        for name in ["PK.key", "KEK.key", "db.key"] {
            assert_eq!(folder.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(create(&folder, "Other").unwrap_err().to_string().ends_with("PK.key is there already"));
        std::fs::copy(folder.join("KEK.crt"), folder.join("db.crt")).unwrap();
        assert!(load(&folder).unwrap_err().to_string().contains("is for another key"));
        std::fs::remove_file(folder.join("db.crt")).unwrap();
        assert_eq!(load(&folder).unwrap_err().kind(), Kind::Missing);
    }

    #[test]
    fn openssl_reads_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.crt");
        std::fs::write(&path, keys().db.certificate_pem().unwrap()).unwrap();
        let openssl = crate::run::Program::find("openssl", "apt install openssl").unwrap();
        let text = openssl.clone().arg("x509").arg("-noout").arg("-text").arg("-in").arg(&path).output().unwrap();
        let text = String::from_utf8(text).unwrap();
        for expected in [
            "Version: 3",
            "Issuer: CN = Ingot Test Boot Signing Key",
            "Not Before: Jan  1 00:00:00 2020 GMT",
            "Not After : Dec 31 23:59:59 9999 GMT",
            "Public-Key: (2048 bit)",
            "CA:FALSE",
            "Digital Signature",
            "Code Signing",
            "Signature Algorithm: sha256WithRSAEncryption",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        openssl.arg("verify").arg("-x509_strict").arg("-check_ss_sig").arg("-CAfile").arg(&path).arg(&path).output().unwrap();
    }

    #[test]
    fn wrong_subjects_and_keys_are_refused() {
        let folder = Path::new("/nonexistent/ingot");
        for subject in ["", " x", "a\nb", &"x".repeat(48)] {
            assert_eq!(create(folder, subject).unwrap_err().kind(), Kind::Usage, "{subject:?}");
        }
        let pem = keys().db.certificate_pem().unwrap();
        assert!(Signer::from_pem("no key", pem.as_bytes()).unwrap_err().to_string().contains("no RSA key in PKCS#8 PEM"));
        assert!(verify(keys().pk.certificate(), b"x", &keys().db.sign(b"x").unwrap()).is_err());
        assert!(verify(keys().db.certificate(), b"y", &keys().db.sign(b"x").unwrap()).is_err());
        verify(keys().db.certificate(), b"x", &keys().db.sign(b"x").unwrap()).unwrap();
        assert!(!format!("{:?}", keys()).contains("RsaPrivateKey"));
    }
}
