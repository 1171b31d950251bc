//! The kernel's command line: what this program takes from it. Under Secure Boot it is part of the
//! signed UKI, so it is trusted; it is still read as if it were not.

use std::fmt;
use std::time::Duration;

use crate::failure::Failure;

/// Longest wait that can be asked for.
const LONGEST: u64 = 3600;

/// The words of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

/// The root hash of the dm-verity tree: 64 hexadecimal digits in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootHash(pub [u8; 32]);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterFailure {
    /// How long the words stay on the console.
    pub wait: Duration,
    /// What comes then.
    pub end: End,
}

/// How the machine ends after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Start again: boot counting may choose the other slot.
    Restart,
    /// Power off (`rd.ingot.fail=poweroff`), for tests.
    PowerOff,
}

impl CommandLine {
    /// Splits at white space as the kernel does (lib/cmdline.c): double quotes keep it together and are dropped.
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let (mut word, mut quoted) = (String::new(), false);
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                c if c.is_ascii_whitespace() && !quoted => {
                    words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                }
                c => word.push(c),
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        Self { words }
    }

    /// Whether `word` is there alone, without a value.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// The values of all `name=value`, in their order.
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.words.iter().filter_map(move |w| w.strip_prefix(name)?.strip_prefix('='))
    }

    /// Seconds of `name=`, at most an hour; `default` where it is missing or no number.
    pub fn seconds(&self, name: &str, default: u64) -> Duration {
        Duration::from_secs(self.values(name).next_back().and_then(|v| v.parse().ok()).unwrap_or(default).min(LONGEST))
    }

    /// `rd.ingot.wait=` (seconds, 10) and `rd.ingot.fail=` (`reboot`, `poweroff`).
    pub fn after_failure(&self) -> AfterFailure {
        let end = if self.values("rd.ingot.fail").next_back() == Some("poweroff") { End::PowerOff } else { End::Restart };
        AfterFailure { wait: self.seconds("rd.ingot.wait", 10), end }
    }

    /// `init=`, the program to hand over to, where it is an absolute path.
    pub fn init(&self) -> Option<&str> {
        self.values("init").next_back().filter(|path| path.starts_with('/'))
    }

    /// The parameters for a module: `name.key=value` words as `key=value`, `-` and `_` being the same in the name.
    pub fn module_parameters(&self, module: &str) -> String {
        let same = |name: &str| name.replace('-', "_") == module;
        let of_module = |word: &String| word.split_once('.').filter(|(name, _)| same(name)).map(|(_, key)| key.to_owned());
        self.words.iter().filter_map(of_module).collect::<Vec<_>>().join(" ")
    }

    /// `roothash=`.
    ///
    /// # Errors
    /// When it is missing, no hash, or there are two that differ.
    pub fn root_hash(&self) -> Result<RootHash, Failure> {
        let refuse = |found: String| {
            Failure::new("reading the kernel's command line", found)
                .expected("roothash= with 64 hexadecimal digits")
                .next("boot the UKI that came with this image, or give its root hash (`ingot inspect`)")
        };
        let mut values = self.values("roothash");
        let Some(first) = values.next() else { return Err(refuse("no roothash=".to_owned())) };
        if let Some(other) = values.find(|other| *other != first) {
            return Err(refuse(format!("two that differ: roothash={first} and roothash={other}")));
        }
        RootHash::parse(first).ok_or_else(|| refuse(format!("roothash={first} ({} characters)", first.chars().count())))
    }
}

impl RootHash {
    fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
        let mut value = [0; 32];
        if digits.len() != value.len() * 2 {
            return None;
        }
        for (byte, pair) in value.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |sum, digit| sum << 4 | digit);
        }
        Some(Self(value))
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

    #[test]
    fn words_are_split_as_the_kernel_splits_them() {
        let line = CommandLine::parse(" quiet  a=\"b c\" \"d e\"=f init=/x init=rel\n");
        assert_eq!(line.words, ["quiet", "a=b c", "d e=f", "init=/x", "init=rel"]);
        assert!(line.has("quiet") && !line.has("a"));
        assert_eq!(line.init(), None, "a later init= replaces an earlier one, and must be absolute");
        assert_eq!(CommandLine::parse("\"open").words, ["open"]);
        assert_eq!(CommandLine::parse("").words, [""; 0]);
    }

    #[test]
    fn the_root_hash_is_64_digits_and_one() {
        let parse = |text: &str| CommandLine::parse(text).root_hash();
        assert_eq!(parse(&format!("roothash={HASH}")).unwrap().to_string(), HASH);
        assert_eq!(parse(&format!("roothash={HASH} roothash={HASH}")).unwrap().to_string(), HASH);
        let wrong =
            ["", "roothash", "roothash=", "roothash=12", &format!("roothash={HASH}0"), &format!("roothash=é{}", &HASH[2..])];
        for text in wrong {
            assert!(parse(text).is_err(), "{text}");
        }
        let failure = parse(&format!("roothash={HASH} roothash={}", HASH.replace('0', "1"))).unwrap_err();
        assert!(failure.found.contains("two that differ"), "{failure}");
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        let after = |text: &str| CommandLine::parse(text).after_failure();
        assert_eq!(after(""), AfterFailure { wait: Duration::from_secs(10), end: End::Restart });
        assert_eq!(after("rd.ingot.wait=0 rd.ingot.fail=poweroff"), AfterFailure { wait: Duration::ZERO, end: End::PowerOff });
        assert_eq!(after("rd.ingot.wait=-1 rd.ingot.fail=dance"), after(""));
        assert_eq!(after("rd.ingot.wait=99999999999").wait.as_secs(), LONGEST);
    }

    #[test]
    fn module_parameters_are_gathered_by_name() {
        let line =
            CommandLine::parse("dm-verity.prefetch_cluster=1 dm_verity.require_signatures overlay.metacopy=N rd.ingot.debug");
        assert_eq!(line.module_parameters("dm_verity"), "prefetch_cluster=1 require_signatures");
        assert_eq!(line.module_parameters("erofs"), "");
    }
}
