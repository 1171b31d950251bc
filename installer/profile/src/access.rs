//! `[time]` and `[access]`: clocks, and who may log in. Nobody has to.

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::Located;
use crate::rules;
use crate::secret::SecretSource;

/// `[time]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Time"))]
#[serde(deny_unknown_fields)]
pub struct WrittenTime {
    /// NTP servers, names or addresses; the image's own where there are none.
    #[serde(default)]
    pub servers: Vec<Text>,
    /// Seconds to wait at boot for a right clock before going on with a warning; 30 by default, 0 to 600.
    pub wait_secs: Option<Located<u32>>,
}

/// Clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Time {
    /// NTP servers.
    pub servers: Vec<String>,
    /// Seconds to wait at boot.
    pub wait_secs: u32,
}

/// What the console offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// What happens, and no login.
    Status,
    /// A login prompt.
    Login,
    /// Nothing.
    Off,
}

/// `[access]` as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "Access"))]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// What the console offers; `status` by default.
    pub console: Option<Console>,
    /// Whether sshd runs; `true` where a user has keys.
    pub ssh: Option<Located<bool>>,
    /// Addresses sshd listens on; all by default.
    #[serde(default)]
    pub ssh_listen: Vec<Text>,
    /// Users.
    #[serde(default)]
    pub users: Vec<WrittenUser>,
}

/// A user as it is written.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema), schemars(rename = "User"))]
#[serde(deny_unknown_fields)]
pub struct WrittenUser {
    /// Login name.
    pub name: Text,
    /// SSH public keys, each on one line.
    #[serde(default)]
    pub ssh_keys: Vec<Text>,
    /// Whether the user may become root; `false` by default.
    #[serde(default)]
    pub admin: bool,
    /// Hash of a password for the console (`mkpasswd`). A secret. Never accepted by ssh.
    pub password_hash: Option<Located<SecretSource>>,
}

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// What the console offers.
    pub console: Console,
    /// Whether sshd runs.
    pub ssh: bool,
    /// Addresses sshd listens on; empty: all.
    pub ssh_listen: Vec<std::net::IpAddr>,
    /// Users, by name.
    pub users: Vec<User>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Login name.
    pub name: String,
    /// Public keys.
    pub ssh_keys: Vec<String>,
    /// May become root.
    pub admin: bool,
    /// Hash of the console password.
    pub password_hash: Option<SecretSource>,
}

pub(crate) fn check_time(check: &mut Check<'_>, written: &WrittenTime) -> Time {
    check.twice("server", &written.servers);
    for server in &written.servers {
        if server.parse::<std::net::IpAddr>().is_err() {
            check.text(server, &rules::DOMAIN);
        }
    }
    Time {
        servers: written.servers.iter().map(|server| server.to_string()).collect(),
        wait_secs: check.number(written.wait_secs.as_ref(), "wait_secs", 0..=600, 30),
    }
}

/// Names of the system that a profile must not take over.
const TAKEN: [&str; 8] = ["root", "daemon", "bin", "sys", "nobody", "sshd", "messagebus", "haproxy"];

pub(crate) fn check(check: &mut Check<'_>, written: &Written) -> Access {
    check.twice("user", written.users.iter().map(|user| &user.name));
    let mut users = Vec::new();
    for user in &written.users {
        let name = check.text(&user.name, &rules::ACCOUNT);
        if TAKEN.contains(&name.as_str()) || name.starts_with("systemd-") {
            let message = format!("the user {} belongs to the system", crate::document::quoted(&name));
            check.faults.add_with_hint(user.name.place(), message, "take another name; `admin = true` lets a user become root");
        }
        check.twice("key", &user.ssh_keys);
        users.push(User {
            name,
            ssh_keys: check.list(&user.ssh_keys, &rules::SSH_KEY),
            admin: user.admin,
            password_hash: user.password_hash.as_ref().map(|hash| check.secret(hash, &rules::PASSWORD_HASH)),
        });
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    let keys = users.iter().any(|user| !user.ssh_keys.is_empty());
    if let Some(ssh) = written.ssh.as_ref().filter(|ssh| ***ssh && !keys && check.whole) {
        check.faults.add_with_hint(
            ssh.place(),
            "sshd would run, but no user has a key",
            "add `ssh_keys` to a user: passwords are not accepted",
        );
    }
    Access {
        console: written.console.unwrap_or(Console::Status),
        ssh: written.ssh.as_ref().map_or(keys, |ssh| **ssh),
        ssh_listen: written.ssh_listen.iter().filter_map(|text| check.address(text)).collect(),
        users,
    }
}
