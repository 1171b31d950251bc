//! What is not well, by a stable code.

use std::error::Error as _;

use kube::runtime::watcher;
use serde::Serialize;

/// What kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent's own files.
    Configuration,
    /// Nobody answers.
    Unreachable,
    /// Somebody answers who is not of the cluster's CA.
    Authority,
    /// The token is unknown.
    Token,
    /// The token is known and may not do this.
    Rights,
    /// The API says something else.
    Api,
    /// HAProxy or keepalived refuse what was made for them.
    Refused,
    /// HAProxy does not answer.
    Silent,
}

impl Kind {
    /// The code; the installer's page of codes says more.
    pub fn code(self) -> &'static str {
        match self {
            Kind::Configuration => "INGOT-N1041",
            Kind::Unreachable => "INGOT-N1042",
            Kind::Authority => "INGOT-N1043",
            Kind::Token => "INGOT-N1044",
            Kind::Rights => "INGOT-N1045",
            Kind::Api => "INGOT-N1046",
            Kind::Refused => "INGOT-N1047",
            Kind::Silent => "INGOT-N1048",
        }
    }
}

/// Trouble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Its code.
    pub code: &'static str,
    /// What was seen.
    pub message: String,
}

impl Trouble {
    /// Trouble of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { code: kind.code(), message: message.into() }
    }

    /// What a watch stumbled over.
    pub fn of_watch(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of(error),
            watcher::Error::WatchError(status) => Self::of_status(status.code, &status.message),
            watcher::Error::NoResourceVersion => Self::new(Kind::Api, "an answer without resourceVersion"),
        }
    }

    /// What a request stumbled over.
    pub fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status.code, &status.message);
        }
        let (mut words, mut kind) = (error.to_string(), Kind::Unreachable);
        let mut next = error.source();
        while let Some(cause) = next {
            let said = cause.to_string();
            if !words.contains(&said) {
                words = format!("{words}: {said}");
            }
            next = cause.source();
        }
        if words.contains("invalid peer certificate") {
            kind = Kind::Authority;
        } else if matches!(error, kube::Error::SerdeError(_) | kube::Error::BuildRequest(_)) {
            kind = Kind::Api;
        } else if matches!(error, kube::Error::Auth(_) | kube::Error::RustlsTls(_)) {
            kind = Kind::Configuration;
        }
        Self::new(kind, words)
    }

    fn of_status(code: u16, message: &str) -> Self {
        let kind = match code {
            401 => Kind::Token,
            403 => Kind::Rights,
            _ => Kind::Api,
        };
        Self::new(kind, format!("the API answers {code}: {message}"))
    }
}
