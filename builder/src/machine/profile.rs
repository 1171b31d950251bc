//! How a profile gets into a machine: as a disk labelled `INGOT`, and where it is small also as SMBIOS
//! credential, so that both of the installer's ways are tried.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use super::FwCfg;
use crate::error::{Context, Error, Kind, Result};
use crate::files;

/// Label by which the installer knows the disk, padded as FAT has it.
const LABEL: [u8; 11] = *b"INGOT      ";
/// FAT serial number: any, but always the same.
const SERIAL: u32 = 0x1460_7001;
/// Bytes on the disk beside the files, and for the smallest FAT16 with clusters of 2 KiB.
const DISK_FLOOR: usize = 16 << 20;
/// A disk is a multiple of this.
const MIB: usize = 1 << 20;
/// Longest profile and signature; a profile is some kilobytes, with certificates some tens.
const MAX_FILE: usize = 8 << 20;
/// Most bytes of profile that go as credential: an SMBIOS structure ends at 64 KiB and what is longer
/// is silently dropped by QEMU.
const MAX_CREDENTIAL: usize = 45 << 10;

/// A profile and, where it is signed, its signature (SSHSIG).
#[derive(Debug, Clone)]
pub struct Profile {
    text: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl Profile {
    /// Reads `path`, and `path.sig` where it is there.
    ///
    /// # Errors
    /// [`Kind::Document`] for a file beyond 8 MiB; the file's own errors.
    pub fn read(path: &Path) -> Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".sig");
        let profile = Self { text: files::read(path)?, signature: files::read_if_there(Path::new(&beside))? };
        let longest = profile.text.len().max(profile.signature.as_ref().map_or(0, Vec::len));
        if longest > MAX_FILE {
            let text = format!("the profile {} or its signature has {longest} bytes, more than {MAX_FILE}", path.display());
            return Err(Error::new(Kind::Document, text));
        }
        Ok(profile)
    }

    /// A FAT image labelled `INGOT` with `profile.toml` and `profile.toml.sig`. The same profile gives
    /// the same bytes.
    ///
    /// # Errors
    /// Where the FAT writer refuses, which it does for no profile of allowed size.
    pub fn disk(&self) -> Result<Vec<u8>> {
        let signature = self.signature.as_ref().map_or(0, Vec::len);
        let size = (DISK_FLOOR + self.text.len() + signature).next_multiple_of(MIB);
        let mut image = Cursor::new(vec![0; size]);
        self.fill(&mut image).map_err(|e| Error::new(Kind::Failed, format!("writing the profile's disk: {e}")))?;
        Ok(image.into_inner())
    }

    fn fill(&self, image: &mut Cursor<Vec<u8>>) -> std::io::Result<()> {
        let options =
            FormatVolumeOptions::new().volume_label(LABEL).volume_id(SERIAL).fat_type(FatType::Fat16).bytes_per_cluster(2048);
        fatfs::format_volume(&mut *image, options)?;
        let volume = FileSystem::new(&mut *image, FsOptions::new().time_provider(&NoTime))?;
        let write = |root: &Dir<'_, _>, name: &str, bytes: &[u8]| {
            let mut file = root.create_file(name)?;
            file.write_all(bytes)?;
            file.flush()
        };
        let root = volume.root_dir();
        write(&root, "profile.toml", &self.text)?;
        if let Some(signature) = &self.signature {
            write(&root, "profile.toml.sig", signature)?;
        }
        drop(root);
        volume.unmount()
    }

    /// The SMBIOS type 11 strings that carry the profile as systemd credentials `ingot.profile` and
    /// `ingot.profile.sig`; none where it is too big for that.
    pub fn credentials(&self) -> Vec<String> {
        let signature = self.signature.as_deref();
        if self.text.len() + signature.map_or(0, <[u8]>::len) > MAX_CREDENTIAL {
            return Vec::new();
        }
        let string = |name: &str, bytes: &[u8]| format!("io.systemd.credential.binary:{name}={}", STANDARD.encode(bytes));
        let mut strings = vec![string("ingot.profile", &self.text)];
        strings.extend(signature.map(|signature| string("ingot.profile.sig", signature)));
        strings
    }
}

/// The start of FAT's time: the disk is to be the same each time.
#[derive(Debug)]
struct NoTime;

impl TimeProvider for NoTime {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// How a profile gets into the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// SMBIOS type 11 strings, as `ingot.profile` credential; only where it is small enough.
    Smbios,
    /// QEMU's firmware configuration device, as `ingot.profile` credential.
    FwCfg,
    /// A FAT disk labelled INGOT.
    Disk,
}

/// What a machine is given.
#[derive(Debug, Default)]
pub struct Handed {
    /// A disk image.
    pub disk: Option<PathBuf>,
    /// Files with SMBIOS strings.
    pub smbios: Vec<PathBuf>,
    /// Blobs.
    pub fw_cfg: Vec<FwCfg>,
}

/// Writes what the ways need into `folder`.
///
/// # Errors
/// See [`Profile::disk`] and [`files::write_atomic`]; [`Kind::Document`] where SMBIOS is the only way and the profile is too big.
pub fn write(profile: &Profile, ways: &[Way], folder: &Path) -> Result<Handed> {
    let mut handed = Handed::default();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        files::write_atomic(&path, bytes).context("writing the profile for the machine")?;
        Ok::<_, Error>(path)
    };
    for way in ways {
        match way {
            Way::Disk => handed.disk = Some(put("profile.img", &profile.disk()?)?),
            Way::FwCfg => {
                handed.fw_cfg.push(FwCfg { credential: "ingot.profile", path: put("profile.toml", &profile.text)? });
                if let Some(signature) = &profile.signature {
                    handed.fw_cfg.push(FwCfg { credential: "ingot.profile.sig", path: put("profile.toml.sig", signature)? });
                }
            }
            Way::Smbios => {
                let strings = profile.credentials();
                if strings.is_empty() && ways == [Way::Smbios] {
                    let text =
                        format!("the profile and its signature have more than the {MAX_CREDENTIAL} bytes that SMBIOS takes");
                    return Err(Error::new(Kind::Document, text).hint("hand it over with `--via disk`"));
                }
                for (index, string) in strings.iter().enumerate() {
                    handed.smbios.push(put(&format!("credential-{index}"), string.as_bytes())?);
                }
            }
        }
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Program;

    fn profile(length: usize, signature: Option<usize>) -> Profile {
        Profile { text: vec![b'x'; length], signature: signature.map(|length| vec![b's'; length]) }
    }

    fn tool(name: &str, package: &str) -> Program {
        Program::find(name, &format!("apt install {package}")).unwrap()
    }

    #[test]
    fn the_disk_is_whole_for_other_tools() {
        let folder = tempfile::tempdir().unwrap();
        for (length, signature) in [(0, None), (1000, Some(300)), (MAX_FILE, Some(MAX_FILE))] {
            let profile = profile(length, signature);
            let path = folder.path().join("disk.img");
            std::fs::write(&path, profile.disk().unwrap()).unwrap();
            assert!(profile.disk().unwrap() == std::fs::read(&path).unwrap(), "the disk is not the same each time");
            tool("fsck.fat", "dosfstools").arg("-n").arg(&path).output().unwrap();
            let said = tool("blkid", "util-linux")
                .arg("-p")
                .arg("-s")
                .arg("LABEL")
                .arg("-s")
                .arg("TYPE")
                .arg("-o")
                .arg("export")
                .arg(&path);
            let said = String::from_utf8(said.output().unwrap()).unwrap();
            assert!(said.contains("LABEL=INGOT\n") && said.contains("TYPE=vfat\n"), "{said}");
            let copy = |name: &str| tool("mcopy", "mtools").arg("-i").arg(&path).arg(format!("::{name}")).arg("-").output();
            assert!(copy("profile.toml").unwrap() == profile.text);
            assert!(copy("profile.toml.sig").ok() == profile.signature);
        }
    }

    #[test]
    fn small_profiles_go_as_credentials_too() {
        assert_eq!(profile(3, None).credentials(), ["io.systemd.credential.binary:ingot.profile=eHh4"]);
        assert_eq!(profile(3, Some(1)).credentials()[1], "io.systemd.credential.binary:ingot.profile.sig=cw==");
        let all: usize = profile(MAX_CREDENTIAL - 300, Some(300)).credentials().iter().map(|string| string.len() + 1).sum();
        assert!(all > 60_000 && all < 0xf000 + 0x800, "{all}");
        assert!(profile(MAX_CREDENTIAL, Some(1)).credentials().is_empty());
    }

    #[test]
    fn a_signature_beside_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.toml");
        assert!(Profile::read(&path).is_err());
        std::fs::write(&path, "schema = 1\n").unwrap();
        assert!(Profile::read(&path).unwrap().signature.is_none());
        std::fs::write(folder.path().join("vm.toml.sig"), "sig").unwrap();
        assert_eq!(Profile::read(&path).unwrap().signature.as_deref(), Some(b"sig".as_slice()));
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE as u64 + 1).unwrap();
        assert_eq!(Profile::read(&path).unwrap_err().kind(), Kind::Document);
    }
}
