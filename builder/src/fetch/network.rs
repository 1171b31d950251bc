//! The only place that opens connections: HTTP and HTTPS by reqwest over rustls with ring. Server
//! certificates are judged by the machine's own roots; what comes is judged by its digest. A proxy is
//! found by reqwest in the usual `http_proxy`, `https_proxy` and `no_proxy`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, header};
use tokio::runtime::Runtime;
use trust::Sha256Digest;

use super::mirrors::Mirrors;
use super::registries::Registries;
use super::store::{Entry, Partial, Store};
use crate::definition::Repository;
use crate::error::{Error, Kind, Result};
use crate::progress::Task;

/// How the network may be used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which servers stand in for the public ones.
    pub mirrors: Mirrors,
    /// Which servers stand in for registries of container images, and who we are there.
    pub registries: Registries,
    /// Open no connection at all.
    pub offline: bool,
    /// Downloads at once; 0 counts as 1.
    pub jobs: usize,
    /// How often a download without any progress is tried.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles each time.
    pub pause: Duration,
    /// How long a server may be silent.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mirrors: Mirrors::default(),
            registries: Registries::default(),
            offline: false,
            jobs: 8,
            attempts: 5,
            pause: Duration::from_millis(250),
            patience: Duration::from_secs(30),
        }
    }
}

/// The network, as far as [`Options`] allow it. It connects when first asked, not before.
#[derive(Debug)]
pub struct Network {
    pub(super) options: Options,
    online: Mutex<Option<Arc<Online>>>,
    /// What registries have let us in with, by the place that asked for it.
    pub(super) admissions: Mutex<BTreeMap<String, Admission>>,
}

/// Value of an `Authorization` header; never shown.
#[derive(Clone)]
pub(super) struct Admission(pub String);

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

/// How a server is asked.
pub(super) trait Manner: Sync {
    /// Headers beside the usual ones.
    fn headers(&self) -> Vec<(header::HeaderName, String)>;

    /// The server wants to know who asks, in the words of `WWW-Authenticate`. True where it is worth asking again.
    fn challenged(&self, challenge: &str) -> Result<bool>;

    /// The next action where the server has no such file.
    fn absent(&self) -> &'static str;
}

/// A server of packages: open to all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Manner for Plain {
    fn headers(&self) -> Vec<(header::HeaderName, String)> {
        Vec::new()
    }

    fn challenged(&self, _: &str) -> Result<bool> {
        Ok(false)
    }

    fn absent(&self) -> &'static str {
        "the repository has moved on since the lock was made: `ingot lock --update`, or use a snapshot server with --mirror NAME=URL"
    }
}

#[derive(Debug)]
struct Online {
    runtime: Runtime,
    client: Client,
}

/// A file of which size and digest are known beforehand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// For messages: `haproxy 3.0.11-1`.
    pub name: &'a str,
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// Why one attempt failed.
enum Trouble {
    /// Worth another attempt.
    Again(String),
    /// Not worth one.
    Stop(Error),
    /// The server wants to know who asks.
    Who(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Stop(error)
    }
}

impl Network {
    /// A network used as `options` say.
    pub fn new(options: Options) -> Self {
        Self { options, online: Mutex::new(None), admissions: Mutex::default() }
    }

    /// Whether no connection may be opened.
    pub fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// Downloads at once, at least 1.
    pub fn jobs(&self) -> usize {
        self.options.jobs.max(1)
    }

    /// From where `path` of `repository` is taken.
    ///
    /// # Errors
    /// [`Kind::Document`] when the path would lead out of the repository.
    pub(super) fn url(&self, repository: &Repository, path: &str) -> Result<String> {
        Ok(format!("{}/{}", self.options.mirrors.base_url(repository), encode(path)?))
    }

    /// Brings a file of known digest into the store.
    pub(super) fn download(
        &self,
        (url, manner): (&str, &dyn Manner),
        expected: Expected<'_>,
        store: &Store,
        task: &dyn Task,
    ) -> Result<()> {
        let online = self.online(expected.name)?;
        let mut partial = store.partial(expected.size, &expected.sha256)?;
        // Whoever held the lock before may have been another build that has finished this very file.
        if matches!(store.check(expected.size, &expected.sha256)?, Entry::Sound(_)) {
            partial.discard();
            task.advance(expected.size);
            return Ok(());
        }
        let mut shown = partial.len();
        task.advance(shown);
        let mut failures = 0;
        loop {
            let before = shown;
            let attempt = match partial.is_complete() {
                true => Ok(()),
                false => {
                    online.runtime.block_on(online.stream((url, manner), &mut partial, &mut Shown { task, mark: &mut shown }))
                }
            };
            let reason = match attempt.and_then(|()| settle(&mut partial)) {
                Ok(()) => return Ok(()),
                Err(Trouble::Stop(error)) => {
                    if error.kind() == Kind::Untrusted {
                        partial.discard();
                    }
                    return Err(error.context(format!("fetching {} from {url}", expected.name)));
                }
                Err(Trouble::Who(challenge)) => {
                    self.identify((url, manner), &challenge)?;
                    continue;
                }
                Err(Trouble::Again(reason)) => reason,
            };
            // Bytes never seen before are progress: a bad line may take many attempts, a bad server may not.
            failures = if shown > before { 1 } else { failures + 1 };
            self.pause_or_give_up(failures, url, &reason)?;
        }
    }

    /// The bytes of a file of unknown digest, `limit` bytes at most.
    pub(super) fn small(&self, (url, manner): (&str, &dyn Manner), limit: u64) -> Result<Vec<u8>> {
        let online = self.online(url)?;
        let mut failures = 0;
        loop {
            match online.runtime.block_on(online.whole((url, manner), limit)) {
                Ok(bytes) => return Ok(bytes),
                Err(Trouble::Stop(error)) => return Err(error.context(format!("fetching {url}"))),
                Err(Trouble::Who(challenge)) => self.identify((url, manner), &challenge)?,
                Err(Trouble::Again(reason)) => {
                    failures += 1;
                    self.pause_or_give_up(failures, url, &reason)?;
                }
            }
        }
    }

    /// Answers a challenge, so that the request can be made again.
    fn identify(&self, (url, manner): (&str, &dyn Manner), challenge: &str) -> Result<()> {
        match manner.challenged(challenge) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(Kind::Missing, format!("fetching {url}: the server said {}", StatusCode::UNAUTHORIZED))),
            Err(error) => Err(error.context(format!("fetching {url}"))),
        }
    }

    fn pause_or_give_up(&self, failures: u32, url: &str, reason: &str) -> Result<()> {
        if failures >= self.options.attempts.max(1) {
            return Err(Error::new(Kind::Missing, format!("fetching {url}: {reason}, in the last of {failures} attempts"))
                .hint("check the network, choose another server with --mirror NAME=URL, or build --offline from a filled store")
                .hint("what has come so far is kept, and the next build continues there"));
        }
        tracing::debug!("fetching {url}: {reason}; trying again");
        std::thread::sleep(self.options.pause.saturating_mul(1 << failures.saturating_sub(1).min(6)));
        Ok(())
    }

    fn online(&self, wanted: &str) -> Result<Arc<Online>> {
        if self.options.offline {
            return Err(Error::new(Kind::Missing, format!("{wanted} is not in the store, and --offline forbids the network"))
                .hint("run `ingot fetch` or the build once without --offline"));
        }
        let mut slot = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(online) = &*slot {
            return Ok(online.clone());
        }
        let online = Arc::new(Online::connectable(&self.options)?);
        *slot = Some(online.clone());
        Ok(online)
    }
}

/// Checks a complete file and puts it into its place. Bytes of an earlier attempt may be damaged
/// through no fault of the server: then it is asked once more for all of them.
fn settle(partial: &mut Partial) -> Result<(), Trouble> {
    let resumed = partial.is_resumed();
    match partial.finish() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Kind::Untrusted && resumed => {
            partial.restart()?;
            Err(Trouble::Again("what an earlier attempt left was damaged".to_owned()))
        }
        Err(error) if error.kind() == Kind::Untrusted => Err(Trouble::Stop(
            error
                .hint("the server has another file than the lock: `ingot lock --update` takes the current one")
                .hint("a mirror that is out of step or tampered with looks the same: compare with another server"),
        )),
        Err(error) => Err(Trouble::Stop(error)),
    }
}

/// Tells the task about bytes it has not heard of yet.
struct Shown<'a> {
    task: &'a dyn Task,
    mark: &'a mut u64,
}

impl Shown<'_> {
    fn reach(&mut self, length: u64) {
        self.task.advance(length.saturating_sub(*self.mark));
        *self.mark = length.max(*self.mark);
    }
}

impl Online {
    fn connectable(options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| Error::new(Kind::Failed, format!("starting the network threads: {e}")))?;
        // Already installed by somebody else is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            Client::builder()
                .user_agent(concat!("ingot/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.patience)
                .read_timeout(options.patience)
        };
        // Without certificate roots on the machine plain http still works, as digests decide;
        // https then fails with its reason.
        let client = client().build().or_else(|_| client().tls_certs_only([]).build());
        let client = client.map_err(|e| Error::new(Kind::Failed, format!("preparing the HTTP client: {}", reasons(&e))))?;
        Ok(Self { runtime, client })
    }

    fn request(&self, (url, manner): (&str, &dyn Manner)) -> reqwest::RequestBuilder {
        let request = self.client.get(url);
        manner.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    async fn stream(
        &self,
        (url, manner): (&str, &dyn Manner),
        partial: &mut Partial,
        shown: &mut Shown<'_>,
    ) -> Result<(), Trouble> {
        let mut request = self.request((url, manner));
        if !partial.is_empty() {
            request = request.header(header::RANGE, format!("bytes={}-", partial.len()));
        }
        let mut response = request.send().await.map_err(|e| unreachable_server(&e))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if continues_at(&response) == Some(partial.len()) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart()?;
                return Err(Trouble::Again("the server cannot continue where the last attempt ended".to_owned()));
            }
            StatusCode::OK => partial.restart()?,
            _ => return Err(refusal(&response, manner)),
        }
        while let Some(chunk) = response.chunk().await.map_err(|e| interrupted(&e))? {
            partial.push(&chunk)?;
            shown.reach(partial.len());
        }
        match partial.is_complete() {
            true => Ok(()),
            false => Err(Trouble::Again(format!("the server ended after {} bytes", partial.len()))),
        }
    }

    async fn whole(&self, asked: (&str, &dyn Manner), limit: u64) -> Result<Vec<u8>, Trouble> {
        let mut response = self.request(asked).send().await.map_err(|e| unreachable_server(&e))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&response, asked.1));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| interrupted(&e))? {
            if (bytes.len() as u64).saturating_add(chunk.len() as u64) > limit {
                return Err(Trouble::Stop(Error::new(Kind::Untrusted, format!("more than {limit} bytes came"))));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// First byte position of a partial answer (RFC 9110 section 14.4).
fn continues_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn refusal(response: &Response, manner: &dyn Manner) -> Trouble {
    match response.status() {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            let status = response.status();
            Trouble::Stop(Error::new(Kind::Missing, format!("the server has no such file ({status})")).hint(manner.absent()))
        }
        StatusCode::UNAUTHORIZED => {
            let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            Trouble::Who(challenge.unwrap_or_default().to_owned())
        }
        status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS) => {
            Trouble::Again(status.to_string())
        }
        status if status.is_server_error() => Trouble::Again(format!("the server said {status}")),
        status => Trouble::Stop(Error::new(Kind::Missing, format!("the server said {status}"))),
    }
}

fn unreachable_server(error: &reqwest::Error) -> Trouble {
    let reason = reasons(error);
    if error.is_builder() || error.is_redirect() {
        return Trouble::Stop(Error::new(Kind::Missing, reason));
    }
    if reason.contains("UnknownIssuer") {
        return Trouble::Stop(
            Error::new(Kind::Missing, reason)
                .hint("no certificate root of this machine vouches for the server: install `ca-certificates`"),
        );
    }
    Trouble::Again(reason)
}

fn interrupted(error: &reqwest::Error) -> Trouble {
    Trouble::Again(format!("the connection broke: {}", reasons(error)))
}

/// The whole chain of reasons, innermost last; the URL is told elsewhere.
fn reasons(error: &reqwest::Error) -> String {
    let mut text = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(reason) = cause {
        text.push(reason.to_string());
        cause = reason.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text.join(": ") }
}

/// Percent-encodes a path of a repository. `+` too: object stores read it as a space.
pub(crate) fn encode(path: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@,=!".contains(&byte);
    let climbs = path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if climbs || path.chars().any(char::is_control) {
        return Err(Error::new(Kind::Document, format!("expected a path below the repository, found `{}`", path.escape_debug())));
    }
    Ok(path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_and_stay_below_the_repository() {
        for (path, expected) in [
            (
                "pool/main/h/haproxy/haproxy_3.0.11-1+deb13u1_amd64.deb",
                "pool/main/h/haproxy/haproxy_3.0.11-1%2Bdeb13u1_amd64.deb",
            ),
            ("a/1%3a2~rc1.deb", "a/1%253a2~rc1.deb"),
            ("a b?c#d", "a%20b%3Fc%23d"),
        ] {
            assert_eq!(encode(path).unwrap(), expected);
        }
        for wrong in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\nb", "./a"] {
            assert_eq!(encode(wrong).unwrap_err().kind(), Kind::Document, "{wrong:?}");
        }
    }
}
