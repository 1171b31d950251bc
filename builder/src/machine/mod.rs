//! A virtual machine to try an image in: QEMU, OVMF with Secure Boot and the image's keys.
//!
//! [`Boot`] is what the user asks for; preparing it gives a [`Machine`], plain data whose
//! [`Machine::command`] is the QEMU command line; starting that gives a [`Running`].
//!
//! Paths touched: the image is only ever read. Overlay, variable store, profile disk, credentials and TPM
//! socket are in a folder under `/var/tmp` that goes with the [`Running`]; `--keep DISK` puts the overlay
//! to `DISK` and the TPM's state to `DISK.tpm`.

mod firmware;
mod overlay;
mod profile;
#[cfg(test)]
mod proof;
mod qemu;
mod request;
mod running;
mod variable_store;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;

pub use firmware::{EnrolledKeys, Firmware};
pub use overlay::Format;
pub use profile::Way;
pub use qemu::{Accelerator, Qemu};
pub use request::{Boot, SecureBoot};
pub use running::{Ended, Running};

use crate::error::{Error, Kind, Result};

/// One virtual machine. All paths exist when it is started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The program.
    pub qemu: Qemu,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// OVMF's code, read only.
    pub code: PathBuf,
    /// OVMF's variable store, written by the machine.
    pub variables: PathBuf,
    /// Disks; the firmware tries them in this order.
    pub drives: Vec<Drive>,
    /// Where the serial console goes.
    pub serial: Serial,
    /// Files, each one SMBIOS type 11 string.
    pub credentials: Vec<PathBuf>,
    /// Credentials through the firmware configuration device.
    pub fw_cfg: Vec<FwCfg>,
    /// Ports of this host that lead into the machine.
    pub forwards: Vec<Forward>,
    /// Socket of a software TPM 2.0.
    pub tpm: Option<PathBuf>,
    /// What a reboot of the machine does.
    pub reboot: Reboot,
    /// What its clock says at its start, in UTC; the host's time by default.
    pub clock: Option<DateTime>,
    /// The machine's identity, as its firmware tells it (SMBIOS type 1); the guest's machine-id follows from it.
    pub uuid: uuid::Uuid,
}

/// What a reboot of the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reboot {
    /// It boots again.
    #[default]
    Again,
    /// It ends, which tests want: a machine that restarts itself for ever is a failure.
    End,
}

/// One disk, on virtio-blk.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The image.
    pub path: PathBuf,
    /// The image's format.
    pub format: Format,
    /// What happens to what the machine writes.
    pub writes: Writes,
}

/// What happens to what the machine writes to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It goes to the image.
    Kept,
    /// It goes to the image, which is thrown away afterwards: nothing waits for the host's disk.
    Scratch,
    /// It goes to a file that QEMU removes; the image is only read.
    Dropped,
    /// There is none: the disk is read only.
    Refused,
}

/// Where the serial console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serial {
    /// This terminal, both ways; Ctrl-C ends the machine.
    Terminal,
    /// This terminal, and what is shown also to a file.
    TerminalAndLog(PathBuf),
    /// A file only.
    Log(PathBuf),
}

/// A blob of QEMU's firmware configuration device, as systemd takes credentials from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfg {
    /// Name of the credential.
    pub credential: &'static str,
    /// The file that holds it.
    pub path: PathBuf,
}

/// A TCP port of this host that leads into the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port in the machine.
    pub guest: u16,
    /// Address in the machine's network (10.0.2.0/24); the one DHCP gives by default.
    pub address: Option<Ipv4Addr>,
}

impl std::str::FromStr for Forward {
    type Err = Error;

    /// `8443:6443`: host port, machine port; `8443:10.0.2.100:6443` to another address, such as a virtual one.
    fn from_str(text: &str) -> Result<Self> {
        let port = |part: &str| part.parse::<u16>().ok().filter(|port| *port != 0);
        let read = || {
            let (host, rest) = text.split_once(':')?;
            let (address, guest) = match rest.split_once(':') {
                Some((address, guest)) => (Some(address.parse().ok()?), guest),
                None => (None, rest),
            };
            Some(Self { host: port(host)?, guest: port(guest)?, address })
        };
        read().ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{text}` is no port forward"))
                .hint("write HOST:MACHINE, as in 8443:6443, or HOST:ADDRESS:MACHINE")
        })
    }
}

impl Machine {
    /// The QEMU command line, program first. Pure: equal machines give equal lines.
    pub fn command(&self) -> Vec<OsString> {
        let mut line = Line(vec![self.qemu.path.clone().into_os_string()]);
        line.flag("-nodefaults").flag("-no-user-config").option("-display", "none");
        if self.reboot == Reboot::End {
            line.flag("-no-reboot");
        }
        // SMM and the secure flash keep the variable store from the operating system, as real machines do.
        line.option("-machine", "q35,smm=on,vmport=off");
        for accelerator in self.qemu.accelerator.names() {
            line.option("-accel", accelerator);
        }
        line.option("-cpu", self.qemu.cpu())
            .option("-smp", &self.cpus.to_string())
            .option("-m", &format!("{}M", self.memory_mib))
            .option("-uuid", &self.uuid.to_string());
        if let Some(clock) = self.clock {
            line.option("-rtc", &format!("base={}", clock.strftime("%Y-%m-%dT%H:%M:%S")));
        }
        line.option("-global", "driver=cfi.pflash01,property=secure,value=on").option("-global", "ICH9-LPC.disable_s3=1");
        line.with_path("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=", &self.code, "");
        line.with_path("-drive", "if=pflash,unit=1,format=raw,file=", &self.variables, "");
        for (index, drive) in self.drives.iter().enumerate() {
            let head = format!("if=none,id=disk{index},format={},file=", drive.format.name());
            line.with_path("-drive", &head, &drive.path, drive.writes.options());
            line.option("-device", &format!("virtio-blk-pci,drive=disk{index},bootindex={}", index + 1));
        }
        match &self.serial {
            Serial::Terminal => line.option("-chardev", "stdio,id=console,signal=on"),
            Serial::TerminalAndLog(path) => line.with_path("-chardev", "stdio,id=console,signal=on,logfile=", path, ""),
            Serial::Log(path) => line.with_path("-chardev", "file,id=console,path=", path, ""),
        };
        line.option("-serial", "chardev:console").option("-device", "virtio-rng-pci");
        for path in &self.credentials {
            line.with_path("-smbios", "type=11,path=", path, "");
        }
        for blob in &self.fw_cfg {
            let head = format!("name=opt/io.systemd.credentials/{},file=", blob.credential);
            line.with_path("-fw_cfg", &head, &blob.path, "");
        }
        let forward = |forward: &Forward| {
            let address = forward.address.map(|address| address.to_string()).unwrap_or_default();
            format!(",hostfwd=tcp:127.0.0.1:{}-{address}:{}", forward.host, forward.guest)
        };
        let forwards: String = self.forwards.iter().map(forward).collect();
        line.option("-netdev", &format!("user,id=net{forwards}")).option("-device", "virtio-net-pci,netdev=net,romfile=");
        if let Some(socket) = &self.tpm {
            line.with_path("-chardev", "socket,id=tpm,path=", socket, "");
            line.option("-tpmdev", "emulator,id=tpm,chardev=tpm").option("-device", "tpm-crb,tpmdev=tpm");
        }
        line.0
    }
}

impl Writes {
    fn options(self) -> &'static str {
        match self {
            Writes::Kept => ",discard=unmap",
            Writes::Scratch => ",discard=unmap,cache=unsafe",
            Writes::Dropped => ",snapshot=on",
            Writes::Refused => ",readonly=on",
        }
    }
}

/// A command line that grows.
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn option(&mut self, name: &str, value: &str) -> &mut Self {
        self.flag(name).flag(value)
    }

    /// QEMU takes a comma in a value doubled.
    fn with_path(&mut self, name: &str, head: &str, path: &Path, tail: &str) -> &mut Self {
        let mut value = head.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
        }
        value.extend_from_slice(tail.as_bytes());
        self.flag(name).0.push(OsString::from_vec(value));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            qemu: Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version: (10, 0), accelerator: Accelerator::Tcg },
            memory_mib: 1024,
            cpus: 2,
            code: "/fw/code.fd".into(),
            variables: "/work/vars.fd".into(),
            drives: vec![Drive { path: "/out/a,b.raw".into(), format: Format::Raw, writes: Writes::Dropped }],
            serial: Serial::Terminal,
            credentials: vec![],
            fw_cfg: vec![],
            forwards: vec![],
            tpm: None,
            reboot: Reboot::Again,
            clock: None,
            uuid: uuid::Uuid::from_u128(1),
        }
    }

    fn shown(machine: &Machine) -> String {
        let words: Vec<_> = machine.command().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ").replace(" -", "\n-")
    }

    #[test]
    fn the_least_command_line() {
        insta::assert_snapshot!(shown(&machine()), @r"
        /usr/bin/qemu-system-x86_64
        -nodefaults
        -no-user-config
        -display none
        -machine q35,smm=on,vmport=off
        -accel tcg
        -cpu max,-svm
        -smp 2
        -m 1024M
        -uuid 00000000-0000-0000-0000-000000000001
        -global driver=cfi.pflash01,property=secure,value=on
        -global ICH9-LPC.disable_s3=1
        -drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd
        -drive if=pflash,unit=1,format=raw,file=/work/vars.fd
        -drive if=none,id=disk0,format=raw,file=/out/a,,b.raw,snapshot=on
        -device virtio-blk-pci,drive=disk0,bootindex=1
        -chardev stdio,id=console,signal=on
        -serial chardev:console
        -device virtio-rng-pci
        -netdev user,id=net
        -device virtio-net-pci,netdev=net,romfile=
        ");
    }

    #[test]
    fn the_fullest_command_line() {
        let full = Machine {
            qemu: Qemu { path: "/opt/qemu".into(), version: (7, 2), accelerator: Accelerator::KvmOrTcg },
            drives: vec![
                Drive { path: "/work/disk.qcow2".into(), format: Format::Qcow2, writes: Writes::Scratch },
                Drive { path: "/work/profile.img".into(), format: Format::Raw, writes: Writes::Refused },
                Drive { path: "/site/keep.qcow2".into(), format: Format::Qcow2, writes: Writes::Kept },
            ],
            serial: Serial::TerminalAndLog("/work/serial.log".into()),
            credentials: vec!["/work/profile.smbios".into()],
            fw_cfg: vec![FwCfg { credential: "ingot.profile", path: "/work/profile.toml".into() }],
            forwards: vec!["8443:6443".parse().unwrap(), "2222:10.0.2.9:22".parse().unwrap()],
            tpm: Some("/work/tpm.socket".into()),
            reboot: Reboot::End,
            ..machine()
        };
        insta::assert_snapshot!(shown(&full), @r"
        /opt/qemu
        -nodefaults
        -no-user-config
        -display none
        -no-reboot
        -machine q35,smm=on,vmport=off
        -accel kvm
        -accel tcg
        -cpu max,-svm
        -smp 2
        -m 1024M
        -uuid 00000000-0000-0000-0000-000000000001
        -global driver=cfi.pflash01,property=secure,value=on
        -global ICH9-LPC.disable_s3=1
        -drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd
        -drive if=pflash,unit=1,format=raw,file=/work/vars.fd
        -drive if=none,id=disk0,format=qcow2,file=/work/disk.qcow2,discard=unmap,cache=unsafe
        -device virtio-blk-pci,drive=disk0,bootindex=1
        -drive if=none,id=disk1,format=raw,file=/work/profile.img,readonly=on
        -device virtio-blk-pci,drive=disk1,bootindex=2
        -drive if=none,id=disk2,format=qcow2,file=/site/keep.qcow2,discard=unmap
        -device virtio-blk-pci,drive=disk2,bootindex=3
        -chardev stdio,id=console,signal=on,logfile=/work/serial.log
        -serial chardev:console
        -device virtio-rng-pci
        -smbios type=11,path=/work/profile.smbios
        -fw_cfg name=opt/io.systemd.credentials/ingot.profile,file=/work/profile.toml
        -netdev user,id=net,hostfwd=tcp:127.0.0.1:8443-:6443,hostfwd=tcp:127.0.0.1:2222-10.0.2.9:22
        -device virtio-net-pci,netdev=net,romfile=
        -chardev socket,id=tpm,path=/work/tpm.socket
        -tpmdev emulator,id=tpm,chardev=tpm
        -device tpm-crb,tpmdev=tpm
        ");
        let log = Machine { serial: Serial::Log("/work/serial.log".into()), ..machine() };
        assert!(shown(&log).contains("-chardev file,id=console,path=/work/serial.log\n"));
    }

    #[test]
    fn wrong_forwards_are_refused() {
        for text in
            ["", "1", "1:", ":1", "0:1", "1:65536", "a:b", "1:2:3", "127.0.0.1:1:2", "1:fe80::1:2", "1:10.0.2.15:", "1:10.0.2:5"]
        {
            assert_eq!(text.parse::<Forward>().unwrap_err().kind(), Kind::Usage, "{text:?}");
        }
    }
}
