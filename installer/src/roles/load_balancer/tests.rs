use profile::Profile;
use profile::load_balancer::{CheckKind, LoadBalancer};
use profile::secret::{Secret, SecretSource};

use super::{haproxy, keepalived};

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

/// Says the new text where it differs, and leaves it in the test's output.
fn golden(found: &str, expected: &str) {
    assert!(found == expected, "the golden text differs; found:\n{found}");
}

#[test]
fn golden_texts() {
    golden(&haproxy::render(&sample()).unwrap(), include_str!("golden/haproxy.cfg"));
    golden(keepalived::render(&sample(), &place()).unwrap().unwrap().expose(), include_str!("golden/keepalived.conf"));
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
        assert!(haproxy::render(&balancer).is_err(), "frontend {text:?}");
        let mut balancer = sample();
        balancer.frontends[0].backends[0].name = text.to_owned();
        assert!(haproxy::render(&balancer).is_err(), "backend {text:?}");
        let mut balancer = sample();
        (balancer.frontends[0].check, balancer.frontends[0].check_path) = (CheckKind::Http, text.to_owned());
        assert!(haproxy::render(&balancer).is_err(), "path {text:?}");
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
    let text = haproxy::render(&balancer).unwrap();
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
    golden(&haproxy::render(&balancer).unwrap(), include_str!("golden/every-check.cfg"));
}
