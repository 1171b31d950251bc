//! The text of a lock: TOML, one line per release and per package, sorted, so that a change of one
//! package is a change of one line.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use trust::Sha256Digest;

use super::containers::{self, Containers, LockedKubernetes};
use super::index::is_safe_path;
use super::{Lock, LockedPackage, LockedRelease, relation, version};
use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

const FORMAT: u32 = 1;
/// No .deb of Debian comes near this many bytes.
const SIZE_LIMIT: u64 = 16 << 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: Spanned<u32>,
    resolution: Sha256Digest,
    architecture: Spanned<String>,
    epoch: u64,
    #[serde(default)]
    releases: Vec<Spanned<WrittenRelease>>,
    #[serde(default)]
    packages: Vec<Spanned<WrittenPackage>>,
    kubernetes: Option<LockedKubernetes>,
    #[serde(default)]
    container_images: Vec<Spanned<containers::WrittenImage>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRelease {
    repository: String,
    suite: String,
    date: u64,
    sha256: Sha256Digest,
    signed_by: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPackage {
    name: String,
    version: String,
    architecture: String,
    repository: String,
    suite: String,
    path: String,
    size: u64,
    sha256: Sha256Digest,
    because: String,
}

impl Lock {
    /// The text form. Equal locks give equal bytes.
    pub fn to_text(&self) -> String {
        let mut text = String::from("# made by `ingot lock`, do not edit\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "format = {FORMAT}");
        let _ = writeln!(text, "resolution = \"{}\"", self.resolution);
        let _ = writeln!(text, "architecture = {}", quote(&self.architecture));
        let _ = writeln!(text, "epoch = {} # {}", self.epoch.0, self.epoch);
        text.push_str("\nreleases = [\n");
        for release in &self.releases {
            let LockedRelease { repository, suite, date, sha256, signed_by } = release;
            let (repository, suite, signed_by) = (quote(repository), quote(suite), quote(signed_by));
            let _ = writeln!(
                text,
                "  {{ repository = {repository}, suite = {suite}, date = {}, sha256 = \"{sha256}\", signed_by = {signed_by} }}, # {date}",
                date.0
            );
        }
        text.push_str("]\n\npackages = [\n");
        for package in &self.packages {
            let LockedPackage { size, sha256, .. } = package;
            let [name, version, architecture, repository, suite, path, because] = [
                &package.name,
                &package.version,
                &package.architecture,
                &package.repository,
                &package.suite,
                &package.path,
                &package.because,
            ]
            .map(|value| quote(value));
            let _ = writeln!(
                text,
                "  {{ name = {name}, version = {version}, architecture = {architecture}, because = {because}, \
                 repository = {repository}, suite = {suite}, path = {path}, size = {size}, sha256 = \"{sha256}\" }},"
            );
        }
        text.push_str("]\n");
        containers::write(&self.containers, &mut text);
        text
    }

    /// Reads the text form; `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`Kind::Document`] with file, line and column: no TOML, unknown keys, another format, values
    /// out of bounds, paths that leave the repository, packages that are not sorted and distinct.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let fail = |span: Option<Range<usize>>, why: String| {
            let place = span.map_or(String::new(), |span| position(text, span.start));
            Error::new(Kind::Document, format!("{name}{place}: {why}")).hint("make it again with `ingot lock`")
        };
        let written: Written = toml::from_str(text).map_err(|e| fail(e.span(), e.message().to_owned()))?;
        if *written.format.get_ref() != FORMAT {
            let why = format!("format {} of the lock, expected {FORMAT}", written.format.get_ref());
            return Err(fail(Some(written.format.span()), why));
        }
        let architecture = written.architecture.get_ref();
        if !relation::is_name(architecture) {
            return Err(fail(Some(written.architecture.span()), format!("`{architecture}` is no architecture")));
        }
        let mut places = BTreeSet::new();
        let mut releases: Vec<LockedRelease> = Vec::new();
        for release in written.releases {
            let span = Some(release.span());
            let release = check_release(release.into_inner()).map_err(|why| fail(span.clone(), why))?;
            if !places.insert((release.repository.clone(), release.suite.clone())) {
                return Err(fail(span, format!("{} {} is there twice", release.repository, release.suite)));
            }
            releases.push(release);
        }
        let mut packages: Vec<LockedPackage> = Vec::new();
        for package in written.packages {
            let span = Some(package.span());
            let package = check_package(package.into_inner(), architecture).map_err(|why| fail(span.clone(), why))?;
            if packages.last().is_some_and(|last| last.name >= package.name) {
                return Err(fail(span, format!("{}: packages must be sorted by name, each once", package.name)));
            }
            if !places.contains(&(package.repository.clone(), package.suite.clone())) {
                let why = format!("{}: no release `{} {}` is locked", package.name, package.repository, package.suite);
                return Err(fail(span, why));
            }
            packages.push(package);
        }
        let (mut images, mut seen) = (Vec::new(), BTreeSet::new());
        for image in written.container_images {
            let span = Some(image.span());
            images.push(containers::check(image.into_inner(), &mut seen).map_err(|why| fail(span, why))?);
        }
        let containers = Containers { kubernetes: written.kubernetes, images };
        let (resolution, epoch) = (written.resolution, Epoch(written.epoch));
        Ok(Self { resolution, architecture: written.architecture.into_inner(), epoch, releases, packages, containers })
    }
}

fn check_release(written: WrittenRelease) -> Result<LockedRelease, String> {
    let WrittenRelease { repository, suite, date, sha256, signed_by } = written;
    let digits = !signed_by.is_empty() && signed_by.bytes().all(|c| c.is_ascii_hexdigit());
    if !relation::is_name(&repository) || !is_suite(&suite) || !digits {
        return Err(format!("`{repository}` `{suite}` signed by `{signed_by}` is no release"));
    }
    Ok(LockedRelease { repository, suite, date: Epoch(date), sha256, signed_by })
}

fn check_package(written: WrittenPackage, native: &str) -> Result<LockedPackage, String> {
    let WrittenPackage { name, version, architecture, repository, suite, path, size, sha256, because } = written;
    let complaint = if !relation::is_name(&name) {
        "this is no package name".to_owned()
    } else if !version::is_valid(&version) {
        format!("`{version}` is no version")
    } else if architecture != native && architecture != "all" {
        format!("architecture `{architecture}`, expected `{native}` or `all`")
    } else if !is_safe_path(&path) {
        format!("`{path}` is no path below a repository")
    } else if size == 0 || size > SIZE_LIMIT {
        format!("a size of {size} bytes, expected 1 to {SIZE_LIMIT}")
    } else if !relation::is_name(&because) {
        format!("`{because}` is no reason")
    } else {
        return Ok(LockedPackage { name, version, architecture, repository, suite, path, size, sha256, because });
    };
    Err(format!("{name}: {complaint}"))
}

fn is_suite(suite: &str) -> bool {
    matches!(suite, "/" | "./") || is_safe_path(suite.trim_end_matches('/'))
}

/// `:line:column`, both from 1.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(":{line}:{column}")
}

/// A TOML string (TOML 1.0, basic strings).
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[path = "file_tests.rs"]
pub(super) mod tests;
