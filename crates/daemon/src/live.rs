//! What the daemon knows beside its files, for whoever reads in the same process: the API and metrics.

use crate::overrides::Overrides;
use crate::place::PlaceError;
use crate::standings::Standings;
use crate::status::RunningConfig;
use marca_tables::sweep::Counted;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    running: Mutex<Option<RunningConfig>>,
    unwritten: Mutex<Unwritten>,
    counted: Mutex<Option<(Counted, Instant)>>,
    asked: [AtomicU64; 3],
    /// By the kind of the question.
    took: Mutex<BTreeMap<&'static str, Took>>,
}

/// How long questions of one kind have taken: how many no longer than each of [`BOUNDS`](Self::BOUNDS), and how long all of
/// them together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Took {
    counts: [u64; Took::BOUNDS.len()],
    /// Of any length.
    pub count: u64,
    pub seconds: f64,
}

impl Took {
    /// Seconds: from what a server next door takes to the usual timeouts.
    pub const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let within = std::iter::zip(&mut self.counts, Self::BOUNDS).filter(|(_, bound)| seconds <= *bound);
        within.for_each(|(count, _)| *count += 1);
        self.count += 1;
        self.seconds += seconds;
    }

    /// Each bound, and how many have taken no longer.
    pub fn within(&self) -> impl Iterator<Item = (f64, u64)> {
        std::iter::zip(Self::BOUNDS, self.counts)
    }
}

/// What could not be written, since the disk is full, say; readers have this, and not the file.
#[derive(Debug, Default)]
struct Unwritten {
    standings: Option<Standings>,
    overrides: Option<Overrides>,
    /// Why the last of them could not be.
    why: String,
    changes: u64,
}

/// What a question of a health check has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Good,
    Bad,
    /// The director itself is at fault: it says nothing about the server.
    Unasked,
}

impl Asked {
    pub const ALL: [Self; 3] = [Self::Good, Self::Bad, Self::Unasked];

    /// As the metric's label has it.
    pub fn name(self) -> &'static str {
        match self {
            Asked::Good => "good",
            Asked::Bad => "bad",
            Asked::Unasked => "unasked",
        }
    }
}

impl PartialEq for Live {
    /// It says nothing of where a place is.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Live {}

impl Live {
    /// The configuration in force, once there is one: nobody need read the file again.
    pub fn running(&self) -> Option<RunningConfig> {
        lock(&self.0.running).clone()
    }

    pub(crate) fn set_running(&self, running: RunningConfig) {
        *lock(&self.0.running) = Some(running);
        lock(&self.0.unwritten).changes += 1;
    }

    /// Why something is not written down, and what follows from that; `None` when all is.
    pub fn unwritten(&self) -> Option<String> {
        let held = lock(&self.0.unwritten);
        let what = match (&held.standings, &held.overrides) {
            (None, None) => return None,
            (Some(_), None) => "which real servers have failed or drain",
            (None, Some(_)) => "what was last said by hand",
            (Some(_), Some(_)) => "which real servers have failed or drain, nor what was last said by hand",
        };
        let why = &held.why;
        Some(format!("it is in force, but a restart would not know {what}, until this can be written: {why}"))
    }

    /// Another number after each change of what is not written, and with another configuration.
    pub fn changes(&self) -> u64 {
        lock(&self.0.unwritten).changes
    }

    pub(crate) fn standings(&self) -> Option<Standings> {
        lock(&self.0.unwritten).standings.clone()
    }

    pub(crate) fn overrides(&self) -> Option<Overrides> {
        lock(&self.0.unwritten).overrides.clone()
    }

    /// They were written, or were not.
    pub(crate) fn saved_standings(&self, standings: &Standings, saved: &Result<(), PlaceError>) {
        self.saved(saved, |held, failed| held.standings = failed.then(|| standings.clone()));
    }

    /// As [`saved_standings`](Self::saved_standings).
    pub(crate) fn saved_overrides(&self, overrides: &Overrides, saved: &Result<(), PlaceError>) {
        self.saved(saved, |held, failed| held.overrides = failed.then(|| overrides.clone()));
    }

    fn saved(&self, saved: &Result<(), PlaceError>, hold: impl FnOnce(&mut Unwritten, bool)) {
        let mut held = lock(&self.0.unwritten);
        hold(&mut held, saved.is_err());
        if let Err(error) = saved {
            held.why = error.to_string();
        }
        held.changes += 1;
    }

    /// A pass of the sweep has met so many records.
    pub fn set_counted(&self, counted: Counted) {
        *lock(&self.0.counted) = Some((counted, Instant::now()));
    }

    /// What the last whole pass has met, and how long ago it ended; `None` before there was one.
    pub fn counted(&self) -> Option<(Counted, Duration)> {
        lock(&self.0.counted).map(|(counted, at)| (counted, at.elapsed()))
    }

    /// One more.
    pub fn count_asked(&self, asked: Asked) {
        self.0.asked[asked as usize].fetch_add(1, Relaxed);
    }

    /// A question of this kind has had an answer.
    pub fn count_took(&self, kind: &'static str, took: Duration) {
        lock(&self.0.took).entry(kind).or_default().add(took);
    }

    /// How long questions have taken since the daemon began, by their kind.
    pub fn took(&self) -> BTreeMap<&'static str, Took> {
        lock(&self.0.took).clone()
    }

    /// Questions of health checks since the daemon began.
    pub fn asked(&self, asked: Asked) -> u64 {
        self.0.asked[asked as usize].load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_questions_have_taken_is_counted_below_each_bound() {
        let live = Live::default();
        [1, 3, 3000, 60_000].into_iter().for_each(|ms| live.count_took("tcp", Duration::from_millis(ms)));
        let took = live.took()["tcp"];
        let within: Vec<u64> = took.within().map(|(_, count)| count).collect();
        assert_eq!(within, [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3]);
        assert_eq!((took.count, took.seconds), (4, 63.004));
    }
}
