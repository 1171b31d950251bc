//! Every code the installer can end or warn with: one table, from which `docs/codes.md` is made.

use std::fmt::Write;

/// How the process ends (DESIGN.md section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed: 1.
    Failed,
    /// The command line is wrong: 2.
    Usage,
    /// The profile is wrong: 3.
    Document,
    /// The profile is not trusted: 4.
    Untrusted,
    /// A tool or the network is missing: 5.
    Missing,
    /// It may work later: 75.
    Later,
}

impl Exit {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Document => 3,
            Exit::Untrusted => 4,
            Exit::Missing => 5,
            Exit::Later => 75,
        }
    }
}

/// A code: what it is called, what it means, what to do next.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `INGOT-Nnnnn`; never given to another meaning.
    pub number: &'static str,
    /// One line.
    pub title: &'static str,
    /// What happened to the machine.
    pub meaning: &'static str,
    /// What a person does next.
    pub action: &'static str,
    /// How the process ends.
    pub exit: Exit,
}

macro_rules! codes {
    ($($name:ident = $number:literal $exit:ident, $title:literal, $meaning:literal, $action:literal;)*) => {
        $(#[doc = $title] pub static $name: Code =
            Code { number: $number, title: $title, meaning: $meaning, action: $action, exit: Exit::$exit };)*
        /// All of them, by number.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    NO_PROFILE = "INGOT-N0101" Later, "no profile was found",
        "Every source was asked; the reason of each is in the report. Nothing was changed.",
        "Attach a medium labelled INGOT, or give the credential `ingot.profile`, then start again.";
    SOURCES_DISAGREE = "INGOT-N0102" Document, "two sources hold different profiles",
        "It is not for the machine to guess which one is meant. Nothing was changed.",
        "Remove one of the sources that the report names.";
    NOT_A_PROFILE = "INGOT-N0201" Document, "the profile is wrong",
        "The profile was read and refused; every fault is listed with its line. Nothing was changed.",
        "Correct the lines; `ingot profile check FILE` shows the same faults before it is shipped.";
    WRONG_ROLE = "INGOT-N0202" Document, "the profile is for another role",
        "Role of the profile and role of the image differ. Nothing was changed.",
        "Give this machine the profile that is meant for it, or start it from the image of that role.";
    SECRET_MISSING = "INGOT-N0203" Document, "a secret that the profile names is not there",
        "The profile refers to a systemd credential that this machine was not given, or is encrypted for keys it was not given. Nothing was changed.",
        "Give the credential of that name to the machine, at every boot; `ingot.age-identity` opens the profile's encrypted part.";
    NO_SUCH_ACCOUNT = "INGOT-N0204" Document, "a file belongs to an account that does not exist",
        "An owner or group of `[[file]]` is in neither the image nor the profile. Nothing was changed.",
        "Take an account of the image, or one of `[[access.users]]`.";
    ACCOUNT_TAKEN = "INGOT-N0205" Document, "a user of the profile has the name of an account of the image",
        "Taking it over would change who owns files of the system. Nothing was changed.",
        "Give the user another name.";
    SEALED = "INGOT-N0206" Document, "the encrypted part of the profile cannot be opened",
        "It is encrypted for other keys than those of the credential `ingot.age-identity`, or it is damaged. Nothing was changed.",
        "Encrypt it for the public key that the message names (`ingot profile encrypt --to age1...`), or give the machine the key it is for.";
    UNSIGNED = "INGOT-N0301" Untrusted, "the profile is not signed",
        "This image takes signed profiles only. Nothing was changed.",
        "Sign it: `ssh-keygen -Y sign -n ingot-profile -f KEY profile.toml`, and put profile.toml.sig beside it.";
    UNTRUSTED = "INGOT-N0302" Untrusted, "the signature of the profile does not hold",
        "The signature is not by a key of the image's allowed_signers, or not over these bytes. Nothing was changed.",
        "Sign the profile again, unchanged, with a key the image trusts.";
    TRUST_BROKEN = "INGOT-N0303" Untrusted, "the image's list of signers cannot be used",
        "Without allowed_signers nothing can be trusted. Nothing was changed.",
        "Build the image again with the keys that sign profiles.";
    NOT_NOW = "INGOT-N0304" Untrusted, "the profile is not valid now",
        "Its time has not come yet, or is over. Nothing was changed.",
        "Check the machine's clock, else sign a profile that is valid now.";
    OLDER = "INGOT-N0305" Untrusted, "a newer profile made this machine",
        "The serial of the profile is lower than that of the one this machine has. Nothing was changed.",
        "Raise `serial`; where going back is meant, say `allow_older = true` and sign it.";
    NOTE_BROKEN = "INGOT-N0306" Failed, "what the machine noted about itself cannot be read",
        "The note could name a newer profile or another machine, so none is believed. Nothing was changed.",
        "Restore the state partition whole, or start with an empty one.";
    OTHER_MACHINE = "INGOT-N0401" Untrusted, "this disk belongs to another machine",
        "The identity of the machine is not the one the state partition was made with: it is a clone, or the disk was moved.",
        "For a new machine give it an empty disk; for the old one give it its former firmware identity (VM UUID).";
    NO_IDENTITY = "INGOT-N0402" Failed, "the machine has no machine-id",
        "/etc/machine-id is missing or unset, so nothing that is kept could be told from that of other machines.",
        "Give the virtual machine a UUID of its own in the hypervisor, and start it again.";
    NO_SUCH_CARD = "INGOT-N0501" Document, "no network card is what the profile says",
        "An interface of the profile matches none of the cards, or more than one. The network was not changed.",
        "Compare `match` with the cards the message lists; a MAC address names exactly one.";
    GATEWAY_SILENT = "INGOT-N0502" Failed, "the gateway does not answer",
        "After the change of the network no gateway answered within `confirm_secs`; the former files are in use again where there were any.",
        "Check address, prefix, VLAN and cable; then correct the profile and start the installer again.";
    NO_ADDRESS = "INGOT-N0503" Later, "no gateway is known yet",
        "DHCP or router advertisement named no gateway within `confirm_secs`. The network files stay.",
        "Check that the network gives addresses to this machine's MAC; the installer tries again by itself.";
    CLOCK_NOT_SET = "INGOT-N0504" Failed, "the clock is not synchronised",
        "No time server answered within `wait_secs`. This is a warning: the machine goes on.",
        "Check `[time] servers`; certificates are judged by this clock.";
    STEP_FAILED = "INGOT-N0601" Failed, "a step has no effect",
        "The step was carried out, but what it stands for still does not hold.",
        "The message says what was expected and found; something else changes the same thing.";
    PROGRAM_FAILED = "INGOT-N0602" Failed, "a program failed",
        "A program of the image ended with an error; its last words are in the message.",
        "Read its words; `journalctl -b` has the rest.";
    PROGRAM_MISSING = "INGOT-N0603" Missing, "a program is not in the image",
        "The step needs a program that the image does not have.",
        "Add its package to the image definition.";
    ALREADY_DONE = "INGOT-N0604" Failed, "what cannot be undone was done with other input",
        "An irreversible step was carried out on this machine with another input than the profile has now.",
        "Give the former profile back, or make the machine anew.";
    DISK_FULL = "INGOT-N0701" Failed, "the disk is full",
        "Nothing half-written was kept. Steps that need no state were carried out; what persists was not lost.",
        "Make room on the partition the message names, or give the machine a larger disk; it grows by itself.";
    READ_ONLY = "INGOT-N0702" Failed, "the state partition is read-only",
        "The kernel lets nothing be written: often an error of the disk. Steps that need no state were carried out.",
        "Look at `dmesg` for errors of the disk; replace it, or start the machine again for a check.";
    INPUT_OUTPUT = "INGOT-N0703" Failed, "reading or writing failed",
        "The message names the file and what the kernel said.",
        "Look at `dmesg` for errors of the disk.";
    JOURNAL_TORN = "INGOT-N0704" Failed, "the installer's journal had damaged lines",
        "A power cut tore the journal. This is a warning: damaged lines are left out, and steps check for themselves.",
        "Nothing, unless it comes again: then the disk does not keep what it promised to.";
    DISK_SMALL = "INGOT-N0705" Failed, "the disk is too small",
        "Slot B and the state partition do not fit behind the image. The disk was not changed.",
        "Give the machine a larger disk, or ask for less in `[disks.state] least`.";
    NO_TPM = "INGOT-N0706" Missing, "the machine has no TPM 2.0",
        "The profile asks for a state partition that only the TPM can unlock. The disk was not changed.",
        "Give the virtual machine a TPM (Hyper-V: Enable-VMTPM), or leave out `[disks.state] encryption`.";
    STATE_LOCKED = "INGOT-N0707" Failed, "the state partition cannot be unlocked",
        "The TPM does not give the key away: firmware, its settings or its keys are not those it was sealed with. Nothing on the partition was changed.",
        "Undo the change of firmware or Secure Boot keys; or give up what the partition holds: remove it, and start again.";
    STATE_DAMAGED = "INGOT-N0708" Failed, "the state partition cannot be used",
        "Its file system is damaged beyond what can be repaired without asking. Nothing on it was changed; the machine runs from memory.",
        "Repair it from another system (`e2fsck DEVICE`), restore it, or remove the partition to begin anew.";
    STATE_OTHER = "INGOT-N0709" Document, "the state partition is made otherwise",
        "Whether it is encrypted is decided when it is made. Nothing was changed.",
        "Give the profile the encryption the machine has, or make the machine anew from an empty disk.";
    STARTING_AGAIN = "INGOT-N0710" Later, "the machine starts again",
        "Its profile came after the start, so the state partition was made only now.",
        "Nothing: the machine goes on by itself.";
    NO_BOOT_DISK = "INGOT-N0711" Failed, "the disk of this machine was not found",
        "The verified root lies on no disk that the kernel shows. The machine runs from memory.",
        "Start the machine from the disk of its image.";
    USAGE = "INGOT-N0801" Usage, "the command line is wrong",
        "Nothing was done.",
        "`ingot-installer --help` lists the commands.";
    NOT_READY = "INGOT-N0802" Later, "the machine is not ready",
        "`status` was asked, and the installer has not finished, or has failed.",
        "`ingot-installer status` tells the step it is at and the code of the failure.";
    BALANCER_REFUSED = "INGOT-N0901" Failed, "HAProxy or keepalived refuses its new configuration",
        "It was checked before it was put in place, so the last good one stands and serves; the profile is not kept as the good one.",
        "Read the program's words in the message; correct the profile, or take an image whose version knows what the profile asks.";
    ADDRESS_TAKEN = "INGOT-N0902" Later, "another machine has a virtual address",
        "A machine that is no load balancer of the profile answers for it. keepalived was not started here; one that already runs goes on.",
        "Find the machine by the hardware address in the message and give it another address, or give another one to the load balancers.";
    VRRP_ID_TAKEN = "INGOT-N0903" Later, "another router speaks with this VRRP id",
        "Adverts with the profile's `id` came from an address that is not among `peers`. keepalived was not started here; one that already runs goes on.",
        "Take an `id` that nobody else has in this network; or add the sender to `peers` if it is a load balancer of this cluster.";
    NO_VRRP_ADDRESS = "INGOT-N0904" Later, "this machine has no address towards the other load balancers",
        "No interface is in the network of `peers`, so keepalived has nothing to speak from. HAProxy runs.",
        "Check `peers` and the addresses of the interfaces; where routes lead to the peers, say `source`.";
    HAPROXY_SILENT = "INGOT-N0905" Failed, "HAProxy does not answer",
        "Its runtime socket is not there or says nothing. keepalived gives the virtual addresses to another load balancer.",
        "`systemctl status haproxy` and `journalctl -u haproxy` tell why it stopped.";
    KUBERNETES_MISSING = "INGOT-N1001" Document, "the image has no Kubernetes",
        "The role is that of a node, but the image does not say which Kubernetes it has. Nothing was changed.",
        "Start the machine from an image of its role; one built by `ingot` has /usr/share/ingot/kubernetes.json.";
    KUBERNETES_UNKNOWN = "INGOT-N1002" Document, "the Kubernetes of the image is not one this program knows",
        "Its version, or the file that says it, is none that this program makes configurations for. Nothing was changed.",
        "Build the image with a Kubernetes version that is supported.";
    KUBERNETES_VERSION = "INGOT-N1003" Document, "the profile wants another Kubernetes version",
        "`[cluster] kubernetes` and the version in the image differ. Nothing was changed.",
        "Start the machine from the image of that version, or correct the profile.";
    RUNTIME_SILENT = "INGOT-N1004" Later, "containerd does not answer",
        "It was started and did not answer in time. The machine tries again by itself.",
        "`systemctl status containerd` and `journalctl -u containerd` tell why.";
    IMAGES_INCOMPLETE = "INGOT-N1005" Failed, "container images on board are not whole",
        "The list of container images and the archive beside it do not fit.",
        "Build the image again.";
    INIT_FAILED = "INGOT-N1006" Failed, "the cluster could not be made",
        "`kubeadm init` ended with an error; its words are in the message. What it made so far is kept where it holds data of etcd, and is gone on with at the next try.",
        "Read the words; `journalctl -u kubelet` and `crictl ps -a` tell what did not start. The machine tries again by itself.";
    JOIN_FAILED = "INGOT-N1007" Failed, "the machine could not join its cluster",
        "`kubeadm join` ended with an error; its words are in the message. What it left is reset at the next try.",
        "Read the words; `ingot-installer diagnose` tests the way to the cluster. The machine tries again by itself.";
    NODE_NAME_TAKEN = "INGOT-N1008" Failed, "the cluster has a node of this name",
        "A node of this name is Ready, so this machine is another one. It did not join.",
        "Give one of the two another name; if the old machine is gone for good, `kubectl delete node NAME`.";
    NODE_NOT_READY = "INGOT-N1009" Later, "the node is not Ready",
        "The machine is part of its cluster, but the cluster did not find the node Ready in time; its reason is in the message.",
        "Without a network for pods look at `[cluster] cni` and the add-ons; else `journalctl -u kubelet`. The machine tries again by itself.";
    OTHER_CLUSTER = "INGOT-N1010" Failed, "the machine is part of another cluster, or has another name in it",
        "What it noted when it joined and what the profile says differ. Nothing was changed.",
        "Give the former profile back, or make the machine anew (`ingot-installer reset`, or an empty state partition).";
    ADDON_REFUSED = "INGOT-N1011" Failed, "the cluster does not take an add-on",
        "`kubectl apply` of the image's or the profile's manifests failed for minutes; its words are in the message.",
        "Correct the manifest that the words name.";
    CERTIFICATES_GONE = "INGOT-N1012" Later, "the control plane's certificates are no longer kept in the cluster",
        "The cluster forgets them two hours after the first control plane put them there.",
        "Start the first control plane again: it puts them there at each start. This machine tries again by itself.";
    QUORUM = "INGOT-N1013" Failed, "etcd would lose its quorum",
        "`reset` was asked on a control plane whose leaving would leave too few well members of etcd to decide, or none. Nothing was changed.",
        "Bring the other control planes back first; where the cluster shall end with this machine, `ingot-installer reset --last`.";
    NOT_REGISTERED = "INGOT-N1014" Later, "the cluster is not registered at its management cluster",
        "Its kubeconfig could not be put there; the reason is in the message. The cluster itself works, and it is tried again every few minutes.",
        "Start the management cluster; where it says 401 or 403, compare `token` and `namespace` of `[cluster.management]` with its `[cluster.registrar]`.";
    NOT_DRAINED = "INGOT-N1015" Later, "the node is not drained",
        "`drain` was asked, and pods are left on the node; each is named with its reason. The node takes no new pods.",
        "Where a PodDisruptionBudget says no, bring up more pods of that workload; pods that nothing makes anew go with `--force`. Then ask again.";
    PLANE_STALE = "INGOT-N1016" Later, "a part of the control plane does not come back",
        "Its certificate, its files or its settings have changed, so it was restarted; its reason is in the message.",
        "`crictl ps -a` and `crictl logs` of the part tell why; a wrong argument in `[cluster.api_server]` is the usual reason: a corrected profile heals it.";
    DNS_SILENT = "INGOT-N1101" Missing, "a name server does not answer",
        "`diagnose` sent each name server of the profile (or of the network) a question, and one did not answer in time, or refused.",
        "Check `[network] dns`, and that UDP port 53 is open from this machine to the server named.";
    NAME_UNKNOWN = "INGOT-N1102" Failed, "the endpoint's name is not known",
        "No name server knows an address for the host in `[cluster] endpoint`.",
        "Add the name to the DNS zone, or write the virtual address itself into `[cluster] endpoint`.";
    CLOCK_WRONG = "INGOT-N1103" Failed, "the clock is wrong",
        "The clock differs from that of a time server, or is outside of what an image of this age can see. Certificates are judged by it.",
        "Set the host's clock, or check `[time] servers`; the machine corrects itself when one of them answers.";
    NO_TIME_SERVER = "INGOT-N1104" Missing, "no time server answers",
        "None of the servers in `[time] servers` answered a question by NTP.",
        "Check the names, and that UDP port 123 is open from this machine to them.";
    ADDRESS_NOBODY = "INGOT-N1105" Failed, "nobody has the virtual address",
        "Nobody in the network answers for the address: no load balancer holds it.",
        "Look at the load balancers: `ingot-installer diagnose` there, and `systemctl status keepalived`.";
    PORT_TAKEN = "INGOT-N1106" Failed, "a port that the role needs is taken",
        "Another program than the one meant listens on it.",
        "Stop the program the message names, or choose another port in the profile.";
    API_UNREACHABLE = "INGOT-N1107" Missing, "the cluster's API cannot be reached",
        "No connection to `[cluster] endpoint` came about.",
        "Start the load balancer and the first control plane; check the endpoint's address and port, and firewalls between.";
    API_UNTRUSTED = "INGOT-N1108" Untrusted, "the API's certificate is by another CA",
        "What answers at the endpoint is not of the cluster that `[cluster] ca` (or the pinned CA) stands for.",
        "Compare `ca` or `ca_pins` with the control plane's /etc/kubernetes/pki/ca.crt; else another cluster has this address.";
    API_CERT_TIME = "INGOT-N1109" Failed, "the API's certificate is not valid now",
        "By this machine's clock the certificate is expired, or not valid yet.",
        "Check this machine's clock first; where it is right, renew the control plane's certificates.";
    API_CERT_NAME = "INGOT-N1110" Failed, "the API's certificate is for other names",
        "The host in `[cluster] endpoint` is not among the names of the certificate.",
        "Write a name of the certificate into `[cluster] endpoint`, or make the API's certificate anew with this one.";
    TOKEN_UNKNOWN = "INGOT-N1111" Failed, "the bootstrap token is expired or unknown",
        "The cluster does not vouch for this token: it was never there, or its time is over and it was removed.",
        "Make a new one (`kubeadm token create` on a control plane) and put it into `[cluster.join] token`.";
    TOKEN_SECRET = "INGOT-N1112" Untrusted, "the bootstrap token's secret part is wrong",
        "The cluster has a token of this id, but not of this secret, or somebody changed what it says on the way.",
        "Copy the token again, whole; if it is right, another cluster answers at the endpoint.";
    CLUSTER_INFO_MISSING = "INGOT-N1113" Failed, "the cluster does not tell its CA",
        "The ConfigMap kube-public/cluster-info is missing or may not be read by anyone: kubeadm makes it at the end of init.",
        "Wait for the first control plane to finish; else run `kubeadm init phase bootstrap-token` there.";
    CA_PIN_WRONG = "INGOT-N1114" Untrusted, "the cluster's CA is not the pinned one",
        "The CA in cluster-info has another public key than `[cluster.join] ca_pins` says.",
        "Correct the pin if the cluster was made anew; else another cluster answers at the endpoint.";
    MTU_SMALL = "INGOT-N1115" Failed, "large packets do not get through",
        "A packet as large as the interface sends is lost on the way, though small ones arrive: TLS then hangs.",
        "Set `mtu` of the interface to what the message says, or correct the switch or tunnel between.";
    REGISTRY_UNREACHABLE = "INGOT-N1116" Missing, "a registry cannot be reached",
        "Its address gave no answer that a registry gives.",
        "Check the address in `[[registry]]`, the proxy, and firewalls; images on board need no registry.";
    REGISTRY_UNTRUSTED = "INGOT-N1117" Untrusted, "a registry's certificate is not trusted",
        "Its certificate is by another CA, for another name, or not valid now.",
        "Put the registry's CA into `ca` of its `[[registry]]`; check the clock.";
    REGISTRY_LOGIN = "INGOT-N1118" Failed, "a registry refuses the login",
        "It answered, and did not take user name and password of the profile, or wants some where there are none.",
        "Correct `username` and `password` of the `[[registry]]`.";
    DISK_LOW = "INGOT-N1119" Failed, "the state partition is nearly full",
        "Less than a tenth or less than 256 MiB are free; containers are then thrown out, and nothing new starts.",
        "Give the machine a larger disk; the partition grows at the next boot.";
    NO_STATE = "INGOT-N1120" Failed, "there is no state partition",
        "Nothing is mounted at /state: what persists would be lost at the next boot.",
        "Give the machine a disk with room behind the image, and start it again.";
    UNITS_FAILED = "INGOT-N1121" Failed, "units have failed",
        "The service manager counts services as failed.",
        "`systemctl status UNIT` and `journalctl -b -u UNIT` say why.";
    NOT_KUBERNETES = "INGOT-N1122" Failed, "what answers at the endpoint is not a Kubernetes API",
        "The port is open, but what listens speaks no TLS or gives no answer of an API server.",
        "Check the port of `[cluster] endpoint`; a load balancer without a living backend closes connections like this.";
    NOT_REPORTED = "INGOT-N1123" Failed, "events could not be delivered",
        "The server of `[report] url` did not take them. They are kept and sent again; the machine does not wait for it.",
        "Check `url`, `ca` and `token` of `[report]`, and the server's own log.";
    PORT_CLOSED = "INGOT-N1124" Failed, "nothing listens where the role should",
        "The machine counts as ready, but a port of its role is closed.",
        "`systemctl --failed` and `journalctl -b` of the program that the message names.";
    PEER_SILENT = "INGOT-N1125" Missing, "a backend cannot be reached",
        "No connection from this machine to the backend came about.",
        "Start the machine the message names, and check its address in `[[load_balancer.frontends]]` and firewalls between.";
    NO_RESULT = "INGOT-N1126" Failed, "a test of `diagnose` gave no result",
        "It did not end within its time.",
        "Run `ingot-installer diagnose` again; tell the makers if it stays so.";
}

/// The code of this number.
pub fn by_number(number: &str) -> Option<&'static Code> {
    ALL.iter().find(|code| code.number == number).copied()
}

/// The reference page: Markdown.
pub fn page() -> String {
    let mut text = "# Codes of the installer\n\nMade from `installer/src/report/codes.rs`; a test keeps it so.\n".to_owned();
    for code in ALL {
        let _ = write!(
            text,
            "\n## {}: {}\n\n{}\n\n**Next:** {}\n\nExit code {}.\n",
            code.number,
            code.title,
            code.meaning,
            code.action,
            code.exit.code()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `INGOT_BLESS=1 cargo test -p ingot-installer --lib report::codes` writes the page.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test")]
    fn the_page_is_as_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/codes.md");
        if std::env::var_os("INGOT_BLESS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "INGOT_BLESS=1 writes it");
    }

    #[test]
    fn numbers_are_unique_and_in_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(ALL.iter().all(|code| code.number.len() == 11 && code.number.starts_with("INGOT-N")));
        assert_eq!(by_number("INGOT-N0101"), Some(&NO_PROFILE));
    }
}
