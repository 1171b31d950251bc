//! Sockets: what arrives on an interface, and a question to a local service.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, netdevice, recvfrom, socket_with, sockopt};

use super::{Datagram, Overheard};

/// No more is kept of what others send.
const MOST: usize = 4096;

/// Everything of an IP protocol that arrives on an interface within a time: raw sockets get copies.
pub(super) fn overhear(what: &Overheard<'_>) -> io::Result<Vec<Datagram>> {
    let protocol = std::num::NonZeroU32::new(what.protocol.into()).map(Protocol::from_raw);
    let family = if what.group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?;
    let index = netdevice::name_to_index(&socket, what.interface)?;
    match what.group {
        IpAddr::V4(group) => sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, index)?,
        IpAddr::V6(group) => sockopt::set_ipv6_add_membership(&socket, &group, index)?,
    }
    let end = Instant::now() + what.time;
    let mut heard = Vec::new();
    while heard.len() < MOST {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let left = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left))? > 0 {
            heard.extend(one(&socket, what.group.is_ipv4())?);
        }
    }
    Ok(heard)
}

fn one(socket: &OwnedFd, with_header: bool) -> io::Result<Option<Datagram>> {
    let mut buffer = [0_u8; 2048];
    let (count, _, from) = match recvfrom(socket, &mut buffer, RecvFlags::empty()) {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = buffer.get(..count).unwrap_or_default();
    let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { return Ok(None) };
    // IPv4 comes with its header (raw(7)), of so many words (RFC 791 section 3.1); IPv6 does not (ipv6(7)).
    let header = if with_header { usize::from(bytes.first().copied().unwrap_or_default() & 0x0f) * 4 } else { 0 };
    Ok(Some(Datagram { source: from.ip(), bytes: bytes.get(header..).unwrap_or_default().to_owned() }))
}

/// Sends one question to a local stream socket and reads the answer to its end, at most 256 KiB.
pub(super) fn ask(socket: &str, question: &str, within: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let end = Instant::now() + within;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 8192];
    while answer.len() < 256 << 10 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        answer.extend(buffer.get(..count).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn a_question_is_answered_or_ends_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"Name: HAProxy\n").unwrap();
            drop(stream);
            // The second one gets no answer.
            let (_silent, _) = listener.accept().unwrap();
            std::thread::sleep(Duration::from_millis(400));
        });
        let path = path.to_str().unwrap();
        assert_eq!(ask(path, "show\n", Duration::from_secs(5)).unwrap(), "Name: HAProxy\n");
        let begin = Instant::now();
        assert!(ask(path, "show\n", Duration::from_millis(100)).is_err());
        assert!(begin.elapsed() < Duration::from_millis(350));
        server.join().unwrap();
        let group = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let nowhere = Overheard { interface: "no-such-card", protocol: 112, group, time: Duration::from_millis(1) };
        assert!(overhear(&nowhere).is_err());
    }
}
