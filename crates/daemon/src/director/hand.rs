//! What operators say of real servers by hand.

use super::health::quorum;
use super::{Director, DirectorError};
use crate::checkers::health::Said;
use crate::linux::data_plane::since_boot;
use crate::overrides::{Change, Now, Overrides, Told, Until};
use crate::standings::Meant;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Director {
    /// Says something of real servers; what has come of it, a line for each, and of services' quorums. A disk that is full holds nobody up: see
    /// [`unwritten`](Self::unwritten).
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn say(
        &mut self,
        servers: &[Meant],
        change: Change,
        until: Until,
    ) -> Result<(Vec<Told>, Vec<Said>), DirectorError> {
        let mut overrides = self.overrides.clone();
        let said = overrides.say(&self.file, servers, change, (until, now()?));
        let (services, told) = said.map_err(DirectorError::NoServer)?;
        // Whoever comes after a crash must know.
        let saved = self.place.save_overrides(&overrides);
        self.saved(saved);
        match self.override_with(overrides, &services.into_iter().collect()) {
            Ok(quorums) => Ok((told, quorums)),
            Err(error) => {
                self.save_overrides();
                Err(error)
            }
        }
    }

    /// Writes down what operators have said.
    pub(super) fn save_overrides(&mut self) {
        let saved = self.place.save_overrides(&self.overrides);
        self.saved(saved);
    }

    /// Ends what holds no longer; what to tell of it.
    pub fn end_overrides(&mut self) -> Result<(Vec<Told>, Vec<Said>), DirectorError> {
        if self.overrides.is_empty() {
            return Ok(Default::default());
        }
        let mut quorums = Vec::new();
        let mut overrides = self.overrides.clone();
        let told = overrides.due(now()?);
        if overrides != self.overrides {
            let before = self.overrides.apply(&self.file);
            let after = overrides.apply(&self.file);
            let services = (0..after.services.len()).filter(|&index| before.services[index] != after.services[index]);
            quorums = self.override_with(overrides, &services.collect())?;
            self.save_overrides();
        }
        Ok((told, quorums))
    }

    fn override_with(&mut self, overrides: Overrides, services: &BTreeSet<usize>) -> Result<Vec<Said>, DirectorError> {
        let configured = overrides.apply(&self.file);
        let before = (Arc::clone(&self.configured), self.standings.clone());
        self.standings.settle(&configured, Some(&self.configured), since_boot()?);
        self.configured = configured;
        self.save_standings();
        if let Err(error) = self.restand(services) {
            (self.configured, self.standings) = before;
            self.save_standings();
            return Err(error);
        }
        self.overrides = overrides;
        let quorums = self.standings.quorums_since(&before.1, &self.configured);
        Ok(quorums.map(|(service, strength)| quorum(service, &strength)).collect())
    }
}

/// By both clocks.
///
/// # Errors
/// When the kernel does not tell.
pub fn now() -> Result<Now, DirectorError> {
    Ok(Now { boot: since_boot()?, clock: Timestamp::now() })
}
