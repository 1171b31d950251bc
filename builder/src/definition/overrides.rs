//! What the command line puts in the place of a definition's own words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Definition, rules};
use crate::error::{Error, Kind, Result};
use crate::files;

/// Replacements for one run. They count as part of the definition: a lock made with them fits no other.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Base URLs by the name of their repository.
    pub(super) repositories: BTreeMap<String, String>,
    /// Key files and their content by the name of their repository.
    pub(super) keys: BTreeMap<String, Vec<(PathBuf, Vec<u8>)>>,
    /// [`super::Kubernetes::version`].
    pub(super) kubernetes: Option<String>,
}

impl Overrides {
    /// Reads `NAME=URL` words, `NAME=FILE` words and a version, as they were typed.
    ///
    /// # Errors
    /// [`Kind::Usage`] for words that are none; what reading a key file gives.
    pub fn new(repositories: &[String], keys: &[String], kubernetes: Option<&str>) -> Result<Self> {
        let mut overrides = Self { kubernetes: kubernetes.map(str::to_owned), ..Self::default() };
        if let Some(wrong) = kubernetes.filter(|version| !rules::KUBERNETES.holds(version)) {
            return Err(Error::new(Kind::Usage, rules::KUBERNETES.told(wrong)));
        }
        for word in repositories {
            let (name, url) = pair(word, "NAME=URL")?;
            if !rules::URL.holds(url) {
                return Err(Error::new(Kind::Usage, rules::URL.told(url)));
            }
            overrides.repositories.insert(name.to_owned(), url.trim_end_matches('/').to_owned());
        }
        for word in keys {
            let (name, file) = pair(word, "NAME=FILE")?;
            let bytes = files::read(Path::new(file))?;
            overrides.keys.entry(name.to_owned()).or_default().push((PathBuf::from(file), bytes));
        }
        Ok(overrides)
    }

    /// Refuses words that are about none of the definitions: most likely misspelt. Of several that are built together,
    /// each takes what is about it.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the names there are.
    pub fn check(&self, definitions: &[Definition]) -> Result<()> {
        let known: BTreeSet<&str> = definitions
            .iter()
            .flat_map(|definition| &definition.repositories)
            .map(|repository| repository.name.as_str())
            .collect();
        if let Some(name) = self.repositories.keys().chain(self.keys.keys()).find(|name| !known.contains(name.as_str())) {
            let known: Vec<&str> = known.into_iter().collect();
            return Err(Error::new(Kind::Usage, format!("there is no repository `{name}` in what is asked for"))
                .hint(format!("the repositories are: {}", known.join(", "))));
        }
        match &self.kubernetes {
            Some(version) if definitions.iter().all(|definition| definition.kubernetes.is_none()) => Err(Error::new(
                Kind::Usage,
                format!("nothing that is asked for holds a Kubernetes, so none of version {version}"),
            )
            .hint("leave --kubernetes out, or give the definition a section [kubernetes]")),
            _ => Ok(()),
        }
    }
}

fn pair<'a>(word: &'a str, form: &str) -> Result<(&'a str, &'a str)> {
    word.split_once('=')
        .filter(|(name, value)| rules::NAME.holds(name) && !value.is_empty())
        .ok_or_else(|| Error::new(Kind::Usage, format!("expected {form}, found `{word}`")))
}
