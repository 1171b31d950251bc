//! The screens and serial lines of the machine. What is written to /dev/console reaches only the last console of the
//! command line, so each is written to by itself. None is waited for: a serial line nobody reads would hold us for ever.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// Consoles of the kernel (`console=`), separated by spaces.
pub(super) const ACTIVE: &str = "/sys/class/tty/console/active";

/// How often, and how long in between, a line that is full is tried again: 200 ms in all.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether it is a screen; everything else goes over a wire.
pub(super) fn is_screen(name: &str) -> bool {
    name.strip_prefix("tty").is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
}

/// Writes as much as it takes without waiting for longer than 200 ms. `console` is open without blocking.
pub(super) fn write(mut console: File, mut bytes: &[u8]) -> io::Result<()> {
    let mut tries = 0;
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn screens_and_wires() {
        assert!(super::is_screen("tty0") && super::is_screen("tty12"));
        for wire in ["ttyS0", "hvc0", "ttyAMA0", "tty", ""] {
            assert!(!super::is_screen(wire), "{wire}");
        }
    }

    #[test]
    fn a_line_that_nobody_reads_holds_nobody() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let start = std::time::Instant::now();
        let error = super::write(std::fs::File::from(writer), &vec![b'x'; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
        drop(reader);
    }
}
