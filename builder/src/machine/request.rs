//! What `ingot boot` is asked for, and how that becomes a machine.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use tempfile::TempDir;

use super::overlay::{disk_size, overlay};
use super::profile::{self, Handed, Profile, Way};
use super::running::scratch;
use super::{Accelerator, Drive, Ended, EnrolledKeys, Firmware, Format, Forward, Machine, Qemu, Reboot, Running, Serial, Writes};
use crate::error::{Context, Error, Kind, Result};
use crate::files;

/// Where scratch files go: beside what `/tmp` may keep in memory.
const SCRATCH: &str = "/var/tmp";

/// What a user asks for.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The disk image, in any format that QEMU reads. It is never written to.
    pub image: PathBuf,
    /// A disk that keeps what the machine writes, made where it is not there; without it all is forgotten.
    pub keep: Option<PathBuf>,
    /// Size in bytes that the machine shall see, at least the image's. Without it, the image's.
    pub disk_size: Option<u64>,
    /// Whose keys the firmware trusts.
    pub secure_boot: SecureBoot,
    /// The profile to hand to the installer.
    pub profile: Option<PathBuf>,
    /// How it is handed over.
    pub ways: Vec<Way>,
    /// Further disk images; they are only read.
    pub further: Vec<PathBuf>,
    /// Ports that lead into the machine.
    pub forwards: Vec<Forward>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Whether the machine has a TPM 2.0 (swtpm).
    pub tpm: bool,
    /// Where the serial console goes.
    pub serial: Serial,
    /// What a reboot does.
    pub reboot: Reboot,
    /// What the machine's clock says at its start, in UTC; the host's time by default.
    pub clock: Option<DateTime>,
    /// QEMU, where it is not the host's.
    pub qemu: Option<PathBuf>,
    /// OVMF's code, where it is not the host's.
    pub firmware: Option<PathBuf>,
    /// How the machine's code is run, where the host's best is not wanted.
    pub accelerator: Option<Accelerator>,
}

/// Whose keys the firmware trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecureBoot {
    /// Those in `secure-boot` beside the image, as in a release.
    Beside,
    /// Those in this folder: `PK.esl`, `KEK.esl`, `db.esl`.
    Keys(PathBuf),
    /// Those of these keys.
    Own(EnrolledKeys),
    /// Nobody's: Secure Boot is off.
    Off,
}

impl Boot {
    /// An image with 2 GiB, 2 processors, its own keys and the console on this terminal.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            keep: None,
            disk_size: None,
            secure_boot: SecureBoot::Beside,
            profile: None,
            ways: vec![Way::Smbios, Way::Disk],
            further: Vec::new(),
            forwards: Vec::new(),
            memory_mib: 2048,
            cpus: 2,
            tpm: false,
            serial: Serial::Terminal,
            reboot: Reboot::Again,
            clock: None,
            qemu: None,
            firmware: None,
            accelerator: None,
        }
    }

    /// Boots it and waits for its end.
    ///
    /// # Errors
    /// See [`Boot::start`] and [`Running::wait`].
    pub fn run(&self) -> Result<Ended> {
        self.start()?.wait().context(format!("booting {}", self.image.display()))
    }

    /// Boots it.
    ///
    /// # Errors
    /// [`Kind::Missing`] where QEMU, OVMF, swtpm, the image or its keys are not there, each with what to do;
    /// [`Kind::Usage`] where the request contradicts itself.
    pub fn start(&self) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix("ingot-boot-").tempdir_in(SCRATCH);
        let folder = folder.map_err(|e| Error::io("making a folder in", Path::new(SCRATCH), &e))?;
        let start = || {
            let machine = self.prepare(&folder)?;
            let tpm_state = match &self.keep {
                Some(disk) => beside(disk, ".tpm"),
                None => folder.path().join("tpm"),
            };
            Ok((machine, tpm_state))
        };
        let (machine, tpm_state) = start().context(format!("booting {}", self.image.display()))?;
        Running::start(&machine, folder, Some(&tpm_state))
    }

    /// Writes what the machine needs into `folder`.
    ///
    /// # Errors
    /// See [`Boot::start`].
    pub fn prepare(&self, folder: &TempDir) -> Result<Machine> {
        let in_folder = |name: &str| folder.path().join(name);
        let mut qemu = Qemu::find(self.qemu.as_deref())?;
        qemu.accelerator = self.accelerator.unwrap_or(qemu.accelerator);
        let firmware = Firmware::find(self.firmware.as_deref())?;
        let keys = match &self.secure_boot {
            SecureBoot::Off => None,
            SecureBoot::Own(keys) => Some(keys.clone()),
            SecureBoot::Keys(folder) => Some(EnrolledKeys::read(folder)?),
            SecureBoot::Beside => Some(EnrolledKeys::read(&self.image.parent().unwrap_or(Path::new("")).join("secure-boot"))?),
        };
        let variables = in_folder("variables.fd");
        scratch(&variables, &firmware.store(keys.as_ref())?)?;
        let mut drives = vec![self.disk(&in_folder("disk.qcow2"))?];
        let handed = match &self.profile {
            Some(path) => profile::write(&Profile::read(path)?, &self.ways, folder.path())?,
            None => Handed::default(),
        };
        for path in handed.disk.iter().chain(&self.further) {
            let format = Format::of(path)?;
            drives.push(Drive { path: path.clone(), format, writes: Writes::Refused });
        }
        Ok(Machine {
            qemu,
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            code: firmware.code,
            variables,
            drives,
            serial: self.serial.clone(),
            credentials: handed.smbios,
            fw_cfg: handed.fw_cfg,
            forwards: self.forwards.clone(),
            tpm: self.tpm.then(|| in_folder("tpm.socket")),
            reboot: self.reboot,
            clock: self.clock,
            uuid: self.identity(),
        })
    }

    /// The same machine each time: its identity follows from the path of the disk it keeps, else of its image.
    fn identity(&self) -> uuid::Uuid {
        let path = self.keep.as_ref().unwrap_or(&self.image);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let digest = trust::Sha256Digest::of(path.as_os_str().as_encoded_bytes());
        uuid::Builder::from_custom_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default()).into_uuid()
    }

    /// The disk that the machine writes to, so that the image is not.
    fn disk(&self, temporary: &Path) -> Result<Drive> {
        let image = self.image.canonicalize().map_err(|e| Error::io("finding the image", &self.image, &e))?;
        let format = Format::of(&image)?;
        let Some(least) = disk_size(&image, format)? else {
            if self.keep.is_some() || self.disk_size.is_some() {
                let text = format!(
                    "{} is {}: another size, or a disk to keep, can be had over raw and qcow2 only",
                    image.display(),
                    format.name()
                );
                return Err(Error::new(Kind::Usage, text).hint("boot the release's .raw or .qcow2 instead"));
            }
            return Ok(Drive { path: image, format, writes: Writes::Dropped });
        };
        let size = self.disk_size.unwrap_or(least);
        if size < least {
            let text = format!("a disk of {size} bytes is smaller than the image {}, which has {least}", image.display());
            return Err(Error::new(Kind::Usage, text));
        }
        let Some(kept) = &self.keep else {
            scratch(temporary, &overlay(&image, format, size)?)?;
            return Ok(Drive { path: temporary.to_owned(), format: Format::Qcow2, writes: Writes::Scratch });
        };
        if kept.symlink_metadata().is_err() {
            files::write_atomic(kept, &overlay(&image, format, size)?)?;
        } else if Format::of(kept)? != Format::Qcow2 || kept.canonicalize().ok().as_ref() == Some(&image) {
            return Err(Error::new(Kind::Usage, format!("{} is no overlay, and is not overwritten", kept.display()))
                .hint("name a file that is not there yet, or one that --keep has made"));
        }
        Ok(Drive { path: kept.clone(), format: Format::Qcow2, writes: Writes::Kept })
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(extension);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(folder: &Path) -> Boot {
        let image = folder.join("x.raw");
        std::fs::write(&image, vec![0; 4096]).unwrap();
        Boot { secure_boot: SecureBoot::Off, serial: Serial::Log(folder.join("log")), ..Boot::new(image) }
    }

    #[test]
    fn the_image_stays_behind_an_overlay() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut boot = request(folder.path());
        boot.disk_size = Some(1 << 20);
        let machine = boot.prepare(&scratch).unwrap();
        assert_eq!((machine.drives[0].format, machine.drives[0].writes), (Format::Qcow2, Writes::Scratch));
        assert_eq!(disk_size(&machine.drives[0].path, Format::Qcow2).unwrap(), Some(1 << 20));

        let kept = folder.path().join("kept.qcow2");
        boot.keep = Some(kept.clone());
        boot.profile = Some(folder.path().join("profile.toml"));
        std::fs::write(folder.path().join("profile.toml"), "schema = 1").unwrap();
        let machine = boot.prepare(&scratch).unwrap();
        assert_eq!((machine.drives[0].path.as_path(), machine.drives[0].writes), (kept.as_path(), Writes::Kept));
        assert_eq!((machine.drives.len(), machine.credentials.len()), (2, 1));
        std::fs::OpenOptions::new().append(true).open(&kept).unwrap().set_len(1 << 20).unwrap();
        boot.prepare(&scratch).unwrap();
        assert_eq!(kept.metadata().unwrap().len(), 1 << 20, "a kept disk must not be made anew");
    }

    #[test]
    fn requests_that_cannot_be_met_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let other = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let vhdx = other("x.vhdx", b"vhdxfile");
        let plain = other("plain", b"precious");
        let base = request(folder.path());
        let cases = [
            (Boot { image: "/nonexistent".into(), ..base.clone() }, Kind::Failed, "finding the image /nonexistent"),
            (Boot { secure_boot: SecureBoot::Beside, ..base.clone() }, Kind::Missing, "secure-boot/PK.esl is not there"),
            (Boot { disk_size: Some(512), ..base.clone() }, Kind::Usage, "smaller than the image"),
            (Boot { keep: Some(plain.clone()), ..base.clone() }, Kind::Usage, "is no overlay, and is not overwritten"),
            (Boot { keep: Some("k".into()), image: vhdx.clone(), ..base.clone() }, Kind::Usage, "raw and qcow2 only"),
            (Boot { qemu: Some("/nonexistent".into()), ..base.clone() }, Kind::Missing, "asking QEMU for its version"),
            (Boot { firmware: Some(plain.clone()), ..base.clone() }, Kind::Usage, "no split OVMF code image"),
            (Boot { profile: Some("/nonexistent".into()), ..base.clone() }, Kind::Failed, "reading /nonexistent"),
        ];
        for (boot, kind, expected) in cases {
            let error = boot.prepare(&scratch).unwrap_err();
            assert!(error.kind() == kind && error.to_string().contains(expected), "{error:?}");
        }
        let machine = Boot { image: vhdx, ..base }.prepare(&scratch).unwrap();
        assert_eq!((machine.drives[0].format, machine.drives[0].writes), (Format::Vhdx, Writes::Dropped));
        assert_eq!(std::fs::read(plain).unwrap(), b"precious");
    }

    #[test]
    fn a_qemu_that_fails_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let start = |change: &dyn Fn(&mut Machine)| {
            let scratch = tempfile::tempdir().unwrap();
            let mut machine = request(folder.path()).prepare(&scratch).unwrap();
            change(&mut machine);
            Running::start(&machine, scratch, None)
        };
        let error = start(&|machine| machine.qemu.path = "/nonexistent".into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Missing, "{error}");
        let error = start(&|machine| machine.cpus = 0).unwrap().wait().unwrap_err();
        assert!(error.to_string().starts_with("QEMU ended with code 1; it said: "), "{error}");
        let mut dies = start(&|machine| machine.drives[0].path = "/nonexistent".into()).unwrap();
        let error = dies.wait_for("words", std::time::Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("did not say `words`: QEMU ended with code 1; it said: "), "{error}");
        let mut runs = start(&|_| ()).unwrap();
        let error = runs.wait_for("words", std::time::Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("0 s have passed"), "{error}");
        assert_eq!(runs.stop().unwrap(), Ended::Stopped);
    }
}
