//! Tables and files, read beside the owner: on threads that may take their time, a few at a time.

use super::Problem;
use super::problem::Sort;
use crate::place::Place;
use crate::status::Running;
use crate::watch::Watch;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub(super) struct Reader {
    place: Place,
    watch: Arc<Mutex<Watch>>,
    /// Of all requests that read.
    turns: Arc<Semaphore>,
}

impl Reader {
    pub fn new(place: Place) -> Self {
        let watch = Arc::new(Mutex::new(Watch::new(place.clone())));
        Self { place, watch, turns: Arc::new(Semaphore::new(super::READERS)) }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What `work` makes of the director as it is.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Running) -> Result<T, Problem> + Send + 'static,
    {
        let watch = Arc::clone(&self.watch);
        let read = move || {
            let running = watch.lock().unwrap_or_else(PoisonError::into_inner).look();
            let running = running.map_err(|error| Problem::new(Sort::NotReady, error.to_string()))?;
            work(&running)
        };
        self.beside(read).await
    }

    /// Does work that takes its time, when it is its turn.
    pub async fn beside<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Problem::ends())?;
        let work = spawn_blocking(move || {
            // Kept although nobody waits any more: the work is done nevertheless.
            let _turn = turn;
            work()
        });
        work.await.unwrap_or_else(|error| Err(Problem::new(Sort::Failed, error.to_string())))
    }
}
