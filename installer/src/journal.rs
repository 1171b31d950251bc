//! What was done to this machine, on the state partition: `/state/ingot/journal`.
//!
//! A line is `CRC-32C (8 hexadecimal digits) seconds-since-1970 event step digest`. It is appended and fsynced; a line
//! that a power cut tore has a wrong checksum and is left out. The clock is for people only.

use trust::Sha256Digest;

use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine, replace};

/// Where it is.
pub const PATH: &str = "/state/ingot/journal";

/// From this size on, it is reduced to the last entries of each step.
const LARGE: usize = 256 << 10;

/// What happened to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is about to be carried out.
    Begin,
    /// It holds.
    Done,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Begin => "begin",
            Event::Done => "done",
        }
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// To which step.
    pub step: String,
    /// Digest of the step's input.
    pub digest: Sha256Digest,
    time: u64,
}

/// The journal, read.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Vec<Entry>,
    /// Lines that were left out.
    pub damaged: usize,
    torn: bool,
    length: usize,
}

impl Journal {
    /// Reads it; an absent one is empty.
    ///
    /// # Errors
    /// It cannot be read at all.
    pub fn open(machine: &dyn Machine) -> Result<Self> {
        let bytes = machine.read(PATH).map_err(|e| Failure::io("reading", PATH, &e))?.unwrap_or_default();
        Ok(Self::parse(&bytes))
    }

    /// Reads the bytes of one. Never fails: what is damaged is left out and counted.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut journal = Self { torn: bytes.last().is_some_and(|byte| *byte != b'\n'), length: bytes.len(), ..Self::default() };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match entry(line) {
                Some(entry) => journal.entries.push(entry),
                None => journal.damaged += 1,
            }
        }
        journal
    }

    /// The last entry of a step.
    pub fn last(&self, step: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.step == step)
    }

    /// Adds an entry and waits until it is on the disk.
    ///
    /// # Errors
    /// It could not be written; the entry then does not count.
    pub fn add(&mut self, machine: &dyn Machine, event: Event, step: &str, digest: Sha256Digest) -> Result<()> {
        let entry = Entry { event, step: step.to_owned(), digest, time: machine.now() };
        if self.length >= LARGE {
            self.reduce(machine)?;
        }
        let fresh = self.length == 0;
        if fresh {
            machine
                .make_folder("/state/ingot", Attributes::root(0o700))
                .map_err(|e| Failure::io("making", "/state/ingot", &e))?;
        }
        // A torn line before it must not swallow this one.
        let text = format!("{}{}", if self.torn { "\n" } else { "" }, line(&entry));
        machine.append(PATH, text.as_bytes()).map_err(|e| {
            self.torn = true;
            Failure::io("writing", PATH, &e)
        })?;
        if fresh {
            machine.sync_folder("/state/ingot").map_err(|e| Failure::io("writing", PATH, &e))?;
        }
        self.torn = false;
        self.length += text.len();
        self.entries.push(entry);
        Ok(())
    }

    /// Keeps the last entry of each step.
    fn reduce(&mut self, machine: &dyn Machine) -> Result<()> {
        let mut kept: Vec<Entry> = Vec::new();
        for entry in self.entries.iter().rev() {
            if !kept.iter().any(|other| other.step == entry.step) {
                kept.push(entry.clone());
            }
        }
        kept.reverse();
        let text: String = kept.iter().map(line).collect();
        replace(machine, PATH, text.as_bytes(), Attributes::root(0o600))?;
        *self = Self { entries: kept, length: text.len(), ..Self::default() };
        Ok(())
    }
}

fn line(entry: &Entry) -> String {
    let body = format!("{} {} {} {}", entry.time, entry.event.name(), entry.step, entry.digest);
    format!("{:08x} {body}\n", crc32c::crc32c(body.as_bytes()))
}

fn entry(line: &[u8]) -> Option<Entry> {
    let (sum, body) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    let mut words = body.split(' ');
    let time = words.next()?.parse().ok()?;
    let event = match words.next()? {
        "begin" => Event::Begin,
        "done" => Event::Done,
        _ => return None,
    };
    let (step, digest) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    words.next().is_none().then_some(Entry { event, step, digest, time })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Ownership, Real};

    fn digest(byte: u8) -> Sha256Digest {
        Sha256Digest([byte; 32])
    }

    #[test]
    fn a_torn_tail_is_left_out_and_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Real::new(folder.path(), Ownership::Ignored);
        let mut journal = Journal::default();
        journal.add(&machine, Event::Begin, "network", digest(1)).unwrap();
        journal.add(&machine, Event::Done, "network", digest(1)).unwrap();
        let path = folder.path().join("state/ingot/journal");
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in first..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut journal = Journal::open(&machine).unwrap();
            let complete = length == whole.len() - 1;
            assert_eq!(journal.last("network").unwrap().event, if complete { Event::Done } else { Event::Begin }, "{length}");
            journal.add(&machine, Event::Done, "time", digest(2)).unwrap();
            let again = Journal::open(&machine).unwrap();
            assert_eq!(again.last("time").unwrap().digest, digest(2), "{length}");
            assert_eq!(again.last("network"), journal.last("network"));
        }
    }

    #[test]
    fn flipped_bytes_are_noticed_and_large_ones_reduced() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Real::new(folder.path(), Ownership::Ignored);
        let one = line(&Entry { event: Event::Done, step: "x".into(), digest: digest(3), time: 5 });
        for at in 0..one.len() - 1 {
            let mut bytes = one.clone().into_bytes();
            bytes[at] ^= 4;
            assert_eq!(Journal::parse(&bytes).damaged, 1, "{at}");
        }
        machine.make_folder("/state/ingot", Attributes::root(0o700)).unwrap();
        machine.append(PATH, one.repeat(LARGE / one.len() + 1).as_bytes()).unwrap();
        let mut journal = Journal::open(&machine).unwrap();
        journal.add(&machine, Event::Done, "y", digest(4)).unwrap();
        let again = Journal::open(&machine).unwrap();
        assert_eq!((again.entries.len(), again.damaged), (2, 0));
    }

    proptest::proptest! {
        #[test]
        fn rubbish_is_read_without_a_panic(bytes: Vec<u8>) {
            Journal::parse(&bytes);
        }
    }
}
