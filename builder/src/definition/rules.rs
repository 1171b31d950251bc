//! What names, paths and patterns look like, as a table of rules.

use profile::rule::{Rule, alnum, lower, only, plain_parts, starts};

use crate::containers::Reference;

/// Name of an image or of a repository.
pub(super) const NAME: Rule = Rule {
    what: "name",
    expected: "lower-case letters, digits and single `-` between them, at most 40",
    holds: |text| {
        only(text, 40, |c| lower(c) || c == '-') && !text.starts_with('-') && !text.ends_with('-') && !text.contains("--")
    },
};

/// Version of an image (UAPI.10). No `_`: it separates name and version in partition labels.
pub(super) const IMAGE_VERSION: Rule = Rule {
    what: "image version",
    expected: "a digit or letter first, then digits, letters, `.`, `-`, `~`, `^`, `+` and no `_`, at most 32",
    holds: |text| starts(text, alnum) && only(text, 32, |c| alnum(c) || ".-~^+".contains(c)),
};

/// Debian architecture.
pub(super) const ARCHITECTURE: Rule =
    Rule { what: "architecture that can be built", expected: "`amd64`", holds: |text| text == "amd64" };

/// Debian Policy 5.6.1.
pub(super) const PACKAGE: Rule = Rule {
    what: "package name",
    expected: "two or more of lower-case letters, digits, `+`, `-`, `.`, the first a letter or digit",
    holds: |text| text.len() > 1 && starts(text, lower) && only(text, 200, |c| lower(c) || "+-.".contains(c)),
};

/// Debian Policy 5.6.12.
pub(super) const VERSION: Rule = Rule {
    what: "Debian version",
    expected: "`[epoch:]version[-revision]`, beginning with a digit",
    holds: |text| {
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        only(epoch, 9, |c| c.is_ascii_digit())
            && starts(rest, |c| c.is_ascii_digit())
            && only(rest, 200, |c| alnum(c) || ".+-~:".contains(c))
            && !rest.ends_with('-')
    },
};

/// A version with `*` for anything.
pub(super) const VERSION_PATTERN: Rule = Rule {
    what: "version pattern",
    expected: "a Debian version with `*` where anything may stand, such as `3.0.*`",
    holds: |text| only(text, 200, |c| alnum(c) || ".+-~:*".contains(c)),
};

/// Base URL of a repository.
pub(super) const URL: Rule = Rule {
    what: "repository URL",
    expected: "`https://` or `http://`, a host and a path, without user, query or fragment",
    holds: |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        rest.is_some_and(|rest| {
            starts(rest, alnum)
                && only(rest, 1000, |c| alnum(c) || "-._~/:%+".contains(c))
                && !rest.split('/').any(|part| part == "..")
        })
    },
};

/// Suite, or path of a flat repository.
pub(super) const SUITE: Rule = Rule {
    what: "suite",
    expected: "letters, digits, `.`, `-`, `_`, `/`, such as `trixie`; a flat repository ends in `/`",
    holds: |text| {
        only(text, 200, |c| alnum(c) || "-._/".contains(c))
            && !text.contains("//")
            && (!text.starts_with('/') || text == "/")
            && !text.split('/').any(|part| part == "..")
    },
};

/// Component.
pub(super) const COMPONENT: Rule = Rule {
    what: "component",
    expected: "letters, digits, `.`, `-`, `_`, `/`, such as `main`",
    holds: |text| {
        only(text, 200, |c| alnum(c) || "-._/".contains(c)) && !text.split('/').any(|part| part.is_empty() || part == "..")
    },
};

/// OpenPGP fingerprint, versions 4 and 6, without spaces.
pub(super) const FINGERPRINT: Rule = Rule {
    what: "fingerprint",
    expected: "40 (or 64) hexadecimal digits without spaces",
    holds: |text| matches!(text.len(), 40 | 64) && only(text, 64, |c| c.is_ascii_hexdigit()),
};

/// Version of Kubernetes, of which the patch level may be left open.
pub(super) const KUBERNETES: Rule = Rule {
    what: "Kubernetes version",
    expected: "two or three numbers without `v`, such as `1.34` or `1.34.2`",
    holds: |text| {
        let parts: Vec<&str> = text.split('.').collect();
        let number = |part: &&str| only(part, 4, |c| c.is_ascii_digit()) && (*part == "0" || !part.starts_with('0'));
        matches!(parts.len(), 2 | 3) && parts.first() == Some(&"1") && parts.iter().all(number)
    },
};

/// Channel of the public repository of Kubernetes.
pub(super) const CHANNEL: Rule = Rule {
    what: "channel of the Kubernetes repository",
    expected: "`stable` or `prerelease`",
    holds: |text| matches!(text, "stable" | "prerelease"),
};

/// Last part of the name of one of kubeadm's images.
pub(super) const KUBEADM_IMAGE: Rule = Rule {
    what: "image of kubeadm's",
    expected: "a name as in `kubeadm config images list`, without registry and tag, such as `kube-proxy`",
    holds: |text| starts(text, lower) && only(text, 100, |c| lower(c) || c == '-'),
};

/// Full reference of a container image.
pub(super) const REFERENCE: Rule = Rule {
    what: "container image reference",
    expected: "registry, name and tag or digest in full, such as `docker.io/library/busybox:1.37`",
    holds: |text| text.parse::<Reference>().is_ok(),
};

/// Registry and path before the name of an image.
pub(super) const IMAGE_REPOSITORY: Rule = Rule {
    what: "image repository",
    expected: "a registry and a path, without scheme and tag, such as `registry.example/kubernetes`",
    holds: |text| format!("{text}/name:tag").parse::<Reference>().is_ok(),
};

/// Name of a user or group, as `useradd` takes it.
pub(super) const ACCOUNT: Rule = Rule {
    what: "user or group name",
    expected: "lower-case letters, digits, `_` and `-`, the first a letter or `_`, at most 32",
    holds: |text| starts(text, |c| c.is_ascii_lowercase() || c == '_') && only(text, 32, |c| lower(c) || c == '_' || c == '-'),
};

/// Owner of a file: a name or a number. 2^32 - 1 means "leave as it is" to the kernel.
pub(super) const OWNER: Rule = Rule {
    what: "owner",
    expected: "a user or group name, or a number below 4294967295",
    holds: |text| match starts(text, |c| c.is_ascii_digit()) {
        true => only(text, 10, |c| c.is_ascii_digit()) && text.parse::<u32>().is_ok_and(|number| number != u32::MAX),
        false => ACCOUNT.holds(text),
    },
};

/// Absolute path in the image, in its one form.
pub(super) const PATH: Rule = Rule {
    what: "path in the image",
    expected: "an absolute path without `.`, `..`, `//`, control characters or a `/` at its end",
    holds: |text| text.strip_prefix('/').is_some_and(plain_parts),
};

/// Relative path of a file beside the document.
pub(super) const BESIDE: Rule = Rule {
    what: "path beside the document",
    expected: "a relative path without `.`, `..`, `//` or control characters",
    holds: plain_parts,
};

/// Target of a symbolic link.
pub(super) const LINK: Rule = Rule {
    what: "link target",
    expected: "a path without control characters, at most 4095 bytes",
    holds: |text| only(text, 4095, |c| !c.is_control()),
};

/// Permission bits.
pub(super) const MODE: Rule = Rule {
    what: "mode",
    expected: "three or four octal digits in quotes, such as \"0644\"",
    holds: |text| matches!(text.len(), 3 | 4) && text.chars().all(|c| ('0'..='7').contains(&c)),
};

/// Glob pattern over paths without leading `/`.
pub(super) const GLOB: Rule = Rule {
    what: "pattern",
    expected: "a relative path with `*`, `?`, `[...]`, or `**` as a whole part; without leading `/`, `.` or `..`",
    holds: |text| {
        plain_parts(text) && text.split('/').all(|part| (part == "**" || !part.contains("**")) && brackets_closed(part))
    },
};

fn brackets_closed(part: &str) -> bool {
    let mut open = false;
    for c in part.chars() {
        match (c, open) {
            ('[', false) => open = true,
            (']', true) => open = false,
            ('[', true) | (']', false) => return false,
            _ => {}
        }
    }
    !open && !part.contains("[]")
}

const UNIT_KINDS: [&str; 10] = ["service", "socket", "mount", "automount", "swap", "target", "path", "timer", "slice", "device"];

/// Name of a systemd unit (systemd.unit(5)).
pub(super) const UNIT: Rule = Rule {
    what: "unit name",
    expected: "a name with its type, such as `haproxy.service`",
    holds: |text| {
        text.rsplit_once('.').is_some_and(|(name, kind)| {
            only(name, 200, |c| alnum(c) || ":-_.\\@".contains(c)) && !name.starts_with(['@', '.']) && UNIT_KINDS.contains(&kind)
        })
    },
};

/// A unit that can be the default target.
pub(super) const TARGET: Rule = Rule {
    what: "target",
    expected: "a unit name ending in `.target`, such as `multi-user.target`",
    holds: |text| text.ends_with(".target") && UNIT.holds(text),
};

/// Name of a kernel module.
pub(super) const MODULE: Rule = Rule {
    what: "module name",
    expected: "letters, digits, `_` and `-`, without path and `.ko`",
    holds: |text| only(text, 60, |c| alnum(c) || c == '_' || c == '-'),
};

/// Name of a kernel module, or pattern of paths below `kernel/`.
pub(super) const MODULES: Rule = Rule {
    what: "module name or pattern",
    expected: "a module name, or a pattern of paths below `kernel/` such as `net/**`",
    holds: |text| MODULE.holds(text) || GLOB.holds(text),
};

/// One word of the kernel command line.
pub(super) const WORD: Rule = Rule {
    what: "word of the kernel command line",
    expected: "printable ASCII without spaces and quotes",
    holds: |text| only(text, 1024, |c| c.is_ascii_graphic() && c != '"' && c != '\''),
};
