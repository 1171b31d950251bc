//! With keys and signatures that ssh-keygen makes.

use std::path::Path;
use std::sync::LazyLock;

use super::identity::{self, Identity};
use super::*;
use crate::find::fixture::{Fake, pool, tool};

const PROFILE: &[u8] = b"schema = 1\nserial = 7\n";
/// The image is of 2026, and so are the clocks that are set.
const IMAGE: u64 = 1_770_000_000;
const NOW: u64 = 1_780_000_000;

struct Keys {
    public: String,
    fingerprint: String,
    signature: String,
    other_namespace: String,
    stranger: String,
}

fn sign(folder: &Path, key: &str, namespace: &str) -> String {
    let _ = std::fs::remove_file(folder.join("profile.sig"));
    tool(folder, &format!("ssh-keygen -q -Y sign -n {namespace} -f {key} profile"));
    std::fs::read_to_string(folder.join("profile.sig")).unwrap()
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for key in ["key", "stranger"] {
        tool(at, &format!("ssh-keygen -q -t ed25519 -N '' -C {key} -f {key}"));
    }
    std::fs::write(at.join("profile"), PROFILE).unwrap();
    let public = std::fs::read_to_string(at.join("key.pub")).unwrap().trim().to_owned();
    Keys {
        fingerprint: ssh_fingerprint(&public),
        signature: sign(at, "key", "ingot-profile"),
        other_namespace: sign(at, "key", "ingot-release"),
        stranger: sign(at, "stranger", "ingot-profile"),
        public,
    }
});

/// As `ssh-keygen -l` shows it.
fn ssh_fingerprint(public: &str) -> String {
    use base64::{Engine, engine::general_purpose};
    let blob = general_purpose::STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
    format!("SHA256:{}", general_purpose::STANDARD_NO_PAD.encode(Sha256Digest::of(&blob).as_bytes()))
}

fn image(options: &str) -> Fake {
    let mut image = Fake::default().file(ALLOWED_SIGNERS, format!("ops {options} {}\n", KEYS.public).as_bytes());
    (image.clock, image.image) = (NOW, IMAGE);
    image
}

fn candidate(signature: Option<&str>) -> Candidate {
    Candidate { source: "the test".to_owned(), profile: PROFILE.to_vec(), signature: signature.map(str::to_owned) }
}

fn accept<'a>(image: &Fake, candidate: &'a Candidate) -> Result<Accepted<'a>, Refusal> {
    Trust::read(image)?.accept(candidate, Time::of(image)?)
}

#[test]
fn signatures_by_ssh_keygen_decide() {
    const ONLY: &str = "namespaces=\"ingot-profile\"";
    let good = candidate(Some(&KEYS.signature));
    let accepted = accept(&image(ONLY), &good).unwrap();
    assert_eq!((accepted.bytes(), accepted.signer().unwrap().principals.as_slice()), (PROFILE, ["ops".to_owned()].as_slice()));

    let changed = Candidate { profile: b"schema = 1\nserial = 8\n".to_vec(), ..good.clone() };
    let longer = Candidate { profile: [PROFILE, b"\n"].concat(), ..good.clone() };
    let revoked = |line: &str| image(ONLY).file(REVOKED_KEYS, line.as_bytes());
    let torn = &KEYS.signature[..KEYS.signature.len() / 2];
    for (image, candidate, expected) in [
        (image(ONLY), candidate(None), "takes signed profiles only"),
        (image(ONLY), candidate(Some("")), "expected an SSH signature"),
        (image(ONLY), candidate(Some(torn)), "expected an SSH signature"),
        (
            image(ONLY),
            candidate(Some(&KEYS.other_namespace)),
            "expected a signature for `ingot-profile`, found one for `ingot-release`",
        ),
        (image(ONLY), candidate(Some(&KEYS.stranger)), "not among the allowed signers"),
        (image("namespaces=\"ingot-release\""), good.clone(), "may not sign `ingot-profile`"),
        (image("valid-before=\"20260101\""), good.clone(), "not valid any more"),
        (image("valid-after=\"20300101\""), good.clone(), "not valid yet"),
        (image(ONLY), changed, "does not belong to these bytes"),
        (image(ONLY), longer, "does not belong to these bytes"),
        (revoked(&KEYS.public), good.clone(), "is revoked"),
        (revoked(&KEYS.fingerprint), good.clone(), "is revoked"),
    ] {
        let refusal = accept(&image, &candidate).unwrap_err();
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert_eq!(refusal.exit_code(), 4);
        assert!(!refusal.hint().is_empty());
    }
}

#[test]
fn unsigned_profiles_are_for_images_that_say_so() {
    let open = || image("").file(UNSIGNED_ALLOWED, b"");
    let bare = candidate(None);
    assert_eq!(accept(&open(), &bare).unwrap().signer(), None);
    assert!(Trust::read(&open()).unwrap().takes_unsigned() && !Trust::read(&image("")).unwrap().takes_unsigned());
    // A signature that does not hold is not as good as none.
    assert!(matches!(accept(&open(), &candidate(Some(&KEYS.stranger))), Err(Refusal::Untrusted { .. })));
    assert!(accept(&open(), &candidate(Some(&KEYS.signature))).unwrap().signer().is_some());
}

#[test]
fn an_image_that_cannot_be_read_trusts_nobody() {
    let bare = candidate(Some(&KEYS.signature));
    for (image, expected) in [
        (Fake::default(), "not there"),
        (image("").file(ALLOWED_SIGNERS, b"# nobody\n"), "expected at least one key"),
        (image("").file(ALLOWED_SIGNERS, b"\xff"), "utf-8"),
        (image("").file(ALLOWED_SIGNERS, b"EIO"), "input/output"),
        (image("").file(REVOKED_KEYS, b"rubbish\n"), "expected a public key"),
        (image("").file(REVOKED_KEYS, b"EIO"), "input/output"),
        (image("").file(UNSIGNED_ALLOWED, b"EIO"), "input/output"),
    ] {
        let refusal = accept(&image, &bare).unwrap_err();
        assert!(matches!(refusal, Refusal::Image { .. }) && refusal.to_string().contains(expected), "{refusal}");
    }
}

#[test]
fn a_clock_that_is_not_set_counts_as_the_images_time() {
    let mut unset = image("valid-after=\"20260101\"");
    unset.clock = 0;
    assert!(accept(&unset, &candidate(Some(&KEYS.signature))).is_ok(), "1970 is not before the key's time");
    let mut ended = image("valid-before=\"20250101\"");
    ended.clock = 0;
    let refusal = accept(&ended, &candidate(Some(&KEYS.signature))).unwrap_err();
    assert!(refusal.hint().contains("clock of this machine is not set"), "{refusal}");

    let claims = |not_before, not_after| Claims { not_before, not_after, ..Claims::default() };
    let (set, unset, far) = (Time::new(NOW, IMAGE), Time::new(0, IMAGE), Time::new(4_102_444_800, IMAGE));
    for (claims, time, expected) in [
        (claims(None, None), set, Ok(false)),
        (claims(None, None), unset, Ok(true)),
        (claims(Some(NOW), Some(NOW)), set, Ok(false)),
        (claims(Some(NOW + 1), None), set, Err("valid from 2026-05-28T20:26:41Z on")),
        (claims(None, Some(NOW - 1)), set, Err("valid up to 2026-05-28T20:26:39Z")),
        // Made after the image: not to be judged with such a clock.
        (claims(Some(NOW), Some(NOW + 1)), unset, Ok(true)),
        (claims(None, Some(IMAGE - 1)), unset, Err("valid up to")),
        (claims(None, Some(NOW)), far, Err("it is 2100-01-01T00:00:00Z at least")),
        (claims(Some(u64::MAX), None), set, Err("valid from @18446744073709551615 on")),
    ] {
        match (in_time(&claims, time), expected) {
            (Ok(note), Ok(noted)) => assert_eq!(note.is_some(), noted, "{claims:?} {time:?}"),
            (Err(refusal), Err(expected)) => assert!(refusal.to_string().contains(expected), "{refusal}"),
            (found, _) => panic!("{claims:?} {time:?}: {found:?}"),
        }
    }
    assert!(in_time(&Claims::default(), unset).unwrap().unwrap().contains("the clock shows 1970-01-01T00:00:00Z"));
}

#[test]
fn an_older_profile_follows_only_where_it_says_so_signed() {
    let image = image("").file(UNSIGNED_ALLOWED, b"");
    let (signed, unsigned) = (candidate(Some(&KEYS.signature)), candidate(None));
    let (signed, unsigned) = (accept(&image, &signed).unwrap(), accept(&image, &unsigned).unwrap());
    let former = |serial, issued| Former { serial, issued, sha256: Sha256Digest::of(b"another") };
    let claims = |serial, issued, allow_rollback| Claims { serial, issued, allow_rollback, ..Claims::default() };
    for (profile, claims, former, expected) in [
        (&signed, claims(7, None, false), None, "taken"),
        (&signed, claims(7, None, false), Some(former(6, None)), "taken"),
        (&signed, claims(7, None, false), Some(former(7, None)), "taken"),
        (&signed, claims(7, Some(5), false), Some(former(7, None)), "taken"),
        (&signed, claims(7, Some(5), false), Some(former(7, Some(4))), "taken"),
        (&signed, claims(8, Some(5), false), Some(former(7, Some(6))), "taken"),
        (
            &signed,
            claims(7, None, false),
            Some(former(8, None)),
            "no older than the one that made this node (serial 8), found serial 7",
        ),
        (
            &signed,
            claims(7, Some(5), false),
            Some(former(7, Some(6))),
            "issued 1970-01-01T00:00:06Z), found serial 7, issued 1970-01-01T00:00:05Z",
        ),
        (&signed, claims(7, Some(9), false), Some(former(8, Some(6))), "no older"),
        (&signed, claims(7, None, true), Some(former(8, None)), "taken"),
        (&unsigned, claims(7, None, true), Some(former(8, None)), "counts in signed profiles only"),
        (&unsigned, claims(7, None, true), Some(former(7, None)), "taken"),
        // The very same bytes.
        (&signed, claims(7, None, false), Some(Former { serial: 9, issued: None, sha256: signed.digest() }), "taken"),
    ] {
        let found =
            in_order(profile, &claims, former.as_ref()).map_or_else(|refusal| refusal.to_string(), |()| "taken".to_owned());
        assert!(found.contains(expected), "{claims:?} after {former:?}: {found}");
    }
}

#[test]
fn notes_come_back_and_broken_ones_stop() {
    let bare = candidate(Some(&KEYS.signature));
    let image = image("");
    let former = Former::of(&accept(&image, &bare).unwrap(), &Claims { serial: 7, issued: Some(9), ..Claims::default() });
    assert_eq!(Former::read(&Fake::new(&[(former::FORMER, former.render().as_bytes())])), Ok(Some(former)));
    assert_eq!(Former::read(&Fake::default()), Ok(None));
    let identity = Identity { uuid: Some("u".to_owned()), ..Identity::default() };
    assert_eq!(Identity::noted(&Fake::new(&[(identity::IDENTITY, identity.render().as_bytes())])), Ok(Some(identity)));
    for text in ["", "{", "[]", "{\"serial\":-1}", "{\"serial\":1}", "EIO", &"x".repeat(5000)] {
        let refusal = Former::read(&Fake::new(&[(former::FORMER, text.as_bytes())])).unwrap_err();
        assert!(matches!(refusal, Refusal::State { .. }) && refusal.exit_code() == 1, "{text}: {refusal}");
    }
    assert!(Identity::noted(&Fake::new(&[(identity::IDENTITY, b"{\"x\":1}")])).is_err());
}

#[test]
fn a_copy_of_a_machine_is_noticed() {
    let generation = |byte: u8| [vec![0; 40], vec![byte; 16], vec![0; 100]].concat();
    let machine = |uuid: &str, id: u8, host: &str| {
        Identity::of(&Fake::new(&[
            ("/sys/class/dmi/id/product_uuid", format!("{uuid}\n").as_bytes()),
            ("/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw", &generation(id)),
            ("/var/lib/hyperv/.kvp_pool_3", &pool(&[("VirtualMachineId", host.as_bytes())])),
        ]))
    };
    const A: &str = "550E8400-E29B-41D4-A716-446655440000";
    const B: &str = "550e8400-e29b-41d4-a716-446655440001";
    let made = machine(A, 1, "H1");
    assert_eq!(made.generation.as_deref(), Some("01".repeat(16).as_str()));
    assert_eq!(made.host.as_deref(), Some("h1"));
    assert_eq!(check_ok(None, &made), made);
    assert_eq!(check_ok(Some(&made), &machine(&A.to_lowercase(), 1, "h1")), made);
    for (now, expected) in [
        (machine(B, 1, "H1"), "its UUID was 550e8400-e29b-41d4-a716-446655440000, and is 550e8400-e29b-41d4-a716-446655440001"),
        (machine(A, 2, "H1"), "its generation (VMGenID) was 0101"),
        (machine(A, 1, "H2"), "its identifier on the host was h1, and is h2"),
    ] {
        let refusal = identity::check(Some(made.clone()), now).unwrap_err();
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert!(refusal.hint().contains("start a new one from the image"));
    }
    // What is not told is not compared, and stays noted.
    let silent = Identity::of(&Fake::default());
    assert_eq!(silent, Identity::default());
    assert_eq!(check_ok(Some(&made), &silent), made);
    assert_eq!(check_ok(Some(&silent), &made), made);
    assert_eq!(machine("Not Settable", 0, "").uuid, None);
    assert_eq!(machine("Not Settable", 0, ""), Identity::default());
}

fn check_ok(noted: Option<&Identity>, now: &Identity) -> Identity {
    identity::check(noted.cloned(), now.clone()).unwrap()
}
