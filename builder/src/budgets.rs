//! Limits that stop a build.

use std::collections::BTreeMap;

use crate::definition::Definition;
use crate::error::{Error, Kind, Result};

/// What a build measured, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Raw image without its holes.
    pub image: u64,
    /// UKI.
    pub uki: u64,
    /// Sealed root.
    pub root: u64,
    /// The container images inside it; 0 where there are none.
    pub container_images: u64,
}

impl Measured {
    /// By the names that budgets have.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::from([("uki", self.uki), ("root", self.root), ("image", self.image)]);
        if self.container_images > 0 {
            all.insert("container_images", self.container_images);
        }
        all
    }
}

/// Compares what was measured with the definition's budgets; what is not known yet is 0 and passes.
///
/// # Errors
/// [`Kind::Document`] naming every budget that is broken, and by how much.
pub fn check(definition: &Definition, measured: Measured) -> Result<()> {
    let budgets = &definition.budgets;
    let mut broken = Vec::new();
    for (name, limit, value) in [
        ("image", budgets.image, measured.image),
        ("uki", budgets.uki, measured.uki),
        ("root", budgets.root, measured.root),
        ("container_images", budgets.container_images, measured.container_images),
    ] {
        if let Some(limit) = limit.filter(|limit| value > *limit) {
            broken.push(format!("{name} has {} and may have {}: {} too many", size(value), size(limit), size(value - limit)));
        }
    }
    let free = definition.disk.slot.saturating_sub(measured.root);
    if let Some(reserve) = budgets.slot_reserve.filter(|reserve| measured.root > 0 && free < *reserve) {
        broken.push(format!(
            "slot_reserve: {} stay free in the slot of {}, {} must",
            size(free),
            size(definition.disk.slot),
            size(reserve)
        ));
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Document, format!("the budgets of `{}` are broken: {}", definition.name, broken.join("; ")))
        .hint("`ingot inspect` on the last release shows what is large; leave it out with `exclude`, or raise the limit under [budgets]"))
}

/// Bytes as people read them: `17.9 MiB`, and `4 MiB` where it is whole.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10).min(4);
    let whole = bytes >> (10 * unit);
    let tenths = ((bytes & ((1 << (10 * unit)) - 1)) * 10) >> (10 * unit);
    let name = UNITS.get(unit as usize).copied().unwrap_or("bytes");
    if tenths == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenths} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (4 << 20, "4 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
