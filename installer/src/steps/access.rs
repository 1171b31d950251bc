//! sshd: its host keys, which outlive the boot, and its settings; and login prompts on the consoles. Both only where the
//! profile says so.

use std::time::Duration;

use profile::access::{Access, Console};

use super::files::{Files, Wanted};
use super::{How, UnitAction, Verdict, Work, World};
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, replace, run};

const FOLDER: &str = "/state/ssh";
const KEY: &str = "/state/ssh/ssh_host_ed25519_key";
const NEW: &str = "/state/ssh/new_ed25519_key";

/// The settings of sshd.
pub fn sshd(access: &Access) -> Files {
    if !access.ssh {
        return Files::default().sweep("/etc/ssh/sshd_config.d", "50-ingot").tell(UnitAction::new(How::Stop, "ssh.service"));
    }
    let mut text = format!("# Made by ingot-installer.\nHostKey {KEY}\nAuthorizedKeysFile /etc/ssh/authorized_keys.d/%u\n");
    text += "AuthenticationMethods publickey\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin no\n";
    text += "X11Forwarding no\n";
    for address in &access.ssh_listen {
        text += &format!("ListenAddress {address}\n");
    }
    Files::of(vec![Wanted::private("/etc/ssh/sshd_config.d/50-ingot.conf", text)])
        .sweep("/etc/ssh/sshd_config.d", "50-ingot")
        .tell(UnitAction::new(How::Reload, "ssh.service"))
        .tell(UnitAction::new(How::Start, "ssh.service"))
}

/// Login prompts on these consoles, where the profile wants them: images start none by themselves.
pub fn console(access: &Access, consoles: &[String]) -> Files {
    let login = access.console == Console::Login;
    let mut files = Files { list: Some("/run/ingot/consoles"), ..Files::default() };
    for name in consoles {
        // The kernel's name for the screen in front.
        let unit = if name == "tty0" { "getty@tty1.service".to_owned() } else { format!("serial-getty@{name}.service") };
        if login {
            let text = "# Made by ingot-installer.\n[Unit]\nAfter=ingot-installer.service\n";
            files.files.push(Wanted::public(format!("/etc/systemd/system/{unit}.d/50-ingot.conf"), text));
            files = files.tell(UnitAction::new(How::ReadUnits, "")).tell(UnitAction::new(How::Start, &unit));
        } else {
            files = files.tell(UnitAction::new(How::Stop, &unit));
        }
    }
    files
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

/// The host key of sshd, made once.
#[derive(Debug)]
pub struct HostKeys;

impl Work for HostKeys {
    fn lines(&self) -> Vec<String> {
        vec![format!("{KEY}, made at the first boot")]
    }

    fn input(&self) -> Vec<u8> {
        KEY.into()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        for path in [format!("{KEY}.pub"), KEY.to_owned()] {
            let there = machine.read(&path).map_err(|e| Failure::io("reading", &path, &e))?;
            if there.is_none_or(|bytes| bytes.is_empty()) {
                return Ok(Verdict::Differs(format!("there is no {path}")));
            }
        }
        Ok(Verdict::Holds)
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        if !machine.live() {
            return Ok(());
        }
        let public = format!("{NEW}.pub");
        let moving = |e| Failure::io("writing", KEY, &e);
        machine.make_folder(FOLDER, Attributes::root(0o700)).map_err(|e| Failure::io("making", FOLDER, &e))?;
        // Left over from a run that was cut off; ssh-keygen would ask about it.
        machine.remove(NEW).and_then(|()| machine.remove(&public)).map_err(moving)?;
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", NEW];
        run(machine, &Command::new("/usr/bin/ssh-keygen", &arguments).within(Duration::from_secs(60)))?;
        let read = |path: &str| machine.read(path).map_err(moving).map(Option::unwrap_or_default);
        let (private, open) = (profile::secret::Secret::new(text(read(NEW)?)), read(&public)?);
        // Written again with fsync, which ssh-keygen leaves out; the private key last, as it is what counts.
        machine.remove(NEW).and_then(|()| machine.remove(&public)).map_err(moving)?;
        replace(machine, &format!("{KEY}.pub"), &open, Attributes::root(0o644))?;
        replace(machine, KEY, private.expose().as_bytes(), Attributes::root(0o600))
    }

    /// Without a key sshd does not start; that must not keep the machine from its role.
    fn keeps_only(&self) -> bool {
        true
    }
}
