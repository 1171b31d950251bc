//! What the command line and the environment together ask for.

use std::path::PathBuf;

use crate::cli::arguments::{Arguments, NetworkArguments, OverrideArguments};
use crate::definition::Overrides;
use crate::environment::Environment;
use crate::error::{Error, Kind, Result};
use crate::fetch::{Mirrors, Network, Options, Registries};
use crate::files;
use crate::keys::KeySet;
use crate::progress::Progress;

/// The surroundings of one run.
#[derive(Debug)]
pub struct Settings {
    /// What the environment says.
    pub environment: Environment,
    /// Folder of the store and the caches.
    pub cache: PathBuf,
    /// Print results as JSON.
    pub json: bool,
}

impl Settings {
    /// The environment, overridden by what was typed.
    ///
    /// # Errors
    /// Those of [`Environment::read`].
    pub fn new(arguments: &Arguments) -> Result<Self> {
        let environment = Environment::read()?;
        let cache = arguments.cache.clone().unwrap_or_else(|| environment.cache.clone());
        let cache = std::path::absolute(&cache).map_err(|e| Error::io("finding", &cache, &e))?;
        Ok(Self { environment, cache, json: arguments.json })
    }

    /// The network as far as it may be used.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a mirror that is none.
    pub fn network(&self, typed: &NetworkArguments) -> Result<Network> {
        let words: Vec<&String> = self.environment.mirrors.iter().chain(&typed.mirror).collect();
        let mirrors = Mirrors::parse(&words)?;
        let words: Vec<&String> = self.environment.registries.iter().chain(&typed.registry).collect();
        let mut registries = Registries::parse(&words)?;
        if let Some(file) = typed.registry_auth.as_ref().or(self.environment.registry_auth.as_ref()) {
            registries = registries.with_logins(&file.display().to_string(), &files::read(file)?)?;
        }
        Ok(Network::new(Options {
            mirrors,
            registries,
            offline: typed.offline,
            jobs: typed.downloads.into(),
            ..Options::default()
        }))
    }

    /// What was typed in the place of a definition's own words.
    ///
    /// # Errors
    /// [`Kind::Usage`] for words that are none.
    pub fn overrides(&self, typed: &OverrideArguments) -> Result<Overrides> {
        Overrides::new(&typed.repository, &typed.repository_key, typed.kubernetes.as_deref())
    }

    /// The folder of the keys.
    pub fn keys_folder(&self, typed: Option<&PathBuf>) -> PathBuf {
        typed.cloned().unwrap_or_else(|| self.environment.keys.clone())
    }

    /// The keys: those of a folder that was named must be there, the default ones are made as
    /// development keys when missing. With `agent` the release key is asked of the ssh-agent.
    ///
    /// # Errors
    /// Those of [`KeySet`]; [`Kind::Missing`] for an agent that is not there.
    pub fn keys(&self, typed: Option<&PathBuf>, agent: bool, progress: &dyn Progress) -> Result<KeySet> {
        let folder = self.keys_folder(typed);
        let agent = agent || (folder.join("release.pub").exists() && !folder.join("release").exists());
        let socket = self.environment.agent.as_deref().filter(|_| agent);
        if agent && socket.is_none() {
            return Err(Error::new(Kind::Missing, "SSH_AUTH_SOCK names no ssh-agent")
                .hint("start one (`eval $(ssh-agent)`), then `ssh-add` the release key"));
        }
        match typed {
            Some(folder) => KeySet::load(folder, socket),
            None => KeySet::load_or_develop(&self.environment.keys, socket, progress),
        }
    }
}
