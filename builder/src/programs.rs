//! The programs of ours that go into images: static, made by `ci/compile`, in one folder.

use std::path::Path;

use crate::definition::Role;
use crate::error::Result;
use crate::files;

/// Where the installer lies in an image.
pub const INSTALLER: &str = "/usr/bin/ingot-installer";

/// Where the agent for Services lies in the image of a load balancer.
pub const AGENT: &str = "/usr/bin/ingot-agent";

/// What one image takes.
#[derive(Debug)]
pub struct Programs {
    /// The initrd program, `ingot-init`.
    pub init: Vec<u8>,
    /// What lies in the root: path, bytes.
    pub root: Vec<(&'static str, Vec<u8>)>,
}

impl Programs {
    /// Those in `folder` that images of this role take.
    ///
    /// # Errors
    /// One is not there.
    pub fn read(folder: &Path, role: Role) -> Result<Self> {
        let read = |name: &str| {
            files::read(&folder.join(name))
                .map_err(|e| e.hint("ci/compile puts the programs of images beside `ingot`; --programs names another folder"))
        };
        let mut root = vec![(INSTALLER, read("ingot-installer")?)];
        if role == Role::LoadBalancer {
            root.push((AGENT, read("ingot-agent")?));
        }
        Ok(Self { init: read("ingot-init")?, root })
    }

    /// All bytes, for a fingerprint.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.init).chain(self.root.iter().map(|(_, bytes)| bytes)).map(Vec::as_slice)
    }
}
