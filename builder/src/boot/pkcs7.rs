//! The PKCS#7 `SignedData` that the firmware understands: one RSA signer, SHA-256, version 1 (PKCS#7 1.5,
//! RFC 2315). Built field by field, as `cms` would write version 3 for anything but plain data.

use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use const_oid::db::rfc5911::{ID_CONTENT_TYPE, ID_DATA, ID_MESSAGE_DIGEST, ID_SIGNED_DATA};
use const_oid::db::rfc5912::{ID_SHA_256, RSA_ENCRYPTION};
use der::asn1::{ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Decode, Encode};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;
use x509_cert::attr::Attribute;

use crate::error::{Error, Kind, Result};
use crate::keys::secure_boot::{self, Signer};

/// A signature over `content`, an ASN.1 value of type `kind` that it carries, with signed attributes
/// and without the signing time: the same input gives the same bytes. Gives the `ContentInfo`, DER.
pub fn enveloping(kind: ObjectIdentifier, content: &Any, signer: &Signer) -> Result<Vec<u8>> {
    let build = || -> der::Result<(Vec<Attribute>, Vec<u8>)> {
        let digest = OctetString::new(Sha256::digest(content.value()).as_slice())?;
        let attributes = vec![
            attribute(ID_CONTENT_TYPE, Any::encode_from(&kind)?)?,
            attribute(ID_MESSAGE_DIGEST, Any::encode_from(&digest)?)?,
        ];
        let signed = SetOfVec::try_from(attributes.clone())?.to_der()?;
        Ok((attributes, signed))
    };
    let (attributes, signed) = build().map_err(|e| broken(&e))?;
    let signature = signer.sign(&signed)?;
    let wrap = || -> der::Result<Vec<u8>> {
        let content = EncapsulatedContentInfo { econtent_type: kind, econtent: Some(content.clone()) };
        let data = signed_data(content, signer.certificate(), Some(attributes), signature)?;
        ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&data)? }.to_der()
    };
    wrap().map_err(|e| broken(&e))
}

/// A signature over `message`, which it does not carry, without attributes. Gives the bare
/// `SignedData`, DER, as UEFI 2.10 section 8.2.2 wants it.
pub fn detached(message: &[u8], signer: &Signer) -> Result<Vec<u8>> {
    let signature = signer.sign(message)?;
    let content = EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: None };
    signed_data(content, signer.certificate(), None, signature).and_then(|data| data.to_der()).map_err(|e| broken(&e))
}

fn attribute(oid: ObjectIdentifier, value: Any) -> der::Result<Attribute> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? })
}

fn signed_data(
    content: EncapsulatedContentInfo,
    certificate: &Certificate,
    attributes: Option<Vec<Attribute>>,
    signature: Vec<u8>,
) -> der::Result<SignedData> {
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(identity(certificate)),
        digest_alg: algorithm(ID_SHA_256),
        signed_attrs: attributes.map(SetOfVec::try_from).transpose()?,
        // Verifiers in firmware look for the key's algorithm here, not for sha256WithRSAEncryption.
        signature_algorithm: algorithm(RSA_ENCRYPTION),
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    Ok(SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![algorithm(ID_SHA_256)])?,
        encap_content_info: content,
        certificates: Some(CertificateSet(SetOfVec::try_from(vec![CertificateChoices::Certificate(certificate.clone())])?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![signer])?),
    })
}

fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }
}

fn identity(certificate: &Certificate) -> IssuerAndSerialNumber {
    let body = &certificate.tbs_certificate;
    IssuerAndSerialNumber { issuer: body.issuer.clone(), serial_number: body.serial_number.clone() }
}

/// Checks an enveloping signature by exactly `certificate` and gives the content it covers.
///
/// # Errors
/// [`Kind::Untrusted`] with the first thing that does not hold. There are no chains: `certificate`
/// itself has signed, and no other certificate comes along.
pub fn open(content_info: &[u8], kind: ObjectIdentifier, certificate: &Certificate) -> Result<Any> {
    let wrapper = ContentInfo::from_der(content_info).map_err(|e| refused(format!("it is no PKCS#7 ContentInfo: {e}")))?;
    if wrapper.content_type != ID_SIGNED_DATA {
        return Err(refused(format!("it holds {}, not signed data", wrapper.content_type)));
    }
    let data: SignedData = wrapper.content.decode_as().map_err(|e| refused(format!("its signed data cannot be read: {e}")))?;
    let [signer] = data.signer_infos.0.as_slice() else {
        return Err(refused(format!("it has {} signers, not one", data.signer_infos.0.len())));
    };
    if signer.digest_alg != algorithm(ID_SHA_256) || data.digest_algorithms.as_slice() != [algorithm(ID_SHA_256)] {
        return Err(refused(format!("its digest algorithm is {}, not SHA-256 alone", signer.digest_alg.oid)));
    }
    if signer.signature_algorithm != algorithm(RSA_ENCRYPTION) {
        return Err(refused(format!("its signature algorithm is {}, not RSA", signer.signature_algorithm.oid)));
    }
    if (data.version, signer.version) != (CmsVersion::V1, CmsVersion::V1) {
        return Err(refused(format!("its versions are {:?} and {:?}, not 1", data.version, signer.version)));
    }
    if signer.sid != SignerIdentifier::IssuerAndSerialNumber(identity(certificate)) {
        let wanted = &certificate.tbs_certificate;
        return Err(refused(format!("its signer is not {} with serial number {}", wanted.subject, wanted.serial_number)));
    }
    // What no signature covers must not be there, or be what it would be anyway: one form for one meaning.
    let carried =
        CertificateSet(SetOfVec::try_from(vec![CertificateChoices::Certificate(certificate.clone())]).map_err(|e| broken(&e))?);
    if data.certificates != Some(carried) || data.crls.is_some() || signer.unsigned_attrs.is_some() {
        return Err(refused("it carries more or less than its signer's certificate"));
    }
    let content = data.encap_content_info;
    let Some(value) = content.econtent.filter(|_| content.econtent_type == kind) else {
        return Err(refused(format!("its content is {}, not {kind}, or absent", content.econtent_type)));
    };
    check_attributes(signer, kind, value.value())?;
    let signed = signer.signed_attrs.to_der().map_err(|e| broken(&e))?;
    secure_boot::verify(certificate, &signed, signer.signature.as_bytes())?;
    Ok(value)
}

/// The one certificate that comes with a signature, unchecked.
pub fn carried(content_info: &[u8]) -> Option<Certificate> {
    let data: SignedData = ContentInfo::from_der(content_info).ok()?.content.decode_as().ok()?;
    match data.certificates?.0.as_slice() {
        [CertificateChoices::Certificate(certificate)] => Some(certificate.clone()),
        _ => None,
    }
}

/// The signed attributes must name the content's type and digest, each once, and be there at all:
/// without them the signature would be over something else.
fn check_attributes(signer: &SignerInfo, kind: ObjectIdentifier, content: &[u8]) -> Result<()> {
    let Some(attributes) = &signer.signed_attrs else {
        return Err(refused("it has no signed attributes"));
    };
    let one = |oid: ObjectIdentifier, name: &str| {
        let mut found = attributes.iter().filter(|attribute| attribute.oid == oid).flat_map(|attribute| attribute.values.iter());
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(refused(format!("it has not exactly one {name}"))),
        }
    };
    if one(ID_CONTENT_TYPE, "content type")?.decode_as::<ObjectIdentifier>().ok() != Some(kind) {
        return Err(refused(format!("its signed content type is not {kind}")));
    }
    let digest = one(ID_MESSAGE_DIGEST, "message digest")?.decode_as::<OctetString>();
    if digest.ok().as_ref().map(OctetString::as_bytes) != Some(Sha256::digest(content).as_slice()) {
        return Err(refused("its message digest is not that of its content"));
    }
    Ok(())
}

/// A signature that does not hold.
pub fn refused(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::Untrusted, format!("the signature does not hold: {reason}"))
}

fn broken(error: &der::Error) -> Error {
    Error::new(Kind::Failed, format!("writing a PKCS#7 signature: {error}"))
}
