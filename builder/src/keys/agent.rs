//! A small client of ssh-agent (draft-ietf-sshm-ssh-agent): ask for a signature, say what is missing.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ssh_key::{HashAlg, PublicKey};

use crate::error::{Error, Kind, Result};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Flag of a sign request: RSA keys sign with SHA-512.
const RSA_SHA2_512: u32 = 4;
/// Longest answer that is read, in bytes: OpenSSH's own limit.
const LIMIT: u32 = 256 * 1024;
/// Somebody may have to find and touch a hardware key.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has the agent at `socket` sign `data` with `key`; gives the signature blob (algorithm, bytes, and
/// for security keys flags and counter).
///
/// # Errors
/// [`Kind::Missing`] when there is no agent or it does not have the key; [`Kind::Failed`] when it does not sign.
pub fn sign(socket: &Path, key: &PublicKey, data: &[u8]) -> Result<Vec<u8>> {
    let blob = key.to_bytes().map_err(|e| Error::new(Kind::Document, format!("encoding the public key: {e}")))?;
    let mut stream = connect(socket)?;
    let mut message = vec![SIGN_REQUEST];
    put_string(&mut message, &blob)?;
    put_string(&mut message, data)?;
    message.extend(RSA_SHA2_512.to_be_bytes());
    let answer = ask(&mut stream, &message).map_err(|e| broken(socket, &e))?;
    match answer.split_first() {
        Some((&SIGN_RESPONSE, mut rest)) => match take_string(&mut rest) {
            Some(signature) if rest.is_empty() => Ok(signature.to_vec()),
            _ => Err(Error::new(Kind::Failed, "expected one signature from the ssh-agent, found a damaged answer")),
        },
        Some((&FAILURE, _)) => Err(refused(&mut stream, socket, key, &blob)),
        _ => Err(Error::new(Kind::Failed, "expected a signature from the ssh-agent, found another answer")),
    }
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let open = || {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok::<_, io::Error>(stream)
    };
    open().map_err(|e| {
        Error::new(Kind::Missing, format!("reaching the ssh-agent at {}: {e}", socket.display()))
            .hint("start one with `eval $(ssh-agent)` and add the key with `ssh-add`")
    })
}

/// The agent gives no reason: find out whether it has the key at all.
fn refused(stream: &mut UnixStream, socket: &Path, key: &PublicKey, blob: &[u8]) -> Error {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    match identities(stream) {
        Ok(keys) if keys.iter().any(|(known, _)| known == blob) => {
            Error::new(Kind::Failed, format!("the ssh-agent refused to sign with {fingerprint}"))
                .hint("it may want a confirmation, a PIN or a touch of the security key; `ssh-add -l` shows what it has")
        }
        Ok(keys) => {
            let names: Vec<_> = keys.into_iter().map(|(_, comment)| comment.escape_debug().to_string()).collect();
            let found = if names.is_empty() { "no key".to_owned() } else { names.join(", ") };
            Error::new(Kind::Missing, format!("expected the key {fingerprint} in the ssh-agent, found {found}"))
                .hint("add it with `ssh-add FILE` (security keys: `ssh-add -K` or the file that `ssh-keygen -t ed25519-sk` made)")
        }
        Err(e) => broken(socket, &e),
    }
}

fn identities(stream: &mut UnixStream) -> io::Result<Vec<(Vec<u8>, String)>> {
    let answer = ask(stream, &[REQUEST_IDENTITIES])?;
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let Some((&IDENTITIES_ANSWER, rest)) = answer.split_first() else { return Err(damaged()) };
    let (_count, mut rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let (Some(blob), Some(comment)) = (take_string(&mut rest), take_string(&mut rest)) else { return Err(damaged()) };
        keys.push((blob.to_vec(), String::from_utf8_lossy(comment).into_owned()));
    }
    Ok(keys)
}

/// One message there, one back.
fn ask(stream: &mut UnixStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {length} bytes")));
    }
    let mut answer = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut answer)?;
    if answer.len() as u64 == u64::from(length) { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn broken(socket: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Failed, format!("talking to the ssh-agent at {}: {error}", socket.display()))
}

/// Appends a `string` (RFC 4251 section 5).
///
/// # Errors
/// When it is longer than its length field can say.
pub fn put_string(message: &mut Vec<u8>, text: &[u8]) -> Result<()> {
    let length = u32::try_from(text.len())
        .map_err(|_| Error::new(Kind::Failed, format!("{} bytes do not fit into one field", text.len())))?;
    message.extend(length.to_be_bytes());
    message.extend(text);
    Ok(())
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(text)
}
