//! The few texts of a profile that may hold anything (the snapshot of `installer/profile/src/tests/strings.rs` lists
//! them): whatever stands there, the program that reads the file sees one value, and exactly this one.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{machine_of, profile, tree};
use crate::machine::scripted::{Faults, Scripted};
use crate::sequence::run;

/// What means something to shells, systemd, TOML, sudoers, sshd, URLs.
const HOSTILE: [&str; 14] = [
    "$(reboot)",
    "`reboot`",
    ";reboot;",
    "${HOME}",
    "%n%%H%",
    "a\"b",
    "a'b",
    "a\\b\\n",
    "#x",
    "=x",
    "x@192.0.2.1:1/",
    "]x[",
    "{x}",
    "x,env=y",
];
/// Where a text may have blanks.
const BLANKS: [&str; 3] = ["x # y", "\" ExecStart=/bin/sh \"", "a ssh-rsa AAAA"];
/// Where it may have lines.
const LINES: [&str; 2] = ["[Service]\nExecStart=/bin/sh\n", "a\0b\r\n\u{202e}"];

type Files = BTreeMap<String, (u32, String)>;

/// The files of a machine whose profile says this instead of that.
fn made(changes: &[(&str, String)], credential: &str) -> Files {
    let root = machine_of("03-everything");
    let mut text = fs::read_to_string(root.path().join("profile.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    fs::write(root.path().join("profile.toml"), text).unwrap();
    fs::write(root.path().join("run/credentials/@system/registry"), credential).unwrap();
    let machine = Scripted::new(root.path(), Faults::default());
    run(&machine, &profile()).unwrap_or_else(|failure| panic!("{changes:?}: {failure:?}"));
    tree(root.path())
}

/// A text as TOML writes it.
fn toml_text(text: &str) -> String {
    serde_json::to_string(text).unwrap().replace('\u{7f}', "\\u007f")
}

/// The one value of a name in an environment file (systemd.exec(5)): nothing in it is quoted, escaped or expanded.
fn environment(text: &str, name: &str) -> String {
    let values: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}="))).collect();
    let [value] = values.as_slice() else { panic!("{text}") };
    assert!(!value.contains(['\\', '"', '\'', ' ', '\t', '$', '`']), "{value}");
    (*value).to_owned()
}

/// RFC 3986 section 2.1.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn passwords_end_as_one_value() {
    for hostile in HOSTILE {
        let files = made(&[("\"proxy-secret\"", toml_text(hostile))], hostile);
        for unit in ["containerd", "kubelet"] {
            let (mode, text) = &files[&format!("/etc/systemd/system/{unit}.service.d/50-ingot-proxy.env")];
            assert_eq!(mode & 0o077, 0);
            assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 3, "{text}");
            for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
                let url = environment(text, name);
                let login = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("@proxy.example.org:3128"));
                let (user, password) = login.unwrap_or_else(|| panic!("{url}")).split_once(':').unwrap();
                assert_eq!((user, decoded(password).as_str()), ("p", hostile), "{url}");
                assert!(!password.contains(['@', '/', ':', '#', '?']), "{url}");
            }
        }
        let (mode, hosts) = &files["/etc/containerd/certs.d/registry.k8s.io/hosts.toml"];
        assert_eq!(mode & 0o077, 0);
        let table: toml::Table = hosts.parse().unwrap_or_else(|e| panic!("{e}: {hosts}"));
        let host = table["host"].as_table().unwrap();
        assert_eq!(host.keys().collect::<Vec<_>>(), ["https://mirror.example.org:5000"]);
        let header = host["https://mirror.example.org:5000"]["header"]["Authorization"][0].as_str().unwrap();
        let login = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(login).unwrap(), format!("puller:{hostile}"));
    }
}

#[test]
fn texts_of_one_line_stay_on_it() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEz0QW1dLhCqFh2b3jN0mFzL1m0vC0m2a5qXv8mC1u2p";
    for hostile in HOSTILE.iter().chain(&BLANKS) {
        let line = format!("{key} {hostile}");
        let changes = [
            (&*format!("\"{key} ann@example.org\""), toml_text(&line)),
            ("\"net.ipv4.ip_forward\" = 1", format!("\"net.ipv4.ip_forward\" = {}", toml_text(hostile))),
        ];
        let files = made(&changes, "x");
        let (_, keys) = &files["/etc/ssh/authorized_keys.d/ann"];
        // sshd takes what is before the kind of key for options; there is nothing before it.
        assert_eq!(keys.lines().collect::<Vec<_>>(), [line]);
        let (_, sysctls) = &files["/etc/sysctl.d/60-ingot-profile.conf"];
        assert_eq!(sysctls.lines().collect::<Vec<_>>(), [format!("net.ipv4.ip_forward = {hostile}")]);
        assert_eq!(files["/proc/sys/net/ipv4/ip_forward"].1, *hostile);
    }
}

#[test]
fn files_hold_exactly_what_the_profile_says() {
    for hostile in HOSTILE.iter().chain(&BLANKS).chain(&LINES) {
        let changes = [("\"Site A\\n\"", toml_text(hostile)), ("\"file-secret\"", toml_text(hostile))];
        let files = made(&changes, "x");
        assert_eq!(files["/etc/issue"], (0o644, (*hostile).to_owned()));
        assert_eq!(files["/etc/app/key"], (0o600, (*hostile).to_owned()));
    }
}
