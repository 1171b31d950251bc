//! Control plane and Linux worker.

use crate::failure::Result;
use crate::plan::Input;
use crate::steps::Step;

/// The steps of a node.
///
/// # Errors
/// Profile and machine do not fit.
pub fn steps(_input: Input<'_>) -> Result<Vec<Step>> {
    Ok(Vec::new())
}
