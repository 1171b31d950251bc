//! The Secure Boot variables PK, KEK, db and dbx: signature lists (`.esl`) and authenticated
//! updates (`.auth`), UEFI 2.10 sections 8.2.2 and 32.4.1.

use std::collections::BTreeMap;

use uuid::{Uuid, uuid};

use super::pe::u32_at;
use super::pkcs7;
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::keys::secure_boot::{SecureBootKeys, Signer};

/// `EFI_CERT_X509_GUID`.
pub const CERT_X509: Uuid = uuid!("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
/// `EFI_CERT_SHA256_GUID`.
pub const CERT_SHA256: Uuid = uuid!("c1c41626-504c-4092-aca9-41f936934328");
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const CERT_PKCS7: Uuid = uuid!("4aafd29d-68df-49ee-8aa9-347d375665a7");
/// `EFI_GLOBAL_VARIABLE`.
const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`.
const IMAGE_SECURITY: Uuid = uuid!("d719b2cb-3d3a-4596-a3bc-dad00e67656f");
/// NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, TIME_BASED_AUTHENTICATED_WRITE_ACCESS.
pub const AUTHENTICATED: u32 = 0x27;
/// `EFI_SIGNATURE_LIST` before its signatures: type, list size, header size, signature size.
const LIST_HEADER: usize = 28;
/// `SignatureOwner` in front of each signature.
const OWNER: usize = 16;
/// `WIN_CERTIFICATE_UEFI_GUID` before its data: length, revision, type, GUID.
const CERTIFICATE_HEADER: usize = 24;
/// Revision 2.0 and `WIN_CERT_TYPE_EFI_GUID`.
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];

/// One of the variables that decide what may boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// The owner's key.
    Pk,
    /// Keys that may change db and dbx.
    Kek,
    /// What may boot.
    Db,
    /// What may not, whatever db says.
    Dbx,
}

impl Variable {
    /// The variable's name, as the firmware and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Variable::Pk => "PK",
            Variable::Kek => "KEK",
            Variable::Db => "db",
            Variable::Dbx => "dbx",
        }
    }

    /// The variable's vendor GUID.
    pub fn vendor(self) -> Uuid {
        match self {
            Variable::Pk | Variable::Kek => GLOBAL,
            Variable::Db | Variable::Dbx => IMAGE_SECURITY,
        }
    }
}

/// A signature list with this certificate (DER), `EFI_CERT_X509_GUID`.
pub fn certificate_list(owner: Uuid, certificate: &[u8]) -> Result<Vec<u8>> {
    list(CERT_X509, owner, &[certificate])
}

/// A signature list with these Authenticode digests, `EFI_CERT_SHA256_GUID`: what dbx holds to refuse
/// single files. In the order given.
pub fn digest_list(owner: Uuid, digests: &[[u8; 32]]) -> Result<Vec<u8>> {
    list(CERT_SHA256, owner, &digests.iter().map(<[u8; 32]>::as_slice).collect::<Vec<_>>())
}

/// All of `signatures` have one size, which is the caller's care.
fn list(kind: Uuid, owner: Uuid, signatures: &[&[u8]]) -> Result<Vec<u8>> {
    let number = |value: usize| {
        u32::try_from(value).map(u32::to_le_bytes).map_err(|_| Error::new(Kind::Failed, "a signature list is beyond 4 GiB"))
    };
    let each = OWNER + signatures.first().map_or(0, |signature| signature.len());
    let size = LIST_HEADER + each * signatures.len();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(kind.to_bytes_le());
    bytes.extend(number(size)?);
    bytes.extend([0; 4]);
    bytes.extend(number(each)?);
    for signature in signatures {
        bytes.extend(owner.to_bytes_le());
        bytes.extend_from_slice(signature);
    }
    Ok(bytes)
}

/// One entry of a signature list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// [`CERT_X509`], [`CERT_SHA256`], or another type of UEFI 2.10 section 32.4.1.
    pub kind: Uuid,
    /// Who put it there.
    pub owner: Uuid,
    /// The certificate (DER) or digest.
    pub data: &'a [u8],
}

/// The entries of the signature lists in `bytes` (an `.esl` file, the value of db).
///
/// # Errors
/// [`Kind::Document`] with the offset of a list that is not whole.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>> {
    let mut found = Vec::new();
    let (mut rest, mut at) = (bytes, 0);
    while !rest.is_empty() {
        let wrong = |text: String| Error::new(Kind::Document, format!("the signature list at offset {at:#x} is wrong: {text}"));
        let kind = guid(rest).ok_or_else(|| wrong(format!("{} bytes are no list header", rest.len())))?;
        let (size, header, each) = (u32_at(rest, 16)? as usize, u32_at(rest, 20)? as usize, u32_at(rest, 24)? as usize);
        let list = rest.get(..size).ok_or_else(|| wrong(format!("its size is {size}, and {} bytes are left", rest.len())))?;
        let body = list.get(LIST_HEADER..).and_then(|body| body.get(header..));
        let body = body.ok_or_else(|| wrong(format!("its size is {size}, less than its header")))?;
        if each < OWNER || body.len() % each != 0 {
            return Err(wrong(format!("{} bytes are no whole number of signatures of {each}", body.len())));
        }
        for signature in body.chunks_exact(each) {
            let (owner, data) = signature.split_at(OWNER);
            let owner = guid(owner).ok_or_else(|| wrong("an owner is cut off".to_owned()))?;
            found.push(Entry { kind, owner, data });
        }
        at += size;
        rest = rest.get(size..).unwrap_or_default();
    }
    Ok(found)
}

fn guid(bytes: &[u8]) -> Option<Uuid> {
    bytes.first_chunk().map(|chunk| Uuid::from_bytes_le(*chunk))
}

/// An authenticated update that sets `variable` to `value`: what `SetVariable`, `efi-updatevar` and
/// systemd-boot's enrolment take. It replaces a value whose time is not later than `time`.
///
/// # Errors
/// The key's own; a time beyond the year 9999.
pub fn authenticated(variable: Variable, value: &[u8], time: Epoch, signer: &Signer) -> Result<Vec<u8>> {
    let time = efi_time(time)?;
    let mut message = utf16(variable.name());
    message.extend(variable.vendor().to_bytes_le());
    message.extend(AUTHENTICATED.to_le_bytes());
    message.extend(time);
    message.extend_from_slice(value);
    let signature = pkcs7::detached(&message, signer)?;

    let length = u32::try_from(CERTIFICATE_HEADER + signature.len());
    let length = length.map_err(|_| Error::new(Kind::Failed, "the signature is beyond 4 GiB"))?;
    let mut update = time.to_vec();
    update.extend(length.to_le_bytes());
    update.extend(REVISION_AND_TYPE);
    update.extend(CERT_PKCS7.to_bytes_le());
    update.extend(signature);
    update.extend_from_slice(value);
    Ok(update)
}

/// The name as the firmware has it, without the NUL.
pub fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `EFI_TIME` (UEFI 2.10 section 8.3) in UTC; nanoseconds, zone and daylight saving are zero, as 8.2.2 asks.
///
/// # Errors
/// [`Kind::Usage`] for a time beyond the year 9999.
pub fn efi_time(time: Epoch) -> Result<[u8; 16]> {
    let wrong = || Error::new(Kind::Usage, format!("the time {} is beyond what EFI_TIME can say (year 9999)", time.0));
    let seconds = i64::try_from(time.0).map_err(|_| wrong())?;
    let stamp = jiff::Timestamp::from_second(seconds).map_err(|_| wrong())?;
    let utc = jiff::tz::Offset::UTC.to_datetime(stamp);
    let [low, high] = utc.year().to_le_bytes();
    let small = |value: i8| value.unsigned_abs();
    let (month, day) = (small(utc.month()), small(utc.day()));
    Ok([low, high, month, day, small(utc.hour()), small(utc.minute()), small(utc.second()), 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// The files of a release's `secure-boot` folder, by name: for PK, KEK and db the `.esl` list, the
/// `.auth` update, and the certificate as `.crt` (PEM) and `.der`. The same keys and time give the same bytes.
///
/// # Errors
/// See [`authenticated`].
pub fn enrolment(keys: &SecureBootKeys, time: Epoch) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let parts = [(Variable::Pk, &keys.pk, &keys.pk), (Variable::Kek, &keys.kek, &keys.pk), (Variable::Db, &keys.db, &keys.kek)];
    for (variable, holder, signer) in parts {
        let list = certificate_list(keys.owner(), holder.certificate_der())?;
        let name = variable.name();
        files.insert(format!("{name}.auth"), authenticated(variable, &list, time, signer)?);
        files.insert(format!("{name}.crt"), holder.certificate_pem()?.into_bytes());
        files.insert(format!("{name}.der"), holder.certificate_der().to_vec());
        files.insert(format!("{name}.esl"), list);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::oracle::Trixie;
    use super::*;
    use crate::keys::secure_boot::tests::keys;
    use proptest::prelude::*;

    const OWNER_GUID: Uuid = uuid!("11223344-5566-7788-99aa-bbccddeeff00");

    #[test]
    fn lists_have_the_layout_of_the_specification() {
        let bytes = digest_list(OWNER_GUID, &[[1; 32], [2; 32]]).unwrap();
        let head =
            [&CERT_SHA256.to_bytes_le()[..], &[28 + 96, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0], &OWNER_GUID.to_bytes_le()].concat();
        assert_eq!(bytes[..head.len()], head);
        assert_eq!(bytes.len(), 28 + 96);
        let entries = entries(&bytes).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.data[0]).collect::<Vec<_>>(), [1, 2]);
        assert!(entries.iter().all(|entry| entry.kind == CERT_SHA256 && entry.owner == OWNER_GUID));
    }

    #[test]
    fn hostile_lists_are_refused() {
        let good = certificate_list(OWNER_GUID, &[9; 100]).unwrap();
        let cases: &[(usize, u32, &str)] = &[
            (16, 27, "less than its header"),
            (16, 0, "less than its header"),
            (16, 145, "144 bytes are left"),
            (16, u32::MAX, "144 bytes are left"),
            (20, u32::MAX, "less than its header"),
            (24, 0, "no whole number of signatures of 0"),
            (24, 15, "no whole number of signatures of 15"),
            (24, 115, "no whole number of signatures of 115"),
        ];
        for (at, value, expected) in cases {
            let mut bytes = good.clone();
            bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
            let said = entries(&bytes).unwrap_err().to_string();
            assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        }
        assert!(entries(&good[..20]).is_err());
        assert!(entries(&[good.as_slice(), b"x"].concat()).unwrap_err().to_string().contains("offset 0x90"));
    }

    #[test]
    fn times_are_calendar_times() {
        for (seconds, expected) in [
            (0, [0xb2, 7, 1, 1, 0, 0, 0]),
            (951_827_696, [0xd0, 7, 2, 29, 12, 34, 56]),
            (253_402_300_799 - 86_400 * 31, [0x0f, 0x27, 11, 30, 23, 59, 59]),
        ] {
            assert_eq!(efi_time(Epoch(seconds)).unwrap()[..7], expected, "{seconds}");
        }
        assert!(efi_time(Epoch(u64::MAX)).is_err() && efi_time(Epoch(300_000_000_000)).is_err());
    }

    /// efitools makes the same lists and the same signed updates from the same keys and time.
    #[test]
    fn efitools_write_the_same() {
        let trixie = Trixie::new();
        let folder = trixie.outside(".");
        crate::keys::secure_boot::create(&folder, "Ingot Test").unwrap();
        let keys = crate::keys::secure_boot::load(&folder).unwrap();
        let files = enrolment(&keys, Epoch(951_827_696)).unwrap();
        assert_eq!(files, enrolment(&keys, Epoch(951_827_696)).unwrap());
        for (name, signer) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
            let inside = |extension: &str| trixie.inside(&format!("{name}.{extension}"));
            let owner = keys.owner().to_string();
            trixie.run(&["cert-to-efi-sig-list", "-g", &owner, &inside("crt"), &inside("theirs.esl")]).unwrap();
            assert!(
                std::fs::read(trixie.outside(&format!("{name}.theirs.esl"))).unwrap() == files[&format!("{name}.esl")],
                "{name}.esl"
            );
            let (key, certificate) = (trixie.inside(&format!("{signer}.key")), trixie.inside(&format!("{signer}.crt")));
            let list = inside("theirs.esl");
            trixie
                .run(&[
                    "env",
                    "TZ=UTC",
                    "sign-efi-sig-list",
                    "-t",
                    "2000-02-29 12:34:56",
                    "-k",
                    &key,
                    "-c",
                    &certificate,
                    name,
                    &list,
                    &inside("theirs.auth"),
                ])
                .unwrap();
            let theirs = std::fs::read(trixie.outside(&format!("{name}.theirs.auth"))).unwrap();
            assert!(theirs == files[&format!("{name}.auth")], "{name}.auth");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_lists_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = entries(&bytes);
        }

        #[test]
        fn what_goes_in_comes_out(data in proptest::collection::vec(any::<u8>(), 0..200), digests in proptest::collection::vec(any::<[u8; 32]>(), 0..4)) {
            let bytes = [certificate_list(OWNER_GUID, &data).unwrap(), digest_list(OWNER_GUID, &digests).unwrap()].concat();
            let found: Vec<Vec<u8>> = entries(&bytes).unwrap().iter().map(|entry| entry.data.to_vec()).collect();
            let put: Vec<Vec<u8>> = std::iter::once(data).chain(digests.iter().map(|digest| digest.to_vec())).collect();
            prop_assert_eq!(found, put);
        }
    }

    #[test]
    fn keys_have_an_owner() {
        assert_eq!(keys().owner().get_version_num(), 8);
    }
}
