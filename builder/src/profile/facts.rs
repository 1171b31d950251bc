//! What an image says that its profiles must fit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use profile::cluster::Version;
use trust::kubernetes::{KUBERNETES, Kubernetes};
use trust::{AllowedSigners, RevokedKeys};

use crate::disk::PartitionType;
use crate::error::{Context, Error, Kind, Result};
use crate::export::Format;
use crate::image::appliance::Appliance;
use crate::image::{Image, ReadAt, installed};
use crate::seal::read;

/// Who may sign.
const SIGNERS: &str = "usr/share/ingot/trust/allowed_signers";
/// Who may no longer.
const REVOKED: &str = "usr/share/ingot/trust/revoked_keys";
/// Its presence lets unsigned profiles in.
const UNSIGNED: &str = "usr/share/ingot/trust/unsigned-profiles-allowed";

/// An image, as far as profiles have to do with it.
#[derive(Debug, Clone, Default)]
pub struct ImageFacts {
    /// `IMAGE_ID` and `IMAGE_VERSION`, or the file's name.
    pub title: String,
    /// The role it is made for.
    pub role: Option<String>,
    /// Kubernetes version of its packages.
    pub kubernetes: Option<Version>,
    /// Who may sign profiles.
    pub signers: AllowedSigners,
    /// Who may no longer.
    pub revoked: RevokedKeys,
    /// Whether it takes profiles without a signature.
    pub takes_unsigned: bool,
    /// Names of its kernel modules, built in or not, with `_` for `-`.
    pub modules: BTreeSet<String>,
    /// Names of the programs in /usr/bin and /usr/sbin.
    pub programs: BTreeSet<String>,
    /// Names of users and of groups.
    pub accounts: (BTreeSet<String>, BTreeSet<String>),
    /// Bytes of the disk before the state partition begins, once slot B is there.
    pub before_state: u64,
}

impl ImageFacts {
    /// Reads an image, or the first image of a release folder. Signatures of the image are `ingot verify`'s to check.
    ///
    /// # Errors
    /// When it is no image of ours, or what it holds cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let path = image_file(path)?;
        let image = Image::open(&path)?;
        let appliance = Appliance::open(&image)?;
        let (data, _) = appliance.sealed()?;
        let root = read::Image::open(&data)?;
        let doing = || format!("reading the root of {}", path.display());
        let mut facts = Self::of_root(&root).context(doing())?;
        let esp = appliance.partition(PartitionType::Esp)?.size();
        facts.before_state = before_state(&root, esp).context(doing())?;
        if facts.title.is_empty() {
            facts.title = path.display().to_string();
        }
        Ok(facts)
    }

    fn of_root(root: &read::Image<'_>) -> Result<Self> {
        let text = |path: &str| installed::file(root, path);
        let release = text("usr/lib/os-release")?.unwrap_or_default();
        let id = value(&release, "IMAGE_ID");
        let title = [id.clone(), value(&release, "IMAGE_VERSION")].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let role = text("usr/share/ingot/role")?.map(|role| role.trim().to_owned()).filter(|role| !role.is_empty());
        // As on the machine: an image named after a role is made for it.
        let named = id.filter(|id| ["load-balancer", "control-plane", "linux-worker", "windows-worker"].contains(&id.as_str()));
        let wrong = |path: &str, e: &dyn std::fmt::Display| Error::new(Kind::Document, format!("/{path} of the image: {e}"));
        let signers = text(SIGNERS)?
            .ok_or_else(|| Error::new(Kind::Untrusted, format!("the image has no /{SIGNERS}: it takes no signed profile")))?;
        Ok(Self {
            title,
            role: role.or(named),
            kubernetes: kubernetes(text(KUBERNETES)?.as_deref())?,
            signers: AllowedSigners::parse(&signers).map_err(|e| wrong(SIGNERS, &e))?,
            revoked: RevokedKeys::parse(&text(REVOKED)?.unwrap_or_default()).map_err(|e| wrong(REVOKED, &e))?,
            takes_unsigned: text(UNSIGNED)?.is_some(),
            modules: modules(root)?,
            programs: names(root, "usr/bin")?.into_iter().chain(names(root, "usr/sbin")?).collect(),
            accounts: (accounts(text("etc/passwd")?.as_deref()), accounts(text("etc/group")?.as_deref())),
            before_state: 0,
        })
    }
}

/// The image itself, or the first one of a release folder.
fn image_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("reading the folder", path, &e))?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    found.sort();
    let of = |format: Format| found.iter().find(|file| file.extension().is_some_and(|end| end == format.extension()));
    let image = [Format::Raw, Format::Qcow2, Format::Vhdx].into_iter().find_map(of);
    image.cloned().ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} holds no raw, qcow2 or VHDX image", path.display()))
            .hint("name a release folder of `ingot build`, or an image")
    })
}

fn value(release: &str, key: &str) -> Option<String> {
    let found = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(found.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

fn kubernetes(text: Option<&str>) -> Result<Option<Version>> {
    let Some(text) = text else { return Ok(None) };
    let wrong = |why: &str| Error::new(Kind::Document, format!("/{KUBERNETES} of the image: {why}"));
    let found = Kubernetes::parse(text.as_bytes()).map_err(|e| wrong(&e.to_string()))?;
    found.version.parse().map(Some).map_err(|()| wrong("it names no version"))
}

/// The names in a folder of the root; none where there is no folder.
fn names(root: &read::Image<'_>, folder: &str) -> Result<Vec<String>> {
    let Some(inode) = root.lookup(folder.as_bytes())? else { return Ok(Vec::new()) };
    Ok(root.folder(&inode)?.into_iter().map(|name| String::from_utf8_lossy(&name.name).into_owned()).collect())
}

/// Every kernel's `modules.dep` and `modules.builtin` (depmod(8)): paths whose last part is `name.ko`.
fn modules(root: &read::Image<'_>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for kernel in names(root, "usr/lib/modules")?.into_iter().filter(|name| !name.starts_with('.')) {
        for list in ["modules.dep", "modules.builtin"] {
            let text = installed::file(root, &format!("usr/lib/modules/{kernel}/{list}"))?.unwrap_or_default();
            let name = |line: &str| Some(line.split(':').next()?.rsplit('/').next()?.split(".ko").next()?.replace('-', "_"));
            found.extend(text.lines().filter_map(name).filter(|name| !name.is_empty()));
        }
    }
    Ok(found)
}

fn accounts(text: Option<&str>) -> BTreeSet<String> {
    text.unwrap_or_default().lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
}

/// What the image's repart.d(5) files reserve before the state partition, with the table's own room.
fn before_state(root: &read::Image<'_>, esp: u64) -> Result<u64> {
    /// First partition at 1 MiB, backup table and alignment at the end.
    const TABLES: u64 = 2 << 20;
    let mut sum = TABLES;
    for name in names(root, "usr/lib/repart.d")?.into_iter().filter(|name| name.ends_with(".conf") && !name.contains("state")) {
        let text = installed::file(root, &format!("usr/lib/repart.d/{name}"))?.unwrap_or_default();
        let size = text.lines().find_map(|line| line.strip_prefix("SizeMinBytes=")?.trim().parse::<u64>().ok());
        sum = sum.saturating_add(size.unwrap_or(if text.contains("Type=esp") { esp } else { 0 }));
    }
    Ok(sum)
}
