//! The one straight path: find, verify, parse, facts, plan, apply, report.

use std::time::Duration;

use profile::conceal::conceal;
use profile::secret::Secret;
use profile::{Profile, Refused};
use trust::Sha256Digest;

use crate::apply::apply;
use crate::facts::{Facts, facts};
use crate::failure::{Failure, Result};
use crate::find::{self, Candidate, Found, Undecided};
use crate::journal::Journal;
use crate::machine::reader::Local;
use crate::machine::{Machine, devices_settled};
use crate::plan::{Input, fits, plan, show};
use crate::report::codes::{self, Code};
use crate::report::{Report, Targets};
use crate::secrets::{self, secrets};
use crate::state;
use crate::steps::network::cards;
use crate::steps::outside::Keep;
use crate::steps::{Phase, Step, World};
use crate::verify::identity::{self, Identity};
use crate::verify::{Claims, Former, Refusal, Time, Trust, in_order, in_time};

/// Which profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The first that some source has.
    Any,
    /// This file.
    File(String),
}

/// Makes the machine what its profile says.
///
/// # Errors
/// With a code; it was told already.
pub fn run(machine: &dyn Machine, source: &Source) -> Result<()> {
    let report = Report::new(machine);
    let world = World { machine, report: &report };
    let result = through(world, source);
    match &result {
        Ok(()) => report.ready(),
        Err(failure) => report.failed(failure),
    }
    report.finish();
    result
}

/// Mounts the state partition, and makes it where a source holds a profile this machine takes: before the network,
/// and before anything is rendered.
///
/// # Errors
/// `/state` could not be mounted, not even in memory; it was told already.
pub fn state(machine: &dyn Machine) -> Result<()> {
    let report = Report::new(machine);
    let world = World { machine, report: &report };
    let profile = || {
        let candidate = one(when_settled(world))?;
        let profile = take(machine, &candidate)?.profile;
        fits(&profile, &facts(machine)?.image)?;
        Ok(profile.state)
    };
    state::open_or_make(world, profile).inspect_err(|failure| report.failed(failure))
}

/// Takes this node out of its cluster.
///
/// # Errors
/// With a code; it was told already.
pub fn reset(machine: &dyn Machine, last: bool) -> Result<()> {
    let report = Report::new(machine);
    let world = World { machine, report: &report };
    report.stage("reset");
    crate::roles::kubernetes::leave::leave(world, last).inspect_err(|failure| report.failed(failure))
}

/// What the sources hold once the devices of the machine are there.
fn when_settled(world: World<'_>) -> Found {
    if let Err(failure) = devices_settled(world.machine) {
        world.report.warn(&failure);
    }
    find(world.machine, &Source::Any)
}

fn through(world: World<'_>, source: &Source) -> Result<()> {
    let World { machine, report } = world;
    report.stage("find");
    let found = find(machine, source);
    let early = found.candidates.is_empty() && found.unreachable && machine.live();
    // A copy is used at once; without one there is nothing to do but to wait for the server.
    let refresh = early && found.kept.is_some();
    let found = if early && !refresh { server(world, found) } else { found };
    let candidate = choose(found, report)?;
    made(world, &candidate)?;
    if refresh { newer(world, &candidate) } else { Ok(()) }
}

/// Between questions to a server that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long it is asked before the service manager starts the installer anew (which then asks again).
const PATIENCE: Duration = Duration::from_secs(3600);

/// Lets the network start with the image's own settings (DHCP), and asks the server until it answers.
fn server(world: World<'_>, early: Found) -> Found {
    let World { machine, report } = world;
    early.tried.iter().for_each(|(source, reason)| report.tried(source, reason));
    report.rendered();
    let end = machine.uptime().saturating_add(PATIENCE);
    loop {
        report.waiting("find", "the server of the profile", PATIENCE);
        let found = find::ask(&Local(machine));
        // What will not change is not asked again: a refusal, or a file that is not a profile's.
        if !found.candidates.is_empty() || !found.unreachable || machine.uptime() >= end {
            return found;
        }
        machine.sleep(ASK_AGAIN);
    }
}

/// Asks the server once for a profile other than the kept one. What it has is taken if it may follow; whatever is
/// wrong with it is a warning, as this machine has a good one.
fn newer(world: World<'_>, kept: &Candidate) -> Result<()> {
    let World { machine, report } = world;
    let found = find::ask(&Local(machine));
    found.tried.iter().for_each(|(source, reason)| report.tried(source, reason));
    let Some(candidate) = found.candidates.into_iter().find(|candidate| candidate.profile != kept.profile) else { return Ok(()) };
    let fits = take(machine, &candidate).and_then(|taken| steps(machine, &taken, &facts(machine)?).map(drop));
    if let Err(failure) = fits {
        report.warn(&failure.context("the kept profile stays"));
        return Ok(());
    }
    report.chosen(&candidate.source, &Sha256Digest::of(&candidate.profile).to_string());
    made(world, &candidate)
}

/// Verifies a profile and makes the machine what it says.
fn made(world: World<'_>, candidate: &Candidate) -> Result<()> {
    let World { machine, report } = world;
    report.stage("verify");
    let taken = take(machine, candidate)?;
    if let Some(doubt) = &taken.doubts {
        report.warn(&Failure::new(&codes::CLOCK_NOT_SET, doubt.as_str()));
    }
    report.stage("facts");
    let facts = facts_with_cards(world, &taken.profile)?;
    report.tell(Targets::of(machine, &taken.profile, &facts, &taken.inline));
    report.stage("plan");
    let steps = steps(machine, &taken, &facts)?;
    report.planned(steps.len());
    let mut journal = open(world)?;
    report.stage("apply");
    apply(&steps, Phase::Local, &mut journal, world)?;
    report.rendered();
    report.stage("network");
    apply(&steps, Phase::Network, &mut journal, world)
}

/// What `run` would do, as text; nothing is changed.
///
/// # Errors
/// Those of `run`, up to the plan.
pub fn preview(machine: &dyn Machine, source: &Source) -> Result<String> {
    let candidate = one(find(machine, source))?;
    let taken = take(machine, &candidate)?;
    Ok(show(&steps(machine, &taken, &facts(machine)?)?))
}

/// Whether this machine would take its profile: everything `run` does before the first change.
///
/// # Errors
/// Those of `run`, up to the plan.
pub fn check(machine: &dyn Machine, source: &Source) -> Result<String> {
    let candidate = one(find(machine, source))?;
    let taken = take(machine, &candidate)?;
    let steps = steps(machine, &taken, &facts(machine)?)?;
    Ok(format!("{}: good for this machine; {} steps; signed by {}\n", candidate.source, steps.len(), taken.signer))
}

/// A profile, its text, and the secrets that stand in that or in its encrypted part.
#[derive(Debug)]
pub struct Current {
    /// The profile.
    pub profile: Profile,
    /// Its text.
    pub text: String,
    /// The secrets in it.
    pub inline: Vec<Secret>,
}

/// The profile this machine would take.
///
/// # Errors
/// Those of `run`, up to reading it.
pub fn accepted(machine: &dyn Machine, source: &Source) -> Result<Current> {
    let taken = take(machine, &one(find(machine, source))?)?;
    Ok(Current { profile: taken.profile, text: taken.keep.profile, inline: taken.inline })
}

fn find(machine: &dyn Machine, source: &Source) -> Found {
    match source {
        Source::Any => find::find_early(&Local(machine)),
        Source::File(path) => find::file(&Local(machine), path),
    }
}

fn choose(found: Found, report: &Report<'_>) -> Result<Candidate> {
    for (source, reason) in &found.tried {
        report.tried(source, reason);
    }
    let candidate = one(found)?;
    report.chosen(&candidate.source, &Sha256Digest::of(&candidate.profile).to_string());
    Ok(candidate)
}

fn one(found: Found) -> Result<Candidate> {
    found.choose().map_err(|undecided| {
        let code = match &undecided {
            Undecided::Disagree { .. } => &codes::SOURCES_DISAGREE,
            Undecided::Nothing { .. } => &codes::NO_PROFILE,
        };
        Failure::new(code, undecided.to_string())
    })
}

/// A profile that was accepted, and what is kept of it. Only [`take`] makes one.
struct Taken {
    profile: Profile,
    signer: String,
    keep: Keep,
    doubts: Option<String>,
    /// Secrets that stand in the profile or in its encrypted part.
    inline: Vec<Secret>,
}

/// The one way to a profile that is acted on: signature, schema, time, order, identity of the machine.
fn take(machine: &dyn Machine, candidate: &Candidate) -> Result<Taken> {
    let reader = &Local(machine);
    let trust = Trust::read(reader).map_err(refused)?;
    let time = Time::of(reader).map_err(refused)?;
    let accepted = trust.accept(candidate, time).map_err(refused)?;
    let (profile, inline) = read(machine, &candidate.source, accepted.bytes())?;
    let claims = Claims { serial: profile.serial, allow_rollback: profile.allow_older, ..Claims::default() };
    let doubts = in_time(&claims, time).map_err(refused)?;
    let former = Former::read(reader).map_err(refused)?;
    in_order(&accepted, &claims, former.as_ref()).map_err(refused)?;
    let noted = Identity::noted(reader).map_err(refused)?;
    let identity = identity::check(noted, Identity::of(reader)).map_err(refused)?;
    let nobody = || "nobody: this image takes unsigned profiles".to_owned();
    let keep = Keep {
        profile: String::from_utf8_lossy(accepted.bytes()).into_owned(),
        signature: candidate.signature.clone(),
        former: Former::of(&accepted, &claims).render(),
        identity: identity.render(),
    };
    let signer = accepted.signer().map_or_else(nobody, |signer| signer.fingerprint.clone());
    Ok(Taken { profile, signer, keep, doubts, inline })
}

fn refused(refusal: Refusal) -> Failure {
    let code: &'static Code = match &refusal {
        Refusal::Image { .. } => &codes::TRUST_BROKEN,
        Refusal::Unsigned(_) => &codes::UNSIGNED,
        Refusal::Untrusted { .. } => &codes::UNTRUSTED,
        Refusal::TooEarly { .. } | Refusal::TooLate { .. } => &codes::NOT_NOW,
        Refusal::Older { .. } | Refusal::UnsignedRollback(_) => &codes::OLDER,
        Refusal::State { .. } => &codes::NOTE_BROKEN,
        Refusal::OtherMachine { .. } => &codes::OTHER_MACHINE,
    };
    Failure::new(code, refusal.to_string())
}

/// A profile with its encrypted part, and the secrets that stand in both.
///
/// # Errors
/// [`codes::NOT_A_PROFILE`], [`codes::SECRET_MISSING`], [`codes::SEALED`].
pub(crate) fn read(machine: &dyn Machine, name: &str, bytes: &[u8]) -> Result<(Profile, Vec<Secret>)> {
    let wrong = |refused: Box<Refused>| Failure::new(&codes::NOT_A_PROFILE, refused.to_string());
    let outer = Profile::parse(name, bytes).map_err(wrong)?;
    let Some(armored) = &outer.encrypted else { return Ok((outer, conceal(bytes, None).secrets)) };
    let opened = secrets::open(machine, armored)?;
    let profile = Profile::parse_opened(name, bytes, &opened).map_err(wrong)?;
    Ok((profile, conceal(bytes, Some(&opened)).secrets))
}

/// How long network cards may take to appear: their drivers are loaded while we start.
const CARDS: Duration = Duration::from_secs(10);

fn facts_with_cards(world: World<'_>, profile: &Profile) -> Result<Facts> {
    let end = world.machine.uptime().saturating_add(CARDS);
    loop {
        let facts = facts(world.machine)?;
        let there = cards(&profile.network, &facts).is_ok();
        if there || !world.machine.live() || world.machine.uptime() >= end {
            return Ok(facts);
        }
        world.report.waiting("facts", "the network cards of the profile", CARDS);
        world.machine.sleep(Duration::from_millis(250));
    }
}

fn steps(machine: &dyn Machine, taken: &Taken, facts: &Facts) -> Result<Vec<Step>> {
    let secrets = secrets(machine, &taken.profile)?;
    plan(Input { profile: &taken.profile, keep: &taken.keep, facts, secrets: &secrets })
}

fn open(world: World<'_>) -> Result<Journal> {
    let journal = Journal::open(world.machine)?;
    if journal.damaged > 0 {
        let message = format!("{} damaged lines in {} were left out", journal.damaged, crate::journal::PATH);
        world.report.warn(&Failure::new(&codes::JOURNAL_TORN, message));
    }
    Ok(journal)
}
