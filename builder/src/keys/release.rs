//! The release key: signs manifests, sums, profiles and media as SSHSIG (OpenSSH's PROTOCOL.sshsig),
//! from a private key file or through ssh-agent. `ssh-keygen -Y verify` accepts what it makes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use rsa::sha2::Sha512;
use rsa::signature::{SignatureEncoding, Signer};
use rsa::{BigUint, RsaPrivateKey};
use ssh_key::private::{Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::{HashAlg, LineEnding, Mpint, PrivateKey, PublicKey, SshSig};
use trust::{AllowedSigners, Namespace, Policy, RevokedKeys};
use zeroize::Zeroizing;

use super::agent;
use crate::error::{Error, Kind, Result};
use crate::files;

/// What signs.
#[derive(Debug)]
pub enum SigningKey {
    /// A private key in memory.
    File(Box<PrivateKey>),
    /// A key that only the agent has: RSA, a security key, a KMS behind its own agent.
    Agent {
        /// The agent's socket.
        socket: PathBuf,
        /// Which of its keys.
        public: Box<PublicKey>,
    },
}

impl SigningKey {
    /// A new Ed25519 key. Besides Secure Boot keys the only randomness in the builder.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(comment: &str) -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut *seed)
            .map_err(|_| Error::new(Kind::Failed, "the system gives no randomness for a new key"))?;
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        let key = PrivateKey::new(pair, comment).map_err(|e| Error::new(Kind::Failed, format!("making a release key: {e}")))?;
        Ok(Self::File(Box::new(key)))
    }

    /// Opens `path`: an OpenSSH private key, or a public key whose private half the agent at
    /// `agent` holds. An encrypted private key is looked for in the agent too.
    ///
    /// # Errors
    /// [`Kind::Missing`] without agent, [`Kind::Untrusted`] for a private key that others may read,
    /// [`Kind::Document`] for a file that is no key.
    pub fn open(path: &Path, agent: Option<&Path>) -> Result<Self> {
        let text = Zeroizing::new(files::read_text(path)?);
        if !text.trim_start().starts_with("-----BEGIN") {
            let public = PublicKey::from_openssh(text.trim()).map_err(|e| no_key(path, &e))?;
            return Self::in_agent(public, agent, path);
        }
        let mode = files::open(path)?.metadata().map_err(|e| Error::io("reading", path, &e))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(
                Kind::Untrusted,
                format!("{}: expected a key that only its owner reads, found mode {:04o}", path.display(), mode & 0o7777),
            )
            .hint(format!("chmod 600 {}", path.display())));
        }
        let key = PrivateKey::from_openssh(text.as_bytes()).map_err(|e| no_key(path, &e))?;
        match key.is_encrypted() {
            true => Self::in_agent(key.public_key().clone(), agent, path),
            false => Ok(Self::File(Box::new(key))),
        }
    }

    fn in_agent(public: PublicKey, agent: Option<&Path>, path: &Path) -> Result<Self> {
        let socket = agent.ok_or_else(|| {
            Error::new(
                Kind::Missing,
                format!("{} needs an ssh-agent that holds its private key, and none is known", path.display()),
            )
            .hint("`eval $(ssh-agent)`, `ssh-add FILE`, and keep SSH_AUTH_SOCK in the environment")
        })?;
        Ok(Self::Agent { socket: socket.to_owned(), public: Box::new(public) })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        match self {
            Self::File(key) => key.public_key(),
            Self::Agent { public, .. } => public,
        }
    }

    /// The public half as one line, as in `release.pub`.
    ///
    /// # Errors
    /// When the key cannot be encoded.
    pub fn public_line(&self) -> Result<String> {
        let line = self.public().to_openssh().map_err(|e| Error::new(Kind::Document, format!("encoding the public key: {e}")))?;
        Ok(line + "\n")
    }

    /// The private half in OpenSSH's form, where it is in memory.
    ///
    /// # Errors
    /// When only the agent has it.
    pub(super) fn private_text(&self) -> Result<Zeroizing<String>> {
        match self {
            Self::File(key) => {
                key.to_openssh(LineEnding::LF).map_err(|e| Error::new(Kind::Failed, format!("encoding the private key: {e}")))
            }
            Self::Agent { .. } => Err(Error::new(Kind::Usage, "the private key is in the ssh-agent and does not leave it")),
        }
    }

    /// Signs `bytes` for one purpose. Ed25519 and RSA keys give the same text each time.
    ///
    /// # Errors
    /// The agent's; [`Kind::Untrusted`] when what was made does not verify, as with a weak key.
    pub fn sign(&self, namespace: Namespace, bytes: &[u8]) -> Result<String> {
        let failed = |e: ssh_key::Error| {
            Error::new(Kind::Failed, format!("signing with {}: {e}", self.public().fingerprint(HashAlg::Sha256)))
        };
        let data = |namespace: Namespace| SshSig::signed_data(namespace.as_str(), HashAlg::Sha512, bytes).map_err(failed);
        let mut signature = Vec::new();
        match self {
            Self::File(key) => {
                let (algorithm, made) = match key.key_data() {
                    KeypairData::Rsa(pair) => {
                        ("rsa-sha2-512".to_owned(), rsa_signature(pair, &data(namespace)?).map_err(failed)?)
                    }
                    _ => {
                        let made = key.sign(namespace.as_str(), HashAlg::Sha512, bytes).map_err(failed)?;
                        (made.algorithm().as_str().to_owned(), made.signature_bytes().to_vec())
                    }
                };
                agent::put_string(&mut signature, algorithm.as_bytes())?;
                agent::put_string(&mut signature, &made)?;
            }
            Self::Agent { socket, public } => {
                signature = agent::sign(socket, public, &data(namespace)?)?;
            }
        }
        let text = armor(self.public(), namespace, &signature)?;
        self.confirm(namespace, bytes, &text)?;
        Ok(text)
    }

    /// Nothing leaves that a machine would refuse.
    fn confirm(&self, namespace: Namespace, bytes: &[u8], signature: &str) -> Result<()> {
        let line = format!("self {}", self.public_line()?);
        let signers = AllowedSigners::parse(&line)
            .map_err(|e| Error::new(Kind::Untrusted, format!("the release key cannot be used: {e}")))?;
        let policy = Policy { signers: &signers, revoked: &RevokedKeys::default(), namespace, at: 0 };
        let checked = trust::verify(bytes, signature, &policy);
        checked.map(|_| ()).map_err(|e| Error::new(Kind::Untrusted, format!("checking the signature just made: {e}")))
    }
}

/// PKCS #1 v1.5 with SHA-512 (RFC 8332) by the rsa crate itself: ssh-key 0.6 takes the first prime twice.
fn rsa_signature(pair: &RsaKeypair, data: &[u8]) -> Result<Vec<u8>, ssh_key::Error> {
    let number = |mpint: &Mpint| mpint.as_positive_bytes().map(BigUint::from_bytes_be).ok_or(ssh_key::Error::Crypto);
    let (public, private) = (&pair.public, &pair.private);
    let primes = vec![number(&private.p)?, number(&private.q)?];
    let key = RsaPrivateKey::from_components(number(&public.n)?, number(&public.e)?, number(&private.d)?, primes);
    let key = rsa::pkcs1v15::SigningKey::<Sha512>::new(key.map_err(|_| ssh_key::Error::Crypto)?);
    Ok(key.try_sign(data).map_err(|_| ssh_key::Error::Crypto)?.to_vec())
}

/// The armored SSHSIG blob. Written here, as ssh-key loses the frame of ECDSA security keys.
fn armor(public: &PublicKey, namespace: Namespace, signature: &[u8]) -> Result<String> {
    let key = public.to_bytes().map_err(|e| Error::new(Kind::Document, format!("encoding the public key: {e}")))?;
    let mut blob = b"SSHSIG".to_vec();
    blob.extend(SshSig::VERSION.to_be_bytes());
    for field in [key.as_slice(), namespace.as_str().as_bytes(), b"", b"sha512", signature] {
        agent::put_string(&mut blob, field)?;
    }
    let mut text = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
    // ssh-keygen's width.
    for line in STANDARD.encode(blob).as_bytes().chunks(70) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    Ok(text + "-----END SSH SIGNATURE-----\n")
}

fn no_key(path: &Path, error: &ssh_key::Error) -> Error {
    Error::new(Kind::Document, format!("{}: expected an OpenSSH key: {error}", path.display()))
        .hint("`ssh-keygen -t ed25519 -f release` makes one, `ingot keys new` makes all that a release needs")
}
