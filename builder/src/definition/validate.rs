//! From written to validated. All faults are collected; a [`Definition`] comes out only without any.

mod files;
mod kubernetes;
mod packages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use profile::document::{DocumentId, Fault, Faults, Located, Place, Texts, quoted, suggest};
use profile::size::Size;

use super::merge::Merged;
use profile::rule::Rule;

use super::rules;
use super::schema::{self, Text, Written};
use super::{Budgets, Definition, DiskShape, Folder, Kernel, Kubernetes, Overrides, Role, Units, User, digest};

const MIB: u64 = 1 << 20;

/// What validation looks at beside the document.
pub(super) struct Surroundings<'a> {
    pub folder: &'a dyn Folder,
    pub texts: &'a Texts,
    /// The documents read, as paths in the folder.
    pub documents: &'a BTreeMap<DocumentId, PathBuf>,
    /// What goes before the document's own words.
    pub overrides: &'a Overrides,
}

/// The faults found so far, and the files read.
struct Check<'a> {
    around: &'a Surroundings<'a>,
    faults: Faults<'a>,
    /// Whether every name that others may refer to was read: else its absence proves nothing.
    whole: bool,
    sources: BTreeSet<PathBuf>,
}

/// Checks everything.
pub(super) fn validate(merged: Merged<'_>, around: &Surroundings<'_>) -> Result<Definition, Vec<Fault>> {
    let Merged { written, faults, whole, readable } = merged;
    if !readable {
        return Err(faults.into_vec());
    }
    let sources = around.documents.values().map(|path| around.folder.shown(path)).collect();
    let mut check = Check { around, faults, whole, sources };
    let mut repositories = packages::repositories(&mut check, &written.repository);
    let place = written.schema.place();
    let kubernetes = kubernetes::kubernetes(&mut check, written.kubernetes.as_ref(), place);
    if let Some(Kubernetes { version, .. }) = kubernetes.as_ref().filter(|kubernetes| !kubernetes.version.is_empty()) {
        let own = written.repository.iter().find(|repository| repository.name.as_str() == kubernetes::REPOSITORY);
        repositories.extend(kubernetes::repository(&mut check, written.kubernetes.as_ref(), (version, place), own));
    }
    let (install, without) = packages::packages(&mut check, &written.packages, repositories.len());
    let mut pins = packages::pins(&mut check, &written.pin, &repositories);
    pins.extend(kubernetes.iter().flat_map(kubernetes::pins));
    let disk = disk(&mut check, &written.disk);
    let mut definition = Definition {
        name: check.required(&written, "name", written.name.as_ref(), &rules::NAME),
        version: check.required(&written, "version", written.version.as_ref(), &rules::IMAGE_VERSION),
        description: description(&mut check, &written),
        role: role(&mut check, &written),
        architecture: check.or_default(written.architecture.as_ref(), &rules::ARCHITECTURE, "amd64"),
        pins,
        repositories,
        kubernetes,
        containers: kubernetes::containers(&mut check, &written.container_image),
        install,
        without,
        ids: ids(&mut check, &written.ids),
        files: files::files(&mut check, &written.file),
        exclude: check.list(&written.tree.exclude, &rules::GLOB),
        keep: check.list(&written.tree.keep, &rules::GLOB),
        users: users(&mut check, &written.user, &written.ids),
        units: units(&mut check, &written.units),
        kernel: kernel(&mut check, &written.kernel),
        budgets: budgets(&mut check, &written.budgets, &disk),
        disk,
        sources: Vec::new(),
        resolution: trust::Sha256Digest([0; 32]),
        digest: trust::Sha256Digest([0; 32]),
    };
    if !check.faults.is_empty() {
        return Err(check.faults.into_vec());
    }
    definition.sources = check.sources.into_iter().collect();
    definition.resolution = digest::resolution(&definition);
    definition.digest = digest::definition(&definition, definition.resolution);
    Ok(definition)
}

impl Check<'_> {
    /// A text that must hold to a rule.
    fn text(&mut self, text: &Text, rule: &Rule) -> String {
        if !rule.holds(text) {
            self.faults.add(text.place(), rule.told(text));
        }
        text.to_string()
    }

    fn list(&mut self, list: &[Text], rule: &Rule) -> Vec<String> {
        list.iter().map(|text| self.text(text, rule)).collect()
    }

    fn or_default(&mut self, text: Option<&Text>, rule: &Rule, default: &str) -> String {
        text.map_or_else(|| default.to_owned(), |text| self.text(text, rule))
    }

    fn required(&mut self, written: &Written, key: &str, text: Option<&Text>, rule: &Rule) -> String {
        match text {
            Some(text) => self.text(text, rule),
            None => {
                self.missing(written, key);
                String::new()
            }
        }
    }

    fn missing(&mut self, written: &Written, key: &str) {
        if self.whole {
            let hint = "a document without `name`, `version` and `role` is a base: build one that extends it";
            self.faults.add_with_hint(written.schema.place(), format!("the key `{key}` is missing"), hint);
        }
    }

    /// The bytes of a file that a document names, relative to that document.
    /// `hint` says what to do where there is none.
    fn beside(&mut self, name: &Text, hint: Option<&str>) -> Option<(PathBuf, Vec<u8>)> {
        if name.place().is_hole() {
            return None;
        }
        if !rules::BESIDE.holds(name) {
            self.faults.add(name.place(), rules::BESIDE.told(name));
            return None;
        }
        let document = name.place().document().and_then(|document| self.around.documents.get(&document));
        let path = document.and_then(|path| path.parent()).unwrap_or(Path::new("")).join(name.as_str());
        let shown = self.around.folder.shown(&path);
        match self.around.folder.read(&path) {
            Ok(bytes) => {
                self.sources.insert(shown);
                Some((path, bytes))
            }
            Err(error) => {
                let message = format!("the file {} cannot be read: {error}", shown.display());
                self.faults.add_with_hint(
                    name.place(),
                    message,
                    hint.unwrap_or("the path is relative to the folder of this document").to_owned(),
                );
                None
            }
        }
    }

    /// A fault about a name that is not among those known.
    fn unknown(&mut self, place: Place, what: &str, name: &str, known: &[&str]) {
        let message = format!("there is no {what} {}", quoted(name));
        match suggest(name, known.iter().copied()) {
            Some(meant) => self.faults.add_with_hint(place, message, format!("did you mean `{meant}`?")),
            None if known.is_empty() => self.faults.add(place, message),
            None => self.faults.add_with_hint(place, message, format!("there are: {}", known.join(", "))),
        }
    }
}

fn description(check: &mut Check<'_>, written: &Written) -> Option<String> {
    let text = written.description.as_ref()?;
    if text.len() > 200 || text.chars().any(char::is_control) || text.trim().is_empty() {
        check.faults.add(text.place(), "expected a description of one line, at most 200 bytes");
    }
    Some(text.to_string())
}

fn role(check: &mut Check<'_>, written: &Written) -> Role {
    match &written.role {
        Some(role) => **role,
        None => {
            check.missing(written, "role");
            Role::LoadBalancer
        }
    }
}

fn ids(check: &mut Check<'_>, written: &BTreeMap<Text, Located<u32>>) -> Vec<(String, u32)> {
    let mut seen: BTreeMap<u32, &Text> = BTreeMap::new();
    for (name, number) in written {
        check.text(name, &rules::ACCOUNT);
        if !(1..=999).contains(&**number) {
            check.faults.add(number.place(), format!("expected a system number from 1 to 999, found {}", **number));
        } else if let Some(other) = seen.insert(**number, name) {
            check.faults.add(number.place(), format!("the number {} belongs to `{}` already", **number, other.as_str()));
        }
    }
    written.iter().map(|(name, number)| (name.to_string(), **number)).collect()
}

fn users(check: &mut Check<'_>, written: &[schema::User], ids: &BTreeMap<Text, Located<u32>>) -> Vec<User> {
    let mut taken: BTreeMap<u32, String> = ids.iter().map(|(name, number)| (**number, name.to_string())).collect();
    let mut users = Vec::new();
    for user in written {
        let name = check.text(&user.name, &rules::ACCOUNT);
        if name == "root" || ids.keys().any(|id| *id == user.name) {
            check.faults.add(user.name.place(), format!("the user {} exists already", quoted(&name)));
        }
        if !(1..=60000).contains(&*user.uid) {
            check.faults.add(user.uid.place(), format!("expected a uid from 1 to 60000, found {}", *user.uid));
        } else if let Some(other) = taken.insert(*user.uid, name.clone()) {
            check.faults.add(user.uid.place(), format!("the number {} belongs to `{other}` already", *user.uid));
        }
        users.push(User {
            uid: *user.uid,
            groups: check.list(&user.groups, &rules::ACCOUNT),
            home: check.or_default(user.home.as_ref(), &rules::PATH, &format!("/home/{name}")),
            shell: check.or_default(user.shell.as_ref(), &rules::PATH, "/usr/sbin/nologin"),
            name,
        });
        super::merge::twice("group", &user.groups, &mut check.faults);
    }
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users
}

fn units(check: &mut Check<'_>, written: &schema::Units) -> Units {
    let units = Units {
        enable: check.list(&written.enable, &rules::UNIT),
        mask: check.list(&written.mask, &rules::UNIT),
        default_target: check.or_default(written.default_target.as_ref(), &rules::TARGET, "multi-user.target"),
    };
    if let Some(target) = written.default_target.as_ref().filter(|_| units.mask.contains(&units.default_target)) {
        check.faults.add(target.place(), format!("the default target {} is masked", quoted(target)));
    }
    units
}

/// Words of the command line that only the builder may write, or that open what is sealed.
const OWN_WORDS: [&str; 7] = ["root", "roothash", "usrhash", "rootflags", "init", "rdinit", "initrd"];

fn kernel(check: &mut Check<'_>, written: &schema::Kernel) -> Kernel {
    for word in &written.command_line {
        let key = word.split('=').next().unwrap_or_default();
        if OWN_WORDS.contains(&key) {
            let hint = "the builder writes what finds the root and what starts in it: leave the word out";
            check.faults.add_with_hint(word.place(), format!("the word {} is not for a definition", quoted(word)), hint);
        }
    }
    Kernel {
        command_line: check.list(&written.command_line, &rules::WORD),
        initrd_modules: check.list(&written.initrd_modules, &rules::MODULE),
        keep_modules: check.list(&written.keep_modules, &rules::MODULES),
    }
}

fn disk(check: &mut Check<'_>, written: &schema::Disk) -> DiskShape {
    let mut size = |key: &str, value: &Option<Located<Size>>, default: u64, least: u64| match value {
        None => default,
        Some(value) => {
            if value.0 < least || value.0 > 1 << 40 || !value.0.is_multiple_of(MIB) {
                let message = format!("expected whole MiB from {} to 1 TiB for `{key}`, found {}", Size(least), **value);
                check.faults.add(value.place(), message);
            }
            value.0
        }
    };
    let shape = DiskShape {
        // The smallest FAT32: 65525 clusters of one sector.
        esp: size("esp", &written.esp, 256 * MIB, 34 * MIB),
        slot: size("slot", &written.slot, 1024 * MIB, 16 * MIB),
        verity: size("verity", &written.verity, 16 * MIB, MIB),
    };
    // A hash of 32 bytes for each block of 4096, the levels above, and the superblock.
    let needed = (shape.slot / 4096 * 32).saturating_mul(128) / 127 + 3 * 4096;
    let place = [&written.verity, &written.slot].into_iter().flatten().map(Located::place).find(|place| !place.is_hole());
    if let (Some(place), true) = (place, shape.verity < needed) {
        let message = format!(
            "`verity` has {}, but the hash tree of a full slot of {} takes {needed} bytes",
            Size(shape.verity),
            Size(shape.slot)
        );
        check.faults.add_with_hint(place, message, format!("give it {}", Size(needed.div_ceil(MIB) * MIB)));
    }
    shape
}

fn budgets(check: &mut Check<'_>, written: &schema::Budgets, disk: &DiskShape) -> Budgets {
    let mut limit = |key: &str, value: &Option<Located<Size>>, most: Option<(&str, u64)>| {
        let value = value.as_ref()?;
        if value.0 == 0 {
            check.faults.add(value.place(), format!("the budget `{key}` is 0: nothing can hold to it"));
        }
        if let Some((what, room)) = most.filter(|(_, room)| value.0 > *room) {
            check.faults.add(value.place(), format!("the budget `{key}` of {} is more than {what} has: {}", **value, Size(room)));
        }
        Some(value.0)
    };
    Budgets {
        image: limit("image", &written.image, None),
        uki: limit("uki", &written.uki, Some(("the ESP", disk.esp))),
        root: limit("root", &written.root, Some(("a slot", disk.slot))),
        container_images: limit("container_images", &written.container_images, Some(("a slot", disk.slot))),
        slot_reserve: limit("slot_reserve", &written.slot_reserve, Some(("a slot", disk.slot))),
    }
}
