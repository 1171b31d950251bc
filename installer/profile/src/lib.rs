//! The profile of a machine: what an operator writes, checked. No I/O, no clock, no processes.
//!
//! ```toml
//! schema = 1
//! [node]
//! name = "lb-1"
//! role = "load-balancer"
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`profile`] | the whole profile, [`Profile::parse`] |
//! | [`node`] | `[node]` |
//! | [`cluster`], [`api_server`] | `[cluster]`, `[cluster.api_server]` |
//! | [`management`] | `[cluster.management]`, `[cluster.registrar]` |
//! | [`network`] | `[network]`, `[[interface]]` |
//! | [`access`] | `[time]`, `[access]` |
//! | [`registry`] | `[[registry]]`, `[proxy]` |
//! | [`machine`] | `[disks]`, `[kernel]`, `[kubelet]` |
//! | [`load_balancer`] | `[load_balancer]` |
//! | [`conceal`] | a profile without its secrets, for other eyes |
//! | [`files`] | `[[file]]`, `[report]` |
//! | [`sealed`] | the encrypted part of a profile, and the keys for it |
//! | [`secret`] | values that never print |
//! | [`address`] | prefixes, ranges, endpoints |
//! | `check`, [`rules`] | what all sections are checked with |
//! | [`document`] | strict TOML for every document of ingot: all faults at once, with places and hints |
//! | [`rule`] | rules for texts |
//! | [`size`] | sizes in bytes as people write them |
//! | `schema` | JSON Schema, with the feature `schema` |
//!
//! Each section has a type as it is written (serde, with places) and a validated one.

pub mod access;
pub mod address;
pub mod api_server;
mod check;
pub mod cluster;
pub mod conceal;
pub mod document;
pub mod files;
pub mod load_balancer;
pub mod machine;
pub mod management;
pub mod network;
pub mod node;
pub mod profile;
pub mod registry;
pub mod rule;
pub mod rules;
#[cfg(any(test, feature = "schema"))]
pub mod schema;
pub mod sealed;
pub mod secret;
pub mod size;
#[cfg(test)]
mod tests;

pub use profile::{Profile, Refused};
