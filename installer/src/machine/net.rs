//! The network as reports and `diagnose` ask it: names, ports, datagrams, one HTTP exchange. Everything is bounded in
//! time and size, and may be asked from several threads at once.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use profile::secret::Secret;
use reqwest::{Method, StatusCode, header};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{Command, Output, process};
use crate::find::https;

/// Whose answer is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// One whose certificate these roots (PEM) stand for.
    Roots(Vec<u8>),
    /// Anyone's: only to look at what is shown. Nothing secret is ever sent so, and what is read is nothing but a claim.
    Anyone,
}

/// A proxy on the way.
#[derive(Debug, Clone)]
pub struct Via {
    /// `http://host:port`.
    pub url: String,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// Hosts and networks that are asked directly, separated by commas.
    pub none_for: String,
}

/// How [`Ask::post`] is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sent {
    /// POST.
    #[default]
    Post,
    /// PATCH of what differs (RFC 7396).
    Merge,
    /// PATCH that makes an object of Kubernetes where there is none (server-side apply).
    Apply,
}

/// One HTTP request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `https://...`, or `http://...` where there is nothing secret in it.
    pub url: String,
    /// Connects here instead of to the addresses of the URL's host.
    pub to: Option<SocketAddr>,
    /// Whose answer is taken.
    pub whom: Whom,
    /// The value of `Authorization`.
    pub authorization: Option<Secret>,
    /// Certificate and key (PEM) by which the machine proves who it is.
    pub own: Option<Secret>,
    /// JSON to send; without it, GET.
    pub post: Option<Vec<u8>>,
    /// How it is sent.
    pub sent: Sent,
    /// Bytes of the answer at most; what is more is left out.
    pub limit: usize,
    /// The time certificates are compared with: seconds since 1970.
    pub at: u64,
    /// The whole exchange.
    pub within: Duration,
    /// Through this.
    pub via: Option<Via>,
}

impl Ask {
    /// A GET of 5 s and 1 MiB at most.
    pub fn get(url: impl Into<String>, whom: Whom, at: u64) -> Self {
        let within = Duration::from_secs(5);
        Self {
            url: url.into(),
            to: None,
            whom,
            authorization: None,
            own: None,
            post: None,
            sent: Sent::Post,
            limit: 1 << 20,
            at,
            within,
            via: None,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// `Docker-Distribution-Api-Version`: what answers is a registry.
    pub registry: bool,
    /// The body, or its beginning.
    pub body: Vec<u8>,
    /// Certificates the server showed, its own first (DER).
    pub chain: Vec<Vec<u8>>,
}

/// Why nothing came back; `chain` holds what was shown before it went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoReply {
    /// What happened.
    pub reason: String,
    /// No connection came about: refused, no route, silence.
    pub unreachable: bool,
    /// Certificates the server showed (DER).
    pub chain: Vec<Vec<u8>>,
}

/// The network.
pub trait Net: Send + Sync {
    /// The addresses of a host, as programs of this machine see them.
    ///
    /// # Errors
    /// There are none, or nobody answered in time.
    fn resolve(&self, host: &str, port: u16, within: Duration) -> io::Result<Vec<SocketAddr>>;

    /// Opens a TCP connection, and closes it.
    ///
    /// # Errors
    /// What the kernel says.
    fn connect(&self, to: SocketAddr, within: Duration) -> io::Result<()>;

    /// Sends a datagram and returns the answer; sends it once more half way.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::TimedOut`].
    fn exchange_udp(&self, to: SocketAddr, packet: &[u8], within: Duration) -> io::Result<Vec<u8>>;

    /// One exchange of HTTP. No redirect is followed.
    ///
    /// # Errors
    /// Why there is no answer.
    fn ask(&self, ask: &Ask) -> Result<Reply, NoReply>;

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It cannot be started.
    fn run(&self, command: &Command) -> io::Result<Output>;
}

impl fmt::Debug for dyn Net + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

/// The network of the running machine; a folder that stands for a machine has none.
#[derive(Debug, Clone, Copy)]
pub struct RealNet {
    pub(super) live: bool,
}

impl RealNet {
    fn there(self) -> io::Result<()> {
        let reason = "the network is that of the running machine, not of --root";
        if self.live { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Unsupported, reason)) }
    }
}

impl Net for RealNet {
    fn resolve(&self, host: &str, port: u16, within: Duration) -> io::Result<Vec<SocketAddr>> {
        self.there()?;
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        // The C library has no deadline of its own.
        let (sender, receiver) = mpsc::channel();
        let host = host.to_owned();
        thread::spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = sender.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
        });
        receiver.recv_timeout(within).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn connect(&self, to: SocketAddr, within: Duration) -> io::Result<()> {
        self.there()?;
        TcpStream::connect_timeout(&to, within).map(drop)
    }

    fn exchange_udp(&self, to: SocketAddr, packet: &[u8], within: Duration) -> io::Result<Vec<u8>> {
        self.there()?;
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some((within / 2).max(Duration::from_millis(1))))?;
        let mut answer = vec![0; 4096];
        for _ in 0..2 {
            socket.send(packet)?;
            match socket.recv(&mut answer) {
                Ok(length) => {
                    answer.truncate(length);
                    return Ok(answer);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn ask(&self, ask: &Ask) -> Result<Reply, NoReply> {
        let unreachable = |e: io::Error| NoReply { reason: e.to_string(), unreachable: true, chain: Vec::new() };
        self.there().map_err(unreachable)?;
        exchange(ask)
    }

    fn run(&self, command: &Command) -> io::Result<Output> {
        self.there()?;
        process::run(command)
    }
}

fn exchange(ask: &Ask) -> Result<Reply, NoReply> {
    let no = |reason: String| NoReply { reason, ..NoReply::default() };
    if (ask.authorization.is_some() || ask.own.is_some()) && (ask.whom == Whom::Anyone || !ask.url.starts_with("https://")) {
        return Err(no("a secret is sent to nobody who is not known".to_owned()));
    }
    let recorder = Recorder::new(&ask.whom).map_err(no)?;
    let seen = recorder.seen.clone();
    let client = client(ask, recorder).map_err(no)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| no(format!("starting the network: {e}")))?;
    let answer = runtime.block_on(talk(ask, &client));
    let chain = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match answer {
        Ok(reply) => Ok(Reply { chain, ..reply }),
        Err(error) => {
            let unreachable = chain.is_empty() && no_connection(&error);
            Err(NoReply { reason: https::reasons(&error), unreachable, chain })
        }
    }
}

/// Whether no connection came about: the kernel said so, or the name has no address. What fails later is TLS or HTTP.
fn no_connection(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(reason) = cause {
        let io = reason.downcast_ref::<io::Error>();
        let kernel = io.is_some_and(|io| io.raw_os_error().is_some() && io.kind() != io::ErrorKind::ConnectionReset);
        if error.is_connect() && (kernel || reason.to_string().starts_with("dns error")) {
            return true;
        }
        cause = reason.source();
    }
    false
}

fn client(ask: &Ask, recorder: Recorder) -> Result<reqwest::Client, String> {
    let tls = https::verified_by(Arc::new(recorder), ask.at, ask.own.as_ref())?;
    let plain = ask.url.starts_with("http://");
    let mut builder = https::client(tls).https_only(!plain).connect_timeout(ask.within).timeout(ask.within);
    if let Some(to) = ask.to {
        let url = reqwest::Url::parse(&ask.url).map_err(|e| format!("the address cannot be used: {e}"))?;
        builder = builder.resolve(url.host_str().unwrap_or_default().trim_matches(['[', ']']), to);
    }
    if let Some(via) = &ask.via {
        let mut proxy = reqwest::Proxy::all(&via.url).map_err(|e| format!("the proxy cannot be used: {}", https::reasons(&e)))?;
        if let Some((name, password)) = &via.login {
            proxy = proxy.basic_auth(name, password.expose());
        }
        builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(&via.none_for)));
    }
    builder.build().map_err(|e| format!("preparing the HTTP client: {}", https::reasons(&e)))
}

async fn talk(ask: &Ask, client: &reqwest::Client) -> Result<Reply, reqwest::Error> {
    let (method, kind) = match ask.sent {
        Sent::Post => (Method::POST, "application/json"),
        Sent::Merge => (Method::PATCH, "application/merge-patch+json"),
        Sent::Apply => (Method::PATCH, "application/apply-patch+yaml"),
    };
    let mut request = client.request(if ask.post.is_some() { method } else { Method::GET }, &ask.url);
    if let Some(body) = &ask.post {
        request = request.header(header::CONTENT_TYPE, kind).body(body.clone());
    }
    if let Some(secret) = &ask.authorization
        && let Ok(mut value) = header::HeaderValue::from_str(secret.expose())
    {
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let mut response = request.send().await?;
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (challenge, registry) = (text("www-authenticate"), text("docker-distribution-api-version").is_some());
    let status: StatusCode = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend(chunk.iter().take(ask.limit.saturating_sub(body.len())));
        if body.len() >= ask.limit {
            break;
        }
    }
    Ok(Reply { status: status.as_u16(), challenge, registry, body, chain: Vec::new() })
}

/// Notes what a server shows, and lets the roots decide.
#[derive(Debug)]
struct Recorder {
    inner: Option<Arc<dyn ServerCertVerifier>>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    provider: CryptoProvider,
}

impl Recorder {
    fn new(whom: &Whom) -> Result<Self, String> {
        let inner: Option<Arc<dyn ServerCertVerifier>> = match whom {
            Whom::Roots(pem) => Some(https::roots_verifier(pem)?),
            Whom::Anyone => None,
        };
        Ok(Self { inner, seen: Arc::default(), provider: ring::default_provider() })
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(end_entity).chain(intermediates).map(|certificate| certificate.to_vec()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        match &self.inner {
            Some(inner) => inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
