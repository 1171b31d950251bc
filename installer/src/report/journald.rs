//! Entries of the journal in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

use super::codes::Code;

pub(super) const ERROR: u8 = 3;
pub(super) const WARNING: u8 = 4;
pub(super) const INFO: u8 = 6;

/// One datagram. `priority` is that of syslog(3).
pub(super) fn entry(priority: u8, message: &str, code: Option<&Code>, (stage, step): (&str, Option<&str>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    field(&mut bytes, "MESSAGE", message);
    field(&mut bytes, "PRIORITY", &priority.to_string());
    field(&mut bytes, "SYSLOG_IDENTIFIER", "ingot-installer");
    if let Some(code) = code {
        field(&mut bytes, "INGOT_CODE", code.number);
        field(&mut bytes, "INGOT_ACTION", code.action);
    }
    if !stage.is_empty() {
        field(&mut bytes, "INGOT_STAGE", stage);
    }
    if let Some(step) = step {
        field(&mut bytes, "INGOT_STEP", step);
    }
    bytes
}

/// A value with a line end is sent with its length, so that it cannot pretend to be another field.
fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_cannot_forge_fields() {
        let bytes = super::entry(6, "a\nPRIORITY=0", None, ("", None));
        assert!(bytes.starts_with(b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=6\n"), "{bytes:?}");
    }
}
