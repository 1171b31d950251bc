//! The container images that the image of the machine brings: imported once, and never removed by the kubelet.

use std::collections::BTreeSet;
use std::time::Duration;

use trust::Sha256Digest;
use trust::kubernetes::{ContainerImages, Unreadable};

use crate::failure::{Failure, Result};
use crate::machine::{Attributes, Command, Machine, read_text, replace, run};
use crate::report::codes;
use crate::steps::{Verdict, Work, World};

const LIST: &str = "/usr/share/ingot/container-images/images.json";
const ARCHIVE: &str = "/usr/share/ingot/container-images/images.tar";

/// Which list was imported. It lies beside what it speaks of: whoever empties the store empties it too.
const DONE: &str = "/var/lib/containerd/io.ingot.images";

/// containerd's CRI plugin takes an image with this label for pinned.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// How long containerd may take to start.
const START: Duration = Duration::from_secs(120);
/// How long the import may take.
const IMPORT: Duration = Duration::from_secs(900);

/// The step `container-images`.
#[derive(Debug)]
pub struct Images;

fn ctr(arguments: &[&str]) -> Command {
    Command::new("/usr/bin/ctr", &[&["--namespace", "k8s.io"], arguments].concat())
}

/// The list and its digest; `None` where the image brings none.
fn list(machine: &dyn Machine) -> Result<Option<(ContainerImages, String)>> {
    let Some(bytes) = machine.read(LIST).map_err(|e| Failure::io("reading", LIST, &e))? else { return Ok(None) };
    let wrong = |e: Unreadable| Failure::new(&codes::IMAGES_INCOMPLETE, format!("{LIST}: {e}"));
    let list = ContainerImages::parse(&bytes).map_err(wrong)?;
    Ok(Some((list, format!("{}\n", Sha256Digest::of(&bytes)))))
}

/// References of the images that containerd has.
fn present(machine: &dyn Machine) -> Result<BTreeSet<String>> {
    Ok(run(machine, &ctr(&["images", "list", "--quiet"]))?.out.lines().map(str::to_owned).collect())
}

/// Waits until containerd answers.
fn awake(world: World<'_>) -> Result<()> {
    let machine = world.machine;
    let end = machine.uptime().saturating_add(START);
    loop {
        match run(machine, &ctr(&["version"])) {
            Ok(_) => return Ok(()),
            Err(failure) if failure.code() == &codes::PROGRAM_MISSING => return Err(failure),
            Err(failure) if machine.uptime() >= end => {
                return Err(Failure::new(&codes::RUNTIME_SILENT, failure.to_string()));
            }
            Err(_) => {}
        }
        world.report.waiting("container-images", "containerd", START);
        machine.sleep(Duration::from_millis(500));
    }
}

impl Work for Images {
    fn lines(&self) -> Vec<String> {
        vec![format!("images of {LIST}")]
    }

    fn input(&self) -> Vec<u8> {
        LIST.into()
    }

    fn check(&self, machine: &dyn Machine) -> Result<Verdict> {
        let Some((_, digest)) = list(machine)? else { return Ok(Verdict::Holds) };
        let done = read_text(machine, DONE)?.is_some_and(|done| done == digest);
        Ok(if done { Verdict::Holds } else { Verdict::Differs("container images are not imported yet".to_owned()) })
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let machine = world.machine;
        let Some((list, digest)) = list(machine)?.filter(|_| machine.live()) else { return Ok(()) };
        awake(world)?;
        let missing = |present: &BTreeSet<String>| -> Vec<String> {
            list.images.iter().map(|image| image.reference.clone()).filter(|name| !present.contains(name)).collect()
        };
        if !missing(&present(machine)?).is_empty() {
            let bytes: u64 = list.images.iter().map(|image| image.size).sum();
            let what = format!("the import of {} container images, {} MB", list.images.len(), bytes / 1_000_000);
            world.report.waiting("container-images", &what, IMPORT);
            run(machine, &ctr(&["images", "import", ARCHIVE]).within(IMPORT))?;
        }
        let left = missing(&present(machine)?);
        if !left.is_empty() {
            return Err(Failure::new(&codes::IMAGES_INCOMPLETE, format!("{ARCHIVE} does not hold {}", left.join(", "))));
        }
        for image in &list.images {
            run(machine, &ctr(&["images", "label", &image.reference, PINNED]))?;
        }
        replace(machine, DONE, digest.as_bytes(), Attributes::root(0o600))
    }
}
