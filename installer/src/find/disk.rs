//! Sources 2, 3 and 5: file systems on disks, told by their labels.

use super::volume::{Volume, entry, file, probe};
use super::{Found, Held, PROFILE_LIMIT, Reader, kvp, optional};

const DISKS: &str = "/sys/class/block";
/// Devices that are looked at.
const DISKS_LIMIT: usize = 256;
/// Not disks that somebody attached; a floppy drive that is not there takes seconds to say so.
const OTHERS: [&str; 6] = ["loop", "ram", "zram", "dm-", "fd", "nbd"];
const LABEL: &str = "INGOT";
const NOCLOUD: &str = "cidata";
const GENERIC: &str = "profile.toml";
/// Longest name of a machine that is taken for a file's name, in bytes.
const NAME_LIMIT: usize = 200;

/// A file system, and the device it is on.
pub(super) struct Mounted {
    device: String,
    volume: Box<dyn Volume>,
}

impl Mounted {
    fn is(&self, label: &str) -> bool {
        self.volume.label().eq_ignore_ascii_case(label)
    }

    /// A file and its signature: the first of `signatures` that is there.
    fn held(&mut self, path: &str, signatures: &[String]) -> Result<Option<Held>, String> {
        let Some(profile) = file(&mut *self.volume, path, PROFILE_LIMIT)? else { return Ok(None) };
        let mut signature = None;
        for path in signatures {
            if signature.is_none() {
                signature = file(&mut *self.volume, path, trust::signature::LIMIT)?;
            }
        }
        Ok(Some(Held { profile, signature }))
    }
}

/// All FAT and ISO 9660 file systems of the machine. A disk that cannot be read is named.
pub(super) fn volumes(reader: &dyn Reader, found: &mut Found) -> Vec<Mounted> {
    let mut names = match reader.list(DISKS) {
        Ok(names) => names,
        Err(e) => {
            found.skip("disks", format!("reading {DISKS}: {e}"));
            return Vec::new();
        }
    };
    names.retain(|name| !OTHERS.iter().any(|other| name.starts_with(other)));
    if names.len() > DISKS_LIMIT {
        found.skip("disks", format!("{} devices: only the first {DISKS_LIMIT} are looked at", names.len()));
        names.truncate(DISKS_LIMIT);
    }
    let mut volumes = Vec::new();
    for name in names {
        // The kernel writes `!` for the `/` in names such as cciss/c0d0.
        let device = format!("/dev/{}", name.replace('!', "/"));
        let volume = reader.open(&device).map_err(|e| format!("cannot be opened: {e}")).and_then(probe);
        match volume {
            Ok(Some(volume)) => volumes.push(Mounted { device, volume }),
            Ok(None) => {}
            Err(reason) => found.skip(format!("disk {device}"), reason),
        }
    }
    volumes
}

/// What this machine may be called in a file's name: its UUID by the firmware, its name and
/// identifier by Hyper-V, its name by the kernel where it has one already.
pub(super) fn names(reader: &dyn Reader) -> Vec<String> {
    let line = |path: &str| {
        let bytes = optional(reader, path, 4096).ok().flatten()?;
        String::from_utf8(bytes).ok().map(|text| text.trim().to_owned())
    };
    let mut names: Vec<String> = product_uuid(reader).into_iter().collect();
    names.extend(kvp::name(reader));
    names.extend(kvp::identifier(reader));
    names.extend(line("/proc/sys/kernel/hostname").filter(|name| !matches!(name.as_str(), "(none)" | "localhost")));
    let usable = |name: &String| {
        let bad = |c: char| c.is_control() || matches!(c, '/' | '\\');
        !name.is_empty() && name.len() <= NAME_LIMIT && !name.starts_with('.') && !name.contains(bad)
    };
    names.retain(usable);
    names.dedup();
    names
}

/// The machine's UUID by the firmware, in lower-case letters.
pub(crate) fn product_uuid(reader: &dyn Reader) -> Option<String> {
    let bytes = optional(reader, "/sys/class/dmi/id/product_uuid", 4096).ok().flatten()?;
    let text = std::str::from_utf8(&bytes).ok()?.trim().to_ascii_lowercase();
    (text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')).then_some(text)
}

/// Source 2. A file for this machine counts more than one for any.
pub(super) fn look_labelled(volumes: &mut [Mounted], names: &[String], found: &mut Found) {
    let mut files: Vec<String> = names.iter().map(|name| format!("{name}.toml")).collect();
    files.push(GENERIC.to_owned());
    let mut any = false;
    for mounted in volumes.iter_mut().filter(|mounted| mounted.is(LABEL)) {
        any = true;
        let before = found.tried.len();
        let disk = format!("disk {LABEL} ({})", mounted.device);
        let mut own = false;
        for path in files.iter().filter(|path| !GENERIC.eq_ignore_ascii_case(path)) {
            own |= look_at(mounted, path, &disk, found);
        }
        if !own {
            look_at(mounted, GENERIC, &disk, found);
        }
        if found.tried.len() == before {
            found.skip(disk, format!("holds none of {}", files.join(", ")));
        }
    }
    if !any {
        found.skip(format!("disk labelled {LABEL}"), "no such disk");
    }
}

/// A file on the disks labelled `INGOT`: two that differ are an error.
pub(super) fn labelled_file(reader: &dyn Reader, path: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let mut held: Option<(Vec<u8>, String)> = None;
    for mut mounted in volumes(reader, &mut Found::default()).into_iter().filter(|mounted| mounted.is(LABEL)) {
        let Some(bytes) = file(&mut *mounted.volume, path, limit)? else { continue };
        match &held {
            Some((first, device)) if *first != bytes => {
                return Err(format!("broken: expected one {path}, found two that differ, on {device} and {}", mounted.device));
            }
            _ => held = Some((bytes, mounted.device)),
        }
    }
    Ok(held.map(|(bytes, _)| bytes))
}

/// Whether there is such a file, broken or not.
fn look_at(mounted: &mut Mounted, path: &str, disk: &str, found: &mut Found) -> bool {
    let source = format!("{path} on {disk}");
    match mounted.held(path, &[format!("{path}.sig")]) {
        Ok(Some(held)) => found.take(source, held),
        Ok(None) => return false,
        Err(reason) => found.skip(source, reason),
    }
    true
}

/// Source 3. Hypervisors attach such disks for cloud-init; only user-data that is a profile counts.
/// The signature is the file `user-data.sig`, or the vendor-data where only fixed names can be set.
pub(super) fn look_nocloud(volumes: &mut [Mounted], found: &mut Found) {
    let mut any = false;
    for mounted in volumes.iter_mut().filter(|mounted| mounted.is(NOCLOUD)) {
        any = true;
        let source = format!("user-data on disk {} ({})", mounted.volume.label(), mounted.device);
        match nocloud(mounted) {
            Ok(held) => found.take(source, held),
            Err(reason) => found.skip(source, reason),
        }
    }
    if !any {
        found.skip(format!("disk labelled {NOCLOUD}"), "no such disk");
    }
}

fn nocloud(mounted: &mut Mounted) -> Result<Held, String> {
    let limit = trust::signature::LIMIT;
    let held = mounted.held("user-data", &["user-data.sig".to_owned()])?.ok_or("not there")?;
    // Without both files it is no NoCloud disk, but perhaps one half written.
    entry(&mut *mounted.volume, "meta-data")?.ok_or("broken: expected meta-data beside user-data, found none")?;
    if held.profile.iter().all(u8::is_ascii_whitespace) {
        return Ok(held);
    }
    if !is_profile(&held.profile) {
        return Err(format!("not a profile: expected `#ingot` or TOML, found `{}`", first_line(&held.profile)));
    }
    let Held { profile, mut signature } = held;
    if signature.is_none() {
        // Longer vendor-data is somebody else's.
        let vendor = file(&mut *mounted.volume, "vendor-data", limit).ok().flatten();
        signature = vendor.filter(|bytes| bytes.trim_ascii_start().starts_with(b"-----BEGIN SSH SIGNATURE-----"));
    }
    Ok(Held { profile, signature })
}

/// `#ingot` in the first line, or a first line (comments aside) that only TOML has: a table's head
/// or `key = value`. cloud-init's own kinds all begin otherwise.
fn is_profile(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let text = text.trim_start_matches('\u{feff}');
    if text.starts_with("#ingot") {
        return true;
    }
    if ["#!", "#cloud-", "#include", "#part-handler", "## template:", "#upstart-job"].iter().any(|kind| text.starts_with(kind)) {
        return false;
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let key = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_.\"' ".contains(c));
    lines.next().is_some_and(|line| line.starts_with('[') || line.split_once('=').is_some_and(|(name, _)| key(name.trim())))
}

fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().take(40).flat_map(char::escape_debug).collect()
}

/// Source 5: the EFI system partition is the FAT file system with a folder `EFI` that has no other use here.
pub(super) fn look_system_partition(volumes: &mut [Mounted], found: &mut Found) {
    const PLACES: [(&str, &str); 2] = [
        ("loader/credentials/ingot.profile.cred", "loader/credentials/ingot.profile.sig.cred"),
        ("ingot/profile.toml", "ingot/profile.toml.sig"),
    ];
    let before = found.tried.len();
    for mounted in volumes.iter_mut().filter(|mounted| !mounted.is(LABEL) && !mounted.is(NOCLOUD)) {
        if !matches!(entry(&mut *mounted.volume, "EFI"), Ok(Some(folder)) if folder.folder) {
            continue;
        }
        for (path, signature) in PLACES {
            let source = format!("/{path} on the EFI system partition ({})", mounted.device);
            match mounted.held(path, &[signature.to_owned()]) {
                Ok(Some(held)) if path.ends_with(".cred") && !is_profile(&held.profile) => {
                    found.skip(source, "broken: expected a profile, found another or an encrypted credential");
                }
                Ok(Some(held)) => found.take(source, held),
                Ok(None) => {}
                Err(reason) => found.skip(source, reason),
            }
        }
    }
    if found.tried.len() == before {
        found.skip("EFI system partition", "no profile there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_profiles_are_taken_for_profiles() {
        for (text, expected) in [
            ("#ingot\nschema = 1\n", true),
            ("schema = 1\n", true),
            ("# a comment\n\n[node]\nname = \"a\"\n", true),
            ("\u{feff}schema=1", true),
            ("\"schema\" = 1", true),
            ("#cloud-config\nhostname: a\n", false),
            ("#cloud-config\nx = 1\n", false),
            ("#!/bin/sh\na=1\n", false),
            ("Content-Type: multipart/mixed; boundary=\"=x\"\n", false),
            ("hostname: a\n", false),
            ("{\"a\" = 1}", false),
            ("# nothing\n", false),
            ("", false),
        ] {
            assert_eq!(is_profile(text.as_bytes()), expected, "{text}");
        }
        assert!(!is_profile(b"\xff = 1"));
    }
}
