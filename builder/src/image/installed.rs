//! What dpkg's database inside a sealed root says (deb-control(5), dpkg(1) "status").

use std::collections::BTreeMap;

use trust::kubernetes::{self, ContainerImage, ContainerImages};

use crate::error::{Error, Kind, Result};
use crate::seal::read::Image;
use crate::tree::compose::SYSIMAGE;

/// Largest database file that is read, in bytes.
const LARGEST: u64 = 32 << 20;

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Bytes it takes unpacked, as it says itself.
    pub size: u64,
}

/// The packages of a root, by name.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn packages(root: &Image<'_>) -> Result<Vec<Installed>> {
    let path = format!("{SYSIMAGE}/status");
    let text = file(root, &path)?.ok_or_else(|| Error::new(Kind::Failed, format!("there is no /{path} in the root")))?;
    parse(&text).map_err(|error| error.context(format!("reading /{path}")))
}

/// Which package a path is of, by path without leading `/`, as the packages' lists write it.
///
/// # Errors
/// When the database cannot be read.
pub fn owners(root: &Image<'_>) -> Result<BTreeMap<String, String>> {
    let mut owners = BTreeMap::new();
    let folder = format!("{SYSIMAGE}/info");
    let Some(inode) = root.lookup(folder.as_bytes())? else { return Ok(owners) };
    for name in root.folder(&inode)? {
        let name_text = String::from_utf8_lossy(&name.name).into_owned();
        let Some(package) = name_text.strip_suffix(".list") else { continue };
        let package = package.split(':').next().unwrap_or(package);
        let bytes = root.read(&root.inode(name.nid)?, LARGEST)?;
        for path in String::from_utf8_lossy(&bytes).lines().filter_map(|line| line.strip_prefix('/')) {
            owners.insert(path.to_owned(), package.to_owned());
        }
    }
    Ok(owners)
}

/// The container images that a root brings along, by reference.
///
/// # Errors
/// When the list of them cannot be read.
pub fn container_images(root: &Image<'_>) -> Result<Vec<ContainerImage>> {
    let Some(text) = file(root, kubernetes::IMAGES)? else { return Ok(Vec::new()) };
    let wrong = |e| Error::new(Kind::Document, format!("/{} of the image: {e}", kubernetes::IMAGES));
    Ok(ContainerImages::parse(text.as_bytes()).map_err(wrong)?.images)
}

/// A small text file of a root; `None` where there is none.
///
/// # Errors
/// When it is larger than 32 MiB, or the image is wrong.
pub fn file(root: &Image<'_>, path: &str) -> Result<Option<String>> {
    let Some(inode) = root.lookup(path.as_bytes())? else { return Ok(None) };
    Ok(Some(String::from_utf8_lossy(&root.read(&inode, LARGEST)?).into_owned()))
}

/// The installed packages of a status file, by name and architecture.
fn parse(status: &str) -> Result<Vec<Installed>> {
    let mut packages = Vec::new();
    for (number, paragraph) in status.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).enumerate() {
        let field = |name: &str| {
            let value = |line: &str| {
                line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
            };
            paragraph.lines().find_map(value)
        };
        let needed = |name: &str| {
            field(name).ok_or_else(|| {
                Error::new(Kind::Document, format!("paragraph {}: expected a field {name}, found none", number + 1))
            })
        };
        if !field("Status").is_some_and(|status| status.ends_with(" installed")) {
            continue;
        }
        let kibibytes: u64 = field("Installed-Size").and_then(|text| text.parse().ok()).unwrap_or(0);
        packages.push(Installed {
            name: needed("Package")?,
            version: needed("Version")?,
            architecture: needed("Architecture")?,
            size: kibibytes.saturating_mul(1024),
        });
    }
    packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: b\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\nInstalled-Size: 4\nDescription: x\n Package: no\n\n\
            Package: a\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\nPackage: a2\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";
        let found = parse(status).unwrap();
        assert_eq!(
            found.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.size)).collect::<Vec<_>>(),
            [("a2", "1", 0), ("b", "1:2-3", 4096)]
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = parse("Package: a\nStatus: install ok installed\nArchitecture: all\n").unwrap_err();
        assert!(error.to_string().contains("paragraph 1: expected a field Version"), "{error}");
        assert!(parse("").unwrap().is_empty());
        assert_eq!(
            parse(
                "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nInstalled-Size: 99999999999999999999\n"
            )
            .unwrap()[0]
                .size,
            0
        );
    }
}
