//! The encrypted part of a profile: an armored age file (age-encryption.org/v1) for X25519 keys, as the program `age` makes
//! and opens it.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::ExposeSecret;
use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The credential that holds a machine's keys.
pub const CREDENTIAL: &str = "ingot.age-identity";

/// Longest file of keys, in bytes.
pub const LONGEST_KEYS: usize = 64 << 10;

/// The keys of a machine, as `age-keygen` writes them: a line each, `#` before what is for people. Several let one follow
/// another.
#[derive(Clone)]
pub struct Identity(Vec<age::x25519::Identity>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// Why a text holds no keys; it never repeats any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// A line is none.
    #[error("line {0} is no key: expected `AGE-SECRET-KEY-1...`, as age-keygen and `ingot keys machine` write it")]
    Line(usize),
    /// It has none.
    #[error("there is no key: expected a line `AGE-SECRET-KEY-1...`")]
    None,
    /// It is too large.
    #[error("expected {LONGEST_KEYS} bytes at most")]
    Long,
}

impl FromStr for Identity {
    type Err = NoKeys;

    fn from_str(text: &str) -> Result<Self, NoKeys> {
        if text.len() > LONGEST_KEYS {
            return Err(NoKeys::Long);
        }
        let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|(line, number)| line.parse().map_err(|_| NoKeys::Line(number)));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(NoKeys::None) } else { Ok(Self(keys)) }
    }
}

impl Identity {
    /// A new key.
    pub fn generate() -> Self {
        Self(vec![age::x25519::Identity::generate()])
    }

    /// The text of a file of keys.
    pub fn file(&self) -> Secret {
        let text = self.0.iter().fold(String::new(), |mut text, key| {
            text.extend(["# public key: ", &key.to_public().to_string(), "\n", key.to_string().expose_secret(), "\n"]);
            text
        });
        Secret::new(text)
    }

    /// Who it is to others: nothing secret.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.0.iter().map(|key| Recipient(key.to_public())).collect()
    }
}

/// Whom a part of a profile is encrypted for: `age1...`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected a public key `age1...` of 62 characters, as age-keygen and `ingot keys machine` print it";
        text.trim().parse().map(Self).map_err(|_| wrong)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why an encrypted part stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// None of the keys fits.
    #[error("it is encrypted for other keys")]
    OtherKeys,
    /// It was changed, cut, or is of another version of age.
    #[error("it is damaged, or no age file of version 1")]
    Damaged,
    /// What is inside is no text.
    #[error("what it holds is not UTF-8, which TOML is written in")]
    NotText,
}

/// Opens the encrypted part of a profile.
///
/// # Errors
/// [`Closed`].
pub fn open(armored: &str, identity: &Identity) -> Result<Secret, Closed> {
    let closed = |error: DecryptError| match error {
        DecryptError::NoMatchingKeys => Closed::OtherKeys,
        _ => Closed::Damaged,
    };
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(armored.trim().as_bytes())).map_err(closed)?;
    let keys = identity.0.iter().map(|key| key as &dyn age::Identity);
    // As large as it can become, so that no copy of it stays behind when it grows.
    let mut plain = Zeroizing::new(Vec::with_capacity(armored.len()));
    decryptor.decrypt(keys).map_err(closed)?.read_to_end(&mut plain).map_err(|_| Closed::Damaged)?;
    match String::from_utf8(std::mem::take(&mut *plain)) {
        Ok(text) => Ok(Secret::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(Closed::NotText)
        }
    }
}

/// Encrypts a part of a profile for all of these.
///
/// # Errors
/// There is nobody to encrypt it for.
pub fn seal(plain: &Secret, recipients: &[Recipient]) -> Result<String, EncryptError> {
    let recipients = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = Encryptor::with_recipients(recipients)?.wrap_output(armor)?;
    writer.write_all(plain.expose().as_bytes())?;
    Ok(String::from_utf8_lossy(&writer.finish()?.finish()?).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Profile;

    const OUTER: &str = "schema = 1\n[node]\nname = 'w-1'\nrole = 'linux-worker'\n[cluster]\nname = 'c'\nkind = 'workload'\n\
        endpoint = '10.0.0.10:6443'\n";
    const INNER: &str = "[cluster.join]\ntoken = 'abcdef.0123456789abcdef'\nca_pins = []\n";

    fn profile(armored: &str) -> String {
        format!("encrypted = '''\n{armored}'''\n{OUTER}")
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_keys_only() {
        let (ours, others) = (Identity::generate(), Identity::generate());
        let plain = Secret::new("[report]\n".to_owned());
        let both: Vec<_> = ours.recipients().into_iter().chain(others.recipients()).collect();
        let armored = seal(&plain, &both).unwrap();
        assert_eq!(open(&armored, &ours).unwrap().expose(), plain.expose());
        assert_eq!(open(&armored, &others).unwrap().expose(), plain.expose());
        assert_eq!(open(&armored, &Identity::generate()).unwrap_err(), Closed::OtherKeys);
        assert!(seal(&plain, &[]).is_err());
        // A file of two keys, with words for people.
        let file = format!("# old\n{}\n# new\n{}", ours.file().expose(), Identity::generate().file().expose());
        let two: Identity = file.parse().unwrap();
        assert_eq!((two.recipients().len(), open(&armored, &two).unwrap().expose()), (2, plain.expose()));
        let binary = seal(&Secret::new(String::new()), &both).unwrap();
        assert_eq!(open(&binary, &ours).unwrap().expose(), "");
    }

    #[test]
    fn keys_that_are_none_are_refused_without_repeating_them() {
        assert_eq!("# nothing\n\n".parse::<Identity>().unwrap_err(), NoKeys::None);
        assert_eq!("".parse::<Identity>().unwrap_err(), NoKeys::None);
        let error = "\nAGE-SECRET-KEY-1HUNTER2\n".parse::<Identity>().unwrap_err();
        assert_eq!(error, NoKeys::Line(2));
        assert!(!error.to_string().contains("HUNTER2"));
        assert_eq!("#".repeat(LONGEST_KEYS + 1).parse::<Identity>().unwrap_err(), NoKeys::Long);
        assert!("age1hunter".parse::<Recipient>().is_err());
        assert_eq!(format!("{:?}", Identity::generate()), "Identity(..)");
    }

    #[test]
    fn a_profile_is_read_without_its_encrypted_part_and_with_it() {
        let identity = Identity::generate();
        let text = profile(&seal(&Secret::new(INNER.to_owned()), &identity.recipients()).unwrap());
        let outer = Profile::parse("p", text.as_bytes()).unwrap();
        assert!(outer.cluster.unwrap().join.is_none(), "nobody knows yet");
        let opened = open(&outer.encrypted.unwrap(), &identity).unwrap();
        // As one they are checked as any profile: the pins are missing.
        let refused = Profile::parse_opened("p", text.as_bytes(), &opened).unwrap_err().to_string();
        assert!(refused.contains("nothing says by what the cluster is recognised"), "{refused}");
        let good = Secret::new(opened.expose().replace("[]", &format!("['sha256:{}']", "a".repeat(64))));
        let whole = Profile::parse_opened("p", text.as_bytes(), &good).unwrap();
        assert!(whole.encrypted.is_none() && whole.cluster.unwrap().join.unwrap().token.is_some());
    }

    #[test]
    fn faults_of_the_encrypted_part_name_the_place_only() {
        let identity = Identity::generate();
        for (inner, expected) in [
            ("[cluster.join]\ntoken = 'hunter2'\n", "the secret is no bootstrap token: expected"),
            ("[cluster.join]\ntoken = 'hunter2\n", "this is not TOML"),
            ("[cluster.join]\ntokn = 'hunter2'\n", "unknown key\n--> p (encrypted part):2:1\n = help: did you mean `token`?"),
            ("[node]\nname = 'hunter2'\n", "this key is already there"),
            ("schema = 1\n", "this key is already there"),
            ("encrypted = 'hunter2'\n", "this key is already there"),
            ("[node]\ndomain = 'hunter2 '\n", "this is no DNS name: expected"),
            ("[time]\nservers = ['hunter2;']\n", "this is no DNS name"),
            ("[[file]]\npath = '/etc/hunter2'\n", "(encrypted part):2:8"),
            ("[[file]]\npath = '/hunter2'\ncontent = ''\n", "(encrypted part):2:8"),
            ("[kernel]\nmodules = ['hunter2', 'hunter2']\n", "this module is already there"),
            ("[load_balancer]\n", "(encrypted part):1:1"),
        ] {
            let armored = seal(&Secret::new(inner.to_owned()), &identity.recipients()).unwrap();
            let text = profile(&armored);
            let opened = open(&armored, &identity).unwrap();
            let refused = Profile::parse_opened("p", text.as_bytes(), &opened).unwrap_err().to_string();
            assert!(refused.contains(expected), "{inner}\n{refused}");
            assert!(!refused.contains("hunter2"), "{inner}\n{refused}");
        }
    }

    /// `age` and `age-keygen` of Debian read what we write, and the other way round.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the other program, in a test")]
    fn the_program_age_opens_it_and_its_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let run = |line: &str| {
            let output = std::process::Command::new("sh").args(["-ec", line]).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        // Their keys, their file.
        run("age-keygen -o theirs 2>/dev/null");
        let theirs: Identity = read("theirs").parse().unwrap();
        let public = theirs.recipients()[0].to_string();
        assert_eq!(run("age-keygen -y theirs").trim(), public);
        write("plain", INNER);
        run(&format!("age -a -r {public} -o armored plain"));
        assert_eq!(open(&read("armored"), &theirs).unwrap().expose(), INNER);
        // As it stands in a profile.
        let outer = Profile::parse("p", profile(&read("armored")).as_bytes()).unwrap();
        assert_eq!(open(&outer.encrypted.unwrap(), &theirs).unwrap().expose(), INNER);
        // Our keys, our file.
        let ours = Identity::generate();
        write("ours", ours.file().expose());
        assert_eq!(run("age-keygen -y ours").trim(), ours.recipients()[0].to_string());
        write("sealed", &seal(&Secret::new(INNER.to_owned()), &[ours.recipients(), theirs.recipients()].concat()).unwrap());
        assert_eq!(run("age -d -i ours sealed"), INNER);
        assert_eq!(run("age -d -i theirs sealed"), INNER);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn no_damage_opens_it_or_makes_it_panic(place in 0usize..600, byte: u8, cut in 0usize..600) {
            let identity = Identity::generate();
            let armored = seal(&Secret::new(INNER.to_owned()), &identity.recipients()).unwrap();
            let mut bytes = armored.clone().into_bytes();
            let at = place % bytes.len();
            bytes[at] = byte;
            let same = bytes == armored.as_bytes();
            if let Ok(text) = open(&String::from_utf8_lossy(&bytes), &identity) {
                // White space between the lines means nothing.
                prop_assert!(same || byte.is_ascii_whitespace() || armored.as_bytes()[at].is_ascii_whitespace());
                prop_assert_eq!(text.expose(), INNER);
            }
            let cut = cut % armored.trim().len();
            prop_assert!(open(&armored[..cut], &identity).is_err());
        }
    }
}
