//! What only profile and image together can tell.

use profile::access::Console;
use profile::document::{Fault, Place};
use profile::machine::{Encryption, FileSystem};
use profile::node::Role;
use profile::profile::Written;

use super::{Checked, ImageFacts};

/// Adds the faults of this profile for this image.
pub(super) fn check(checked: &mut Checked, image: &ImageFacts) {
    let Some(written) = checked.written.take() else { return };
    let mut faults: Vec<Fault> = Vec::new();
    {
        let texts = &checked.texts;
        let mut tell = |place: Place, message: String, hint: &str| {
            if !place.is_hole() {
                faults.push(texts.fault(place, message).hint(hint));
            }
        };
        role(&written, image, &mut tell);
        kubernetes(&written, image, &mut tell);
        modules(&written, image, &mut tell);
        programs(&written, image, &mut tell);
        owners(&written, image, &mut tell);
    }
    checked.faults.extend(faults);
    let least = checked.profile.as_ref().map(|profile| profile.state.least);
    checked.least_disk = least.filter(|_| image.before_state > 0).map(|least| image.before_state.saturating_add(least));
    checked.written = Some(written);
}

fn role(written: &Written, image: &ImageFacts, tell: &mut dyn FnMut(Place, String, &str)) {
    let wanted = written.node.role.name();
    if let Some(made) = image.role.as_deref().filter(|made| *made != wanted) {
        let message = format!("the profile is for a {wanted}, but {} is made for a {made}", image.title);
        tell(written.node.role.place(), message, "give the machine the image of that role, or change the role");
    }
}

fn kubernetes(written: &Written, image: &ImageFacts, tell: &mut dyn FnMut(Place, String, &str)) {
    if *written.node.role == Role::LoadBalancer {
        return;
    }
    let asked = written.cluster.as_ref().and_then(|cluster| cluster.kubernetes.as_ref());
    let Some((asked, version)) =
        asked.and_then(|text| text.parse().ok().map(|version: profile::cluster::Version| (text, version)))
    else {
        return;
    };
    match image.kubernetes {
        Some(held) if held != version => {
            let message = format!("the profile is for Kubernetes {version}, but {} holds {held}", image.title);
            tell(asked.place(), message, "the image says the version: change the profile, or take another image");
        }
        _ => {}
    }
}

fn modules(written: &Written, image: &ImageFacts, tell: &mut dyn FnMut(Place, String, &str)) {
    if image.modules.is_empty() {
        return;
    }
    let lacks = |name: &str| !image.modules.contains(&name.replace('-', "_"));
    let hint = "choose an image whose kernel has it (linux-image-amd64 has more than linux-image-cloud-amd64)";
    for name in written.kernel.modules.iter().filter(|name| lacks(name)) {
        tell(name.place(), format!("no kernel of {} has the module `{}`", image.title, name.as_str()), hint);
    }
    for interface in &written.interface {
        let needed = [("8021q", "VLANs", interface.vlan.is_some()), ("bonding", "bonds", interface.bond.is_some())];
        for (module, what, _) in needed.into_iter().filter(|(module, _, wanted)| *wanted && lacks(module)) {
            tell(interface.name.place(), format!("{what} need the module `{module}`, which {} does not have", image.title), hint);
        }
    }
    if written.disks.state.file_system == Some(FileSystem::Xfs) && lacks("xfs") {
        tell(written.node.role.place(), format!("the state partition is XFS, but no kernel of {} has `xfs`", image.title), hint);
    }
}

/// Programs the installer runs for what the profile asks.
fn programs(written: &Written, image: &ImageFacts, tell: &mut dyn FnMut(Place, String, &str)) {
    let state = &written.disks.state;
    let ssh = written.access.ssh.as_ref().map_or(written.access.users.iter().any(|user| !user.ssh_keys.is_empty()), |ssh| **ssh);
    let encrypted = state.encryption == Some(Encryption::Tpm2);
    let at = written.node.role.place();
    let needed = [
        ("mkfs.xfs", "xfsprogs", "an XFS state partition", state.file_system == Some(FileSystem::Xfs), at),
        ("systemd-cryptenroll", "systemd-cryptsetup", "an encrypted state partition", encrypted, at),
        ("sshd", "openssh-server", "ssh access", ssh, written.access.users.first().map_or(at, |user| user.name.place())),
        ("agetty", "util-linux", "a login on the console", written.access.console == Some(Console::Login), at),
    ];
    for (program, package, what, _, place) in needed.into_iter().filter(|needed| needed.3 && !image.programs.contains(needed.0)) {
        let hint = format!("add the package {package} to the image definition");
        tell(place, format!("{what} needs the program `{program}`, which {} does not have", image.title), &hint);
    }
}

fn owners(written: &Written, image: &ImageFacts, tell: &mut dyn FnMut(Place, String, &str)) {
    let own = |name: &str| written.access.users.iter().any(|user| user.name.as_str() == name);
    let (users, groups) = &image.accounts;
    if users.is_empty() {
        return;
    }
    for file in &written.file {
        for (name, known, what) in [(&file.owner, users, "user"), (&file.group, groups, "group")] {
            let Some(name) = name.as_ref().filter(|name| !known.contains(name.as_str()) && !own(name)) else { continue };
            let message = format!("there is no {what} `{}` in {}, nor in the profile", name.as_str(), image.title);
            tell(name.place(), message, "take an account of the image, or one of `[[access.users]]`");
        }
    }
}
