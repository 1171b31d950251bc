//! What a machine becomes.

pub mod load_balancer;
