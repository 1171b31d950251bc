//! Which Kubernetes: the repository it comes from, the pins that hold its packages, its container images.

use profile::document::{Place, quoted};

use super::super::{Kubernetes, Pin, Repository, rules, schema};
use super::{Check, packages};

/// The repository that `[kubernetes]` stands for.
pub(in crate::definition) const REPOSITORY: &str = "kubernetes";
/// Packages whose version is that of Kubernetes.
const VERSIONED: [&str; 3] = ["kubeadm", "kubectl", "kubelet"];
/// Packages that Kubernetes' own repository makes for it, whatever others have under the name.
const COMPANIONS: [&str; 2] = ["cri-tools", "kubernetes-cni"];
/// Above what any repository has by itself, and no downgrade.
const PRIORITY: i32 = 990;

/// Checks the section; what `--kubernetes` says goes before its version.
pub(super) fn kubernetes(check: &mut Check<'_>, written: Option<&schema::Kubernetes>, place: Place) -> Option<Kubernetes> {
    let written = written?;
    let said = written.version.as_ref().map(|version| check.text(version, &rules::KUBERNETES));
    let version = check.around.overrides.kubernetes.clone().or(said);
    let origin = written.version.as_ref().map_or_else(|| "[kubernetes]".to_owned(), |v| check.around.texts.show(v.place()));
    if version.is_none() && check.whole {
        check.faults.add_with_hint(
            place,
            "the section [kubernetes] says no `version`",
            "write the minor version, such as `version = \"1.34\"`, or the full one",
        );
    }
    let mut images = check.list(&written.images, &rules::KUBEADM_IMAGE);
    images.sort();
    Some(Kubernetes {
        version: version.unwrap_or_default(),
        images,
        image_repository: written.image_repository.as_ref().map(|text| check.text(text, &rules::IMAGE_REPOSITORY)),
        origin,
    })
}

/// The public community repository, where the definition has none of its own under the name.
pub(super) fn repository(
    check: &mut Check<'_>,
    written: Option<&schema::Kubernetes>,
    (version, place): (&str, Place),
    own: Option<&schema::Repository>,
) -> Option<Repository> {
    let written = written?;
    let channel = check.or_default(written.channel.as_ref(), &rules::CHANNEL, "stable");
    if let Some(own) = own {
        for extra in written.channel.iter().chain(&written.keys) {
            let message = format!("{} is for the public repository of Kubernetes, which is not used", quoted(extra));
            let hint = format!("the repository is written out at {}", check.around.texts.show(own.name.place()));
            check.faults.add_with_hint(extra.place(), message, hint);
        }
        return None;
    }
    let minor = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let public = format!("https://pkgs.k8s.io/core:/{channel}:/v{minor}/deb");
    let fetched = written.keys.first().map_or("FILE", |key| key.as_str());
    let hint = format!(
        "its public key is yours to fetch and check: `curl -fsSL {public}/Release.key -o {}`, or --repository-key {REPOSITORY}=FILE",
        check.around.folder.shown(std::path::Path::new(fetched)).display()
    );
    let keys = packages::keys(check, REPOSITORY, &written.keys, Some(&hint));
    if keys.is_empty() && written.keys.is_empty() && check.whole {
        check.faults.add_with_hint(place, "the repository of Kubernetes has no keys: [kubernetes] says no `keys`", hint);
    }
    let url = check.around.overrides.repositories.get(REPOSITORY).cloned();
    Some(Repository {
        name: REPOSITORY.to_owned(),
        url: url.unwrap_or(public),
        suites: vec!["/".to_owned()],
        components: Vec::new(),
        keys,
        fingerprints: Vec::new(),
        priority: 500,
    })
}

/// What holds the packages at the version. Pins that the definition writes itself come first.
pub(super) fn pins(kubernetes: &Kubernetes) -> Vec<Pin> {
    let open = kubernetes.version.matches('.').count() == 1;
    let pattern = format!("{}{}*", kubernetes.version, if open { "." } else { "-" });
    let pin = |package: &str, version: Option<&str>, release: Option<&str>| Pin {
        package: package.to_owned(),
        version: version.map(str::to_owned),
        release: release.map(str::to_owned),
        priority: PRIORITY,
        origin: kubernetes.origin.clone(),
    };
    let versioned = VERSIONED.into_iter().map(|package| pin(package, Some(&pattern), None));
    versioned.chain(COMPANIONS.into_iter().map(|package| pin(package, None, Some(REPOSITORY)))).collect()
}

/// Full references of further container images, sorted.
pub(super) fn containers(check: &mut Check<'_>, written: &[schema::ContainerImage]) -> Vec<String> {
    let mut references: Vec<String> = written.iter().map(|image| check.text(&image.reference, &rules::REFERENCE)).collect();
    references.sort();
    references
}
