//! What the installer wrote: `/etc/ingot/agent.json`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use profile::address::{Endpoint, Range};
use serde::Deserialize;

use crate::pool::Pool;
use crate::trouble::{Kind, Trouble};

/// Where it is.
pub const CONFIG: &str = "/etc/ingot/agent.json";

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    schema: u32,
    cluster: String,
    endpoint: String,
    ca_file: PathBuf,
    token_file: PathBuf,
    virtual_address: IpAddr,
    pool: Vec<WrittenRange>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRange {
    range: String,
    #[serde(default)]
    interface: Option<String>,
}

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// Where its API is.
    pub endpoint: Endpoint,
    /// Its CA, PEM.
    pub ca_file: PathBuf,
    /// Who we are. Its content is a secret.
    pub token_file: PathBuf,
    /// Who has it decides.
    pub virtual_address: IpAddr,
    /// Addresses of Services.
    pub pool: Pool,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// It is not there, or not what the installer writes.
    pub fn read(path: &Path) -> Result<Self, Trouble> {
        let wrong = |what: String| Trouble::new(Kind::Configuration, format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Reads its text.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if written.schema != 1 {
            return Err(format!("schema: found {}, expected 1", written.schema));
        }
        let endpoint =
            written.endpoint.parse().map_err(|()| format!("endpoint: found {:?}, expected HOST:PORT", written.endpoint))?;
        let mut ranges: Vec<(Range, Option<String>)> = Vec::new();
        for WrittenRange { range, interface } in written.pool {
            let parsed = range.parse().map_err(|()| format!("pool: found {range:?}, expected FIRST-LAST"))?;
            if let Some(name) = interface.as_ref().filter(|name| !plain(name)) {
                return Err(format!("pool: found the interface {name:?}, expected 1 to 15 letters, digits, `-`, `_`, `.`"));
            }
            ranges.push((parsed, interface));
        }
        let cluster = written.cluster;
        if !crate::ask::label(&cluster) {
            return Err(format!("cluster: found {cluster:?}, expected lower-case letters, digits and `-`"));
        }
        let Written { ca_file, token_file, virtual_address, .. } = written;
        Ok(Self { cluster, endpoint, ca_file, token_file, virtual_address, pool: Pool::of(ranges) })
    }
}

fn plain(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
