//! Two builds in different places give the same bytes, every file of the release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ingot_tests::fixture::{load_balancer, scratch};
use ingot_tests::programs::{cache, ingot, ingot_path, must, tool};

/// Name and SHA-256 of every file below `folder`.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    must(tool("bash", ["-euc", "find . -type f -print0 | xargs -0 sha256sum"]).current_dir(folder))
        .lines()
        .map(|line| line.split_once("  ").map(|(digest, name)| (name.to_owned(), digest.to_owned())).unwrap())
        .collect()
}

/// An ordinary user with a range of subordinate ids, made when missing.
fn ordinary_user() -> &'static str {
    let name = "ingot-test";
    let known = fs::read_to_string("/etc/passwd").unwrap().lines().any(|l| l.starts_with("ingot-test:"));
    if !known {
        must(&mut tool("useradd", ["--create-home", "--shell", "/bin/bash", name]));
    }
    if !fs::read_to_string("/etc/subuid").unwrap_or_default().lines().any(|l| l.starts_with("ingot-test:")) {
        must(&mut tool("usermod", ["--add-subuids", "700000-765535", "--add-subgids", "700000-765535", name]));
    }
    name
}

fn definition() -> std::path::PathBuf {
    ingot_tests::fixture::definitions().join("load-balancer.toml")
}

#[test]
fn another_user_folder_umask_locale_and_time_give_the_same_bytes() {
    let first = load_balancer();
    let user = ordinary_user();
    // The other user gets copies: of the program, the definitions with their lock, the keys, and the downloaded packages.
    let folder = tempfile::Builder::new().prefix("ingot other place ").tempdir_in("/var/tmp").unwrap();
    let home = folder.path();
    must(tool("cp", ["-r"]).arg(ingot_tests::fixture::definitions()).arg(cache().join("keys")).arg(home));
    fs::create_dir_all(home.join("cache")).unwrap();
    must(tool("cp", ["-r"]).arg(cache().join("ingot/store")).arg(home.join("cache/store")));
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::copy(ingot_path(), home.join("bin/ingot")).unwrap();
    for program in ["ingot-init", "ingot-installer", "ingot-agent"] {
        fs::copy(ingot_path().with_file_name(program), home.join("bin").join(program)).unwrap();
    }
    must(tool("chown", ["-R", user]).arg(home));
    must(tool("chmod", ["755"]).arg(home));
    let script = r#"umask 077; cd "$1"; mkdir -p elsewhere; cd elsewhere
        exec env -i PATH=/usr/bin:/bin HOME="$1" LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8 TZ=Pacific/Kiritimati INGOT_CACHE="$1/cache" INGOT_KEYS="$1/keys" \
            ../bin/ingot build ../definitions/load-balancer.toml --locked --offline --output "$1/out put""#;
    let ids = must(&mut tool("id", ["-u", user])).trim().to_owned();
    let (user_id, group_id) = (format!("--reuid={ids}"), format!("--regid={ids}"));
    let mut build = tool("setpriv", [user_id.as_str(), &group_id, "--clear-groups", "bash", "-euc", script, "build"]);
    build.arg(home);
    must(&mut build);
    let second = home.join("out put");
    let (first, second) = (digests(&first), digests(&second));
    assert!(first.len() >= 10, "{first:?}");
    assert_eq!(first, second);
}

#[test]
fn warm_cold_and_damaged_caches_give_the_same_bytes() {
    let first = digests(&load_balancer());
    let folder = scratch();
    let build = |name: &str, cache_folder: &Path| {
        let out = folder.path().join(name);
        must(
            ingot(["build", "--locked", "--offline", "--force"])
                .arg(definition())
                .arg("--output")
                .arg(&out)
                .env("INGOT_CACHE", cache_folder),
        );
        digests(&out)
    };
    assert_eq!(first, build("warm", &cache().join("ingot")), "warm caches");
    // A cache of its own that shares only the store, then with every cache file damaged in the middle.
    let own = folder.path().join("cache");
    fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(cache().join("ingot/store"), own.join("store")).unwrap();
    assert_eq!(first, build("cold", &own), "no caches");
    let damage = r#"find "$1/" -type f -size +100c ! -path '*/store/*' ! -path '*/root/*' -print | while read -r f; do
        s=$(stat -c %s "$f"); printf 'damage' | dd of="$f" bs=1 seek=$((s / 2)) conv=notrunc status=none; done
        find "$1" -path '*/root/usr/sbin/haproxy' -print | while read -r f; do printf 'damage' | dd of="$f" bs=1 seek=99 conv=notrunc status=none; done"#;
    must(tool("bash", ["-euc", damage, "damage"]).arg(&own));
    assert_eq!(first, build("damaged", &own), "damaged caches");
}

#[test]
fn nothing_changed_is_said_and_quick() {
    load_balancer();
    let started = std::time::Instant::now();
    let said = must(ingot(["build"]).arg(definition()).arg("--output").arg(cache().join("releases/load-balancer")));
    assert!(said.contains("nothing changed"), "{said}");
    // The bound of 0.3 s is ci/bench's to measure; this only catches a build that ran after all.
    assert!(started.elapsed().as_secs() < 3);
}
