//! What names and texts of a profile look like. Each text that ends in a file another program reads
//! is held to characters that mean nothing to that program.

use crate::rule::{Rule, alnum, lower, only, plain_parts, starts};

/// One part of a DNS name (RFC 1123).
fn label(text: &str) -> bool {
    only(text, 63, |c| lower(c) || c == '-') && !text.starts_with('-') && !text.ends_with('-')
}

/// Name of a node or of a cluster (RFC 1123 label).
pub const NAME: Rule =
    Rule { what: "name", expected: "lower-case letters, digits and `-` between them, at most 63", holds: label };

/// Host name, with or without domain.
pub const DOMAIN: Rule = Rule {
    what: "DNS name",
    expected: "parts of lower-case letters, digits and `-`, with `.` between them, at most 253",
    holds: |text| {
        text.len() <= 253
            && text.split('.').all(label)
            && !text.rsplit('.').next().unwrap_or_default().bytes().all(|b| b.is_ascii_digit())
    },
};

/// Name of a Linux network interface: 15 bytes at most (IFNAMSIZ).
pub const INTERFACE: Rule = Rule {
    what: "interface name",
    expected: "letters, digits, `-`, `_`, `.`, at most 15, not only digits",
    holds: |text| {
        only(text, 15, |c| alnum(c) || "-_.".contains(c))
            && text != "."
            && text != ".."
            && !text.bytes().all(|b| b.is_ascii_digit())
            && !matches!(text, "all" | "default" | "lo")
    },
};

/// Pattern of interface names the kernel gave: `eth0`, `en*`.
pub const INTERFACE_PATTERN: Rule = Rule {
    what: "pattern of interface names",
    expected: "an interface name, with `*` and `?` for anything",
    holds: |text| only(text, 15, |c| alnum(c) || "-_.*?".contains(c)),
};

/// Hardware address.
pub const MAC: Rule = Rule {
    what: "hardware address",
    expected: "six pairs of hexadecimal digits with `:` between them",
    holds: |text| {
        text.len() == 17
            && text.split(':').count() == 6
            && text.split(':').all(|pair| pair.len() == 2 && only(pair, 2, |c| c.is_ascii_hexdigit()))
    },
};

/// Kubernetes label key: `[prefix/]name`.
pub const LABEL_KEY: Rule = Rule {
    what: "label key",
    expected: "a name of at most 63 letters, digits, `-`, `_`, `.`, with a DNS name and `/` before it where wanted",
    holds: |text| match text.split_once('/') {
        Some((prefix, name)) => DOMAIN.holds(prefix) && label_name(name),
        None => label_name(text),
    },
};

/// Kubernetes label value.
pub const LABEL_VALUE: Rule = Rule {
    what: "label value",
    expected: "nothing, or at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends",
    holds: |text| text.is_empty() || label_name(text),
};

fn label_name(text: &str) -> bool {
    only(text, 63, |c| alnum(c) || "-_.".contains(c)) && starts(text, alnum) && text.ends_with(alnum)
}

/// Text of one line.
pub const LINE: Rule = Rule {
    what: "line",
    expected: "one line without control characters, at most 1000 bytes",
    holds: |text| text.len() <= 1000 && !text.chars().any(char::is_control),
};

/// `https://` URL.
pub const HTTPS: Rule = Rule {
    what: "https URL",
    expected: "`https://`, a host, a path; without user, query or fragment",
    holds: |text| text.strip_prefix("https://").is_some_and(url_rest),
};

/// `http://` or `https://` URL.
pub const URL: Rule = Rule {
    what: "URL",
    expected: "`https://` or `http://`, a host, a path; without user, query or fragment",
    holds: |text| text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).is_some_and(url_rest),
};

fn url_rest(rest: &str) -> bool {
    starts(rest, |c| alnum(c) || c == '[')
        && only(rest, 1000, |c| alnum(c) || "-._~/:%+[]".contains(c))
        && !rest.split('/').any(|part| part == "..")
}

/// Login name.
pub const ACCOUNT: Rule = Rule {
    what: "user or group name",
    expected: "lower-case letters, digits, `_` and `-`, the first a letter or `_`, at most 32",
    holds: |text| starts(text, |c| c.is_ascii_lowercase() || c == '_') && only(text, 32, |c| lower(c) || c == '_' || c == '-'),
};

const KEY_KINDS: [&str; 7] = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// SSH public key on one line.
pub const SSH_KEY: Rule = Rule {
    what: "SSH public key",
    expected: "one line such as `ssh-ed25519 AAAA... comment`, without options before it",
    holds: |text| {
        let mut words = text.split(' ');
        text.len() <= 8192
            && !text.chars().any(char::is_control)
            && words.next().is_some_and(|kind| KEY_KINDS.contains(&kind))
            && words.next().is_some_and(|key| {
                key.len() >= 40 && key.starts_with("AAAA") && only(key, 8192, |c| alnum(c) || "+/=".contains(c))
            })
    },
};

/// Password hash as crypt(5) makes it; only the strong methods.
pub const PASSWORD_HASH: Rule = Rule {
    what: "password hash",
    expected: "a hash of `mkpasswd`, method yescrypt (`$y$`) or sha512crypt (`$6$`)",
    holds: |text| (text.starts_with("$y$") || text.starts_with("$6$")) && only(text, 300, |c| alnum(c) || "$./=,".contains(c)),
};

/// Name of a systemd credential.
pub const CREDENTIAL: Rule = Rule {
    what: "credential name",
    expected: "letters, digits, `-`, `_`, `.`, at most 255",
    holds: |text| only(text, 255, |c| alnum(c) || "-_.".contains(c)) && !text.starts_with('.'),
};

/// PEM certificates.
pub const CERTIFICATES: Rule = Rule {
    what: "PEM certificate",
    expected: "one or more blocks from `-----BEGIN CERTIFICATE-----` to `-----END CERTIFICATE-----`",
    holds: |text| pem(text, "CERTIFICATE"),
};

/// Whether a text is made of PEM blocks of one kind and white space alone.
pub fn pem(text: &str, kind: &str) -> bool {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let mut rest = text.trim();
    let mut blocks = 0;
    while let Some((body, after)) = rest.strip_prefix(&begin).and_then(|rest| rest.split_once(&end)) {
        let payload: String = body.split_ascii_whitespace().collect();
        if !only(&payload, 1 << 20, |c| alnum(c) || "+/=".contains(c)) {
            return false;
        }
        blocks += 1;
        rest = after.trim_start();
    }
    blocks > 0 && rest.is_empty()
}

/// Name of a sysctl.
pub const SYSCTL: Rule = Rule {
    what: "sysctl",
    expected: "a name such as `net.ipv4.ip_forward`",
    holds: |text| {
        only(text, 200, |c| alnum(c) || "-_./".contains(c))
            && text.contains('.')
            && text.split('.').all(|part| !part.is_empty() && !part.starts_with('/') && !part.ends_with('/'))
            && !text.contains("//")
            && !text.contains("..")
    },
};

/// Name of a kernel module.
pub const MODULE: Rule = Rule {
    what: "module name",
    expected: "letters, digits, `_` and `-`, without path and `.ko`",
    holds: |text| only(text, 60, |c| alnum(c) || c == '_' || c == '-'),
};

/// Absolute path.
pub const PATH: Rule = Rule {
    what: "path",
    expected: "an absolute path without `.`, `..`, `//`, control characters or a `/` at its end",
    holds: |text| text.strip_prefix('/').is_some_and(plain_parts),
};

/// Permission bits without setuid, setgid and sticky.
pub const MODE: Rule = Rule {
    what: "mode",
    expected: "three octal digits with or without a `0` before them, in quotes, such as \"0640\"",
    holds: |text| {
        let digits = if text.len() == 4 { text.strip_prefix('0').unwrap_or_default() } else { text };
        digits.len() == 3 && digits.chars().all(|c| ('0'..='7').contains(&c))
    },
};

/// Bootstrap token of kubeadm.
pub const TOKEN: Rule = Rule {
    what: "bootstrap token",
    expected: "six and sixteen lower-case letters or digits with a `.` between them",
    holds: |text| {
        text.split_once('.')
            .is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && only(id, 6, lower) && only(secret, 16, lower))
    },
};

/// Pin of a cluster's CA.
pub const CA_PIN: Rule = Rule {
    what: "CA pin",
    expected: "`sha256:` and 64 lower-case hexadecimal digits",
    holds: |text| {
        text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && only(hex, 64, |c| matches!(c, '0'..='9' | 'a'..='f')))
    },
};

/// Key under which kubeadm keeps the control plane's certificates.
pub const CERTIFICATE_KEY: Rule = Rule {
    what: "certificate key",
    expected: "64 hexadecimal digits",
    holds: |text| text.len() == 64 && only(text, 64, |c| c.is_ascii_hexdigit()),
};

/// Path of an HTTP request.
pub const HTTP_PATH: Rule = Rule {
    what: "request path",
    expected: "`/` and letters, digits, `-`, `_`, `.`, `/`",
    holds: |text| text.starts_with('/') && only(text, 200, |c| alnum(c) || "-_./".contains(c)),
};

/// Host of a container registry.
pub const REGISTRY: Rule = Rule {
    what: "registry",
    expected: "a host with or without a port, such as `registry.k8s.io` or `10.0.0.2:5000`",
    holds: |text| {
        text == "*"
            || DOMAIN.holds(text)
            || text.parse::<std::net::IpAddr>().is_ok()
            || text.parse::<crate::address::Endpoint>().is_ok()
    },
};

/// Entry of a list of hosts that are reached without the proxy.
pub const NO_PROXY: Rule = Rule {
    what: "host without proxy",
    expected: "a DNS name, with or without a `.` before it, an address or a network",
    holds: |text| {
        DOMAIN.holds(text.strip_prefix('.').unwrap_or(text))
            || text.parse::<std::net::IpAddr>().is_ok()
            || text.parse::<crate::address::Prefix>().is_ok()
    },
};

/// User name at a registry or proxy.
pub const REMOTE_USER: Rule = Rule {
    what: "user name",
    expected: "letters, digits and `-`, `_`, `.`, `@`, `$`, `+`, at most 200",
    holds: |text| only(text, 200, |c| alnum(c) || "-_.@$+".contains(c)),
};

/// Argument of the kubelet or the API server, without `--`.
pub const ARGUMENT: Rule = Rule {
    what: "argument",
    expected: "a name such as `max-pods`, without `--`",
    holds: |text| only(text, 100, |c| lower(c) || c == '-') && starts(text, |c| c.is_ascii_lowercase()),
};

/// Value of an argument that stands in an environment file of systemd.
pub const ARGUMENT_VALUE: Rule = Rule {
    what: "value of an argument",
    expected: "printable ASCII without spaces, quotes, `\\`, `$`, `` ` `` and `%`, at most 1000",
    holds: |text| only(text, 1000, |c| c.is_ascii_graphic() && !"'\"\\$`%".contains(c)),
};
