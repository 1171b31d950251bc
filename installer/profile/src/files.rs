//! `[[file]]` and `[report]`: further files, and who is told what happened.

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::{Located, quoted};
use crate::rule::Rule;
use crate::rules;
use crate::secret::SecretSource;

/// `[[file]]` as it is written: exactly one of `content`, `secret`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "File"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Where: below `/etc`, and not where the installer or another section writes.
    pub path: Text,
    /// Its text.
    pub content: Option<Text>,
    /// Its text, where that is a secret.
    pub secret: Option<Located<SecretSource>>,
    /// Permission bits as octal digits; `"0644"` by default, `"0600"` for secrets.
    pub mode: Option<Text>,
    /// Owner; `root` by default.
    pub owner: Option<Text>,
    /// Group; `root` by default.
    pub group: Option<Text>,
}

/// A further file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct File {
    /// Where.
    pub path: String,
    /// Its bytes.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This text.
    Text(String),
    /// A secret.
    Secret(SecretSource),
}

/// What only the installer, or another section of the profile, writes. A path is taken with all below it.
const OWNED: [&str; 35] = [
    "/etc/adjtime",
    "/etc/containerd",
    "/etc/cni",
    "/etc/crypttab",
    "/etc/default/kubelet",
    "/etc/fstab",
    "/etc/group",
    "/etc/gshadow",
    "/etc/haproxy",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ingot",
    "/etc/keepalived",
    "/etc/kubernetes",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/machine-id",
    "/etc/modules-load.d",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pam.d",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/sysctl.d",
    "/etc/systemd",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/tmpfiles.d",
    "/etc/udev",
];

/// A secret file may hold any text.
const ANY: Rule = Rule { what: "text", expected: "at most 1 MiB", holds: |text| text.len() <= 1 << 20 };

pub(crate) fn check(check: &mut Check<'_>, written: &[Written]) -> Vec<File> {
    check.twice("file", written.iter().map(|file| &file.path));
    let mut files: Vec<File> = written.iter().filter_map(|file| one_file(check, file)).collect();
    for file in written {
        let parent =
            written.iter().find(|other| file.path.strip_prefix(other.path.as_str()).is_some_and(|rest| rest.starts_with('/')));
        if let Some(parent) = parent {
            check.faults.add(file.path.place(), format!("{} lies below the file {}", quoted(&file.path), quoted(&parent.path)));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn one_file(check: &mut Check<'_>, written: &Written) -> Option<File> {
    let path = check.text(&written.path, &rules::PATH);
    if rules::PATH.holds(&path) && !path.starts_with("/etc/") {
        let message = format!("{} is not below /etc", quoted(&path));
        check.faults.add_with_hint(
            written.path.place(),
            message,
            "the rest of the system is sealed; what programs keep is theirs",
        );
    }
    let owned = |owned: &&&str| path.strip_prefix(**owned).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if let Some(owned) = OWNED.iter().find(owned) {
        let message = format!("{} is not for a profile's files: the installer writes {owned}", quoted(&path));
        check.faults.add_with_hint(written.path.place(), message, "another section of the profile says it, or the image does");
    }
    let default = if written.secret.is_some() { 0o600 } else { 0o644 };
    let mode = check
        .optional(written.mode.as_ref(), &rules::MODE)
        .and_then(|mode| u32::from_str_radix(&mode, 8).ok())
        .unwrap_or(default);
    if let Some(place) = written.mode.as_ref().filter(|_| written.secret.is_some() && mode & 0o007 != 0) {
        check.faults.add(place.place(), "everybody could read or change this secret");
    }
    let owner = check.optional(written.owner.as_ref(), &rules::ACCOUNT).unwrap_or_else(|| "root".to_owned());
    let group = check.optional(written.group.as_ref(), &rules::ACCOUNT).unwrap_or_else(|| "root".to_owned());
    let content = match (&written.content, &written.secret) {
        (Some(text), None) => Content::Text(check.text(text, &ANY)),
        (None, Some(secret)) => Content::Secret(check.secret(secret, &ANY)),
        _ => {
            if check.whole {
                check.faults.add_with_hint(
                    written.path.place(),
                    format!("nothing, or two things, say what {} holds", quoted(&path)),
                    "give either `content` or `secret`",
                );
            }
            return None;
        }
    };
    Some(File { path, content, mode, owner, group })
}

/// `[report]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Report"))]
#[serde(deny_unknown_fields)]
pub struct WrittenReport {
    /// Where progress and faults are posted as JSON; nowhere by default.
    pub url: Option<Text>,
    /// Certificates of its CA, PEM; the system's by default.
    pub ca: Option<Text>,
    /// Bearer token. A secret.
    pub token: Option<Located<SecretSource>>,
    /// Whether the host is told through Hyper-V's key-value pairs; `true` by default.
    pub hyper_v: Option<bool>,
    /// Whether the serial console shows progress; `true` by default.
    pub serial: Option<bool>,
}

/// Who is told what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Where it is posted.
    pub url: Option<String>,
    /// Certificates of its CA, PEM.
    pub ca: Option<String>,
    /// Bearer token.
    pub token: Option<SecretSource>,
    /// Hyper-V key-value pairs.
    pub hyper_v: bool,
    /// Serial console.
    pub serial: bool,
}

const TOKEN: Rule = Rule {
    what: "bearer token",
    expected: "1 to 4096 printable ASCII characters without spaces",
    holds: |text| crate::rule::only(text, 4096, |c| c.is_ascii_graphic()),
};

pub(crate) fn check_report(check: &mut Check<'_>, written: &WrittenReport) -> Report {
    let without = written.url.is_none() && check.whole;
    for place in [written.ca.as_ref().map(Located::place), written.token.as_ref().map(Located::place)].into_iter().flatten() {
        if without {
            check.faults.add(place, "`[report]` has no `url` that this could be for");
        }
    }
    Report {
        url: written.url.as_ref().map(|url| check.url(url, &rules::HTTPS)),
        ca: check.optional(written.ca.as_ref(), &rules::CERTIFICATES),
        token: written.token.as_ref().map(|token| check.secret(token, &TOKEN)),
        hyper_v: written.hyper_v.unwrap_or(true),
        serial: written.serial.unwrap_or(true),
    }
}
