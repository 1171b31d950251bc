//! The whole profile: as it is written, and validated.

use serde::Deserialize;

use crate::check::{Check, Text};
use crate::document::{DocumentId, Fault, Faults, Located, Reading, Style, Texts};
use crate::node::Role;
use crate::secret::Secret;
use crate::{access, cluster, files, load_balancer, machine, network, node, registry};

/// The schema this program reads.
pub const SCHEMA: u32 = 1;

/// A profile as it is written: TOML, `schema = 1`, no unknown keys.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(any(test, feature = "schema"), schemars(title = "ingot profile"))]
pub struct Written {
    /// Always 1.
    pub schema: Located<u32>,
    /// Counts the profiles of this machine up: one with a lower number than the last is refused; 0 by default.
    #[serde(default)]
    pub serial: u64,
    /// Lets this profile follow one with a higher `serial`; `false` by default.
    #[serde(default)]
    pub allow_older: bool,
    /// An age file (armored) for this machine's key: TOML of this schema, put over the profile. `ingot profile encrypt`
    /// makes it. Tables of both become one, lists of tables are joined, and any other key stands in one of the two only.
    pub encrypted: Option<Text>,
    /// Who this machine is.
    pub node: node::Written,
    /// The cluster it belongs to.
    pub cluster: Option<cluster::Written>,
    /// DNS, and how changes of the network are confirmed.
    #[serde(default)]
    pub network: network::Written,
    /// Network interfaces; without any, every card asks DHCP.
    #[serde(default)]
    pub interface: Vec<network::WrittenInterface>,
    /// Clocks.
    #[serde(default)]
    pub time: access::WrittenTime,
    /// Who may log in; nobody by default.
    #[serde(default)]
    pub access: access::Written,
    /// Container registries; not for load balancers.
    #[serde(default)]
    pub registry: Vec<registry::Written>,
    /// Proxy for what the machine fetches; none by default.
    #[serde(default)]
    pub proxy: registry::WrittenProxy,
    /// Disks.
    #[serde(default)]
    pub disks: machine::WrittenDisks,
    /// What a load balancer balances; for that role only.
    pub load_balancer: Option<Located<load_balancer::Written>>,
    /// Kernel modules and sysctls.
    #[serde(default)]
    pub kernel: machine::WrittenKernel,
    /// Settings of the kubelet; not for load balancers.
    pub kubelet: Option<Located<machine::WrittenKubelet>>,
    /// Further files.
    #[serde(default)]
    pub file: Vec<files::Written>,
    /// Who is told what happens.
    #[serde(default)]
    pub report: files::WrittenReport,
}

/// A validated profile. Only [`Profile::parse`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// Counts the profiles of this machine up.
    pub serial: u64,
    /// It may follow one with a higher serial.
    pub allow_older: bool,
    /// An age file with more of the profile, which this one is without: [`Profile::parse_opened`].
    pub encrypted: Option<String>,
    /// Who this machine is.
    pub node: node::Node,
    /// The cluster it belongs to; always there but on load balancers.
    pub cluster: Option<cluster::Cluster>,
    /// Its network.
    pub network: network::Network,
    /// Clocks.
    pub time: access::Time,
    /// Who may log in.
    pub access: access::Access,
    /// Container registries.
    pub registries: Vec<registry::Registry>,
    /// Proxy.
    pub proxy: Option<registry::Proxy>,
    /// The state partition.
    pub state: machine::State,
    /// What is balanced; always there on load balancers, only there.
    pub load_balancer: Option<load_balancer::LoadBalancer>,
    /// Kernel modules and sysctls.
    pub kernel: machine::Kernel,
    /// Settings of the kubelet.
    pub kubelet: machine::Kubelet,
    /// Further files, by path.
    pub files: Vec<files::File>,
    /// Who is told.
    pub report: files::Report,
}

/// Why a profile is refused: every fault, and the texts to show them with.
#[derive(Debug, Clone)]
pub struct Refused {
    faults: Vec<Fault>,
    texts: Texts,
}

impl Refused {
    /// The faults, by place.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The faults with the lines they speak of; secrets are blotted out.
    pub fn render(&self, style: Style) -> String {
        self.texts.render(&self.faults, style)
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Refused {}

/// What the encrypted part of a profile is called in faults.
fn sealed_name(name: &str) -> String {
    format!("{name} (encrypted part)")
}

/// Adds a profile, and its encrypted part where that is open.
fn add(texts: &mut Texts, name: &str, bytes: &[u8], opened: Option<&Secret>) -> (DocumentId, Option<DocumentId>) {
    let document = texts.add_private(name, bytes.to_vec());
    (document, opened.map(|text| texts.add_sealed(sealed_name(name), text.expose().as_bytes().to_vec())))
}

impl Written {
    /// Reads a profile as it is written, with its encrypted part where that is open. The texts show no secret.
    pub fn read(name: &str, bytes: &[u8], opened: Option<&Secret>) -> (Texts, Reading<Self>) {
        let mut texts = Texts::default();
        let reading = match add(&mut texts, name, bytes, opened) {
            (document, Some(sealed)) => texts.read_over(document, sealed),
            (document, None) => texts.read(document),
        };
        if let Some(secrets) = &reading.secrets {
            texts.conceal(secrets);
        }
        (texts, reading)
    }
}

impl Profile {
    /// Reads and validates a profile, but for its encrypted part. `name` is what faults call it.
    ///
    /// # Errors
    /// All faults at once.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Box<Refused>> {
        Self::read(name, bytes, None)
    }

    /// Reads and validates a profile and its encrypted part, which [`crate::sealed::open`] opened, as one.
    ///
    /// # Errors
    /// All faults at once; of the encrypted part they name the places only.
    pub fn parse_opened(name: &str, bytes: &[u8], opened: &Secret) -> Result<Self, Box<Refused>> {
        Self::read(name, bytes, Some(opened)).map(|profile| Self { encrypted: None, ..profile })
    }

    fn read(name: &str, bytes: &[u8], opened: Option<&Secret>) -> Result<Self, Box<Refused>> {
        let (mut texts, reading) = Written::read(name, bytes, opened);
        let mut faults = Faults::new(&texts);
        // What is missing may stand in the part that is not open.
        let closed = opened.is_none() && reading.value.as_ref().is_some_and(|written| written.encrypted.is_some());
        let whole = reading.faults.is_empty() && !closed;
        faults.extend(reading.faults);
        let mut check = Check { faults, whole, concealed: Vec::new() };
        let profile = reading.value.and_then(|written| validate(&mut check, &written));
        let Check { faults, concealed, .. } = check;
        let faults = faults.into_vec();
        match profile {
            Some(profile) if faults.is_empty() => Ok(profile),
            _ => {
                texts.conceal_more(&concealed);
                Err(Box::new(Refused { faults, texts }))
            }
        }
    }
}

const ENCRYPTED: crate::rule::Rule = crate::rule::Rule {
    what: "armored age file",
    expected: "one block from `-----BEGIN AGE ENCRYPTED FILE-----` to its end",
    holds: |text| crate::rules::pem(text, "AGE ENCRYPTED FILE"),
};

fn validate(check: &mut Check<'_>, written: &Written) -> Option<Profile> {
    if !written.schema.place().is_hole() && *written.schema != SCHEMA {
        let message = format!("schema {} is not known: this program reads schema {SCHEMA}", *written.schema);
        check.faults.add_with_hint(written.schema.place(), message, "the profile is made for another version of ingot");
        return None;
    }
    let role = *written.node.role;
    let cluster = written.cluster.as_ref().map(|cluster| cluster::check(check, cluster, role));
    let network = network::check(check, &written.network, &written.interface);
    let complete = check.whole;
    if complete && role.is_node() && written.cluster.is_none() {
        let message = format!("a {} belongs to a cluster, but there is no `[cluster]`", role.name());
        check.faults.add(written.node.role.place(), message);
    }
    let given = load_balancer::Given {
        ca: written.cluster.as_ref().is_some_and(|cluster| cluster.ca.is_some()) || !complete,
        token: written.cluster.as_ref().is_some_and(|cluster| cluster.load_balancer_token.is_some()) || !complete,
    };
    let kubelet = written.kubelet.as_ref();
    let none = machine::WrittenKubelet::default();
    let profile = Profile {
        serial: written.serial,
        allow_older: written.allow_older,
        encrypted: check.optional(written.encrypted.as_ref(), &ENCRYPTED),
        node: node::check(check, &written.node),
        load_balancer: balancer(check, written, &network, given),
        network,
        time: access::check_time(check, &written.time),
        access: access::check(check, &written.access),
        registries: registry::check(check, &written.registry, role),
        proxy: registry::check_proxy(check, &written.proxy),
        state: machine::check_state(check, &written.disks.state),
        kernel: machine::check_kernel(check, &written.kernel),
        kubelet: machine::check_kubelet(check, kubelet.map_or(&none, |kubelet| kubelet), role, kubelet.map(Located::place)),
        files: files::check(check, &written.file),
        report: files::check_report(check, &written.report),
        cluster: None,
    };
    match cluster {
        None => Some(profile),
        Some(cluster) => Some(Profile { cluster: Some(cluster?), ..profile }),
    }
}

fn balancer(
    check: &mut Check<'_>,
    written: &Written,
    network: &network::Network,
    given: load_balancer::Given,
) -> Option<load_balancer::LoadBalancer> {
    let role = &written.node.role;
    match &written.load_balancer {
        Some(section) => {
            if **role != Role::LoadBalancer && !role.place().is_hole() {
                let message = format!("a {} balances nothing", role.name());
                check.faults.add_with_hint(section.place(), message, "leave `[load_balancer]` out, or change the role");
            }
            Some(load_balancer::check(check, section, network, given))
        }
        None => {
            if **role == Role::LoadBalancer && check.whole {
                check.faults.add(role.place(), "a load balancer balances something, but there is no `[load_balancer]`");
            }
            None
        }
    }
}
