//! The helpers all sections are checked with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use crate::address::{Endpoint, Prefix, Range};
use crate::document::{Faults, Located, Place, Told, quoted, suggest};
use crate::rule::Rule;
use crate::rules;
use crate::secret::SecretSource;

/// A text and its place.
pub(crate) type Text = Located<String>;

/// A validation under way.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    pub faults: Faults<'a>,
    /// Whether every name that others may refer to was read: else its absence proves nothing.
    pub whole: bool,
    /// Values that turned out to hold what may be a secret.
    pub concealed: Vec<Place>,
}

impl Check<'_> {
    /// A text that must hold to a rule.
    pub fn text(&mut self, text: &Text, rule: &Rule) -> String {
        if !rule.holds(text) {
            self.faults.add(text.place(), rule.refused(text));
        }
        text.to_string()
    }

    /// A URL. One with a user in it may hold a password, and is not repeated.
    pub fn url(&mut self, text: &Text, rule: &Rule) -> String {
        if !text.contains('@') {
            return self.text(text, rule);
        }
        self.concealed.push(text.place());
        let hint = "write them as `username` and `password`, where the section has these";
        let message = format!("the {} holds a user name or password", rule.what);
        self.faults.add_with_hint(text.place(), Told::with_value(message.clone(), message), hint);
        String::new()
    }

    pub fn optional(&mut self, text: Option<&Text>, rule: &Rule) -> Option<String> {
        text.map(|text| self.text(text, rule))
    }

    pub fn list(&mut self, list: &[Text], rule: &Rule) -> Vec<String> {
        list.iter().map(|text| self.text(text, rule)).collect()
    }

    fn parsed<T: FromStr>(&mut self, text: &Text, what: &str) -> Option<T> {
        let value = text.parse().ok();
        if value.is_none() {
            let told = Told::with_value(format!("{} is no {what}", quoted(text)), format!("this is no {what}"));
            self.faults.add(text.place(), told);
        }
        value
    }

    /// An address without prefix length.
    pub fn address(&mut self, text: &Text) -> Option<IpAddr> {
        self.parsed(text, "IP address: expected one such as `10.0.0.1` or `fd00::1`")
    }

    /// An address with its prefix length.
    pub fn prefix(&mut self, text: &Text) -> Option<Prefix> {
        self.parsed(text, "address with prefix length: expected one such as `10.0.0.5/24` or `fd00::5/64`")
    }

    /// A network: no host bits.
    pub fn network(&mut self, text: &Text) -> Option<Prefix> {
        let network: Prefix = self.parsed(text, "network: expected one such as `10.244.0.0/16` or `fd00::/48`")?;
        if !network.is_network() {
            let what = "an address in a network: expected the network itself";
            self.faults.add(text.place(), Told::with_value(format!("{} is {what}", quoted(text)), format!("this is {what}")));
        }
        Some(network)
    }

    pub fn range(&mut self, text: &Text) -> Option<Range> {
        self.parsed(text, "range of addresses: expected one such as `10.0.0.100-10.0.0.120`, the lower first")
    }

    pub fn endpoint(&mut self, text: &Text) -> Option<Endpoint> {
        self.parsed(text, "host and port: expected one such as `api.example.org:6443` or `[fd00::1]:6443`")
    }

    /// A number in bounds, or the default.
    pub fn number(
        &mut self,
        number: Option<&Located<u32>>,
        name: &str,
        bounds: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(number) = number else { return default };
        if !bounds.contains(&**number) {
            let expected = format!("expected {} to {} for `{name}`", bounds.start(), bounds.end());
            let message = format!("{expected}, found {}", **number);
            self.faults.add(number.place(), Told::with_value(message, format!("{expected}, found another number")));
        }
        **number
    }

    /// A port, never 0.
    pub fn port(&mut self, port: &Located<u16>) -> u16 {
        if **port == 0 {
            self.faults.add(port.place(), "the port 0 is none: expected 1 to 65535");
        }
        **port
    }

    /// A secret. What it holds is never repeated.
    pub fn secret(&mut self, secret: &Located<SecretSource>, rule: &Rule) -> SecretSource {
        match &**secret {
            SecretSource::Inline(text) if !rule.holds(text.expose()) => {
                let message = format!("the secret is no {}: expected {}", rule.what, rule.expected);
                self.faults.add(secret.place(), Told::with_value(message.clone(), message));
            }
            SecretSource::Credential(name) if !rules::CREDENTIAL.holds(name) => {
                self.faults.add(secret.place(), rules::CREDENTIAL.refused(name));
            }
            _ => {}
        }
        SecretSource::clone(secret)
    }

    /// Values that stand twice in one list.
    pub fn twice<'t, T: Ord + std::fmt::Display + 't>(&mut self, what: &str, values: impl IntoIterator<Item = &'t Located<T>>) {
        let mut seen: BTreeMap<&T, Place> = BTreeMap::new();
        for value in values {
            if value.place().is_hole() {
                continue;
            }
            if let Some(first) = seen.get(&**value) {
                let message = format!("the {what} {} is already there", quoted(&value.to_string()));
                let hint = format!("it stands first at {}", self.faults.texts().show(*first));
                let message = Told::with_value(message, format!("this {what} is already there"));
                self.faults.add_with_hint(value.place(), message, Told::with_value(hint.clone(), hint));
            } else {
                seen.insert(value, value.place());
            }
        }
    }

    /// A name that must be among those known.
    pub fn known(&mut self, name: &Text, what: &str, known: &[&str]) {
        if !self.whole || known.contains(&name.as_str()) {
            return;
        }
        let message =
            Told::with_value(format!("there is no {what} {}", quoted(name)), format!("there is no {what} of this name"));
        match suggest(name, known.iter().copied()) {
            Some(meant) => self.faults.add_with_hint(name.place(), message, format!("did you mean `{meant}`?")),
            None if known.is_empty() => self.faults.add(name.place(), message),
            None => self.faults.add_with_hint(name.place(), message, format!("there are: {}", known.join(", "))),
        }
    }
}
