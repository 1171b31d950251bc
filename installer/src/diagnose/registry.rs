//! Each registry and mirror: whether it answers, may be trusted, and takes the login (OCI distribution, section "Endpoints").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profile::registry::Registry;
use profile::secret::Secret;

use super::{Finding, Subject, judge};
use crate::machine::net::{Ask, NoReply, Reply, Whom};
use crate::report::codes;

const TEST: &str = "registry";

/// Asks `/v2/` of each.
pub(super) fn registry(subject: &Subject) -> Vec<Finding> {
    let registries = subject.profile.as_ref().map(|profile| profile.registries.as_slice()).unwrap_or_default();
    let mut asked: Vec<(&Registry, String, bool)> = Vec::new();
    for registry in registries {
        asked.extend(registry.mirrors.iter().map(|mirror| (registry, mirror.clone(), registry.mirrors.len() == 1)));
        let own = match registry.host.as_str() {
            "*" => None,
            "docker.io" => Some("https://registry-1.docker.io".to_owned()),
            host => Some(format!("https://{host}")),
        };
        asked.extend(own.filter(|_| !registry.mirrors_only).map(|url| (registry, url, registry.mirrors.is_empty())));
    }
    if asked.is_empty() {
        return vec![Finding::skip(TEST, "the profile names none")];
    }
    std::thread::scope(|scope| {
        let tries: Vec<_> =
            asked.iter().take(32).map(|(registry, url, _)| scope.spawn(move || one(subject, registry, url))).collect();
        let found = tries.into_iter().filter_map(|one| one.join().ok());
        // One of several that is away is no harm: the next is asked.
        found
            .zip(&asked)
            .map(|(finding, (_, _, only))| match finding.level {
                super::Level::Fail if !only && finding.code == Some(codes::REGISTRY_UNREACHABLE.number) => {
                    Finding { level: super::Level::Warn, ..finding }
                }
                _ => finding,
            })
            .collect()
    })
}

fn one(subject: &Subject, registry: &Registry, base: &str) -> Finding {
    let fail = |code, why: String| Finding::fail(TEST, code, format!("{base}: {why}"));
    let roots = registry.ca.as_ref().map_or_else(|| subject.roots.clone(), |ca| ca.clone().into_bytes());
    let at = subject.at();
    let url = format!("{}/v2/", base.trim_end_matches('/').trim_end_matches("/v2"));
    let first = Ask { via: subject.via(), ..Ask::get(&url, Whom::Roots(roots.clone()), at) };
    let reply = match subject.net.ask(&first) {
        Ok(reply) => reply,
        Err(no) => return silent(&no, base, (&roots, at)),
    };
    let basic = registry.login.as_ref().map(|(name, password)| {
        let password = subject.secret(Some(password))?;
        Some(Secret::new(format!("Basic {}", STANDARD.encode(format!("{name}:{}", password.expose())))))
    });
    match (reply.status, basic) {
        (200, None) => Finding::ok(TEST, format!("{base} answers")),
        (401, None) if token_of(&reply).is_some() => {
            Finding::ok(TEST, format!("{base} answers, and gives tokens to everybody or to nobody"))
        }
        (401, None) => fail(&codes::REGISTRY_LOGIN, "it wants a login, and the profile has none".to_owned()),
        (200 | 401, Some(None)) => {
            Finding::skip(TEST, format!("{base} answers; the credential of its password is not at hand here"))
        }
        (200 | 401, Some(Some(basic))) => login(subject, (&first, &reply), basic, base),
        (status, _) => fail(&codes::REGISTRY_UNREACHABLE, format!("it answers {status}")),
    }
}

/// Why there was no answer: the same chain is judged once more, by cause.
fn silent(no: &NoReply, base: &str, (roots, at): (&[u8], u64)) -> Finding {
    let fail = |code, why: &str| Finding::fail(TEST, code, format!("{base}: {why}"));
    if no.chain.is_empty() {
        return fail(&codes::REGISTRY_UNREACHABLE, &no.reason);
    }
    let host = base.split("://").nth(1).unwrap_or(base).split(['/', '?']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match judge::judge(&no.chain, roots, host, at) {
        Ok(()) => fail(&codes::REGISTRY_UNREACHABLE, &no.reason),
        Err(
            judge::Fault::Untrusted(why)
            | judge::Fault::NotYetValid(why)
            | judge::Fault::Expired(why)
            | judge::Fault::WrongName(why),
        ) => fail(&codes::REGISTRY_UNTRUSTED, &format!("its certificate: {why}")),
    }
}

/// With user name and password, or with the token that they are good for.
fn login(subject: &Subject, (first, reply): (&Ask, &Reply), basic: Secret, base: &str) -> Finding {
    if !first.url.starts_with("https://") {
        return Finding::skip(TEST, format!("{base} answers; a login is not sent over plain http"));
    }
    let url = token_of(reply).unwrap_or_else(|| first.url.clone());
    // A token server elsewhere that has no https gets nothing either.
    let ask = Ask { url, authorization: Some(basic), ..first.clone() };
    match subject.net.ask(&ask) {
        Ok(Reply { status: 200, .. }) => Finding::ok(TEST, format!("{base} answers and takes the login")),
        Ok(Reply { status, .. }) => {
            Finding::fail(TEST, &codes::REGISTRY_LOGIN, format!("{base}: it answers {status} to user name and password"))
        }
        Err(no) => Finding::fail(TEST, &codes::REGISTRY_LOGIN, format!("{base}: its token server: {}", no.reason)),
    }
}

/// Where tokens are had: `Bearer realm="https://...",service="..."` (RFC 6750 section 3).
fn token_of(reply: &Reply) -> Option<String> {
    let parameters = reply.challenge.as_ref()?.strip_prefix("Bearer ")?;
    let value = |name: &str| {
        let rest = parameters.split(&format!("{name}=\"")).nth(1)?;
        rest.split('"').next().map(str::to_owned)
    };
    let realm = value("realm").filter(|realm| realm.starts_with("https://"))?;
    let mut url = reqwest::Url::parse(&realm).ok()?;
    if let Some(service) = value("service") {
        url.query_pairs_mut().append_pair("service", &service);
    }
    Some(url.into())
}
