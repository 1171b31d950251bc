//! The agent of a load balancer (DESIGN.md 6): Services of type LoadBalancer get an address of the profile's pool, rules
//! in HAProxy, and keepalived has their addresses wherever it has the virtual one.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what the installer wrote: endpoint, CA, token, pool |
//! | [`ask`] | what of a Service and a Node counts here |
//! | [`pool`] | the addresses; who gets which |
//! | [`rules`] | from Services and Nodes to what is balanced; pure |
//! | [`text`] | the rules as HAProxy and keepalived read them; pure |
//! | [`change`] | from the former rules to the new ones: commands or a reload |
//! | [`programs`] | HAProxy and keepalived: checked, then told |
//! | [`pace`] | how long a change waits for others |
//! | [`api`] | the client, status and events of Services |
//! | [`trouble`], [`report`] | what is not well, told to the journal and in `/run/ingot/agent.json` |
//! | [`serve`] | all of it together |
//!
//! **Two balancers, one state.** Both watch the API and load the same rules. The one that has the virtual address gives
//! addresses away and writes them into `status.loadBalancer`, whose truth the other follows; so an address is the same
//! on both before a client can know it. HAProxy listens on addresses that it does not have (`transparent`), keepalived
//! moves all of them together with the virtual one.
//!
//! **Without the API** the rules stand as they are: HAProxy's own checks find nodes that are gone. They outlive a
//! restart of the agent (`/run/ingot/services`) and of the machine (a copy in `/var/lib/ingot-agent`).
//!
//! **Nodes are checked once**, not once for each Service: all servers track those of one backend, which asks kube-proxy
//! (`/healthz` on port 10256, as cloud balancers do). Services with `externalTrafficPolicy: Local` ask their own
//! `healthCheckNodePort`.

pub mod api;
pub mod ask;
pub mod change;
pub mod config;
pub mod pace;
pub mod pool;
pub mod programs;
pub mod report;
pub mod rules;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod text;
pub mod trouble;
