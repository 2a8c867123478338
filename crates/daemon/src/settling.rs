//! Packets that were on their way when the tables changed. They may look where the tables were before, and that is written
//! again by the next change: so that one waits for them, if they are not gone by then.

use crate::linux::grace::Grace;
use marca_tables::Memory;
use marca_tables::slots::Left;

/// What is to be done when those of the last change are gone.
#[derive(Debug)]
pub struct Settling(Option<(Grace, Left)>);

impl Settling {
    /// Begins, right after a change.
    pub fn of(left: Left) -> Self {
        Self(Some((Grace::begin(), left)))
    }

    /// To be called before a change: waits for the packets of the last one.
    pub fn finish(&mut self, memory: &Memory) {
        if let Some((grace, left)) = self.0.take() {
            grace.end();
            left.follow(memory);
        }
    }

    /// Whether they are gone and all is done.
    pub fn is_over(&mut self, memory: &Memory) -> bool {
        if self.0.as_ref().is_some_and(|(grace, _)| grace.is_over()) {
            self.finish(memory);
        }
        self.0.is_none()
    }
}
