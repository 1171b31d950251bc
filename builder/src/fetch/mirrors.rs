//! Which server stands in for a repository's public one. A mirror decides only where bytes come
//! from: it enters no digest, no lock and no output.

use std::collections::BTreeMap;

use crate::definition::Repository;
use crate::error::{Error, Kind, Result};

/// Hosts whose repositories a bare URL replaces.
const DEBIAN_HOSTS: [&str; 3] = ["deb.debian.org", "security.debian.org", "ftp.debian.org"];

/// Replacements of base URLs, as the person who runs the build asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    by_name: BTreeMap<String, String>,
    debian: Option<String>,
}

impl Mirrors {
    /// Reads `NAME=URL` (for the repository of that name) and bare URLs (for the repositories of
    /// Debian itself); a later word wins over an earlier one. A bare URL is that of `debian`;
    /// `debian-security` is looked for beside it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a word that is neither.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self> {
        let mut mirrors = Self::default();
        for word in words.iter().map(|word| word.as_ref().trim()).filter(|word| !word.is_empty()) {
            let equals = word.find('=').filter(|at| word.find(':').is_none_or(|colon| *at < colon));
            match equals.and_then(|at| Some((word.get(..at)?, word.get(at + 1..)?))) {
                Some((name, url)) if !name.is_empty() => {
                    mirrors.by_name.insert(name.to_owned(), base(url, word)?);
                }
                Some(_) => return Err(refuse(word)),
                None => mirrors.debian = Some(base(word, word)?),
            }
        }
        Ok(mirrors)
    }

    /// Base URL to take `repository` from, without trailing slash.
    pub fn base_url(&self, repository: &Repository) -> String {
        let public = repository.url.trim_end_matches('/');
        if let Some(url) = self.by_name.get(&repository.name) {
            return url.clone();
        }
        let (Some(mirror), Some(folder)) = (&self.debian, debian_folder(public)) else { return public.to_owned() };
        let parent = mirror.strip_suffix("/debian").unwrap_or(mirror);
        format!("{parent}/{folder}")
    }

    /// Names that no repository of the definition has: most likely misspelt.
    pub fn unknown<'a>(&'a self, repositories: &[Repository]) -> Vec<&'a str> {
        self.by_name.keys().map(String::as_str).filter(|name| repositories.iter().all(|r| r.name != **name)).collect()
    }
}

/// The folder below a Debian host (`debian`, `debian-security`), where `url` is on one.
fn debian_folder(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (host, folder) = rest.split_once('/')?;
    (DEBIAN_HOSTS.contains(&host) && !folder.is_empty()).then_some(folder)
}

fn base(url: &str, word: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or_else(|| refuse(word))?;
    let host_there = !rest.is_empty() && !rest.starts_with('/');
    if !host_there || rest.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
        return Err(refuse(word));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn refuse(word: &str) -> Error {
    Error::new(Kind::Usage, format!("expected a mirror as NAME=URL or URL, found `{word}`"))
        .hint("for example `debian=http://mirror.example/debian`; the URL begins with http:// or https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str, url: &str) -> Repository {
        Repository {
            name: name.into(),
            url: url.into(),
            suites: Vec::new(),
            components: Vec::new(),
            keys: Vec::new(),
            fingerprints: Vec::new(),
            priority: 500,
        }
    }

    #[test]
    fn a_mirror_replaces_what_it_is_for_and_nothing_else() {
        let main = repository("debian", "https://deb.debian.org/debian");
        let security = repository("security", "https://deb.debian.org/debian-security/");
        let other = repository("kubernetes", "https://pkgs.k8s.io/core/v1.34/deb");
        for (words, expected) in [
            (
                vec![],
                ["https://deb.debian.org/debian", "https://deb.debian.org/debian-security", "https://pkgs.k8s.io/core/v1.34/deb"],
            ),
            (
                vec!["http://m:3142/debian/"],
                ["http://m:3142/debian", "http://m:3142/debian-security", "https://pkgs.k8s.io/core/v1.34/deb"],
            ),
            (vec!["http://m/x"], ["http://m/x/debian", "http://m/x/debian-security", "https://pkgs.k8s.io/core/v1.34/deb"]),
            (
                vec!["security=http://s/sec", "kubernetes=https://k/"],
                ["https://deb.debian.org/debian", "http://s/sec", "https://k"],
            ),
            (
                vec!["http://m/debian", "security=http://s/sec"],
                ["http://m/debian", "http://s/sec", "https://pkgs.k8s.io/core/v1.34/deb"],
            ),
        ] {
            let mirrors = Mirrors::parse(&words).unwrap();
            assert_eq!([&main, &security, &other].map(|r| mirrors.base_url(r)), expected, "{words:?}");
        }
        assert_eq!(Mirrors::parse(&["debain=http://m/"]).unwrap().unknown(&[main]), ["debain"]);
    }

    #[test]
    fn a_word_that_is_no_mirror_is_refused() {
        for wrong in
            ["mirror", "debian=", "=http://m/", "ftp://m/debian", "debian=http://", "http:///x", "http://m/a b", "http://m/?q=1"]
        {
            let error = Mirrors::parse(&[wrong]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
