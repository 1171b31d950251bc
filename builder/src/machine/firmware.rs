//! OVMF: where it is, and its variable store with our keys in it.

use std::path::{Path, PathBuf};

use super::variable_store;
use crate::boot::variables::{AUTHENTICATED, Variable, certificate_list, entries};
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::keys::secure_boot::SecureBootKeys;

/// Builds of OVMF with Secure Boot and SMM. Without keys in the store they boot anything.
const PLACES: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",       // Debian, Ubuntu
    "/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd",   // Arch
    "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",     // Fedora, EL
    "/usr/share/OVMF/OVMF_CODE.secboot.fd",          // Debian 11, EL 8
    "/usr/share/edk2-ovmf/x64/OVMF_CODE.secboot.fd", // Arch, older
];
/// Sizes that code and variables have together.
const FLASH_SIZES: [u64; 2] = [4 << 20, 2 << 20];

/// An OVMF build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Its code, a flash image.
    pub code: PathBuf,
    /// Size in bytes of the variable store that belongs to it.
    pub store_size: u64,
}

impl Firmware {
    /// The code at `path`, or the one of this host.
    ///
    /// # Errors
    /// [`Kind::Missing`] where there is none; [`Kind::Usage`] where the file is no OVMF code.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        let code = match path {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
                Error::new(Kind::Missing, format!("no UEFI firmware with Secure Boot is on this machine: looked for {}", PLACES.join(", ")))
                    .hint("apt install ovmf (Fedora: dnf install edk2-ovmf; Arch: pacman -S edk2-ovmf), or name its code with --firmware")
            })?,
        };
        let size = files::open(&code)?.metadata().map_err(|e| Error::io("reading", &code, &e))?.len();
        let store = FLASH_SIZES.iter().filter_map(|whole| whole.checked_sub(size)).find(|rest| variable_store::is_size(*rest));
        let store_size = store.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} has {size} bytes, which no split OVMF code image has", code.display()))
                .hint("name a raw OVMF_CODE*.secboot.fd, not OVMF.fd (code and variables in one) and no qcow2")
        })?;
        Ok(Self { code, store_size })
    }

    /// A variable store for this build: with `keys` Secure Boot is on, without it is off and no key is known.
    ///
    /// # Errors
    /// Where the keys do not fit.
    pub fn store(&self, keys: Option<&EnrolledKeys>) -> Result<Vec<u8>> {
        let variables = keys.map(EnrolledKeys::variables).unwrap_or_default();
        variable_store::write(self.store_size, &variables)
    }
}

/// The values (`.esl`) of the variables that Secure Boot asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledKeys {
    pk: Vec<u8>,
    kek: Vec<u8>,
    db: Vec<u8>,
}

impl EnrolledKeys {
    /// The public halves of `keys`.
    ///
    /// # Errors
    /// Where a certificate does not fit in a list.
    pub fn of(keys: &SecureBootKeys) -> Result<Self> {
        let list = |certificate| certificate_list(keys.owner(), certificate);
        Ok(Self {
            pk: list(keys.pk.certificate_der())?,
            kek: list(keys.kek.certificate_der())?,
            db: list(keys.db.certificate_der())?,
        })
    }

    /// Reads `PK.esl`, `KEK.esl` and `db.esl`, as a release has them in `secure-boot`.
    ///
    /// # Errors
    /// [`Kind::Missing`] for a file that is not there, [`Kind::Document`] for one that is no signature list.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |variable: Variable| {
            let path = folder.join(format!("{}.esl", variable.name()));
            let bytes = files::read_if_there(&path)?.ok_or_else(|| {
                Error::new(Kind::Missing, format!("the Secure Boot key list {} is not there", path.display()))
                    .hint("name the folder of the keys with --keys, or boot with --insecure")
            })?;
            let found = entries(&bytes).context(format!("reading {}", path.display()))?;
            if found.is_empty() {
                return Err(Error::new(Kind::Document, format!("{} holds no key", path.display())));
            }
            Ok(bytes)
        };
        Ok(Self { pk: read(Variable::Pk)?, kek: read(Variable::Kek)?, db: read(Variable::Db)? })
    }

    fn variables(&self) -> Vec<variable_store::Entry<'_>> {
        let key = |variable: Variable, data| variable_store::Entry {
            name: variable.name(),
            vendor: variable.vendor(),
            attributes: AUTHENTICATED,
            data,
        };
        vec![
            key(Variable::Pk, &self.pk),
            key(Variable::Kek, &self.kek),
            key(Variable::Db, &self.db),
            variable_store::SECURE_BOOT_ON,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_known_sizes_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code.fd");
        for (size, store) in [
            (0x37_c000, Some(0x8_4000)),
            (0x1e_0000, Some(0x2_0000)),
            (0x40_0000, None),
            (0x20_0000, None),
            (0, None),
            (99, None),
        ] {
            std::fs::File::create(&path).unwrap().set_len(size).unwrap();
            assert_eq!(Firmware::find(Some(&path)).ok().map(|found| found.store_size), store, "{size:#x}");
        }
        assert!(Firmware::find(Some(Path::new("/nonexistent"))).is_err());
        Firmware::find(None).unwrap();
    }

    #[test]
    fn key_lists_are_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let error = EnrolledKeys::read(folder.path()).unwrap_err();
        assert_eq!((error.kind(), error.hints().len()), (Kind::Missing, 1));
        let keys = crate::keys::secure_boot::tests::keys();
        let files = crate::boot::variables::enrolment(keys, crate::epoch::Epoch(0)).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        assert_eq!(EnrolledKeys::read(folder.path()).unwrap(), EnrolledKeys::of(keys).unwrap());
        std::fs::write(folder.path().join("db.esl"), b"").unwrap();
        assert!(EnrolledKeys::read(folder.path()).unwrap_err().to_string().ends_with("db.esl holds no key"));
        std::fs::write(folder.path().join("db.esl"), b"rubbish").unwrap();
        assert_eq!(EnrolledKeys::read(folder.path()).unwrap_err().kind(), Kind::Document);
    }
}
