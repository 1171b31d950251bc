//! IP addresses with prefix lengths, ranges, and `host:port`, as a profile writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its network's prefix: `10.0.0.5/24`, `fd00::5/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The address, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Lowest and highest address as numbers: IPv4 in the low 32 bits.
    fn bounds(&self) -> (u128, u128) {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let host_bits = u32::from(width - self.length.min(width));
        let mask = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
        let number = number(self.address);
        (number & !mask, number | mask)
    }

    /// Whether an address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (low, high) = self.bounds();
        self.address.is_ipv4() == address.is_ipv4() && (low..=high).contains(&number(address))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let ((low, high), (other_low, other_high)) = (self.bounds(), other.bounds());
        self.address.is_ipv4() == other.address.is_ipv4() && low <= other_high && other_low <= high
    }

    /// Whether no host bit is set: this is a network, not an address in one.
    pub fn is_network(&self) -> bool {
        self.bounds().0 == number(self.address)
    }

    /// Whether a machine can have this address: it is neither the network itself nor its broadcast.
    pub fn is_host(&self) -> bool {
        let (low, high) = self.bounds();
        let number = number(self.address);
        high - low < 2 || (number != low && (number != high || self.address.is_ipv6()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let plain =
            !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length: u8 = length.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if plain && length <= most { Ok(Self { address, length }) } else { Err(()) }
    }
}

/// Addresses from one to another, both included: `10.0.0.100-10.0.0.120`. One address is a range too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (number(self.first)..=number(self.last)).contains(&number(address))
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Range) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// How many addresses there are, at most `u128::MAX`.
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// The `index`th address from the first on.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        let number = number(self.first).checked_add(index).filter(|number| *number <= self::number(self.last))?;
        match self.first {
            IpAddr::V4(_) => u32::try_from(number).ok().map(|number| Ipv4Addr::from_bits(number).into()),
            IpAddr::V6(_) => Some(Ipv6Addr::from_bits(number).into()),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Range {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: IpAddr = first.trim_matches(' ').parse().map_err(|_| ())?;
        let last: IpAddr = last.trim_matches(' ').parse().map_err(|_| ())?;
        let ordered = first.is_ipv4() == last.is_ipv4() && number(first) <= number(last);
        ordered.then_some(Self { first, last }).ok_or(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A host (name or address) and a port: `api.example.org:6443`, `[fd00::1]:6443`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// The host as an address, where it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|port| *port != 0 && digits).ok_or(())?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_| ())?,
            None if crate::rules::DOMAIN.holds(host) || host.parse::<Ipv4Addr>().is_ok() => host.to_owned(),
            None => return Err(()),
        };
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes() {
        for wrong in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "10.0.0.1/08",
            "010.0.0.1/8",
            "::1/129",
            "a/8",
            "10.0.0/8",
            "::1/-1",
        ] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
        let net = prefix("10.0.0.5/24");
        assert!(
            net.contains("10.0.0.255".parse().unwrap())
                && !net.contains("10.0.1.0".parse().unwrap())
                && !net.contains("::a00:5".parse().unwrap())
        );
        assert!(net.is_host() && !net.is_network() && prefix("10.0.0.0/24").is_network() && !prefix("10.0.0.0/24").is_host());
        assert!(
            !prefix("10.0.0.255/24").is_host()
                && prefix("10.0.0.1/31").is_host()
                && prefix("10.0.0.0/32").is_host()
                && prefix("fd00::ffff:ffff:ffff:ffff/64").is_host()
        );
        assert!(prefix("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()) && prefix("::/0").overlaps(&prefix("fd00::/8")));
        assert!(
            prefix("10.0.0.0/8").overlaps(&prefix("10.244.0.0/16")) && !prefix("10.0.0.0/16").overlaps(&prefix("10.1.0.0/16"))
        );
    }

    #[test]
    fn ranges() {
        let range: Range = "10.0.0.250-10.0.1.5".parse().unwrap();
        assert_eq!((range.count(), range.nth(6), range.nth(12)), (12, Some("10.0.1.0".parse().unwrap()), None));
        assert_eq!("fd00::1".parse::<Range>().unwrap().count(), 1);
        assert_eq!("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<Range>().unwrap().count(), u128::MAX);
        for wrong in ["", "-", "10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.1-5", "10.0.0.0/24"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints() {
        for right in ["api.example.org:6443", "10.0.0.1:1", "[fd00::1]:65535"] {
            assert_eq!(right.parse::<Endpoint>().unwrap().to_string(), right);
        }
        for wrong in
            ["", ":1", "a", "a:0", "a:65536", "a:+1", "fd00::1:6443", "[10.0.0.1]:1", "a b:1", "a\n:1", "http://a:1", "[::1]"]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_back(low: u128, high: u128, length in 0u8..=128, v4: bool) {
            let address = |number: u128| if v4 { IpAddr::from(Ipv4Addr::from_bits(number as u32)) } else { Ipv6Addr::from_bits(number).into() };
            let prefix = Prefix { address: address(low), length: if v4 { length / 4 } else { length } };
            proptest::prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            proptest::prop_assert!(prefix.contains(prefix.address()) && prefix.overlaps(&prefix));
            let (first, last) = (address(low).min(address(high)), address(low).max(address(high)));
            proptest::prop_assert_eq!(Range { first, last }.to_string().parse(), Ok(Range { first, last }));
        }
    }
}
