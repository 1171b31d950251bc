//! passwd, group, shadow and gshadow of a tree: numbers that do not depend on the order in which
//! scripts made the users, and users a definition adds (passwd(5), group(5), shadow(5)).
//!
//! Every system user and group that a maintainer script made is given its number here: the one
//! pinned in the definition's `ids`, else one derived from its name, so that it hardly depends on
//! which other packages are installed. Files follow in the index, not on disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};
use crate::tree::ContentId;

/// Numbers that scripts take for system users: adduser(8) and sysusers.d(5) on Debian.
const DYNAMIC: std::ops::RangeInclusive<u32> = 100..=999;
/// Numbers derived from names come from here: below what systemd-sysusers takes first (999 downwards).
const DERIVED: std::ops::Range<u32> = 400..900;
/// Seconds of a day, the unit of shadow's dates.
const DAY: u64 = 86_400;

/// The four files, line by line and field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// name:password:uid:gid:gecos:home:shell
    pub passwd: Vec<Vec<String>>,
    /// name:password:gid:members
    pub group: Vec<Vec<String>>,
    /// name:password:changed:…
    pub shadow: Vec<Vec<String>>,
    /// name:password:administrators:members
    pub gshadow: Vec<Vec<String>>,
}

/// Which numbers become which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renumbering {
    uids: BTreeMap<u32, u32>,
    gids: BTreeMap<u32, u32>,
}

impl Renumbering {
    /// The new number of a user.
    pub fn uid(&self, uid: u32) -> u32 {
        self.uids.get(&uid).copied().unwrap_or(uid)
    }

    /// The new number of a group.
    pub fn gid(&self, gid: u32) -> u32 {
        self.gids.get(&gid).copied().unwrap_or(gid)
    }

    /// A POSIX access control list as the kernel gives it (`system.posix_acl_*`), with new numbers.
    pub fn acl(&self, value: &[u8]) -> Vec<u8> {
        // Header of 4 bytes, then entries: tag, permissions (u16 each), id (u32), little-endian.
        let (header, entries) = value.split_at(value.len().min(4));
        let mut out = header.to_vec();
        for entry in entries.chunks(8) {
            match entry {
                [tag @ 0x02, 0, p, q, a, b, c, d] => {
                    out.extend_from_slice(&[*tag, 0, *p, *q]);
                    out.extend_from_slice(&self.uid(u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes());
                }
                [tag @ 0x08, 0, p, q, a, b, c, d] => {
                    out.extend_from_slice(&[*tag, 0, *p, *q]);
                    out.extend_from_slice(&self.gid(u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes());
                }
                other => out.extend_from_slice(other),
            }
        }
        out
    }
}

fn lines(text: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(text);
    text.lines().filter(|l| !l.trim().is_empty()).map(|l| l.split(':').map(str::to_owned).collect()).collect()
}

fn text(lines: &[Vec<String>]) -> Vec<u8> {
    lines.iter().map(|fields| fields.join(":") + "\n").collect::<String>().into_bytes()
}

fn number(fields: &[String], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

fn set(fields: &mut [String], at: usize, value: impl ToString) {
    if let Some(field) = fields.get_mut(at) {
        *field = value.to_string();
    }
}

impl Accounts {
    /// Takes the four files apart; one that is missing is empty.
    pub fn parse(passwd: &[u8], group: &[u8], shadow: &[u8], gshadow: &[u8]) -> Self {
        Self { passwd: lines(passwd), group: lines(group), shadow: lines(shadow), gshadow: lines(gshadow) }
    }

    /// The four files as text, with their paths.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 4] {
        [
            ("etc/passwd", text(&self.passwd)),
            ("etc/group", text(&self.group)),
            ("etc/shadow", text(&self.shadow)),
            ("etc/gshadow", text(&self.gshadow)),
        ]
    }

    /// The number of a user by name.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.passwd.iter().find(|f| f.first().is_some_and(|n| n == name)).and_then(|f| number(f, 2))
    }

    /// The number of a group by name.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.group.iter().find(|f| f.first().is_some_and(|n| n == name)).and_then(|f| number(f, 2))
    }

    /// Which numbers the users and groups shall have that are not among `fixed` (base-passwd's own).
    ///
    /// # Errors
    /// When a pin takes a number that another pin or a fixed user has.
    pub fn renumbering(&self, pins: &[(String, u32)], fixed: &BTreeSet<String>) -> Result<Renumbering> {
        let dynamic = |file: &[Vec<String>]| -> BTreeMap<String, u32> {
            let entry = |fields: &Vec<String>| Some((fields.first()?.clone(), number(fields, 2)?));
            file.iter().filter_map(entry).filter(|(name, id)| !fixed.contains(name) && DYNAMIC.contains(id)).collect()
        };
        let (users, groups) = (dynamic(&self.passwd), dynamic(&self.group));
        let mut taken: BTreeMap<u32, String> = BTreeMap::new();
        for fields in self.passwd.iter().chain(&self.group) {
            let Some((name, id)) = fields.first().zip(number(fields, 2)) else { continue };
            if !users.contains_key(name) && !groups.contains_key(name) {
                taken.insert(id, name.clone());
            }
        }
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        for (name, id) in pins {
            if let Some(other) = taken.get(id).filter(|other| *other != name) {
                return Err(Error::new(Kind::Document, format!("`ids` gives `{name}` the number {id}, which `{other}` has"))
                    .hint(format!("choose another number from {} to {}", DYNAMIC.start(), DYNAMIC.end())));
            }
            taken.insert(*id, name.clone());
            numbers.insert(name.clone(), *id);
        }
        let names: BTreeSet<&String> = users.keys().chain(groups.keys()).collect();
        for name in names {
            if !numbers.contains_key(name) {
                let id = derived(name, &taken)?;
                taken.insert(id, name.clone());
                numbers.insert(name.clone(), id);
            }
        }
        let change = |ids: BTreeMap<String, u32>| -> BTreeMap<u32, u32> {
            ids.iter().filter_map(|(name, old)| numbers.get(name).map(|new| (*old, *new))).collect()
        };
        Ok(Renumbering { uids: change(users), gids: change(groups) })
    }

    /// Puts the new numbers in, sorts by number, and sets the dates of passwords to the epoch.
    pub fn renumber(&mut self, numbers: &Renumbering, epoch: Epoch) {
        for fields in &mut self.passwd {
            if let (Some(uid), Some(gid)) = (number(fields, 2), number(fields, 3)) {
                set(fields, 2, numbers.uid(uid));
                set(fields, 3, numbers.gid(gid));
            }
        }
        for fields in &mut self.group {
            if let Some(gid) = number(fields, 2) {
                set(fields, 2, numbers.gid(gid));
            }
        }
        for fields in self.shadow.iter_mut().filter(|f| f.get(2).is_some_and(|date| !date.is_empty())) {
            set(fields, 2, epoch.0 / DAY);
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.passwd.sort_by_key(|f| number(f, 2));
        self.group.sort_by_key(|f| number(f, 2));
        let rank = |file: &[Vec<String>]| -> BTreeMap<String, usize> {
            file.iter().enumerate().filter_map(|(at, f)| Some((f.first()?.clone(), at))).collect()
        };
        let (users, groups) = (rank(&self.passwd), rank(&self.group));
        let by = |ranks: &BTreeMap<String, usize>, f: &Vec<String>| f.first().and_then(|n| ranks.get(n).copied());
        self.shadow.sort_by_key(|f| by(&users, f));
        self.gshadow.sort_by_key(|f| by(&groups, f));
    }

    /// Adds a user without a password, with a group of its own and membership in others.
    ///
    /// # Errors
    /// When the name or the number is taken, or a group does not exist.
    pub fn add(&mut self, user: &crate::definition::User, epoch: Epoch) -> Result<()> {
        let wrong = |what: String| Error::new(Kind::Document, format!("adding the user `{}`: {what}", user.name));
        let id = user.uid;
        if self.uid(&user.name).is_some() || self.gid(&user.name).is_some() {
            return Err(wrong("the packages bring a user or group of this name".to_owned()));
        }
        let holder = self.passwd.iter().chain(&self.group).find(|f| number(f, 2) == Some(id)).and_then(|f| f.first());
        if let Some(holder) = holder {
            return Err(wrong(format!("the number {id} belongs to `{holder}`")));
        }
        let line = |text: String| text.split(':').map(str::to_owned).collect::<Vec<_>>();
        let name = &user.name;
        self.passwd.push(line(format!("{name}:x:{id}:{id}::{}:{}", user.home, user.shell)));
        self.group.push(line(format!("{name}:x:{id}:")));
        self.shadow.push(line(format!("{name}:!*:{}:0:99999:7:::", epoch.0 / DAY)));
        self.gshadow.push(line(format!("{name}:!::")));
        for wanted in &user.groups {
            let found = self.group.iter_mut().find(|f| f.first().is_some_and(|n| n == wanted));
            let fields = found.ok_or_else(|| wrong(format!("there is no group `{wanted}`")))?;
            join(fields, name);
            if let Some(fields) = self.gshadow.iter_mut().find(|f| f.first().is_some_and(|n| n == wanted)) {
                join(fields, name);
            }
        }
        self.sort();
        Ok(())
    }
}

/// Adds a name to the member list, the fourth field of group and gshadow alike.
fn join(fields: &mut [String], name: &str) {
    if let Some(members) = fields.get_mut(3) {
        *members = if members.is_empty() { name.to_owned() } else { format!("{members},{name}") };
    }
}

/// A number for a name: from its digest, the next free one where that is taken.
fn derived(name: &str, taken: &BTreeMap<u32, String>) -> Result<u32> {
    let [a, b, c, d, ..] = ContentId::of(name.as_bytes()).0;
    let span = DERIVED.end - DERIVED.start;
    let start = u32::from_le_bytes([a, b, c, d]) % span;
    (0..span).map(|step| DERIVED.start + (start + step) % span).find(|id| !taken.contains_key(id)).ok_or_else(|| {
        Error::new(Kind::Failed, format!("there is no free number from {DERIVED:?} for the system user `{name}`"))
            .hint("pin it in the definition's `ids`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nzeta:x:997:996::/:/bin/false\nalpha:x:998:997::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nalpha:x:997:zeta\nzeta:x:996:\nlone:x:995:\nnogroup:x:65534:\n";

    fn fixed() -> BTreeSet<String> {
        ["root", "users", "nobody", "nogroup"].map(str::to_owned).into()
    }

    fn accounts(passwd: &str) -> Accounts {
        Accounts::parse(passwd.as_bytes(), GROUP.as_bytes(), b"zeta:!:20000::::::\nroot:*:1:0:99999:7:::\nalpha:!:::::::\n", b"")
    }

    #[test]
    fn numbers_do_not_depend_on_the_order_of_creation() {
        let swapped = PASSWD.replace("zeta:x:997", "zeta:x:900").replace("alpha:x:998", "alpha:x:997");
        let mut results = Vec::new();
        for text in [PASSWD, &swapped] {
            let mut accounts = accounts(text);
            let numbers = accounts.renumbering(&[("zeta".to_owned(), 500)], &fixed()).unwrap();
            accounts.renumber(&numbers, Epoch(86_400 * 10));
            assert_eq!((accounts.uid("zeta"), accounts.gid("zeta")), (Some(500), Some(500)));
            assert_eq!(accounts.uid("alpha"), accounts.gid("alpha"));
            assert!(DERIVED.contains(&accounts.uid("alpha").unwrap()));
            assert_eq!((accounts.gid("users"), accounts.uid("nobody")), (Some(100), Some(65_534)));
            results.push(accounts.files());
        }
        assert_eq!(results[0], results[1]);
        let shadow = String::from_utf8(results[0][2].1.clone()).unwrap();
        assert!(shadow.contains("root:*:10:") && shadow.contains("alpha:!:::") && shadow.contains("zeta:!:10:"), "{shadow}");
    }

    #[test]
    fn two_of_one_number_are_refused() {
        let accounts = accounts(PASSWD);
        for (pins, said) in [(vec![("zeta", 100)], "`users`"), (vec![("zeta", 500), ("alpha", 500)], "`zeta`")] {
            let pins: Vec<_> = pins.into_iter().map(|(n, i)| (n.to_owned(), i)).collect();
            let error = accounts.renumbering(&pins, &fixed()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        let user = |name: &str, uid, groups: &[&str]| crate::definition::User {
            name: name.to_owned(),
            uid,
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            home: "/".to_owned(),
            shell: "/bin/sh".to_owned(),
        };
        let mut added = accounts.clone();
        added.add(&user("new", 1000, &["lone", "alpha"]), Epoch(0)).unwrap();
        let text = String::from_utf8(added.files()[1].1.clone()).unwrap();
        assert!(text.contains("lone:x:995:new\n") && text.contains("alpha:x:997:zeta,new\n") && text.contains("new:x:1000:\n"));
        for (user, said) in [
            (user("root", 5, &[]), "of this name"),
            (user("new", 997, &[]), "belongs to"),
            (user("new", 7, &["nothing"]), "no group `nothing`"),
        ] {
            let error = accounts.clone().add(&user, Epoch(0)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn access_lists_follow() {
        let numbers = Renumbering { uids: [(7, 70)].into(), gids: [(8, 80)].into() };
        let acl = [2, 0, 0, 0, 2, 0, 7, 0, 7, 0, 0, 0, 8, 0, 5, 0, 8, 0, 0, 0, 4, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, 1];
        let mut expected = acl;
        (expected[8], expected[16]) = (70, 80);
        assert_eq!(numbers.acl(&acl), expected);
        assert_eq!(numbers.acl(&[1]), [1]);
    }
}
