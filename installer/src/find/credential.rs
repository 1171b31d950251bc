//! Source 1: the credential `ingot.profile`, with its signature `ingot.profile.sig`. systemd hands it
//! over where the image lets it; images of ingot do not (a credential could bring units), so the
//! places it comes from are read here as well.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Found, Held, PROFILE_LIMIT, Reader, absent, disk, optional, smbios};

const NAME: &str = "ingot.profile";
const SIGNATURE: &str = "ingot.profile.sig";
/// Where systemd puts credentials of the system (systemd.exec(5), CREDENTIALS).
const OF_SYSTEM: &str = "/run/credentials/@system";
const ENTRIES: &str = "/sys/firmware/dmi/entries";
const TABLE: &str = "/sys/firmware/dmi/tables/DMI";
/// QEMU's fw_cfg, `opt/io.systemd.credentials/NAME` (systemd(1)).
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
/// Longest SMBIOS table that is read, in bytes.
const TABLE_LIMIT: usize = 4 << 20;

/// Folder of credentials on a disk labelled `INGOT`.
const ON_DISK: &str = "credentials";

/// The bytes of a credential that a profile names: in these folders, else from SMBIOS, fw_cfg, or a file on a disk labelled
/// `INGOT`.
///
/// # Errors
/// What is there is broken.
pub(crate) fn named(reader: &dyn Reader, folders: &[String], name: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
    for folder in folders {
        if let Some(bytes) = optional(reader, &format!("{folder}/{name}"), limit)? {
            return Ok(Some(bytes));
        }
    }
    if let Some(bytes) = credential(&strings(reader)?, name)?.filter(|bytes| bytes.len() <= limit) {
        return Ok(Some(bytes));
    }
    if let Some(bytes) = optional(reader, &format!("{FW_CFG}/{name}/raw"), limit)? {
        return Ok(Some(bytes));
    }
    disk::labelled_file(reader, &format!("{ON_DISK}/{name}"), limit)
}

/// Reads all four places.
pub(super) fn look(reader: &dyn Reader, found: &mut Found) {
    let mut folders: Vec<String> = reader.credentials().into_iter().collect();
    if !folders.iter().any(|folder| folder == OF_SYSTEM) {
        folders.push(OF_SYSTEM.to_owned());
    }
    for folder in folders {
        let source = format!("credential in {folder}");
        pair(reader, &source, |name| format!("{folder}/{name}"), found);
    }
    look_smbios(reader, found);
    pair(reader, "fw_cfg credential", |name| format!("{FW_CFG}/{name}/raw"), found);
}

fn pair(reader: &dyn Reader, source: &str, path: impl Fn(&str) -> String, found: &mut Found) {
    let profile = optional(reader, &path(NAME), PROFILE_LIMIT);
    let signature = optional(reader, &path(SIGNATURE), trust::signature::LIMIT);
    match (profile, signature) {
        (Ok(Some(profile)), Ok(signature)) => found.take(source.to_owned(), Held { profile, signature }),
        (Ok(None), _) => found.skip(source, "not there"),
        (Err(reason), _) | (_, Err(reason)) => found.skip(source, reason),
    }
}

fn look_smbios(reader: &dyn Reader, found: &mut Found) {
    const SOURCE: &str = "SMBIOS type 11 credential";
    let held = strings(reader).and_then(|strings| {
        let Some(profile) = credential(&strings, NAME)? else { return Ok(None) };
        Ok(Some(Held { profile, signature: credential(&strings, SIGNATURE)? }))
    });
    match held {
        Ok(Some(held)) => found.take(SOURCE.to_owned(), held),
        Ok(None) => found.skip(SOURCE, "not there"),
        Err(reason) => found.skip(SOURCE, reason),
    }
}

/// The strings of all type 11 structures: from the entries, or where the kernel shows none (they are
/// a module's), from the whole table.
fn strings(reader: &dyn Reader) -> Result<Vec<Vec<u8>>, String> {
    let entries = match reader.list(ENTRIES) {
        Ok(names) => names.into_iter().filter(|name| name.starts_with("11-")).collect(),
        Err(e) if absent(&e) => Vec::new(),
        Err(e) => return Err(format!("broken: reading {ENTRIES}: {e}")),
    };
    let mut paths: Vec<String> = entries.iter().map(|name: &String| format!("{ENTRIES}/{name}/raw")).collect();
    if paths.is_empty() {
        paths.push(TABLE.to_owned());
    }
    let mut strings = Vec::new();
    for path in paths {
        if let Some(table) = optional(reader, &path, TABLE_LIMIT)? {
            strings.extend(smbios::oem_strings(&table).map_err(|e| format!("broken: {path}: {e}"))?);
        }
    }
    Ok(strings)
}

/// The value of one credential among SMBIOS strings (systemd(1), SMBIOS TYPE 11).
fn credential(strings: &[Vec<u8>], name: &str) -> Result<Option<Vec<u8>>, String> {
    let plain = format!("io.systemd.credential:{name}=");
    let binary = format!("io.systemd.credential.binary:{name}=");
    let mut values = Vec::new();
    for string in strings {
        if let Some(value) = string.strip_prefix(plain.as_bytes()) {
            values.push(value.to_vec());
        } else if let Some(value) = string.strip_prefix(binary.as_bytes()) {
            let decoded = STANDARD.decode(value.trim_ascii());
            values.push(decoded.map_err(|e| format!("broken: expected base64 in the string `{binary}...`: {e}"))?);
        }
    }
    if values.iter().any(|value| Some(value) != values.first()) {
        return Err(format!("broken: expected one string for `{name}`, found {} that differ", values.len()));
    }
    Ok(values.into_iter().next())
}
