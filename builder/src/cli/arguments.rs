//! What may be typed. Only clap types; each verb's work is elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::machine::Way;

/// Builds signed, immutable VM images for Kubernetes appliances from Debian packages.
#[derive(Debug, Parser)]
#[command(
    name = "ingot",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 bad document, 4 untrusted, 5 missing tool or network."
)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,

    /// Say more (-v: every stage, -vv: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Print results as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,

    /// Folder of the package store and the caches [default: ~/.cache/ingot; environment: INGOT_CACHE]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub cache: Option<PathBuf>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build the image of a definition into a signed release folder
    Build(Build),
    /// Choose the packages of a definition and write its lock file
    Lock(LockArguments),
    /// Check a release: signatures, digests, verity, Secure Boot, partition table
    Verify(Verify),
    /// Show what is inside an image: partitions, trust chain, packages, sizes
    Inspect(Inspect),
    /// Show what differs between two releases or images, and why
    Diff(Diff),
    /// Start an image in QEMU with UEFI Secure Boot and the image's own keys
    Boot(Boot),
    /// Make and show the keys that sign releases and boot files
    Keys(Keys),
    /// Sign and check the profiles of machines; show what a profile can say
    Profile(Profile),
    /// Remove caches (never changes what a build gives)
    Clean(Clean),
    /// Print shell completions
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Runs maintainer scripts inside the sandbox; started by `build` itself
    #[command(hide = true, name = "internal-sandbox")]
    InternalSandbox {
        /// What the builder passes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// Where packages come from.
#[derive(Debug, Args)]
pub struct NetworkArguments {
    /// Take a repository from another place: NAME=URL, or URL for all of Debian's (repeatable; environment: INGOT_MIRROR)
    #[arg(long, value_name = "[NAME=]URL")]
    pub mirror: Vec<String>,

    /// Take the container images of a registry from another place: REGISTRY=URL, or URL for all (repeatable; environment: INGOT_REGISTRY)
    #[arg(long, value_name = "[REGISTRY=]URL")]
    pub registry: Vec<String>,

    /// Credentials for registries: a config.json as `docker login` writes it [default: ~/.docker/config.json where it is; environment: DOCKER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub registry_auth: Option<PathBuf>,

    /// Never touch the network; what is not in the store is an error
    #[arg(long)]
    pub offline: bool,

    /// Downloads at a time
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub downloads: u8,
}

/// What goes before the definition's own words. The lock counts it as part of the definition.
#[derive(Debug, Args)]
pub struct OverrideArguments {
    /// Use another signed repository than the definition says: NAME=URL, such as kubernetes=URL (repeatable)
    #[arg(long, value_name = "NAME=URL")]
    pub repository: Vec<String>,

    /// OpenPGP certificate that a repository must be signed by, in the place of the definition's: NAME=FILE (repeatable)
    #[arg(long, value_name = "NAME=FILE")]
    pub repository_key: Vec<String>,

    /// Version of Kubernetes in the place of the definition's: 1.34, or 1.34.2
    #[arg(long, value_name = "VERSION")]
    pub kubernetes: Option<String>,
}

/// `ingot build`
#[derive(Debug, Args)]
pub struct Build {
    /// Names of definitions in images/, or paths: several are built one after the other and share all they can
    #[arg(value_name = "DEFINITION", required = true)]
    pub definitions: Vec<String>,

    /// Where packages come from
    #[command(flatten)]
    pub network: NetworkArguments,

    /// What goes before the definition's own words
    #[command(flatten)]
    pub overrides: OverrideArguments,

    /// Release folder; with several definitions the folder of their release folders [default: out/NAME]
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,

    /// Refuse a missing or stale lock instead of renewing it
    #[arg(long)]
    pub locked: bool,

    /// Folder of the signing keys [default: ~/.local/share/ingot/keys, made as DEVELOPMENT keys when empty; environment: INGOT_KEYS]
    #[arg(long, value_name = "FOLDER")]
    pub keys: Option<PathBuf>,

    /// Sign the release through ssh-agent with the key of the keys folder's release.pub
    #[arg(long)]
    pub agent: bool,

    /// The time that outputs carry, in seconds since 1970 [default: the date of the newest release in the lock; environment: SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS")]
    pub epoch: Option<u64>,

    /// Disk formats
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "raw,qcow2,vhdx")]
    pub formats: Vec<String>,

    /// Build again although nothing changed
    #[arg(long)]
    pub force: bool,

    /// Folder of the programs that go into images: ingot-init, ingot-installer, ingot-agent [default: where this program is]
    #[arg(long, value_name = "FOLDER", hide_short_help = true)]
    pub programs: Option<PathBuf>,
}

/// `ingot lock`
#[derive(Debug, Args)]
pub struct LockArguments {
    /// Name of a definition in images/, or the path of one
    #[arg(value_name = "DEFINITION")]
    pub definition: String,

    /// Where packages come from
    #[command(flatten)]
    pub network: NetworkArguments,

    /// What goes before the definition's own words
    #[command(flatten)]
    pub overrides: OverrideArguments,

    /// Take the newest versions and show what changes (without it, a lock that still fits is left alone)
    #[arg(long)]
    pub update: bool,

    /// Show what would change and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `ingot verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// The release folder
    pub release: PathBuf,

    /// allowed_signers file to trust [default: the one of the keys folder]
    #[arg(long, value_name = "FILE")]
    pub signers: Option<PathBuf>,

    /// Certificate (PEM) that must have signed the boot files [default: db.crt of the keys folder]
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// Folder of the keys
    #[arg(long, value_name = "FOLDER")]
    pub keys: Option<PathBuf>,
}

/// `ingot inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// An image (raw, qcow2, VHDX) or a release folder
    pub image: PathBuf,

    /// List every package
    #[arg(long)]
    pub packages: bool,
}

/// `ingot diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The older image or release
    pub old: PathBuf,
    /// The newer image or release
    pub new: PathBuf,
}

/// `ingot boot`
#[derive(Debug, Args)]
pub struct Boot {
    /// An image (raw, qcow2, VHDX) or a release folder
    pub image: PathBuf,

    /// Profile to hand to the machine (with PROFILE.sig where that exists)
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,

    /// How the profile is handed over
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "smbios,disk", requires = "profile")]
    pub via: Vec<Way>,

    /// Attach a further disk image, read-only (repeatable)
    #[arg(long, value_name = "FILE")]
    pub drive: Vec<PathBuf>,

    /// Forward a port of this host to the machine: `HOST:[ADDRESS:]GUEST` (repeatable)
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<String>,

    /// Keep what the machine writes in this disk (made when missing) instead of forgetting it
    #[arg(long, value_name = "DISK")]
    pub keep: Option<PathBuf>,

    /// Memory in MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub memory: u32,

    /// Virtual CPUs
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub cpus: u8,

    /// Give the machine a TPM 2.0 (swtpm)
    #[arg(long)]
    pub tpm: bool,

    /// Folder of the keys the firmware shall trust [default: the one `build` takes]
    #[arg(long, value_name = "FOLDER")]
    pub keys: Option<PathBuf>,

    /// Size of the disk the machine sees, in GiB; the image's own where that is larger
    #[arg(long, default_value_t = 4, value_name = "GIB")]
    pub disk_size: u32,

    /// Start with Secure Boot off
    #[arg(long)]
    pub insecure: bool,

    /// What the machine's clock says when it starts, in UTC [default: this host's time]
    #[arg(long, value_name = "YYYY-MM-DDThh:mm:ss")]
    pub clock: Option<jiff::civil::DateTime>,

    /// Write the serial console to a file instead of the terminal
    #[arg(long, value_name = "FILE")]
    pub serial: Option<PathBuf>,

    /// Stop the machine after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `ingot keys`
#[derive(Debug, Args)]
pub struct Keys {
    /// What to do with them
    #[command(subcommand)]
    pub verb: KeysVerb,
}

/// The verbs of `ingot keys`.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// Make a release key and Secure Boot keys in a new folder
    New {
        /// The folder, which must not hold keys yet
        folder: PathBuf,
        /// Owner, as it appears in the certificates
        #[arg(long, default_value = "ingot")]
        owner: String,
        /// Let this key, and no longer the release key, sign profiles: `FILE.pub[,from=YYYYMMDD][,until=YYYYMMDD]` (repeatable)
        #[arg(long, value_name = "FILE[,from=DAY][,until=DAY]")]
        profile_signer: Vec<String>,
    },
    /// Make an age key that opens the encrypted part of a machine's profile, and print its public key
    Machine {
        /// The file, which must not exist yet; the machine gets it as the credential `ingot.age-identity`
        file: PathBuf,
    },
    /// Show the fingerprints of a folder's keys
    Show {
        /// The folder [default: the one `build` takes]
        folder: Option<PathBuf>,
    },
}

/// `ingot profile`
#[derive(Debug, Args)]
pub struct Profile {
    /// What to do with them
    #[command(subcommand)]
    pub verb: ProfileVerb,
}

/// The verbs of `ingot profile`.
#[derive(Debug, Subcommand)]
pub enum ProfileVerb {
    /// Sign profiles: FILE.sig beside each FILE
    Sign {
        /// The profiles
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Folder of the signing keys [default: the one `build` takes]
        #[arg(long, value_name = "FOLDER")]
        keys: Option<PathBuf>,
        /// Sign with this OpenSSH key (private, or public with the private half in ssh-agent) instead of the release key
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Sign through ssh-agent
        #[arg(long)]
        agent: bool,
    },
    /// Show all faults of profiles, each with line, column and hint; several files are checked against each other too
    Check {
        /// The profiles
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Check also what only profile and image can tell: role, signers, Kubernetes version, modules, programs
        #[arg(long, value_name = "RELEASE|IMAGE")]
        image: Option<PathBuf>,
        /// Folder of the keys whose allowed_signers signatures are checked with, where there is no --image [default: the one `build` takes]
        #[arg(long, value_name = "FOLDER")]
        keys: Option<PathBuf>,
        /// File of age keys (`ingot keys machine`, age-keygen) that opens encrypted parts: they are checked too
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Encrypt a part of a profile (TOML of the same schema: what only its machine shall read) with age
    Encrypt {
        /// The part
        #[arg(value_name = "PART")]
        part: PathBuf,
        /// Public key of the machine, `age1...` (repeatable)
        #[arg(long, required = true, value_name = "KEY")]
        to: Vec<String>,
        /// Check both as one and put the part into this profile, instead of printing its key `encrypted`
        #[arg(long, value_name = "PROFILE")]
        into: Option<PathBuf>,
    },
    /// Print the JSON Schema of profiles (for editors: `#:schema FILE` in the first line of a profile)
    Schema,
    /// Print the reference of all fields as Markdown
    Page,
}

/// `ingot clean`
#[derive(Debug, Args)]
pub struct Clean {
    /// Remove the package store too: the next build downloads again
    #[arg(long)]
    pub store: bool,
}
