//! `[[registry]]` and `[proxy]`: how the machine reaches what is outside.

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::node::Role;
use crate::rule::Rule;
use crate::rules;
use crate::secret::SecretSource;

/// `[[registry]]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Registry"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Registry the images are named after: `registry.k8s.io`; `*` is for all that have no entry.
    pub host: Text,
    /// Where they are fetched instead, tried in this order, the registry itself last.
    #[serde(default)]
    pub mirrors: Vec<Text>,
    /// Whether the registry itself is left out: only the mirrors are asked; `false` by default.
    #[serde(default)]
    pub mirrors_only: bool,
    /// Certificates of its CA, PEM; the system's by default.
    pub ca: Option<Text>,
    /// User name.
    pub username: Option<Text>,
    /// Password. A secret.
    pub password: Option<Located<SecretSource>>,
}

/// A container registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registry {
    /// Registry the images are named after, or `*`.
    pub host: String,
    /// Base URLs of the mirrors.
    pub mirrors: Vec<String>,
    /// Only the mirrors are asked.
    pub mirrors_only: bool,
    /// Certificates of its CA, PEM.
    pub ca: Option<String>,
    /// User name and password.
    pub login: Option<(String, SecretSource)>,
}

/// `[proxy]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Proxy"))]
#[serde(deny_unknown_fields)]
pub struct WrittenProxy {
    /// Proxy for http: `http://proxy.example.org:3128`.
    pub http: Option<Text>,
    /// Proxy for https; that of http by default.
    pub https: Option<Text>,
    /// Hosts, domains (`.example.org`) and networks reached without it. The networks of the machine and of the cluster are added by themselves.
    #[serde(default)]
    pub none_for: Vec<Text>,
    /// User name at the proxy.
    pub username: Option<Text>,
    /// Password at the proxy. A secret.
    pub password: Option<Located<SecretSource>>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proxy {
    /// For http.
    pub http: String,
    /// For https.
    pub https: String,
    /// Reached without it.
    pub none_for: Vec<String>,
    /// User name and password.
    pub login: Option<(String, SecretSource)>,
}

/// A password that stands in a configuration file of one line per entry.
const PASSWORD: Rule = Rule {
    what: "password",
    expected: "1 to 1000 printable ASCII characters without spaces",
    holds: |text| crate::rule::only(text, 1000, |c| c.is_ascii_graphic()),
};

pub(crate) fn check(check: &mut Check<'_>, written: &[Written], role: Role) -> Vec<Registry> {
    for registry in written.iter().filter(|_| !role.is_node()) {
        check.faults.add_with_hint(registry.host.place(), "a load balancer fetches no images", "leave `[[registry]]` out");
    }
    check.twice("registry", written.iter().map(|registry| &registry.host));
    let mut registries = Vec::new();
    for registry in written {
        check.twice("mirror", &registry.mirrors);
        if registry.mirrors_only && registry.mirrors.is_empty() && check.whole {
            let message = format!("only mirrors are asked for {}, but there are none", quoted(&registry.host));
            check.faults.add(registry.host.place(), message);
        }
        registries.push(Registry {
            host: check.text(&registry.host, &rules::REGISTRY),
            mirrors: registry.mirrors.iter().map(|url| check.url(url, &rules::URL)).collect(),
            mirrors_only: registry.mirrors_only,
            ca: check.optional(registry.ca.as_ref(), &rules::CERTIFICATES),
            login: login(check, registry.username.as_ref(), registry.password.as_ref()),
        });
    }
    registries
}

pub(crate) fn check_proxy(check: &mut Check<'_>, written: &WrittenProxy) -> Option<Proxy> {
    let login = login(check, written.username.as_ref(), written.password.as_ref());
    let none_for = check.list(&written.none_for, &rules::NO_PROXY);
    let http = written.http.as_ref().map(|url| check.url(url, &rules::URL));
    let https = written.https.as_ref().map(|url| check.url(url, &rules::URL));
    let first = http.clone().or(https.clone());
    if let (None, Some(entry), true) = (&first, written.none_for.first(), check.whole) {
        check.faults.add(entry.place(), "`[proxy]` names no proxy: expected `http` or `https`");
    }
    let first = first?;
    Some(Proxy { http: http.unwrap_or_else(|| first.clone()), https: https.unwrap_or(first), none_for, login })
}

fn login(check: &mut Check<'_>, name: Option<&Text>, password: Option<&Located<SecretSource>>) -> Option<(String, SecretSource)> {
    match (name, password) {
        (Some(name), Some(password)) => Some((check.text(name, &rules::REMOTE_USER), check.secret(password, &PASSWORD))),
        (None, None) => None,
        (Some(name), None) if check.whole => {
            check.faults.add(name.place(), "there is a `username` without a `password`");
            None
        }
        (None, Some(password)) if check.whole => {
            check.faults.add(password.place(), "there is a `password` without a `username`");
            None
        }
        _ => None,
    }
}
