//! The host is told by key-value pairs of Hyper-V: pool 1, guest to host, a file that hv_kvp_daemon hands on. Records are
//! of 512 bytes of key and 2048 of value, filled up with NULs; the daemon locks the file while it reads or writes.
//!
//! | key | value |
//! |---|---|
//! | `Ingot.State` | `running`, `ready` or `failed` |
//! | `Ingot.Stage` | the stage of the sequence, or what it waits for |
//! | `Ingot.Progress` | steps that are over, of how many: `7/21` |
//! | `Ingot.Code`, `Ingot.Message`, `Ingot.Action` | the failure, where there is one; more of the message in `Ingot.Message.1` and so on |

use super::{State, Status};
use crate::machine::{Attributes, Machine, read_text};

/// The pool.
pub const POOL: &str = "/var/lib/hyperv/.kvp_pool_1";

const KEY: usize = 512;
const VALUE: usize = 2048;
const RECORD: usize = KEY + VALUE;

/// Longest value: what readers on the host's side take (1024 letters of UTF-16 with their end).
const LONGEST: usize = 1022;
/// Most parts of the message.
const PARTS: usize = 4;
/// Longest pool, in records; others have their share of it.
const MOST: usize = 1024;
const OURS: &[u8] = b"Ingot.";

/// Whether a Hyper-V host is there.
pub(super) fn there(machine: &dyn Machine) -> bool {
    let bus = machine.list("/sys/bus/vmbus/devices").is_ok_and(|devices| !devices.is_empty());
    let text = |name: &str| read_text(machine, &format!("/sys/class/dmi/id/{name}")).ok().flatten().unwrap_or_default();
    bus || (text("sys_vendor").trim() == "Microsoft Corporation" && text("product_name").trim() == "Virtual Machine")
}

/// Tells the host. A pool that cannot be written is no reason to stop.
pub(super) fn tell(machine: &dyn Machine, pairs: &[(String, String)]) {
    let made = match machine.attributes("/var/lib/hyperv") {
        Ok(None) if pairs.is_empty() => return,
        Ok(None) => machine.make_folder("/var/lib/hyperv", Attributes::root(0o755)),
        other => other.map(drop),
    };
    let _ = made.and_then(|()| machine.rewrite(POOL, MOST * RECORD, &mut |pool| update(pool, pairs)));
}

/// What the host is told of a status, as [`super::Report`] hides secrets in it.
pub(super) fn pairs(status: &Status) -> Vec<(String, String)> {
    let state = match status.state {
        State::Running => "running",
        State::Ready => "ready",
        State::Failed => "failed",
    };
    let stage = status.doing.as_ref().filter(|_| status.state == State::Running).unwrap_or(&status.stage);
    let mut pairs = vec![("Ingot.State".to_owned(), state.to_owned()), ("Ingot.Stage".to_owned(), stage.clone())];
    if status.planned > 0 {
        pairs.push(("Ingot.Progress".to_owned(), format!("{}/{}", status.steps.len(), status.planned)));
    }
    if let Some(failure) = &status.failure {
        pairs.push(("Ingot.Code".to_owned(), failure.code.clone()));
        pairs.push(("Ingot.Action".to_owned(), failure.action.clone()));
        for (number, part) in parts(&failure.message).into_iter().enumerate() {
            let key = if number == 0 { "Ingot.Message".to_owned() } else { format!("Ingot.Message.{number}") };
            pairs.push((key, part.to_owned()));
        }
    }
    pairs
}

/// Cut between letters.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while parts.len() < PARTS && (!rest.is_empty() || parts.is_empty()) {
        let (part, after) = rest.split_at_checked(cut(rest)).unwrap_or((rest, ""));
        parts.push(part);
        rest = after;
    }
    parts
}

fn cut(text: &str) -> usize {
    (0..=LONGEST.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

/// The pool with exactly these pairs of ours. Records of others keep their place; a torn one at the end goes.
pub(super) fn update(pool: &[u8], pairs: &[(String, String)]) -> Vec<u8> {
    let records = pool.chunks_exact(RECORD);
    let mut left: Vec<&(String, String)> = pairs.iter().collect();
    let mut out = Vec::with_capacity(pool.len() + RECORD);
    for record in records {
        let key = record.split(|byte| *byte == 0).next().unwrap_or_default();
        if !key.starts_with(OURS) {
            out.extend(record);
        } else if let Some(at) = left.iter().position(|(name, _)| name.as_bytes() == key) {
            out.extend(packed(left.remove(at)));
        }
    }
    for pair in left {
        if out.len() < MOST * RECORD {
            out.extend(packed(pair));
        }
    }
    out
}

fn packed((key, value): &(String, String)) -> Vec<u8> {
    let mut record = vec![0; RECORD];
    let mut put = |at: usize, text: &str| record.iter_mut().skip(at).zip(text.bytes()).for_each(|(to, byte)| *to = byte);
    put(0, key.get(..KEY - 1).unwrap_or(key));
    // A NUL would end it before its time.
    let value = value.replace('\0', " ");
    put(KEY, value.get(..cut(&value)).unwrap_or_default());
    record
}
