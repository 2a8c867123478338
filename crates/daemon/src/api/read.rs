//! Tables and files, read beside the owner: on threads that may take their time, a few at a time.

use super::Problem;
use super::problem::Sort;
use crate::place::Place;
use crate::status::Running;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub(super) struct Reader {
    place: Place,
    /// Of all requests that read.
    turns: Arc<Semaphore>,
}

impl Reader {
    pub fn new(place: Place) -> Self {
        Self { place, turns: Arc::new(Semaphore::new(super::READERS)) }
    }

    /// What `work` makes of the director as it is.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Running) -> Result<T, Problem> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Problem::ends())?;
        let place = self.place.clone();
        let read = spawn_blocking(move || {
            // Kept although nobody waits any more: the work is done nevertheless.
            let _turn = turn;
            let running = Running::open(&place).map_err(|error| Problem::new(Sort::NotReady, error.to_string()))?;
            work(&running)
        });
        read.await.unwrap_or_else(|error| Err(Problem::new(Sort::Failed, error.to_string())))
    }
}
