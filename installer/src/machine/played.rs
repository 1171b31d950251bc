//! A network that is said beforehand; nobody else answers.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::net::{Ask, Net, NoReply, Reply};
use super::{Command, Output};

type Answer = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// The network.
#[derive(Default)]
pub struct Played {
    pub names: BTreeMap<String, Vec<SocketAddr>>,
    /// Ports that are open.
    pub open: Vec<SocketAddr>,
    /// What answers datagrams.
    pub udp: BTreeMap<SocketAddr, Answer>,
    /// By URL; what was asked is kept.
    pub web: BTreeMap<String, Result<Reply, NoReply>>,
    pub asked: Mutex<Vec<Ask>>,
    /// Programs by their whole line.
    pub programs: BTreeMap<String, Output>,
    /// The machine whose cluster keeps what is changed in it.
    pub root: Option<PathBuf>,
}

impl std::fmt::Debug for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Played")
    }
}

impl Net for Played {
    fn resolve(&self, host: &str, port: u16, _: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        self.names.get(host).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn connect(&self, to: SocketAddr, _: Duration) -> io::Result<()> {
        if self.open.contains(&to) { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
    }

    fn exchange_udp(&self, to: SocketAddr, packet: &[u8], _: Duration) -> io::Result<Vec<u8>> {
        self.udp.get(&to).map(|answer| answer(packet)).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn ask(&self, ask: &Ask) -> Result<Reply, NoReply> {
        self.asked.lock().unwrap().push(ask.clone());
        let nobody = NoReply { reason: "nobody is there".to_owned(), unreachable: true, chain: Vec::new() };
        let said = self.web.get(&ask.url).cloned();
        let kept = self.root.as_ref().and_then(|root| crate::tests::cluster::keep(root, ask, said.as_ref()));
        kept.or(said).unwrap_or(Err(nobody))
    }

    fn run(&self, command: &Command) -> io::Result<Output> {
        self.programs.get(&command.to_string()).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
