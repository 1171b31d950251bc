//! The two digests of a definition. They see values only: no paths of the build host, no comments,
//! no places, no names of key and content files.
//!
//! Form: every text is its length (u64, little-endian) and its bytes, every number an i64, every
//! list its length and its entries, each section begins with its name. A change of the form makes
//! all locks stale: then raise the number in [`RESOLUTION`].

use trust::{Sha256, Sha256Digest};

use super::{Definition, FileContent};

const RESOLUTION: &str = "ingot resolution 1";
const DEFINITION: &str = "ingot definition 1";

/// Digest of what decides the choice of packages.
pub(super) fn resolution(definition: &Definition) -> Sha256Digest {
    let mut form = Form(Sha256::new());
    form.text(RESOLUTION);
    form.text(&definition.architecture);
    form.list(&definition.repositories, |form, repository| {
        form.text(&repository.name);
        form.text(&repository.url);
        form.texts(&repository.suites);
        form.texts(&repository.components);
        form.list(&repository.keys, |form, (_, key)| form.bytes(key));
        form.texts(&repository.fingerprints);
        form.number(repository.priority.into());
    });
    // The order in which packages are wished for decides nothing.
    let mut wanted: Vec<&str> = definition.install.iter().map(|wanted| wanted.relation.as_str()).collect();
    wanted.sort_unstable();
    form.texts(&wanted);
    let mut without = definition.without.clone();
    without.sort_unstable();
    form.texts(&without);
    form.list(&definition.pins, |form, pin| {
        form.text(&pin.package);
        form.option(pin.version.as_deref());
        form.option(pin.release.as_deref());
        form.number(pin.priority.into());
    });
    // Added later: locks of definitions without container images stay good.
    if definition.kubernetes.is_some() || !definition.containers.is_empty() {
        form.text("containers 1");
        form.list(definition.kubernetes.as_slice(), |form, kubernetes| {
            form.text(&kubernetes.version);
            form.texts(&kubernetes.images);
            form.option(kubernetes.image_repository.as_deref());
        });
        form.texts(&definition.containers);
    }
    form.0.finish()
}

/// Digest of everything, given that of the resolution.
pub(super) fn definition(definition: &Definition, resolution: Sha256Digest) -> Sha256Digest {
    let mut form = Form(Sha256::new());
    form.text(DEFINITION);
    form.bytes(resolution.as_bytes());
    form.text(&definition.name);
    form.text(&definition.version);
    form.option(definition.description.as_deref());
    form.text(match definition.role {
        super::Role::LoadBalancer => "load-balancer",
        super::Role::ControlPlane => "control-plane",
        super::Role::LinuxWorker => "linux-worker",
    });
    form.list(&definition.ids, |form, (name, number)| {
        form.text(name);
        form.number((*number).into());
    });
    form.list(&definition.files, |form, file| {
        form.text(&file.path);
        form.number(file.mode.into());
        form.text(&file.owner);
        form.text(&file.group);
        match &file.content {
            FileContent::Bytes(bytes) => {
                form.text("bytes");
                form.bytes(bytes);
            }
            FileContent::Link(target) => {
                form.text("link");
                form.text(target);
            }
            FileContent::Folder => form.text("folder"),
            // Follows from the lock, and comes after the digest was taken.
            FileContent::Joined(_) => form.text("joined"),
        }
    });
    form.texts(&definition.exclude);
    form.texts(&definition.keep);
    form.list(&definition.users, |form, user| {
        form.text(&user.name);
        form.number(user.uid.into());
        form.texts(&user.groups);
        form.text(&user.home);
        form.text(&user.shell);
    });
    form.texts(&definition.units.enable);
    form.texts(&definition.units.mask);
    form.text(&definition.units.default_target);
    form.texts(&definition.kernel.command_line);
    form.texts(&definition.kernel.initrd_modules);
    form.texts(&definition.kernel.keep_modules);
    let (disk, budgets) = (&definition.disk, &definition.budgets);
    for size in [
        Some(disk.esp),
        Some(disk.slot),
        Some(disk.verity),
        budgets.image,
        budgets.uki,
        budgets.root,
        budgets.container_images,
        budgets.slot_reserve,
    ] {
        form.option(size.map(|size| size.to_string()).as_deref());
    }
    form.0.finish()
}

struct Form(Sha256);

impl Form {
    fn number(&mut self, number: i64) {
        self.0.update(&number.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.0.update(&(length as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        self.list(text.as_slice(), |form, text| form.text(text));
    }

    fn texts<T: AsRef<str>>(&mut self, texts: &[T]) {
        self.list(texts, |form, text| form.text(text.as_ref()));
    }

    fn list<T>(&mut self, entries: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.length(entries.len());
        for entry in entries {
            one(self, entry);
        }
    }
}
