//! The certificates kubeadm made for a control plane: until when they are good, and their renewal. Those of CAs are the
//! operator's, those of kubelets renew themselves.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use profile::secret::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use trust::Sha256Digest;

use super::{api, kubeadm};
use crate::diagnose::date;
use crate::failure::{Failure, Result};
use crate::machine::{Machine, read_text};
use crate::report::codes;

const FOLDER: &str = "/etc/kubernetes";

/// Certificates, and kubeconfigs that hold one.
const FILES: [&str; 11] = [
    "pki/apiserver.crt",
    "pki/apiserver-kubelet-client.crt",
    "pki/apiserver-etcd-client.crt",
    "pki/front-proxy-client.crt",
    "pki/etcd/server.crt",
    "pki/etcd/peer.crt",
    "pki/etcd/healthcheck-client.crt",
    "admin.conf",
    "super-admin.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

const HOUR: u64 = 3600;
const MONTH: u64 = 30 * 24 * HOUR;

/// From when to when a certificate is good: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    from: u64,
    to: u64,
}

/// The first element of DER (X.690): its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// UTCTime or GeneralizedTime, as RFC 5280 allows them.
fn time(tag: u8, content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match tag {
        0x17 if text.len() == 12 => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        0x18 if text.len() == 14 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i8>().ok();
    let year = text.get(..4)?.parse().ok()?;
    let civil = DateTime::new(year, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?, 0).ok()?;
    u64::try_from(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}

impl Life {
    /// That of a certificate: tbsCertificate is version (tagged 0xa0), serial number, algorithm, issuer, validity.
    fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(der)?;
        let (_, mut rest, _) = element(certificate)?;
        if rest.first() == Some(&0xa0) {
            rest = element(rest)?.2;
        }
        for _ in 0..3 {
            rest = element(rest)?.2;
        }
        let (_, validity, _) = element(rest)?;
        let (tag, from, rest) = element(validity)?;
        let (end_tag, to, _) = element(rest)?;
        Some(Self { from: time(tag, from)?, to: time(end_tag, to)? })
    }

    /// From this time on it is renewed: in the last third of its life, but not more than a month (and `spread`) early.
    fn due(self, spread: u64) -> u64 {
        let third = self.to.saturating_sub(self.from) / 3;
        self.to.saturating_sub(third.min(MONTH + spread))
    }
}

/// Control planes made in one hour do not renew, and restart etcd, in one hour: each has its own of two days.
fn spread(node: &str) -> u64 {
    u64::from(Sha256Digest::of(node.as_bytes()).as_bytes()[0] % 48) * HOUR
}

/// The first certificate that is to be renewed, and until when it is good.
///
/// # Errors
/// A file cannot be read, or holds no certificate.
pub fn due(machine: &dyn Machine, node: &str) -> Result<Option<String>> {
    let now = api::at(machine);
    for name in FILES {
        let path = format!("{FOLDER}/{name}");
        let Some(text) = read_text(machine, &path)? else { continue };
        let pem = if name.ends_with(".conf") {
            api::decoded(&text, "client-certificate-data:").map(|pem| pem.expose().to_owned())
        } else {
            Some(text)
        };
        let der = pem.and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
        let life = der.and_then(|der| Life::of(&der));
        let life = life.ok_or_else(|| Failure::new(&codes::INPUT_OUTPUT, format!("{path} holds no certificate")))?;
        if now >= life.due(spread(node)) {
            return Ok(Some(format!("the certificate in {path} is good until {} only", date(life.to))));
        }
    }
    Ok(None)
}

/// Makes them anew by the CAs on this machine, with the names they have; the keys are new too.
///
/// # Errors
/// kubeadm's words.
pub fn renew(machine: &dyn Machine, config: &Secret, minor: u32) -> Result<()> {
    let verb: &[&str] = if minor >= 20 { &["certs"] } else { &["alpha", "certs"] };
    kubeadm::with(machine, config, &[verb, &["renew", "all"]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/golden/base/cluster/{name}", env!("CARGO_MANIFEST_DIR"));
        CertificateDer::from_pem_file(path).unwrap().to_vec()
    }

    #[test]
    fn the_life_of_real_certificates() {
        let at = |text: &str| time(0x18, text.as_bytes()).unwrap();
        for (name, from, to) in
            [("leaf.pem", "20000101000000Z", "22000101000000Z"), ("renewed.pem", "20000101000000Z", "23000101000000Z")]
        {
            assert_eq!(Life::of(&fixture(name)).unwrap(), Life { from: at(from), to: at(to) });
        }
        assert_eq!(time(0x18, b"19700102000001Z"), Some(86_401));
        assert_eq!((time(0x17, b"700101000000Z"), time(0x17, b"260101000000Z")), (Some(0), time(0x18, b"20260101000000Z")));
        let good = fixture("leaf.pem");
        for length in 0..good.len() {
            // Whatever it gives, it ends.
            let _ = Life::of(&good[..length]);
        }
        assert_eq!((Life::of(&[]), Life::of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff])), (None, None));
    }

    #[test]
    fn when_they_are_due() {
        let day = 24 * HOUR;
        assert_eq!(Life { from: 0, to: 365 * day }.due(0), 335 * day);
        assert_eq!(Life { from: 0, to: 365 * day }.due(HOUR), 335 * day - HOUR);
        assert_eq!(Life { from: 0, to: 30 * day }.due(HOUR), 20 * day);
        assert!(["cp-1", "cp-2", "cp-3"].iter().all(|node| spread(node) < 48 * HOUR));
    }
}
