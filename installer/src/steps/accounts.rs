//! Users of the profile in the account files of the image, and their homes.
//!
//! A user's number comes from the name alone, so that it is the same at every boot and on every machine, whoever
//! else comes or goes. Users of a former profile are known by their comment and taken out.

use std::collections::BTreeMap;

use profile::access::Access;
use trust::Sha256Digest;

use super::files::{Files, Wanted};
use super::{Verdict, Work, World};
use crate::facts::Accounts;
use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Machine};
use crate::report::codes;
use crate::secrets::Secrets;

/// The comment (GECOS) that marks our users.
const MARK: &str = "ingot profile user";

/// Numbers of our users: above those of the image, below those systemd gives away (61184 on).
const FIRST: u32 = 20_000;
const COUNT: u32 = 40_000;

/// What an admin is a member of.
const ADMIN_GROUPS: [&str; 3] = ["adm", "sudo", "systemd-journal"];

/// Number of each user of the profile.
pub fn numbers(access: &Access) -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for user in &access.users {
        let digest = Sha256Digest::of(format!("ingot user v1\n{}", user.name).as_bytes());
        let start = digest.0.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        // At most 40000 users: far more than a profile can hold.
        let free = (0..COUNT)
            .map(|step| FIRST + (start.wrapping_add(step)) % COUNT)
            .find(|id| !numbers.values().any(|taken| taken == id));
        numbers.extend(free.map(|id| (user.name.clone(), id)));
    }
    numbers
}

/// The number of an account: of the profile, or of one of the image's files (passwd or group).
///
/// # Errors
/// [`codes::NO_SUCH_ACCOUNT`].
pub fn number(name: &str, file: &str, numbers: &BTreeMap<String, u32>) -> Result<u32> {
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let found = numbers.get(name).copied().or_else(|| line?.split(':').nth(1)?.parse().ok());
    found.ok_or_else(|| Failure::new(&codes::NO_SUCH_ACCOUNT, format!("there is no user or group `{name}`")))
}

/// The users step: account files, homes, keys, and who may become root.
#[derive(Debug)]
pub struct Users {
    files: Files,
    homes: Vec<(String, u32)>,
}

impl Users {
    /// From the profile and the account files as they are now.
    ///
    /// # Errors
    /// A password hash is missing.
    pub fn of(access: &Access, secrets: &Secrets, now: &Accounts) -> Result<Self> {
        let numbers = numbers(access);
        let id = |name: &str| numbers.get(name).copied().unwrap_or(FIRST);
        let former = former(now);
        for user in &access.users {
            let taken = now.passwd.lines().any(|line| line.split(':').next() == Some(user.name.as_str()));
            if taken && !former.contains(&user.name.as_str()) {
                return Err(Failure::new(&codes::ACCOUNT_TAKEN, format!("the image has an account `{}` of its own", user.name)));
            }
        }
        let (mut passwd, mut shadow) = (without(&now.passwd, &former), without(&now.shadow, &former));
        let mut group = groups(&now.group, &former, access);
        let mut files = Vec::new();
        for user in &access.users {
            let (name, id) = (&user.name, id(&user.name));
            let hash = user.password_hash.as_ref().map(|hash| secrets.get(hash)).transpose()?;
            passwd += &format!("{name}:x:{id}:{id}:{MARK}:/var/home/{name}:/bin/bash\n");
            group += &format!("{name}:x:{id}:\n");
            shadow += &format!("{name}:{}:::::::\n", hash.map_or("*", |hash| hash.expose()));
            if user.admin {
                let text = format!("{name} ALL=(ALL:ALL) NOPASSWD: ALL\n");
                let path = format!("/etc/sudoers.d/ingot-{name}");
                files.push(Wanted { attributes: Attributes::root(0o440), ..Wanted::public(path, text) });
            }
            let keys: String = user.ssh_keys.iter().map(|key| format!("{}\n", key.trim())).collect();
            files.push(Wanted::public(format!("/etc/ssh/authorized_keys.d/{name}"), keys));
        }
        if !now.passwd.is_empty() {
            let gid = number("shadow", &now.group, &BTreeMap::new()).unwrap_or(0);
            let attributes = Attributes { mode: 0o640, uid: 0, gid };
            // The group and the hash before the user who needs them.
            files.push(Wanted::public("/etc/group", group));
            files.push(Wanted { attributes, ..Wanted::private("/etc/shadow", shadow) });
            files.push(Wanted::public("/etc/passwd", passwd));
        }
        let files = Files::of(files).sweep("/etc/sudoers.d", "ingot-").sweep("/etc/ssh/authorized_keys.d", "");
        Ok(Self { files, homes: access.users.iter().map(|user| (format!("/var/home/{}", user.name), id(&user.name))).collect() })
    }
}

/// Our users of before: by the mark in passwd, or (where a run was cut off between the files) by the number of their group.
fn former(now: &Accounts) -> Vec<&str> {
    let marked = now.passwd.lines().filter(|line| line.split(':').nth(4) == Some(MARK));
    let ours = |line: &&str| {
        line.split(':').nth(2).and_then(|id| id.parse().ok()).is_some_and(|id: u32| (FIRST..FIRST + COUNT).contains(&id))
    };
    marked.chain(now.group.lines().filter(ours)).filter_map(|line| line.split(':').next()).collect()
}

fn without(file: &str, former: &[&str]) -> String {
    let keep = |line: &&str| !line.split(':').next().is_some_and(|name| former.contains(&name));
    file.lines().filter(keep).map(|line| format!("{line}\n")).collect()
}

/// The groups of the image with our admins as members, and no former user.
fn groups(file: &str, former: &[&str], access: &Access) -> String {
    let mut text = String::new();
    for line in without(file, former).lines() {
        let mut fields: Vec<&str> = line.splitn(4, ':').collect();
        let members = if fields.len() == 4 { fields.pop() } else { None };
        let Some(members) = members else {
            text += &format!("{line}\n");
            continue;
        };
        let admins = access.users.iter().filter(|user| user.admin).map(|user| user.name.as_str());
        let admins = admins.filter(|_| fields.first().is_some_and(|name| ADMIN_GROUPS.contains(name)));
        let others = members.split(',').filter(|name| !name.is_empty() && !former.contains(name));
        let all: Vec<&str> = others.chain(admins).collect();
        text += &format!("{}:{}\n", fields.join(":"), all.join(","));
    }
    text
}

impl Work for Users {
    fn lines(&self) -> Vec<String> {
        let homes = self.homes.iter().map(|(path, id)| format!("{path} 0700 {id}:{id}"));
        self.files.lines().into_iter().chain(homes).collect()
    }

    fn input(&self) -> Vec<u8> {
        let mut bytes = self.files.input();
        bytes.extend(self.homes.iter().flat_map(|(path, id)| format!("{path} {id}\n").into_bytes()));
        bytes
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        self.files.check(machine)
    }

    /// Homes first: they are looked at whenever the files are rendered, at least once in every boot.
    fn apply(&self, world: World<'_>) -> Result<()> {
        for (path, id) in &self.homes {
            match home(world.machine, path, *id) {
                // One can log in without a home; nobody can without the files.
                Err(failure) if failure.is_storage() => world.report.warn(&failure),
                result => result?,
            }
        }
        self.files.apply(world)
    }
}

fn home(machine: &dyn Machine, path: &str, id: u32) -> Result<()> {
    if machine.attributes(path).map_err(|e| Failure::io("reading", path, &e))?.is_some() {
        return Ok(());
    }
    let attributes = Attributes { mode: 0o700, uid: id, gid: id };
    machine.make_folder(path, attributes).map_err(|e| Failure::io("making", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_and_go_and_others_stay() {
        let text = "[node]\nname=\"a\"\nrole=\"load-balancer\"\n[[load_balancer.frontends]]\nname=\"w\"\nport=443\nbackends=[{name=\"b\",address=\"10.0.0.3\"}]\n";
        let profile = |users: &str| profile::Profile::parse("t", format!("schema = 1\n{text}{users}").as_bytes()).unwrap();
        let now = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n".into(),
            group: "root:x:0:\nsudo:x:27:other\nshadow:x:42:\n".into(),
            shadow: "root:*:1::::::\n".into(),
        };
        let find =
            |users: &Users, path: &str| users.files.files.iter().find(|f| f.path == path).unwrap().content.expose().to_owned();
        let with = Users::of(&profile("[[access.users]]\nname=\"ann\"\nadmin=true\n").access, &Secrets::default(), &now).unwrap();
        assert!(find(&with, "/etc/group").contains("sudo:x:27:other,ann\n"));
        assert!(find(&with, "/etc/shadow").ends_with("ann:*:::::::\n"));
        let then =
            Accounts { passwd: find(&with, "/etc/passwd"), group: find(&with, "/etc/group"), shadow: find(&with, "/etc/shadow") };
        let again =
            Users::of(&profile("[[access.users]]\nname=\"ann\"\nadmin=true\n").access, &Secrets::default(), &then).unwrap();
        assert_eq!(again.files, with.files, "the same users give the same files");
        let none = Users::of(&profile("").access, &Secrets::default(), &then).unwrap();
        assert_eq!(find(&none, "/etc/passwd"), now.passwd);
        assert_eq!(find(&none, "/etc/group"), now.group);
        assert_eq!(find(&none, "/etc/shadow"), now.shadow);
    }
}
