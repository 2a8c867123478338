//! The time that all processors of the machine have been busy: interrupts, which are nobody's, are in it.

use anyhow::{Context, Result};
use std::fs;

/// Seconds of all processors since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessorTime(f64);

impl ProcessorTime {
    pub fn now() -> Result<Self> {
        Self::of(&fs::read_to_string("/proc/stat").context("read /proc/stat")?)
    }

    /// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, and guests, which are in user already.
    fn of(stat: &str) -> Result<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("/proc/stat has no line `cpu`")?;
        let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let busy =
            fields.iter().enumerate().filter(|(place, _)| matches!(place, 0..=2 | 5 | 6)).map(|(_, ticks)| ticks);
        // USER_HZ, which is the same everywhere (`include/asm-generic/param.h`).
        Ok(Self(busy.sum::<u64>() as f64 / 100.0))
    }

    /// Seconds.
    pub fn since(self, before: Self) -> f64 {
        self.0 - before.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_idles_or_waits_or_is_stolen_is_not_busy() {
        let time = |line: &str| ProcessorTime::of(line).unwrap();
        let before = time("cpu  100 20 300 5000 60 7 80 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n");
        assert_eq!(before, ProcessorTime(5.07));
        let after = time("cpu  200 20 300 6000 70 17 90 19 5 0\n");
        assert!((after.since(before) - 1.2).abs() < 1e-9);
        assert!(ProcessorTime::of("intr 1 2 3\n").is_err());
    }
}
