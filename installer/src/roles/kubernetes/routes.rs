//! Routes to the pods of other nodes, for the built-in bridge: `ingot-installer pod-routes` asks the cluster every ten
//! seconds which node has which network of pods, and keeps the kernel's table so. Where the cluster does not answer, the
//! last routes stand. Before all that it brings this node's own bridge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use profile::address::{Endpoint, Prefix};
use serde_json::Value;

use super::api::{self, Answer, As};
use super::cni::{self, given};
use super::containerd::NETWORKS;
use crate::failure::{Failure, Result};
use crate::machine::{Command, Machine, run};
use crate::report::codes;
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, UnitAction};

const UNIT: &str = "ingot-pod-routes.service";
const FOLDER: &str = "/etc/systemd/system";

/// Marks our routes (rtnetlink(7), `rtm_protocol`): a number that no routing program has.
const PROTOCOL: &str = "177";

/// Between questions.
const AGAIN: Duration = Duration::from_secs(10);

/// The step `pod-routes`: the unit that keeps them.
pub fn unit(wanted: bool, endpoint: &Endpoint, node: &str) -> Files {
    let text = format!(
        "# Made by ingot-installer.\n[Unit]\nDescription=Routes to the pods of other nodes\nAfter=network.target\n\n[Service]\n\
        ExecStart=/usr/bin/ingot-installer pod-routes {} {node}\nRestart=always\nRestartSec=10\n\
        CapabilityBoundingSet=CAP_NET_ADMIN\nNoNewPrivileges=yes\nProtectSystem=strict\nReadWritePaths=-{}\nProtectHome=yes\n\
        RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX\nMemoryDenyWriteExecute=yes\nLockPersonality=yes\n",
        api::host(endpoint),
        NETWORKS
    );
    let path = format!("{FOLDER}/{UNIT}");
    let files = if wanted { vec![Wanted::public(path, text)] } else { vec![] };
    let files = Files::of(files).sweep(FOLDER, UNIT).tell(UnitAction::new(How::ReadUnits, ""));
    if wanted {
        files.tell(UnitAction::new(How::Restart, UNIT)).tell(UnitAction::new(How::Start, UNIT))
    } else {
        files.tell(UnitAction::new(How::Stop, UNIT))
    }
}

/// Networks and the addresses of the nodes that have them.
type Routes = BTreeMap<String, IpAddr>;

/// Those of all nodes but this one.
fn wanted(list: &Value, own: &str) -> Routes {
    let mut routes = Routes::new();
    for node in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        if node.pointer("/metadata/name").is_none_or(|name| name == own) {
            continue;
        }
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
        let internal = addresses.filter(|address| address.get("type").is_some_and(|kind| kind == "InternalIP"));
        let internal: Vec<IpAddr> = internal.filter_map(|address| address.get("address")?.as_str()?.parse().ok()).collect();
        for subnet in given(node) {
            let near = |address: &&IpAddr| address.is_ipv4() == subnet.address().is_ipv4();
            if let Some(address) = internal.iter().find(near) {
                routes.insert(subnet.to_string(), *address);
            }
        }
    }
    routes
}

/// What `ip -j route show` wrote.
fn present(text: &str) -> Routes {
    let entries: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
    let route = |entry: &Value| {
        // A network of one address is shown without its length.
        let dst = entry.get("dst")?.as_str()?;
        let length = if dst.contains(':') { 128 } else { 32 };
        let dst = if dst.contains('/') { dst.to_owned() } else { format!("{dst}/{length}") };
        let subnet: Prefix = dst.parse().ok()?;
        Some((subnet.to_string(), entry.get("gateway")?.as_str()?.parse().ok()?))
    };
    entries.iter().filter_map(route).collect()
}

fn ip(arguments: &[&str]) -> Command {
    Command::new("/usr/bin/ip", arguments)
}

/// Changes the kernel's table to these; a route that it does not take is told and left out.
fn set(machine: &dyn Machine, wanted: &Routes) -> Result<()> {
    let mut found = Routes::new();
    for family in ["-4", "-6"] {
        found.extend(present(&run(machine, &ip(&["-j", family, "route", "show", "proto", PROTOCOL]))?.out));
    }
    for (subnet, address) in wanted.iter().filter(|(subnet, address)| found.get(*subnet) != Some(address)) {
        let replaced = run(machine, &ip(&["route", "replace", subnet, "via", &address.to_string(), "proto", PROTOCOL]));
        match replaced {
            Ok(_) => machine.say(&format!("the pods of {subnet} are behind {address}")),
            Err(failure) => machine.say(&format!("the pods of {subnet} cannot be reached: {failure}")),
        }
    }
    for subnet in found.keys().filter(|subnet| !wanted.contains_key(*subnet)) {
        run(machine, &ip(&["route", "del", subnet, "proto", PROTOCOL]))?;
    }
    Ok(())
}

/// Keeps the routes until it is ended.
///
/// # Errors
/// `ip` cannot be run; [`codes::USAGE`]: the endpoint is none.
pub fn keep(machine: &dyn Machine, endpoint: &str, node: &str) -> Result<()> {
    let endpoint: Endpoint =
        endpoint.parse().map_err(|_| Failure::new(&codes::USAGE, format!("expected HOST:PORT, found `{endpoint}`")))?;
    loop {
        cni::bring(machine, &endpoint, node)?;
        if let Answer::Object(list) = api::get(machine, &endpoint, As::Node, "/api/v1/nodes")? {
            set(machine, &wanted(&list, node))?;
        }
        machine.sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_of_both_families() {
        let address = |text: &str| json!({ "type": "InternalIP", "address": text });
        let node = |name: &str, subnets: &[&str], addresses: &[Value]| json!({ "metadata": { "name": name }, "spec": { "podCIDRs": subnets }, "status": { "addresses": addresses } });
        let list = json!({ "items": [
            node("own", &["10.244.0.0/24"], &[address("10.0.0.1")]),
            node("both", &["10.244.1.0/24", "fd00:1::/64"], &[json!({ "type": "Hostname", "address": "both" }), address("10.0.0.2"), address("fd00::2")]),
            node("young", &[], &[]),
            node("half", &["fd00:2::/64"], &[address("10.0.0.3")]),
        ] });
        let routes = wanted(&list, "own");
        let text: Vec<String> = routes.iter().map(|(subnet, address)| format!("{subnet} {address}")).collect();
        assert_eq!(text, ["10.244.1.0/24 10.0.0.2", "fd00:1::/64 fd00::2"]);
        let shown = r#"[{"dst":"10.244.1.0/24","gateway":"10.0.0.2","dev":"lan","flags":[]},{"dst":"fd00:1::/64","gateway":"fd00::2"},{"dst":"10.9.9.9","gateway":"10.0.0.3"},{"dst":"default"}]"#;
        let mut found = present(shown);
        assert_eq!(found.remove("10.9.9.9/32"), Some("10.0.0.3".parse().unwrap()));
        assert_eq!(found, routes);
    }
}
