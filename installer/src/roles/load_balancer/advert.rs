//! VRRP adverts as they are on the wire: version 2 (RFC 3768 section 5.1) and 3 (RFC 5798 section 5.1).

/// The number of VRRP over IP.
pub const PROTOCOL: u8 = 112;

/// The type of the only message there is.
const ADVERTISEMENT: u8 = 1;

/// What of an advert matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advert {
    /// Version, 2 or 3.
    pub version: u8,
    /// Virtual router id.
    pub id: u8,
    /// Priority; 0: the sender gives up its addresses.
    pub priority: u8,
}

impl Advert {
    /// Reads what follows the IP header; `None` for what is no advert.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[kind, id, priority, _, _, _, _, _, ..] = bytes else { return None };
        let version = kind >> 4;
        (matches!(version, 2 | 3) && kind & 0x0f == ADVERTISEMENT && id != 0).then_some(Self { version, id, priority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_and_what_is_none() {
        // Version 3, id 51, priority 100, one address, 0.5 s.
        let third = [0x31, 51, 100, 1, 0, 50, 0xab, 0xcd, 10, 0, 0, 10];
        assert_eq!(Advert::parse(&third), Some(Advert { version: 3, id: 51, priority: 100 }));
        let second = [0x21, 7, 0, 0, 1, 1, 0, 0];
        assert_eq!(Advert::parse(&second), Some(Advert { version: 2, id: 7, priority: 0 }));
        for wrong in
            [&third[..7], &[], &[0x32, 51, 100, 1, 0, 50, 0, 0], &[0x41, 51, 1, 1, 0, 0, 0, 0], &[0x31, 0, 1, 1, 0, 0, 0, 0]]
        {
            assert_eq!(Advert::parse(wrong), None, "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rubbish_is_read_without_a_panic(bytes: Vec<u8>) {
            Advert::parse(&bytes);
        }
    }
}
