//! Tables and files, read beside the owner: on threads that may take their time, a few at a time.

use super::Problem;
use super::problem::Sort;
use crate::linux::data_plane::Maps;
use crate::place::Place;
use crate::status::{ReadError, Running};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub(super) struct Reader {
    place: Place,
    known: Arc<Mutex<Known>>,
    /// Of all requests that read.
    turns: Arc<Semaphore>,
}

/// What need not be read again for every request.
#[derive(Default)]
struct Known {
    /// With the inode of a pin: another data plane has another.
    maps: Option<(u64, Arc<Maps>)>,
}

impl Known {
    fn open(&mut self, place: &Place) -> Result<Running, ReadError> {
        let pin = std::fs::metadata(place.pin_dir.join("maps/CONTROL")).map_or(0, |pin| pin.ino());
        let maps = match &self.maps {
            Some((known, maps)) if *known == pin => Arc::clone(maps),
            _ => Arc::clone(&self.maps.insert((pin, Arc::new(Maps::open(&place.pin_dir)?))).1),
        };
        Running::with(place, maps)
    }
}

impl Reader {
    pub fn new(place: Place) -> Self {
        Self { place, known: Arc::default(), turns: Arc::new(Semaphore::new(super::READERS)) }
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
        let (place, known) = (self.place.clone(), Arc::clone(&self.known));
        let read = move || {
            let running = known.lock().unwrap_or_else(PoisonError::into_inner).open(&place);
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
