//! The steps in which a configuration comes into force, and in which all of it is taken away. After each of them a daemon may
//! be killed: its data plane goes on, or what is left of it is still known, and whoever comes next begins with what is there then.
//!
//! Tests hold the director to that, in debug builds and in no others: the environment variable [`VARIABLE`] has a phase, the
//! number of a step, and which phase of its kind that is (the first unless it says), as `reload 7 2`, and the process dies by
//! its own hand when it has taken that step. After step 0 it does not, and tells all that it takes.

use std::marker::PhantomData;

/// What has just been done, and what others can see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Maps are made, or were there, and pinned.
    Maps,
    /// Empty tables have their sizes.
    Tables,
    /// The tail calls of a load are pinned.
    Calls,
    /// Counters of numbers that go to somebody else begin anew.
    Counters,
    /// A file is written, and stands beside the one whose place it takes.
    FileBeside,
    FileInPlace,
    /// A line of changed numbers is written; lines of a former state file are gone.
    Numbers,
    NumbersGone,
    /// The half of the classifier that is not in force is written, but for its prefixes; and those.
    Half,
    Prefixes,
    /// Real servers, and the ways to them.
    Reals,
    Hops,
    /// One service is in force.
    Service,
    Classifier,
    /// Services that are gone take nobody.
    Leaving,
    /// One interface has the programs.
    Attached,
    /// The entry programs are pinned, beside those whose place they take; and there.
    EntryBeside,
    EntryInPlace,
    /// An attachment that is not wanted any more has ended.
    Ended,
    /// One sysctl is set.
    Sysctl,
    VipsTaken,
    VipsPut,
    Routes,
    /// Of the end of all: the maps are nobody's; a qdisc is gone; sysctls are as they were; a file is gone.
    MapsGone,
    QdiscGone,
    SysctlsBack,
    FileGone,
}

impl Step {
    pub const ALL: &[Step] = &[
        Step::Maps,
        Step::Tables,
        Step::Calls,
        Step::Counters,
        Step::FileBeside,
        Step::FileInPlace,
        Step::Numbers,
        Step::NumbersGone,
        Step::Half,
        Step::Prefixes,
        Step::Reals,
        Step::Hops,
        Step::Service,
        Step::Classifier,
        Step::Leaving,
        Step::Attached,
        Step::EntryBeside,
        Step::EntryInPlace,
        Step::Ended,
        Step::Sysctl,
        Step::VipsTaken,
        Step::VipsPut,
        Step::Routes,
        Step::MapsGone,
        Step::QdiscGone,
        Step::SysctlsBack,
        Step::FileGone,
    ];
}

/// What steps are counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Start,
    Reload,
    /// Everything is taken away.
    Detach,
}

/// A phase is under way until this is dropped. Nothing outside of one is a step: the files that a tick writes, say.
#[must_use]
pub struct Way(PhantomData<()>);

impl Way {
    pub fn begin(phase: Phase) -> Self {
        #[cfg(debug_assertions)]
        death::begin(Some(phase));
        let _ = phase;
        Self(PhantomData)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        death::begin(None);
    }
}

/// A step has been taken.
pub fn taken(step: Step) {
    #[cfg(debug_assertions)]
    death::taken(step);
    let _ = step;
}

/// Read in debug builds only.
pub const VARIABLE: &str = "MARCA_DIE_AFTER";

#[cfg(debug_assertions)]
mod death {
    use super::{Phase, Step, VARIABLE};
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// What is under way, and how many steps of it have been taken; how many of its kind have begun.
    static UNDER_WAY: Mutex<UnderWay> = Mutex::new(UnderWay { phase: None, steps: 0, begun: 0 });

    struct UnderWay {
        phase: Option<Phase>,
        steps: u32,
        begun: u32,
    }

    /// Where it ends.
    struct End {
        phase: Phase,
        step: u32,
        turn: u32,
    }

    static END: LazyLock<Option<End>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let mut words = text.split(' ');
        let phase = match words.next()? {
            "start" => Phase::Start,
            "reload" => Phase::Reload,
            "detach" => Phase::Detach,
            _ => return None,
        };
        Some(End { phase, step: words.next()?.parse().ok()?, turn: words.next().map_or(Some(1), |n| n.parse().ok())? })
    });

    pub fn begin(phase: Option<Phase>) {
        let Some(end) = &*END else { return };
        let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.begun += u32::from(phase == Some(end.phase));
        (under_way.phase, under_way.steps) = (phase, 0);
    }

    pub fn taken(step: Step) {
        let Some(end) = &*END else { return };
        let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.phase != Some(end.phase) || under_way.begun != end.turn {
            return;
        }
        under_way.steps += 1;
        if end.step == 0 {
            eprintln!("step {step:?}");
        }
        if under_way.steps == end.step {
            eprintln!("died after {step:?}");
            // As nobody can catch it.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
