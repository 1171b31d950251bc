//! Questions to the cluster's API, by the machine's own certificate: a few milliseconds where kubectl takes a second.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use profile::address::Endpoint;
use profile::secret::Secret;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::machine::net::{Ask, Whom};
use crate::machine::reader::Local;
use crate::machine::{Machine, read_text};
use crate::report::codes;
use crate::verify;

/// The kubelet's certificate and key, renewed by itself.
const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The administrator's, on control planes.
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// The kubelet's kubeconfig.
pub const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
const CA: &str = "/etc/kubernetes/pki/ca.crt";

const WITHIN: Duration = Duration::from_secs(5);

/// The Nodes of a large cluster: some 10 KiB each.
const LIMIT: usize = 64 << 20;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The kubelet of this node.
    Node,
    /// The administrator.
    Admin,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The object.
    Object(Value),
    /// There is none of this name.
    Missing,
    /// Nobody answers, or not so that it helps, for this reason.
    Silent(String),
}

/// Asks for an object: `/api/v1/nodes/cp-1`.
///
/// # Errors
/// Files of the machine cannot be read.
pub fn get(machine: &dyn Machine, endpoint: &Endpoint, who: As, path: &str) -> Result<Answer> {
    let Some(own) = identity(machine, who)? else { return Ok(Answer::Silent("this machine has no certificate yet".to_owned())) };
    let Some(ca) = read_text(machine, CA)? else { return Ok(Answer::Silent(format!("there is no {CA}"))) };
    let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let url = format!("https://{host}:{}{path}", endpoint.port);
    let ask = Ask { own: Some(own), within: WITHIN, limit: LIMIT, ..Ask::get(url, Whom::Roots(ca.into_bytes()), at(machine)) };
    Ok(match machine.net().ask(&ask) {
        Err(no) => Answer::Silent(no.reason),
        Ok(reply) if reply.status == 404 => Answer::Missing,
        Ok(reply) if reply.status == 200 => match serde_json::from_slice(&reply.body) {
            Ok(object) => Answer::Object(object),
            Err(_) => Answer::Silent("it answers something else than JSON".to_owned()),
        },
        Ok(reply) => Answer::Silent(format!("it answers {}", reply.status)),
    })
}

/// The time certificates are compared with: never before the image was made.
pub fn at(machine: &dyn Machine) -> u64 {
    verify::Time::of(&Local(machine)).map_or_else(|_| machine.now(), verify::Time::not_before)
}

fn identity(machine: &dyn Machine, who: As) -> Result<Option<Secret>> {
    match who {
        As::Node => Ok(read_text(machine, KUBELET)?.map(Secret::new)),
        As::Admin => {
            let Some(text) = read_text(machine, ADMIN)?.map(Secret::new) else { return Ok(None) };
            let certificate = decoded(text.expose(), "client-certificate-data:");
            let key = decoded(text.expose(), "client-key-data:");
            let both = certificate.zip(key).map(|(certificate, key)| format!("{}{}", certificate.expose(), key.expose()));
            let wrong = || Failure::new(&codes::INPUT_OUTPUT, format!("{ADMIN} holds no certificate and key"));
            both.map(|both| Some(Secret::new(both))).ok_or_else(wrong)
        }
    }
}

/// A value of a kubeconfig as kubeadm writes it: one line.
fn decoded(text: &str, key: &str) -> Option<Secret> {
    let coded = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
    String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok().map(Secret::new)
}
