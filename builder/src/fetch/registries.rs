//! Which server stands in for a registry of container images, and who we are there. As with mirrors of packages:
//! neither enters a digest, a lock or an output.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::containers::{Reference, is_registry};
use crate::error::{Error, Kind, Result};

/// The name of Docker's registry in references, where it is served, and the name it has in `config.json`.
const DOCKER: (&str, &str, &str) = ("docker.io", "registry-1.docker.io", "index.docker.io");

/// Servers and credentials.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    by_name: BTreeMap<String, String>,
    all: Option<String>,
    logins: BTreeMap<String, Login>,
}

/// Value of an `Authorization: Basic` header, without the word; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login(pub String);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// A server that speaks the distribution protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host and port.
    pub base: String,
    /// Goes before the names of repositories; empty, or ending in `/`.
    pub prefix: String,
}

impl Endpoint {
    /// Host and port: what credentials are for.
    pub fn host(&self) -> &str {
        self.base.split_once("://").map_or(&self.base, |(_, host)| host)
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_open(&self) -> bool {
        self.base.starts_with("http://")
    }
}

/// `config.json` as `docker login` and others write it; further keys are theirs.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Registries {
    /// Reads `REGISTRY=URL` words, and bare URLs (for all registries); a later word wins over an earlier one. A path of
    /// the URL goes before the names of repositories, as proxies with projects want it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a word that is neither.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self> {
        let mut registries = Self::default();
        for word in words.iter().map(|word| word.as_ref().trim()).filter(|word| !word.is_empty()) {
            let refuse = || {
                Error::new(Kind::Usage, format!("expected a registry as REGISTRY=URL or URL, found `{word}`"))
                    .hint("for example `registry.k8s.io=https://registry.example/k8s`; the URL begins with http:// or https://")
            };
            let (name, url) = match word.split_once('=') {
                Some((name, url)) if is_registry(name) => (Some(name), url),
                Some(_) => return Err(refuse()),
                None => (None, word),
            };
            let url = url.trim_end_matches('/');
            endpoint(url).ok_or_else(refuse)?;
            match name {
                Some(name) => drop(registries.by_name.insert(name.to_owned(), url.to_owned())),
                None => registries.all = Some(url.to_owned()),
            }
        }
        Ok(registries)
    }

    /// Takes the credentials of a docker-style `config.json`; `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`Kind::Document`] where it is none. The message never holds any of its content.
    pub fn with_logins(mut self, name: &str, bytes: &[u8]) -> Result<Self> {
        let wrong = |what: String| Error::new(Kind::Document, format!("{name}: {what}"));
        let config: Config = serde_json::from_slice(bytes)
            .map_err(|e| wrong(format!("line {}, column {}: no JSON of `docker login`", e.line(), e.column())))?;
        for (key, entry) in config.auths {
            let login = match (entry.auth.filter(|auth| !auth.is_empty()), entry.username, entry.password) {
                (Some(auth), ..) => {
                    let plain = BASE64.decode(auth.trim()).ok().filter(|plain| plain.contains(&b':'));
                    plain.ok_or_else(|| wrong(format!("`auth` of {} is not user:password in base64", key.escape_debug())))?;
                    auth.trim().to_owned()
                }
                (None, Some(user), Some(password)) => BASE64.encode(format!("{user}:{password}")),
                // A credential helper has it: programs of others are not run here.
                _ => continue,
            };
            let host = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest).split('/').next().unwrap_or_default();
            self.logins.insert(host.to_owned(), Login(login));
        }
        Ok(self)
    }

    /// Where the images of a registry are taken from.
    pub(super) fn endpoint(&self, reference: &Reference) -> Endpoint {
        let own = if reference.registry == DOCKER.0 { DOCKER.1 } else { &reference.registry };
        let chosen = self.by_name.get(&reference.registry).or(self.all.as_ref());
        chosen.and_then(|url| endpoint(url)).unwrap_or_else(|| Endpoint { base: format!("https://{own}"), prefix: String::new() })
    }

    /// Who we are at a server.
    pub(super) fn login(&self, host: &str) -> Option<&Login> {
        let docker = (host == DOCKER.1).then(|| self.logins.get(DOCKER.2).or_else(|| self.logins.get(DOCKER.0)));
        self.logins.get(host).or_else(|| docker.flatten())
    }
}

fn endpoint(url: &str) -> Option<Endpoint> {
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]/".contains(&b));
    if host.is_empty() || !plain(rest) || rest.contains("//") || rest.contains("..") {
        return None;
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    Some(Endpoint { base: format!("{scheme}://{host}"), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_stands_in_for_its_registry_only() {
        let (pause, box_) = (reference("k8s.gcr.io/pause:3.2"), reference("docker.io/library/busybox:1"));
        let base = |registries: &Registries, r: &Reference| {
            let Endpoint { base, prefix } = registries.endpoint(r);
            format!("{base} {prefix}")
        };
        let none = Registries::default();
        assert_eq!([base(&none, &pause), base(&none, &box_)], ["https://k8s.gcr.io ", "https://registry-1.docker.io "]);
        let some = Registries::parse(&["k8s.gcr.io=http://127.0.0.1:5000/"]).unwrap();
        assert_eq!([base(&some, &pause), base(&some, &box_)], ["http://127.0.0.1:5000 ", "https://registry-1.docker.io "]);
        let both = Registries::parse(&["https://all.example/a/b", "k8s.gcr.io=http://h"]).unwrap();
        assert_eq!([base(&both, &pause), base(&both, &box_)], ["http://h ", "https://all.example a/b/"]);
        for wrong in ["x", "pause=http://h", "k8s.gcr.io=h:5000", "http://", "http://h/../x", "http://u@h", "http://h?x"] {
            let error = Registries::parse(&[wrong]).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn logins_are_found_by_host_and_never_shown() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"h:5000":{"username":"a","password":"sesame"},
            "helped.example":{}},"credsStore":"desktop","HttpHeaders":{}}"#;
        let registries = Registries::default().with_logins("config.json", text.as_bytes()).unwrap();
        assert_eq!(registries.login("registry-1.docker.io").unwrap().0, "dTpw");
        assert_eq!(BASE64.decode(&registries.login("h:5000").unwrap().0).unwrap(), b"a:sesame");
        assert!(registries.login("h").is_none() && registries.login("helped.example").is_none());
        let shown = format!("{registries:?}");
        assert!(!shown.contains("dTpw") && !shown.contains("sesame"), "{shown}");
        for wrong in [r#"{"auths":{"h":{"auth":"c2VzYW1l"}}}"#, r#"{"auths":"sesame"}"#, "sesame"] {
            let error = Registries::default().with_logins("config.json", wrong.as_bytes()).unwrap_err();
            let told = format!("{error:?}");
            assert!(error.kind() == Kind::Document && !told.contains("sesame") && !told.contains("c2Vz"), "{told}");
        }
    }
}
