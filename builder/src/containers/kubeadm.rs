//! Which container images belong to a Kubernetes: kubeadm of that very version says it, so that no table has to be
//! kept. Its package comes by the lock's digest; the program runs in the sandbox of maintainer scripts, in a folder
//! that holds nothing else, without network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use super::Reference;
use crate::blob::Blob;
use crate::definition::Kubernetes;
use crate::error::{Context, Error, Kind, Result};
use crate::files;
use crate::lock::{LockedKubernetes, LockedPackage};
use crate::run::ending;
use crate::tree::archive::What;
use crate::tree::deb::Deb;
use crate::tree::sandbox::{self, Output, Plan};

/// The package, and its program without leading `/`.
pub(super) const PACKAGE: &str = "kubeadm";
const PROGRAM: &str = "usr/bin/kubeadm";
/// Packages that must have one version.
const TOGETHER: [&str; 3] = [PACKAGE, "kubectl", "kubelet"];
/// Lines of what it said that an error shows.
const TAIL_LINES: usize = 10;

/// The version that the chosen packages have, without `v`: `1.34.2`.
///
/// # Errors
/// [`Kind::Document`] where it is not what the definition asks for, or the packages do not agree.
pub(super) fn version(kubernetes: &Kubernetes, packages: &[LockedPackage]) -> Result<String> {
    let of = |name: &str| packages.iter().find(|package| package.name == name);
    let kubeadm = of(PACKAGE).ok_or_else(|| {
        Error::new(
            Kind::Document,
            format!("{}: a Kubernetes is named, but nothing wants the package `kubeadm`", kubernetes.origin),
        )
        .hint("add it to `packages.install`")
    })?;
    let upstream = |package: &LockedPackage| {
        let version = package.version.rsplit_once('-').map_or(package.version.as_str(), |(upstream, _)| upstream);
        version.split_once(':').map_or(version, |(_, version)| version).to_owned()
    };
    let found = upstream(kubeadm);
    let wanted = &kubernetes.version;
    if found != *wanted && !found.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('.')) {
        let why = format!("{}: Kubernetes {wanted} is wanted, the best that the repositories have is {found}", kubernetes.origin);
        return Err(Error::new(Kind::Document, why)
            .hint("each minor version has a repository of its own: --repository kubernetes=URL names another one"));
    }
    if found.parse::<profile::cluster::Version>().is_err() {
        let why = format!("kubeadm has version {}, expected three numbers such as 1.34.2", kubeadm.version);
        return Err(Error::new(Kind::Document, why));
    }
    if let Some(other) = TOGETHER.into_iter().filter_map(of).find(|other| upstream(other) != found) {
        let why = format!("{} has version {}, kubeadm has {}: expected the same", other.name, other.version, kubeadm.version);
        return Err(Error::new(Kind::Document, why).hint("is there a pin for one of them?"));
    }
    Ok(found)
}

/// The images of Kubernetes `version` as the kubeadm in `package` lists them. The program runs below `work`.
///
/// # Errors
/// [`Kind::Missing`] where the machine allows no sandbox; when the program fails, with the end of what it said.
pub(super) fn images(package: &[u8], version: &str, repository: Option<&str>, work: &Path) -> Result<Vec<Reference>> {
    let doing = || format!("asking kubeadm {version} for its container images");
    files::make_folder(work)?;
    let folder =
        tempfile::Builder::new().prefix("kubeadm-").tempdir_in(work).map_err(|e| Error::io("making a folder in", work, &e))?;
    let _temporary = crate::interrupt::Temporary::new(folder.path());
    let root = folder.path().join("root");
    unpack(package, &root.join(PROGRAM)).context(doing())?;
    let mut command = vec![format!("/{PROGRAM}"), "config".to_owned(), "images".to_owned(), "list".to_owned()];
    command.extend(["--kubernetes-version".to_owned(), format!("v{version}")]);
    if let Some(repository) = repository {
        command.extend(["--image-repository".to_owned(), repository.to_owned()]);
    }
    let text = run(Plan::of_command(root, command), folder.path()).context(doing())?;
    let references = text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.trim().parse::<Reference>());
    references.collect::<Result<_, _>>().map_err(|why| Error::new(Kind::Failed, why).context(doing()))
}

/// What the lock keeps of them.
///
/// # Errors
/// [`Kind::Failed`] where one of those that every Kubernetes has is not among them.
pub(super) fn facts(version: &str, images: &[Reference]) -> Result<LockedKubernetes> {
    let named = |name: &str| {
        images.iter().find(|image| image.name() == name).ok_or_else(|| {
            let there: Vec<&str> = images.iter().map(Reference::name).collect();
            Error::new(Kind::Failed, format!("kubeadm {version} lists no image `{name}`, only {}", there.join(", ")))
        })
    };
    Ok(LockedKubernetes {
        version: version.to_owned(),
        image_repository: named("kube-apiserver")?.parent(),
        pause: named("pause")?.to_string(),
        coredns: named("coredns")?.to_string(),
        etcd: named("etcd")?.to_string(),
    })
}

fn unpack(package: &[u8], to: &Path) -> Result<()> {
    let deb = Deb::read(Blob::memory(package))?;
    let mut data = deb.data()?;
    while let Some(member) = data.next()? {
        if member.path != PROGRAM.as_bytes() || !matches!(member.what, What::File(_)) {
            continue;
        }
        if let Some(folder) = to.parent() {
            files::make_folder(folder)?;
        }
        fs::write(to, data.content()?).map_err(|e| Error::io("writing", to, &e))?;
        return fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(|e| Error::io("making executable", to, &e));
    }
    Err(Error::new(Kind::Document, format!("the package `{PACKAGE}` holds no /{PROGRAM}")))
}

/// What the plan's command prints.
fn run(plan: Plan, folder: &Path) -> Result<String> {
    let (plan_path, said_path, log_path) = (folder.join("plan.json"), folder.join("said"), folder.join("log"));
    let text = serde_json::to_vec(&plan).map_err(|e| Error::new(Kind::Failed, format!("writing the plan: {e}")))?;
    files::write_atomic(&plan_path, &text)?;
    let (said, log) = (files::create(&said_path)?, files::create(&log_path)?);
    let status = sandbox::start(&[plan_path.as_os_str()], |output| match output {
        Output::Result => said.try_clone().map(Stdio::from),
        Output::Messages => log.try_clone().map(Stdio::from),
    })?;
    if !status.success() {
        let log = String::from_utf8_lossy(&files::read(&log_path)?).into_owned();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail: Vec<String> = lines.iter().rev().take(TAIL_LINES).rev().map(|line| format!("  | {line}")).collect();
        return Err(Error::new(Kind::Failed, format!("the sandbox {}\n{}", ending(status), tail.join("\n"))));
    }
    files::read_text(&said_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "amd64".to_owned(),
            repository: "kubernetes".to_owned(),
            suite: "/".to_owned(),
            path: format!("amd64/{name}.deb"),
            size: 1,
            sha256: trust::Sha256Digest([0; 32]),
            because: "wanted".to_owned(),
        }
    }

    fn wanted(version: &str) -> Kubernetes {
        let origin = "k.toml:3:1".to_owned();
        Kubernetes { version: version.to_owned(), images: Vec::new(), image_repository: None, origin }
    }

    #[test]
    fn the_version_is_that_of_the_packages_or_a_fault() {
        let all = |version: &str| TOGETHER.map(|name| package(name, version)).to_vec();
        assert_eq!(version(&wanted("1.34"), &all("1.34.2-1.1")).unwrap(), "1.34.2");
        assert_eq!(version(&wanted("1.34.2"), &all("1:1.34.2-1.1")).unwrap(), "1.34.2");
        let mut mixed = all("1.34.2-1.1");
        mixed[2] = package("kubelet", "1.34.1-1.1");
        for (wish, packages, words) in [
            ("1.3", all("1.34.2-1.1"), "the best that the repositories have is 1.34.2"),
            ("1.34.1", all("1.34.2-1.1"), "k.toml:3:1: Kubernetes 1.34.1 is wanted"),
            ("1.34", mixed, "kubelet has version 1.34.1-1.1"),
            ("1.34", Vec::new(), "nothing wants the package `kubeadm`"),
            ("1.34", all("1.34.2~rc1-1.1"), "three numbers"),
        ] {
            let error = version(&wanted(wish), &packages).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn the_facts_are_kubeadms() {
        let list = ["kube-apiserver:v1.34.2", "pause:3.10.1", "coredns/coredns:v1.12.1", "etcd:3.6.4-0"];
        let images: Vec<Reference> = list.iter().map(|name| format!("registry.k8s.io/{name}").parse().unwrap()).collect();
        let facts = facts("1.34.2", &images).unwrap();
        assert_eq!(
            (facts.image_repository.as_str(), facts.coredns.as_str()),
            ("registry.k8s.io", "registry.k8s.io/coredns/coredns:v1.12.1")
        );
        assert!(super::facts("1.34.2", &images[..3]).unwrap_err().to_string().contains("no image `etcd`"));
    }
}
