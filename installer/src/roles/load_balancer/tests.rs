use profile::Profile;
use profile::load_balancer::{CheckKind, LoadBalancer};
use profile::secret::{Secret, SecretSource};

use super::{haproxy, keepalived};

const CA: &str = "/etc/haproxy/cluster-ca-0123456789abcdef.pem";

fn sample() -> LoadBalancer {
    let text = include_bytes!("../../../../profiles/load-balancer.toml");
    Profile::parse("load-balancer.toml", text).unwrap().load_balancer.unwrap()
}

fn place() -> keepalived::Place {
    keepalived::Place {
        source: "10.0.0.11".parse().unwrap(),
        interface: "eth0".to_owned(),
        interfaces: vec!["eth0".to_owned()],
        password: None,
    }
}

/// `INGOT_BLESS=1` writes what is expected.
#[expect(clippy::disallowed_methods, reason = "a switch of the test")]
fn golden(found: &str, name: &str) {
    let path = format!("{}/src/roles/load_balancer/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("INGOT_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert!(found == std::fs::read_to_string(&path).unwrap(), "{name} differs; found:\n{found}");
}

#[test]
fn golden_texts() {
    golden(&haproxy::render(&sample(), CA).unwrap(), "haproxy.cfg");
    golden(keepalived::render(&sample(), &place()).unwrap().unwrap().expose(), "keepalived.conf");
}

#[test]
fn hostile_texts_are_refused() {
    for text in [
        "",
        "a b",
        "a\nglobal",
        "a\r",
        "a\0",
        "a#b",
        "a\"",
        "a'",
        "a\\",
        "${HOME}",
        "$(id)",
        "a{",
        "a;b",
        "%[env(A)]",
        "ä",
        "A",
        "-a",
    ] {
        let mut balancer = sample();
        balancer.frontends[0].name = text.to_owned();
        assert!(haproxy::render(&balancer, CA).is_err(), "frontend {text:?}");
        let mut balancer = sample();
        balancer.frontends[0].backends[0].name = text.to_owned();
        assert!(haproxy::render(&balancer, CA).is_err(), "backend {text:?}");
        let mut balancer = sample();
        (balancer.frontends[0].check, balancer.frontends[0].check_path) = (CheckKind::Http, text.to_owned());
        assert!(haproxy::render(&balancer, CA).is_err(), "path {text:?}");
        let (mut balancer, mut place) = (sample(), place());
        balancer.vrrp.as_mut().unwrap().password = Some(SecretSource::Credential("vrrp".to_owned()));
        place.password = Some(Secret::new(format!("{text}}}")));
        let told = keepalived::render(&balancer, &place).unwrap_err().to_string();
        assert!(told.contains("password"), "{told}");
    }
    for text in ["", "a b", "eth0\n}", "eth0{", "sixteen-letters-"] {
        let mut place = place();
        place.interfaces = vec![text.to_owned()];
        assert!(keepalived::render(&sample(), &place).is_err(), "{text:?}");
    }
}

#[test]
fn drained_backends_get_no_new_connections() {
    let mut balancer = sample();
    balancer.frontends[0].backends[1].weight = 0;
    let text = haproxy::render(&balancer, CA).unwrap();
    assert!(text.contains("server cp-2 10.0.0.22:6443 weight 0 ") && text.contains("server cp-1 10.0.0.21:6443 weight 100 "));
}

#[test]
fn no_peers_is_no_multicast() {
    let mut balancer = sample();
    balancer.vrrp.as_mut().unwrap().peers.clear();
    assert!(keepalived::render(&balancer, &place()).is_err());
}

/// Every kind of check, IPv6, PROXY protocol, no virtual address.
#[test]
fn golden_text_of_every_check() {
    let mut balancer = sample();
    let api = balancer.frontends.remove(0);
    balancer.addresses.clear();
    for (port, check) in (8001..).zip([CheckKind::Readyz, CheckKind::Https, CheckKind::Http, CheckKind::Tcp, CheckKind::None]) {
        let mut frontend = api.clone();
        (frontend.name, frontend.port, frontend.check) = (format!("f-{port}"), port, check);
        frontend.send_proxy = port % 2 == 0;
        frontend.backends[2].address = "fd00::23".parse().unwrap();
        balancer.frontends.push(frontend);
    }
    golden(&haproxy::render(&balancer, CA).unwrap(), "every-check.cfg");
}

/// Version 2 and whole seconds for a password; the agent's block where there is a pool.
#[test]
fn a_password_is_of_version_2_and_pools_include_the_agents_block() {
    let (mut balancer, mut place) = (sample(), place());
    let open = keepalived::render(&balancer, &place).unwrap().unwrap();
    assert!(open.expose().contains("vrrp_version 3\n") && open.expose().contains("advert_int 0.500\n"));
    assert!(open.expose().contains(&format!("    include {}\n", keepalived::SERVICES)));
    let vrrp = balancer.vrrp.as_mut().unwrap();
    (vrrp.password, place.password) =
        (Some(SecretSource::Credential("vrrp".to_owned())), Some(Secret::new("letmein1".to_owned())));
    assert!(keepalived::render(&balancer, &place).is_err(), "half a second");
    balancer.vrrp.as_mut().unwrap().interval_millis = 1000;
    balancer.service_pool.clear();
    let closed = keepalived::render(&balancer, &place).unwrap().unwrap();
    assert!(closed.expose().contains("vrrp_version 2\n") && closed.expose().contains("auth_pass letmein1\n"));
    assert!(!closed.expose().contains("include"));
}
