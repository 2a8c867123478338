//! A director that is looked at again and again, by a terminal, by Prometheus, by whoever asks the API: while its files stay as
//! they are they are not read again. Ten thousand services are a second's work to read, and a tenth of it to count.

use crate::linux::data_plane::Maps;
use crate::place::Place;
use crate::status::{ReadError, Running, Status};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Looks at the director of one place.
pub struct Watch {
    place: Place,
    /// Another data plane has other pins.
    maps: Option<(Stamp, Arc<Maps>)>,
    seen: Option<(Running, Vec<Stamp>, u64)>,
}

/// Which file it was. Files are replaced, never written over, so another text is another inode, or the same one at
/// another time; what is appended to is longer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(PathBuf, [i128; 5]);

impl Watch {
    pub fn new(place: Place) -> Self {
        Self { place, maps: None, seen: None }
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
    pub fn look(&mut self) -> Result<Running, ReadError> {
        // Before what they are of, so that a change in between is seen next time.
        let (stamps, unwritten) = (stamps(&self.place), self.place.live.changes());
        if let Some((running, known, held)) = &mut self.seen
            && *known == stamps
            && *held == unwritten
        {
            running.daemon = self.place.running_daemon()?;
            return Ok(running.clone());
        }
        let maps = self.maps()?;
        let running = Running::with(&self.place, maps)?;
        self.seen = Some((running.clone(), stamps, unwritten));
        Ok(running)
    }

    fn maps(&mut self) -> Result<Arc<Maps>, ReadError> {
        let is = stamp(&self.place.pin_dir.join(PIN));
        if let (Some((known, maps)), Some(is)) = (&self.maps, &is)
            && known == is
        {
            return Ok(Arc::clone(maps));
        }
        let maps = Arc::new(Maps::open(&self.place.pin_dir)?);
        self.maps = is.map(|is| (is, Arc::clone(&maps)));
        Ok(maps)
    }
}

/// One of the maps.
const PIN: &str = "maps/CONTROL";

/// Of the tables, and of all files that say something about them.
fn stamps(place: &Place) -> Vec<Stamp> {
    let files = [&place.run_dir, &place.state_dir].into_iter().filter_map(|dir| fs::read_dir(dir).ok());
    let files = files.flatten().flatten().map(|file| file.path());
    let tells = |kind: &std::ffi::OsStr| ["json", "jsonl", "toml"].iter().any(|known| kind == *known);
    let files = files.filter(|path| path.extension().is_some_and(tells));
    let mut stamps: Vec<Stamp> = files.chain([place.pin_dir.join(PIN)]).filter_map(|path| stamp(&path)).collect();
    stamps.sort();
    stamps
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let time = [file.mtime().into(), file.mtime_nsec().into()];
    Some(Stamp(path.to_owned(), [file.dev().into(), file.ino().into(), file.len().into(), time[0], time[1]]))
}
