use super::*;
use proptest::prelude::*;

pub(in crate::lock) fn sample() -> Lock {
    let sha256 = Sha256Digest::of(b"abc");
    Lock {
        resolution: Sha256Digest::of(b""),
        architecture: "amd64".to_owned(),
        epoch: Epoch(1_789_200_000),
        releases: vec![LockedRelease {
            repository: "debian".to_owned(),
            suite: "trixie".to_owned(),
            date: Epoch(1_789_200_000),
            sha256,
            signed_by: "ABCDEF0123456789".to_owned(),
        }],
        packages: vec![LockedPackage {
            name: "base-files".to_owned(),
            version: "13.8+deb13u1".to_owned(),
            architecture: "amd64".to_owned(),
            repository: "debian".to_owned(),
            suite: "trixie".to_owned(),
            path: "pool/main/b/base-files/base-files_13.8+deb13u1_amd64.deb".to_owned(),
            size: 73_000,
            sha256,
            because: "wanted".to_owned(),
        }],
        containers: Containers::default(),
    }
}

#[test]
fn the_text_is_pinned() {
    // A change of this text is a change of format: raise FORMAT and say why.
    let text = sample().to_text();
    assert_eq!(
        text,
        "# made by `ingot lock`, do not edit\nformat = 1\n\
         resolution = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\narchitecture = \"amd64\"\n\
         epoch = 1789200000 # 2026-09-12T08:00:00Z\n\nreleases = [\n  { repository = \"debian\", suite = \"trixie\", \
         date = 1789200000, sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\", \
         signed_by = \"ABCDEF0123456789\" }, # 2026-09-12T08:00:00Z\n]\n\npackages = [\n  { name = \"base-files\", \
         version = \"13.8+deb13u1\", architecture = \"amd64\", because = \"wanted\", repository = \"debian\", \
         suite = \"trixie\", path = \"pool/main/b/base-files/base-files_13.8+deb13u1_amd64.deb\", size = 73000, \
         sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\" },\n]\n"
    );
    assert_eq!(Lock::parse("x.lock", &text).unwrap(), sample());
}

#[test]
fn wrong_locks_are_refused_with_the_place() {
    for (from, to, expected) in [
        ("format = 1", "format = 2", "x.lock:2:10: format 2"),
        ("format = 1\n", "format = 1\nextra = 1\n", "x.lock:3:1: unknown field `extra`"),
        ("because = ", "why = ", "x.lock:12:"),
        ("sha256 = \"ba", "sha256 = \"zz", "x.lock:12:"),
        ("pool/main/b", "pool/../../etc", "x.lock:12:3: base-files: `pool/../"),
        ("path = \"pool", "path = \"/pool", "x.lock:12:3:"),
        ("size = 73000", "size = 0", "x.lock:12:3:"),
        ("size = 73000", "size = 99999999999999", "x.lock:12:3:"),
        ("size = 73000", "size = -1", "x.lock:12:"),
        ("name = \"base-files\"", "name = \"../x\"", "x.lock:12:3:"),
        ("\"amd64\", because", "\"i386\", because", "x.lock:12:3:"),
        ("version = \"13", "version = \"!", "x.lock:12:3:"),
        ("because = \"wanted\", repository = \"debian\"", "because = \"wanted\", repository = \"other\"", "x.lock:12:3:"),
        ("signed_by = \"ABC", "signed_by = \"xyz", "x.lock:8:3:"),
        ("epoch = 1789200000", "epoch = \"now\"", "x.lock:5:"),
        ("packages = [", "packages = {", "x.lock:1"),
    ] {
        let text = sample().to_text();
        assert!(text.contains(from), "{from}");
        let error = Lock::parse("x.lock", &text.replace(from, to)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{to}: {error}");
        assert!(error.kind() == Kind::Document && !error.hints().is_empty());
    }
    let mut twice = sample();
    twice.packages.push(twice.packages[0].clone());
    assert!(Lock::parse("x.lock", &twice.to_text()).unwrap_err().to_string().contains("sorted"));
    twice.releases.push(twice.releases[0].clone());
    assert!(Lock::parse("x.lock", &twice.to_text()).unwrap_err().to_string().contains("twice"));
}

fn locks() -> impl Strategy<Value = Lock> {
    let name = "[a-z0-9][a-z0-9+.-]{0,8}";
    let version = "(1:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z]{1,3})?";
    let package =
        (name, version, any::<bool>(), 1..1_u64 << 33, any::<[u8; 32]>(), "pool/[a-z0-9]{1,5}/[a-zA-Z0-9_%+~:\"-]{1,8}");
    (proptest::collection::vec(package, 0..5), any::<[u8; 32]>(), 0..1_u64 << 33).prop_map(|(packages, digest, epoch)| {
        let mut lock = sample();
        let template = lock.packages.remove(0);
        lock.epoch = Epoch(epoch);
        lock.resolution = Sha256Digest(digest);
        lock.packages = packages
            .into_iter()
            .map(|(name, version, all, size, sha256, path)| LockedPackage {
                because: if size % 2 == 0 { "essential".to_owned() } else { name.clone() },
                name,
                version,
                architecture: if all { "all" } else { "amd64" }.to_owned(),
                size,
                sha256: Sha256Digest(sha256),
                path,
                ..template.clone()
            })
            .collect();
        lock.packages.sort_by(|a, b| a.name.cmp(&b.name));
        lock.packages.dedup_by(|a, b| a.name == b.name);
        lock
    })
}

proptest! {
    #[test]
    fn text_and_lock_round_trip(lock in locks()) {
        let text = lock.to_text();
        prop_assert_eq!(&Lock::parse("x", &text).unwrap(), &lock);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", at in 0..600_usize) {
        let _ = Lock::parse("x", &text);
        let good = sample().to_text();
        let cut: String = good.chars().take(at).collect();
        let _ = Lock::parse("x", &format!("{cut}{text}"));
    }
}

fn with_containers() -> Lock {
    let named = |text: &[u8]| crate::containers::document::Named { sha256: Sha256Digest::of(text), size: text.len() as u64 };
    let image = |reference: &str| crate::lock::LockedImage {
        reference: reference.to_owned(),
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        because: "kubernetes".to_owned(),
        documents: vec![named(b"index"), named(b"manifest")],
        layers: vec![named(b"config"), named(b"layer")],
    };
    let kubernetes = LockedKubernetes {
        version: "1.34.2".to_owned(),
        image_repository: "registry.k8s.io".to_owned(),
        pause: "registry.k8s.io/pause:3.10.1".to_owned(),
        coredns: "registry.k8s.io/coredns/coredns:v1.12.1".to_owned(),
        etcd: "registry.k8s.io/etcd:3.6.4-0".to_owned(),
    };
    let images = vec![image("registry.k8s.io/etcd:3.6.4-0"), image("registry.k8s.io/pause:3.10.1")];
    Lock { containers: Containers { kubernetes: Some(kubernetes), images }, ..sample() }
}

#[test]
fn container_images_are_written_one_a_line_and_read_again() {
    let text = with_containers().to_text();
    assert!(text.starts_with(&sample().to_text()), "what was there before stays as it is");
    assert_eq!(text.lines().filter(|line| line.contains("documents = [[\"")).count(), 2);
    assert_eq!(Lock::parse("x.lock", &text).unwrap(), with_containers());
    for (from, to, expected) in [
        ("/etcd:3.6.4-0\", because", "/zetcd:3.6.4-0\", because", "must be sorted"),
        ("/etcd:3.6.4-0\", because", "/etcd\", because", "a tag or a digest"),
        ("vnd.oci", "vnd oci", "no media type"),
        (", 8]", ", 0]", "with 0 bytes"),
        ("layers = [[", "layers = [], x = [[", "x.lock:"),
        ("because = \"kubernetes\", media", "media", "missing field `because`"),
        ("pause = ", "paws = ", "unknown field `paws`"),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from}");
        let error = Lock::parse("x.lock", &wrong).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}
