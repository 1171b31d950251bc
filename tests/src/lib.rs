//! What the end-to-end tests share: the programs as `ci/compile` made them, one release of the
//! load balancer built once for all tests, the judges of the oracle root, and virtual machines.
//!
//! | module | what it holds |
//! |---|---|
//! | [`programs`] | running `ingot` and the reference tools |
//! | [`fixture`] | releases that are built once and shared between test processes |
//! | [`cluster`] | the plan of a cluster: profiles, and machines made of them |
//! | [`hardening`] | what the CIS benchmark asks of a running node |
//! | [`kubernetes`] | real Kubernetes, and releases of its roles |
//! | [`profiles`] | signed profiles, and the servers machines talk to |
//! | [`machine`] | a virtual machine started by `ingot boot`, and what its console says |
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

pub mod cluster;
pub mod fixture;
pub mod hardening;
pub mod kubernetes;
pub mod machine;
pub mod network;
pub mod node;
pub mod profiles;
pub mod programs;
