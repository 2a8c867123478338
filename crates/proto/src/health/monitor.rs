//! One check of one server: how many answers in a row make a change, and when it is asked again.

use std::time::Duration;

/// Follows the answers to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    rise: u32,
    fall: u32,
    is_up: bool,
    /// No answer has been seen yet: the first one decides alone.
    is_new: bool,
    /// Answers in a row that speak against the state.
    against: u32,
}

/// What is known before the first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing; it is taken for up or down until then.
    Unknown { up: bool },
    /// Another run has seen it up or down.
    Known { up: bool },
}

impl Monitor {
    pub fn new(rise: u32, fall: u32, before: Before) -> Self {
        let (is_up, is_new) = match before {
            Before::Unknown { up } => (up, true),
            Before::Known { up } => (up, false),
        };
        Self { rise: rise.max(1), fall: fall.max(1), is_up, is_new, against: 0 }
    }

    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Whether an answer has been seen, by this run or another.
    pub fn is_known(&self) -> bool {
        !self.is_new
    }

    /// How many answers in a row have spoken against the state.
    pub fn against(&self) -> u32 {
        self.against
    }

    /// An answer; whether it is up or down from now on, if that has changed or is known only now.
    pub fn step(&mut self, is_good: bool) -> Option<bool> {
        if std::mem::take(&mut self.is_new) {
            self.is_up = is_good;
            return Some(is_good);
        }
        if is_good == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if is_good { self.rise } else { self.fall } {
            return None;
        }
        (self.is_up, self.against) = (is_good, 0);
        Some(is_good)
    }
}

/// Until a check is asked again, from when it was asked. `chance` is a random number.
pub fn pause(interval: Duration, jitter: Duration, chance: u32) -> Duration {
    interval + jitter.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

/// Until it is asked for the first time: all checks of a configuration are spread over their intervals.
pub fn first_pause(interval: Duration, chance: u32) -> Duration {
    pause(Duration::ZERO, interval.min(FIRST), chance)
}

/// Nobody waits longer for the first verdict.
const FIRST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(monitor: &mut Monitor, answers: &str) -> Vec<Option<bool>> {
        answers.chars().map(|answer| monitor.step(answer == '+')).collect()
    }

    #[test]
    fn the_first_answer_decides_alone() {
        let new = || Monitor::new(2, 3, Before::Unknown { up: true });
        assert_eq!(steps(&mut new(), "+"), [Some(true)]);
        assert_eq!(steps(&mut new(), "-"), [Some(false)]);
        assert!(new().is_up(), "until then it is what it was taken for");
    }

    #[test]
    fn it_falls_and_rises_after_so_many_in_a_row() {
        let mut monitor = Monitor::new(2, 3, Before::Known { up: true });
        assert_eq!(steps(&mut monitor, "--+--"), [None; 5], "a good one in between counts anew");
        assert_eq!(steps(&mut monitor, "-"), [Some(false)]);
        assert_eq!(steps(&mut monitor, "-+-+"), [None; 4]);
        assert_eq!(steps(&mut monitor, "+"), [Some(true)]);
    }

    #[test]
    fn one_that_flaps_every_time_never_changes() {
        let mut monitor = Monitor::new(2, 2, Before::Known { up: true });
        assert!(steps(&mut monitor, &"-+".repeat(100)).iter().all(Option::is_none));
        assert!(monitor.is_up());
    }

    #[test]
    fn with_one_of_each_every_answer_counts() {
        let mut monitor = Monitor::new(1, 1, Before::Known { up: true });
        assert_eq!(steps(&mut monitor, "-+-"), [Some(false), Some(true), Some(false)]);
    }

    #[test]
    fn jitter_only_puts_off() {
        let (interval, jitter) = (Duration::from_secs(2), Duration::from_millis(200));
        assert_eq!(pause(interval, jitter, 0), interval);
        assert_eq!(pause(interval, jitter, u32::MAX), interval + jitter);
        assert_eq!(pause(interval, Duration::ZERO, 77), interval);
        assert_eq!(first_pause(Duration::from_secs(3600), u32::MAX), FIRST);
        assert_eq!(first_pause(Duration::from_millis(100), u32::MAX), Duration::from_millis(100));
    }
}
