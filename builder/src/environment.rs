//! The only reader of the environment and the clock: everything else takes values.

use std::path::PathBuf;

use crate::epoch::Epoch;
use crate::error::{Error, Kind, Result};

/// What the surroundings say, before the command line has its word.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `INGOT_CACHE`, else `$XDG_CACHE_HOME/ingot`, else `~/.cache/ingot`: the store and the caches.
    pub cache: PathBuf,
    /// `INGOT_KEYS`, else `$XDG_DATA_HOME/ingot/keys`, else `~/.local/share/ingot/keys`.
    pub keys: PathBuf,
    /// `INGOT_MIRROR`: `NAME=URL` words, or one URL for the Debian repositories.
    pub mirrors: Vec<String>,
    /// `INGOT_REGISTRY`: `REGISTRY=URL` words, or one URL for all registries.
    pub registries: Vec<String>,
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`: credentials for registries, where the file is there.
    pub registry_auth: Option<PathBuf>,
    /// `SOURCE_DATE_EPOCH` in seconds.
    pub epoch: Option<Epoch>,
    /// Seconds since 1970 now: for the validity of repository signatures only, never for an output.
    pub now: Epoch,
    /// `SSH_AUTH_SOCK`: where a signing agent listens.
    pub agent: Option<PathBuf>,
}

impl Environment {
    /// Reads it once, at the start of the program.
    ///
    /// # Errors
    /// [`Kind::Usage`] where a variable is set to what it cannot be, or neither `HOME` nor a cache folder is given.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment and the clock")]
    pub fn read() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from);
        let folder = |own: &str, xdg: &str, below_home: &str, name: &str| {
            variable(own)
                .map(PathBuf::from)
                .or_else(|| variable(xdg).map(|base| PathBuf::from(base).join("ingot").join(name)))
                .or_else(|| home.as_ref().map(|home| home.join(below_home).join("ingot").join(name)))
                .ok_or_else(|| {
                    Error::new(Kind::Usage, format!("neither {own} nor HOME is set"))
                        .hint(format!("set {own} to a folder ingot may use"))
                })
        };
        let epoch = variable("SOURCE_DATE_EPOCH")
            .map(|text| {
                text.parse().map(Epoch).map_err(|_| {
                    Error::new(Kind::Usage, format!("SOURCE_DATE_EPOCH is `{text}`, expected seconds since 1970"))
                        .hint("unset it, or set a whole number")
                })
            })
            .transpose()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let words = |name: &str| variable(name).map(|text| text.split_whitespace().map(str::to_owned).collect());
        let docker = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".docker")));
        Ok(Self {
            cache: folder("INGOT_CACHE", "XDG_CACHE_HOME", ".cache", "")?,
            keys: folder("INGOT_KEYS", "XDG_DATA_HOME", ".local/share", "keys")?,
            mirrors: words("INGOT_MIRROR").unwrap_or_default(),
            registries: words("INGOT_REGISTRY").unwrap_or_default(),
            registry_auth: docker.map(|folder| folder.join("config.json")).filter(|file| file.is_file()),
            epoch,
            now: Epoch(now),
            agent: variable("SSH_AUTH_SOCK").map(PathBuf::from),
        })
    }
}
