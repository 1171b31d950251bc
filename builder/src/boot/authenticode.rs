//! Authenticode: the signature inside a PE file that Secure Boot asks for ("Windows Authenticode Portable
//! Executable Signature Format", 2008; PE Format section 5.9).

use const_oid::db::rfc5912::ID_SHA_256;
use der::asn1::{AnyRef, ObjectIdentifier, OctetString};
use der::{Any, Decode, Encode, Header, Reader, SliceReader, Tag, Tagged};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;

use super::pe::{self, Pe, optional};
use super::pkcs7::{self, refused};
use crate::error::{Context, Error, Kind, Result};
use crate::keys::secure_boot::Signer;

/// `SPC_INDIRECT_DATA_OBJID`.
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// `SPC_PE_IMAGE_DATAOBJ`.
const PE_IMAGE_KIND: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");
/// `SpcAttributeTypeAndOptionalValue` of a PE image: type `SPC_PE_IMAGE_DATAOBJ` and an `SpcPeImageData`
/// with no flags and an empty file name, which is all that any verifier expects there.
const PE_IMAGE: &[u8] = &[
    0x30, 0x17, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f, 0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04,
    0xa2, 0x02, 0x80, 0x00,
];
/// `WIN_CERTIFICATE`: length, revision, type (UEFI 2.10 section 32.2.4).
const CERTIFICATE_HEADER: usize = 8;
/// Revision 2.0 and `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0x02, 0x00];
/// Signatures start at, and have a size of, multiples of this.
const ALIGNMENT: usize = 8;

/// The SHA-256 that a signature of `pe` covers: the file without its checksum, its signatures and their place.
///
/// # Errors
/// [`Kind::Document`] where a gap between sections would be covered by no signature.
pub fn digest(pe: &Pe<'_>) -> Result<[u8; 32]> {
    check_no_gaps(pe)?;
    let end = pe.bytes().len() - pe.certificates().map_or(0, <[u8]>::len);
    let checksum = pe.optional + optional::CHECKSUM;
    let directory = pe.optional + optional::SECURITY_DIRECTORY;
    let mut hash = Sha256::new();
    for range in [0..checksum, checksum + 4..directory, directory + 8..end] {
        let part =
            pe.bytes().get(range).ok_or_else(|| Error::new(Kind::Document, "the PE headers are beyond the signed part"))?;
        hash.update(part);
    }
    // What the signature's alignment adds is part of what is signed.
    hash.update(&[0; ALIGNMENT][..end.next_multiple_of(ALIGNMENT) - end]);
    Ok(hash.finalize().into())
}

/// The specification's digest goes section by section and skips gaps; without gaps that is the whole file.
fn check_no_gaps(pe: &Pe<'_>) -> Result<()> {
    let mut end = pe.headers_size()?;
    for section in pe.sections().iter().filter(|section| section.raw_size > 0) {
        let start = section.raw_offset as usize;
        if start != end {
            let name = &section.name;
            let text =
                format!("the bytes {end:#x} to {start:#x} before section `{name}` belong to no section and would not be signed");
            return Err(Error::new(Kind::Document, text));
        }
        end = start + section.raw_size as usize;
    }
    Ok(())
}

/// Signs a PE file; a signature it has already is replaced. The same input gives the same bytes.
///
/// # Errors
/// [`Kind::Document`] when `file` is no PE file that can be signed; the key's own errors.
pub fn sign(file: &[u8], signer: &Signer) -> Result<Vec<u8>> {
    let pe = Pe::parse(file).context("reading the file to be signed")?;
    let digest = digest(&pe)?;
    let content = indirect_data(&digest).map_err(|e| Error::new(Kind::Failed, format!("writing the signed digest: {e}")))?;
    let signature = pkcs7::enveloping(INDIRECT_DATA, &content, signer)?;

    let end = file.len() - pe.certificates().map_or(0, <[u8]>::len);
    let offset = end.next_multiple_of(ALIGNMENT);
    let length = CERTIFICATE_HEADER + signature.len();
    let size = length.next_multiple_of(ALIGNMENT);
    let number = |value: usize| {
        u32::try_from(value).map(u32::to_le_bytes).map_err(|_| Error::new(Kind::Document, "the PE file is beyond 4 GiB"))
    };
    let mut signed = Vec::with_capacity(offset + size);
    signed.extend_from_slice(file.get(..end).unwrap_or_default());
    signed.resize(offset, 0);
    signed.extend_from_slice(&number(length)?);
    signed.extend_from_slice(&REVISION_AND_TYPE);
    signed.extend_from_slice(&signature);
    signed.resize(offset + size, 0);
    let directory = pe.optional + optional::SECURITY_DIRECTORY;
    pe::put(&mut signed, directory, &number(offset)?)?;
    pe::put(&mut signed, directory + 4, &number(size)?)?;
    // The firmware does not look at the checksum, and the one that was there is wrong now.
    pe::put(&mut signed, pe.optional + optional::CHECKSUM, &[0; 4])?;
    Ok(signed)
}

/// Checks that a PE file carries exactly one signature, by `certificate` itself, over exactly this file.
///
/// # Errors
/// [`Kind::Untrusted`] with what does not hold; [`Kind::Document`] when the file is no PE file.
pub fn verify(file: &[u8], certificate: &Certificate) -> Result<()> {
    let pe = Pe::parse(file)?;
    let Some(table) = pe.certificates() else {
        return Err(Error::new(Kind::Untrusted, "the file is not signed"));
    };
    let content = pkcs7::open(one_signature(table)?, INDIRECT_DATA, certificate)?;
    let expected = digest(&pe)?;
    let signed = signed_digest(&content).map_err(|e| refused(format!("its content is no digest of a PE image: {e}")))?;
    let expected = digest_info(&expected).map_err(|e| refused(format!("the digest cannot be written: {e}")))?;
    if signed != expected {
        return Err(refused("it was made for other bytes than this file has (Authenticode digest differs)"));
    }
    Ok(())
}

/// The certificate that came with the signature of `pe`, for showing it: being there proves nothing.
pub fn carried(pe: &Pe<'_>) -> Option<Certificate> {
    pkcs7::carried(one_signature(pe.certificates()?).ok()?)
}

/// The `DigestInfo` (DER) of an `SpcIndirectDataContent` for a PE image, and nothing else, is in `content`.
fn signed_digest(content: &Any) -> der::Result<Vec<u8>> {
    let mut reader = SliceReader::new(content.value())?;
    let image = AnyRef::decode(&mut reader)?;
    let kind = ObjectIdentifier::decode(&mut SliceReader::new(image.value())?)?;
    if image.tag() != Tag::Sequence || kind != PE_IMAGE_KIND {
        return Err(der::ErrorKind::OidUnknown { oid: kind }.into());
    }
    let info = AnyRef::decode(&mut reader)?.to_der()?;
    reader.finish(info)
}

/// The one PKCS#7 signature in a certificate table.
fn one_signature(table: &[u8]) -> Result<&[u8]> {
    let length = pe::u32_at(table, 0)? as usize;
    if length < CERTIFICATE_HEADER || length > table.len() || length.next_multiple_of(ALIGNMENT) != table.len() {
        let room = table.len();
        return Err(refused(format!("its length is {length} in a table of {room} bytes; exactly one signature may be there")));
    }
    let (header, rest) = table.split_at(CERTIFICATE_HEADER);
    if header.get(4..) != Some(&REVISION_AND_TYPE) {
        return Err(refused("it is not of revision 2.0 and type PKCS#7"));
    }
    // Other tools count the padding into the length; zeros after the ASN.1 value are all there may be.
    let mut reader = SliceReader::new(rest).map_err(|e| refused(e.to_string()))?;
    let body = Header::decode(&mut reader).map_err(|e| refused(format!("it is no ASN.1 value: {e}")))?;
    let end = usize::try_from(reader.position())
        .unwrap_or(usize::MAX)
        .saturating_add(usize::try_from(body.length).unwrap_or(usize::MAX));
    let (signature, padding) = rest.split_at_checked(end).ok_or_else(|| refused("its ASN.1 value is longer than its place"))?;
    if padding.len() >= ALIGNMENT || padding.iter().any(|byte| *byte != 0) {
        return Err(refused(format!("{} bytes that are no padding follow it", padding.len())));
    }
    Ok(signature)
}

/// `SpcIndirectDataContent` for a PE file with this digest.
fn indirect_data(digest: &[u8]) -> der::Result<Any> {
    Any::new(Tag::Sequence, [PE_IMAGE, &digest_info(digest)?].concat())
}

/// `DigestInfo` of a SHA-256, DER.
fn digest_info(digest: &[u8]) -> der::Result<Vec<u8>> {
    let mut info = AlgorithmIdentifierOwned { oid: ID_SHA_256, parameters: Some(Any::null()) }.to_der()?;
    OctetString::new(digest)?.encode_to_vec(&mut info)?;
    AnyRef::new(Tag::Sequence, &info)?.to_der()
}

#[cfg(test)]
mod tests {
    use super::super::oracle::efi;
    use super::super::pe::tests::sample;
    use super::super::uki;
    use super::*;
    use crate::keys::secure_boot::tests::keys;
    use crate::run::Program;

    fn signed() -> Vec<u8> {
        sign(&uki::uki(&sample(), &[uki::Section { name: ".linux", data: &[7; 1000] }]).unwrap(), &keys().db).unwrap()
    }

    fn sbverify(file: &[u8], certificate: &Signer) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (image, pem) = (folder.path().join("x.efi"), folder.path().join("x.crt"));
        std::fs::write(&image, file).unwrap();
        std::fs::write(&pem, certificate.certificate_pem().unwrap()).unwrap();
        let program = Program::find("sbverify", "apt install sbsigntool").unwrap();
        program.arg("--cert").arg(pem).arg(image).output().is_ok_and(|said| said.starts_with(b"Signature verification OK"))
    }

    #[test]
    fn the_digest_is_pinned_and_without_the_signature() {
        let file = uki::uki(&sample(), &[uki::Section { name: ".linux", data: &[7; 1000] }]).unwrap();
        let hex = |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let plain = digest(&Pe::parse(&file).unwrap()).unwrap();
        let bytes = signed();
        assert_eq!(plain, digest(&Pe::parse(&bytes).unwrap()).unwrap(), "a signature must not change the digest");
        insta::assert_snapshot!(hex(plain), @"e62c0564f324df8ab14aaaca94fd754a5495d8f81aed20ab16526b4207ec4302");
    }

    #[test]
    fn a_signature_is_of_one_key_and_of_these_bytes() {
        let file = signed();
        verify(&file, keys().db.certificate()).unwrap();
        assert_eq!(file, signed(), "signing is not deterministic");
        assert_eq!(file, sign(&file, &keys().db).unwrap(), "signing again must replace the signature");
        let said = verify(&file, keys().kek.certificate()).unwrap_err();
        assert!(
            said.kind() == Kind::Untrusted && said.to_string().contains("its signer is not CN=Ingot Test Key Exchange Key"),
            "{said}"
        );
        let said = verify(&sample(), keys().db.certificate()).unwrap_err().to_string();
        assert_eq!(said, "the file is not signed");
    }

    #[test]
    fn every_byte_but_the_checksum_counts() {
        let file = signed();
        let pe = Pe::parse(&file).unwrap();
        let checksum = pe.optional + optional::CHECKSUM..pe.optional + optional::CHECKSUM + 4;
        let signature = file.len() - pe.certificates().unwrap().len();
        // All of the headers and of the signature; a sample of what is only hashed.
        let some = (0..0x300).chain((0x300..signature).step_by(97)).chain(signature..file.len());
        for at in some.filter(|at| !checksum.contains(at)) {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            let ours = verify(&changed, keys().db.certificate());
            assert!(ours.is_err(), "a change at {at:#x} (signature at {signature:#x} of {:#x}) was accepted", file.len());
        }
        for length in [signature, signature + 4, signature + 8, file.len() - 8, file.len() - 1] {
            assert!(verify(&file[..length], keys().db.certificate()).is_err(), "cut to {length:#x}");
        }
        for more in [&[0; 8][..], &[0; 1], b"evil"] {
            assert!(verify(&[&file, more].concat(), keys().db.certificate()).is_err());
        }
    }

    #[test]
    fn sbverify_agrees() {
        let uki =
            sign(&uki::uki(&efi("linuxx64.efi.stub"), &[uki::Section { name: ".linux", data: &[7; 1000] }]).unwrap(), &keys().db)
                .unwrap();
        let loader = sign(&efi("systemd-bootx64.efi"), &keys().db).unwrap();
        for file in [&uki, &loader] {
            verify(file, keys().db.certificate()).unwrap();
            assert!(sbverify(file, &keys().db));
            assert!(!sbverify(file, &keys().kek));
            let signature = file.len() - Pe::parse(file).unwrap().certificates().unwrap().len();
            for at in [0x10, 0x8, 0x1f0, 0x600, 0x5000, signature - 1, file.len() - 20] {
                let mut changed = file.clone();
                changed[at] ^= 1;
                assert!(verify(&changed, keys().db.certificate()).is_err() && !sbverify(&changed, &keys().db), "{at:#x}");
            }
        }
    }

    /// What others sign in the usual form is accepted as well.
    #[test]
    fn sbsign_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        crate::keys::secure_boot::create(folder.path(), "Other").unwrap();
        std::fs::write(path("in.efi"), efi("systemd-bootx64.efi")).unwrap();
        let sbsign = Program::find("sbsign", "apt install sbsigntool").unwrap();
        sbsign
            .arg("--key")
            .arg(path("db.key"))
            .arg("--cert")
            .arg(path("db.crt"))
            .arg("--output")
            .arg(path("out.efi"))
            .arg(path("in.efi"))
            .output()
            .unwrap();
        let keys = crate::keys::secure_boot::load(folder.path()).unwrap();
        verify(&std::fs::read(path("out.efi")).unwrap(), keys.db.certificate()).unwrap();
    }

    #[test]
    fn gaps_and_second_signatures_are_refused() {
        let mut gap = sample();
        gap.truncate(0x800);
        let second = 0x98 + 240 + 40;
        pe::put(&mut gap, second + 20, &0x800_u32.to_le_bytes()).unwrap();
        gap.resize(0xa00, 0);
        assert!(sign(&gap, &keys().db).unwrap_err().to_string().contains("0x600 to 0x800 before section `.data`"));

        let file = signed();
        let pe = Pe::parse(&file).unwrap();
        let table = pe.certificates().unwrap();
        let mut two = [&file, table].concat();
        pe::put(&mut two, pe.optional + optional::SECURITY_DIRECTORY + 4, &(table.len() as u32 * 2).to_le_bytes()).unwrap();
        assert!(verify(&two, keys().db.certificate()).unwrap_err().to_string().contains("exactly one signature"));
    }
}
