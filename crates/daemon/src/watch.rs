//! A director that is looked at again and again, by a terminal or by Prometheus: while its files stay as they are they are
//! not read again. Ten thousand services are a second's work to read, and a tenth of it to count.

use crate::place::Place;
use crate::status::{ReadError, Running, Status};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Looks at the director of one place.
pub struct Watch {
    place: Place,
    seen: Option<(Running, Vec<Stamp>, u64)>,
}

/// Which file it was. Files are replaced, never written over, so another text is another inode, or the same one at
/// another time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(PathBuf, [i128; 4]);

impl Watch {
    pub fn new(place: Place) -> Self {
        Self { place, seen: None }
    }

    /// Everything that is counted, now.
    ///
    /// # Errors
    /// When no director runs, or it cannot be read.
    pub fn status(&mut self) -> Result<Status, ReadError> {
        Ok(self.look()?.status())
    }

    /// The director as it is now.
    ///
    /// # Errors
    /// As [`Watch::status`].
    pub fn look(&mut self) -> Result<&Running, ReadError> {
        // Before what they are of, so that a change in between is seen next time.
        let (stamps, unwritten) = (stamps(&self.place), self.place.live.changes());
        let running = match self.seen.take() {
            Some((mut running, known, held)) if known == stamps && held == unwritten => {
                running.daemon = self.place.running_daemon()?;
                running
            }
            _ => Running::open(&self.place)?,
        };
        Ok(&self.seen.insert((running, stamps, unwritten)).0)
    }
}

/// Of the tables, and of all files that say something about them.
fn stamps(place: &Place) -> Vec<Stamp> {
    let files = [&place.run_dir, &place.state_dir].into_iter().filter_map(|dir| fs::read_dir(dir).ok());
    let files = files.flatten().flatten().map(|file| file.path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "json" || kind == "toml"));
    let mut stamps: Vec<Stamp> =
        files.chain([place.pin_dir.join("maps/CONTROL")]).filter_map(|path| stamp(&path)).collect();
    stamps.sort();
    stamps
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let what = [file.dev().into(), file.ino().into(), file.mtime().into(), file.mtime_nsec().into()];
    Some(Stamp(path.to_owned(), what))
}
