//! `extends`: one document over another.
//!
//! Single values replace those of the base. Lists are appended, and what the base lists already is
//! not listed twice. Repositories and users of the same name, and files of the same path, replace
//! the base's as a whole. `packages.remove` takes back what the base installs or keeps out;
//! enabling a unit takes back its mask, and the other way round. Tables are merged key by key.

use std::collections::BTreeMap;

use profile::document::{Fault, Faults, Texts, suggest};

use super::relation;
use super::schema::{self, Text, Written};

/// The merged document and the faults so far.
pub(super) struct Merged<'a> {
    pub written: Written,
    /// Where the outermost document begins, for what is missing altogether.
    pub faults: Faults<'a>,
    /// Whether every document was read without a fault: else what is not there may only be misspelt.
    pub whole: bool,
    /// Whether some document could not be read at all.
    pub readable: bool,
}

/// Puts the layers over one another, the base first.
pub(super) fn merge<'a>(layers: Vec<Written>, texts: &'a Texts, read: Vec<Fault>) -> Merged<'a> {
    let mut faults = Faults::new(texts);
    let whole = read.is_empty();
    faults.extend(read);
    let readable = !layers.is_empty();
    let mut layers = layers.into_iter();
    let mut written = Written::default();
    if let Some(first) = layers.next() {
        check_alone(&first, &mut faults);
        written = first;
        refuse_removals(&written, &mut faults);
    }
    for layer in layers {
        check_alone(&layer, &mut faults);
        written = put_over(written, layer, whole.then_some(&mut faults));
    }
    Merged { written, faults, whole, readable }
}

/// The faults of one document that merging would hide.
fn check_alone(written: &Written, faults: &mut Faults<'_>) {
    if !written.schema.place().is_hole() && *written.schema != schema::SCHEMA {
        faults.add_with_hint(
            written.schema.place(),
            format!("schema {} is not known: this program reads schema {}", *written.schema, schema::SCHEMA),
            "the document is made for another version of ingot",
        );
    }
    twice("repository", written.repository.iter().map(|entry| &entry.name), faults);
    twice("file", written.file.iter().map(|entry| &entry.path), faults);
    twice("user", written.user.iter().map(|entry| &entry.name), faults);
    let lists = [
        ("package", &written.packages.install),
        ("package", &written.packages.without),
        ("package", &written.packages.remove),
        ("pattern", &written.tree.exclude),
        ("pattern", &written.tree.keep),
        ("word", &written.kernel.command_line),
        ("module", &written.kernel.initrd_modules),
        ("module", &written.kernel.keep_modules),
    ];
    for (what, list) in lists {
        twice(what, list, faults);
    }
    if let Some(kubernetes) = &written.kubernetes {
        twice("container image", &kubernetes.images, faults);
        twice("key file", &kubernetes.keys, faults);
    }
    twice("container image", written.container_image.iter().map(|entry| &entry.reference), faults);
    twice("unit", written.units.enable.iter().chain(&written.units.mask), faults);
}

/// Names in one list that are there twice.
pub(super) fn twice<'t>(what: &str, names: impl IntoIterator<Item = &'t Text>, faults: &mut Faults<'_>) {
    let mut seen: BTreeMap<String, &Text> = BTreeMap::new();
    for name in names {
        let key = relation::parse(name).map_or_else(|_| name.to_string(), |relation| relation.text);
        if let Some(first) = seen.get(&key) {
            let message = format!("the {what} {} is already there", profile::document::quoted(name));
            faults.add_with_hint(name.place(), message, format!("it stands first at {}", faults.texts().show(first.place())));
        } else if !name.place().is_hole() {
            seen.insert(key, name);
        }
    }
}

fn refuse_removals(base: &Written, faults: &mut Faults<'_>) {
    for removed in &base.packages.remove {
        faults.add(removed.place(), "there is nothing to remove from: this document extends no other");
    }
}

/// `over` put over `base`. Without `faults`, what is removed need not be there.
fn put_over(base: Written, over: Written, faults: Option<&mut Faults<'_>>) -> Written {
    let mut base = base;
    remove_packages(&mut base.packages, &over.packages.remove, faults);
    base.units.mask.retain(|unit| !over.units.enable.contains(unit));
    base.units.enable.retain(|unit| !over.units.mask.contains(unit));
    let mut ids = base.ids;
    for (name, number) in over.ids {
        // The key's place must be the newer one too.
        ids.remove(&name);
        ids.insert(name, number);
    }
    Written {
        schema: over.schema,
        extends: over.extends,
        name: over.name.or(base.name),
        version: over.version.or(base.version),
        description: over.description.or(base.description),
        role: over.role.or(base.role),
        architecture: over.architecture.or(base.architecture),
        repository: replace(base.repository, over.repository, |entry| &entry.name),
        packages: schema::Packages {
            install: append(base.packages.install, over.packages.install),
            without: append(base.packages.without, over.packages.without),
            remove: Vec::new(),
        },
        pin: base.pin.into_iter().chain(over.pin).collect(),
        ids,
        file: replace(base.file, over.file, |entry| &entry.path),
        tree: schema::Tree {
            exclude: append(base.tree.exclude, over.tree.exclude),
            keep: append(base.tree.keep, over.tree.keep),
        },
        user: replace(base.user, over.user, |entry| &entry.name),
        units: schema::Units {
            enable: append(base.units.enable, over.units.enable),
            mask: append(base.units.mask, over.units.mask),
            default_target: over.units.default_target.or(base.units.default_target),
        },
        kubernetes: kubernetes(base.kubernetes, over.kubernetes),
        container_image: replace(base.container_image, over.container_image, |entry| &entry.reference),
        kernel: schema::Kernel {
            command_line: append(base.kernel.command_line, over.kernel.command_line),
            initrd_modules: append(base.kernel.initrd_modules, over.kernel.initrd_modules),
            keep_modules: append(base.kernel.keep_modules, over.kernel.keep_modules),
        },
        disk: schema::Disk {
            esp: over.disk.esp.or(base.disk.esp),
            slot: over.disk.slot.or(base.disk.slot),
            verity: over.disk.verity.or(base.disk.verity),
        },
        budgets: schema::Budgets {
            image: over.budgets.image.or(base.budgets.image),
            uki: over.budgets.uki.or(base.budgets.uki),
            root: over.budgets.root.or(base.budgets.root),
            container_images: over.budgets.container_images.or(base.budgets.container_images),
            slot_reserve: over.budgets.slot_reserve.or(base.budgets.slot_reserve),
        },
    }
}

fn kubernetes(base: Option<schema::Kubernetes>, over: Option<schema::Kubernetes>) -> Option<schema::Kubernetes> {
    let (base, over) = match (base, over) {
        (Some(base), Some(over)) => (base, over),
        (base, over) => return over.or(base),
    };
    Some(schema::Kubernetes {
        version: over.version.or(base.version),
        channel: over.channel.or(base.channel),
        // As with repositories: another place has other keys.
        keys: if over.keys.is_empty() { base.keys } else { over.keys },
        images: append(base.images, over.images),
        image_repository: over.image_repository.or(base.image_repository),
    })
}

fn append(base: Vec<Text>, over: Vec<Text>) -> Vec<Text> {
    let mut list = base;
    for entry in over {
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
    list
}

fn replace<T>(base: Vec<T>, over: Vec<T>, key: fn(&T) -> &Text) -> Vec<T> {
    let mut list = base;
    for entry in over {
        match list.iter_mut().find(|old| key(old) == key(&entry)) {
            Some(old) => *old = entry,
            None => list.push(entry),
        }
    }
    list
}

fn remove_packages(base: &mut schema::Packages, remove: &[Text], mut faults: Option<&mut Faults<'_>>) {
    for removed in remove {
        let stays = |entry: &Text| match relation::parse(entry) {
            Ok(relation) => relation.text != removed.as_str() && (relation.names.as_slice() != [removed.to_string()]),
            Err(_) => **entry != **removed,
        };
        let before = base.install.len() + base.without.len();
        let names: Vec<String> = base
            .install
            .iter()
            .chain(&base.without)
            .flat_map(|entry| match relation::parse(entry) {
                Ok(relation) => relation.names,
                Err(_) => vec![entry.to_string()],
            })
            .collect();
        base.install.retain(stays);
        base.without.retain(stays);
        if let (Some(faults), true) = (faults.as_deref_mut(), before == base.install.len() + base.without.len()) {
            let message = format!("no base installs or keeps out {}", profile::document::quoted(removed));
            match suggest(removed, names.iter().map(String::as_str)) {
                Some(name) => faults.add_with_hint(removed.place(), message, format!("did you mean `{name}`?")),
                None => faults.add(removed.place(), message),
            }
        }
    }
}
