//! One question by DNS (RFC 1035) over UDP: whether a server answers, and what.

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has so many addresses for the name.
    Addresses(usize),
    /// The name does not exist, or has no address of this kind.
    Nothing,
    /// It refuses or cannot: the RCODE (section 4.1.1).
    Refused(u8),
}

/// Type of a record (section 3.2.2; AAAA by RFC 3596).
pub const A: u16 = 1;
/// As [`A`], for IPv6.
pub const AAAA: u16 = 28;

/// The question for a name. `None` where it cannot be one.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question.
    packet.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(1_u16.to_be_bytes());
    (packet.len() <= 12 + 255 + 4).then_some(packet)
}

/// Reads the answer to a question.
///
/// # Errors
/// It is none.
pub fn answer(packet: &[u8], question: &[u8], kind: u16) -> Result<Said, &'static str> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let flags = word(2).ok_or("it is too short")?;
    if packet.get(..2) != question.get(..2) || flags & 0x8000 == 0 {
        return Err("it answers another question");
    }
    match flags & 0x000f {
        0 => {}
        3 => return Ok(Said::Nothing),
        code => return Ok(Said::Refused(u8::try_from(code).unwrap_or(u8::MAX))),
    }
    let (questions, answers) = (word(4).unwrap_or(0), word(6).unwrap_or(0));
    let mut at = 12;
    for _ in 0..questions {
        at = past_name(packet, at).ok_or("it breaks off in the question")? + 4;
    }
    let mut found = 0;
    for _ in 0..answers {
        at = past_name(packet, at).ok_or("it breaks off in an answer")?;
        let (of, length) = word(at).zip(word(at + 8)).ok_or("it breaks off in an answer")?;
        at += 10 + usize::from(length);
        if at > packet.len() {
            // Cut to the size of a datagram: what came is enough.
            break;
        }
        found += usize::from(of == kind);
    }
    Ok(if found == 0 { Said::Nothing } else { Said::Addresses(found) })
}

/// The offset behind a name (section 4.1.4: a pointer ends it).
fn past_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return packet.get(at + 1).map(|_| at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_read() {
        let asked = question(7, "api.example.org", A).unwrap();
        assert_eq!(&asked[12..], b"\x03api\x07example\x03org\0\0\x01\0\x01");
        let reply = |flags: u16, answers: &[&[u8]]| {
            let mut packet = asked.clone();
            packet[2..4].copy_from_slice(&flags.to_be_bytes());
            packet[7] = answers.len() as u8;
            answers.iter().for_each(|answer| packet.extend(*answer));
            packet
        };
        let alias: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x10";
        let address: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x0a";
        assert_eq!(answer(&reply(0x8180, &[alias, address]), &asked, A), Ok(Said::Addresses(1)));
        assert_eq!(answer(&reply(0x8180, &[alias]), &asked, A), Ok(Said::Nothing));
        assert_eq!(answer(&reply(0x8183, &[]), &asked, A), Ok(Said::Nothing));
        assert_eq!(answer(&reply(0x8185, &[]), &asked, A), Ok(Said::Refused(5)));
        assert!(answer(&asked, &asked, A).is_err());
        assert!(answer(&reply(0x8180, &[b"\xc0"]), &asked, A).is_err());
        assert!(question(1, &"x".repeat(64), A).is_none() && question(1, "a..b", A).is_none());
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(mut packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let asked = question(1, "a", A).unwrap();
            let _ = answer(&packet, &asked, A);
            if packet.len() > 4 {
                packet[..4].copy_from_slice(b"\0\x01\x81\x80");
                let _ = answer(&packet, &asked, A);
            }
        }
    }
}
