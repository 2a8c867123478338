//! Where a director keeps its files and pins, and what it must remember to be taken away again.

use crate::linux::attach::Mode;
use crate::standings::Standings;
use ipnet::IpNet;
use marca_tables::ids::Ids;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A director's folders. Two directors on one host (in two network namespaces) have two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Files of this boot: state, the running configuration, the lock.
    pub run_dir: PathBuf,
    /// Below the BPF file system: programs and maps.
    pub pin_dir: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self { run_dir: "/run/marca".into(), pin_dir: "/sys/fs/bpf/marca".into() }
    }
}

/// A file of the place that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {cause}", path.display())]
pub struct PlaceError {
    doing: &'static str,
    path: PathBuf,
    cause: io::Error,
}

impl PlaceError {
    fn new(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        Self { doing, path: path.to_owned(), cause }
    }
}

/// What a director has put on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Numbers of services and real servers in the tables.
    pub ids: Ids,
    /// Interfaces with the entry program, and how it is attached.
    pub attached: Vec<Attached>,
    /// Interfaces that had no qdisc `clsact` before.
    #[serde(default)]
    pub qdiscs: Vec<String>,
    /// Addresses that were not there before.
    pub vips: Vec<PlacedVip>,
    /// Sysctls that had another value before.
    pub sysctls: Vec<ChangedSysctl>,
    /// The kernel's `CONFIG_HZ`.
    pub hz: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub interface: String,
    pub mode: Mode,
    /// What the configuration says about it: `auto`, `xdp` or `tc`.
    pub asked: String,
    /// Why it is this mode, where the configuration does not name it.
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlacedVip {
    pub interface: String,
    pub address: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSysctl {
    pub name: String,
    pub before: String,
}

/// Held while a daemon runs.
pub struct Lock(#[expect(dead_code, reason = "the kernel lets go of the lock when the file closes")] Flock<File>);

impl Place {
    fn state_file(&self) -> PathBuf {
        self.run_dir.join("state.json")
    }

    fn running_file(&self) -> PathBuf {
        self.run_dir.join("running.toml")
    }

    fn standings_file(&self) -> PathBuf {
        self.run_dir.join("standings.json")
    }

    /// Where the daemon takes requests.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control")
    }

    fn lock_file(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    /// Takes the lock for this process, and writes its id there; `Err` with the id of the daemon that has it.
    pub fn lock(&self) -> Result<Result<Lock, u32>, PlaceError> {
        fs::create_dir_all(&self.run_dir).map_err(|e| PlaceError::new("create", &self.run_dir, e))?;
        let path = self.lock_file();
        let failed = |cause| PlaceError::new("lock", &path, cause);
        Ok(match self.try_lock(FlockArg::LockExclusiveNonblock)? {
            Ok(mut lock) => {
                lock.set_len(0).map_err(failed)?;
                lock.rewind().map_err(failed)?;
                write!(lock, "{}", std::process::id()).map_err(failed)?;
                Ok(Lock(lock))
            }
            Err(pid) => Err(pid),
        })
    }

    /// The process id of the daemon that runs here.
    pub fn running_daemon(&self) -> Result<Option<u32>, PlaceError> {
        if !self.lock_file().exists() {
            return Ok(None);
        }
        // Shared: it is had beside other askers, but not beside a daemon.
        Ok(self.try_lock(FlockArg::LockSharedNonblock)?.err())
    }

    /// The lock, or the process id that its file names.
    fn try_lock(&self, how: FlockArg) -> Result<Result<Flock<File>, u32>, PlaceError> {
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| PlaceError::new("open", &path, e))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| PlaceError::new("read", &path, e))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Ok(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(Err(text.trim().parse().unwrap_or(0))),
            Err((_, cause)) => Err(PlaceError::new("lock", &path, cause.into())),
        }
    }

    /// What a director here has put on its host; nothing if there was none.
    pub fn state(&self) -> Result<State, PlaceError> {
        read(&self.state_file())
    }

    pub fn save_state(&self, state: &State) -> Result<(), PlaceError> {
        save(&self.state_file(), state)
    }

    /// Which real servers have failed, and whose time to drain runs. A file of its own, because it changes more often
    /// than the rest.
    pub fn standings(&self) -> Result<Standings, PlaceError> {
        read(&self.standings_file())
    }

    pub fn save_standings(&self, standings: &Standings) -> Result<(), PlaceError> {
        save(&self.standings_file(), standings)
    }

    /// The configuration in force, if a director was started here.
    pub fn running(&self) -> Result<Option<String>, PlaceError> {
        let path = self.running_file();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(PlaceError::new("read", &path, cause)),
        }
    }

    pub fn save_running(&self, text: &str) -> Result<(), PlaceError> {
        replace(&self.running_file(), text.as_bytes())
    }

    /// Forgets everything, once nothing of it is left on the host.
    pub fn clear(&self) -> Result<(), PlaceError> {
        let files = [self.state_file(), self.standings_file(), self.running_file()];
        for path in files.into_iter().chain([self.control_socket(), self.lock_file()]) {
            match fs::remove_file(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(PlaceError::new("remove", &path, cause));
                }
                _ => {}
            }
        }
        // Somebody else's files may be in it; they stay.
        let _ = fs::remove_dir(&self.run_dir);
        Ok(())
    }
}

/// The value in a file; the default if there is none.
fn read<T: Default + DeserializeOwned>(path: &Path) -> Result<T, PlaceError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| PlaceError::new("understand", path, io::Error::other(e.to_string()))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(cause) => Err(PlaceError::new("read", path, cause)),
    }
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), PlaceError> {
    let text =
        serde_json::to_vec(value).map_err(|e| PlaceError::new("write", path, io::Error::other(e.to_string())))?;
    replace(path, &text)
}

/// All or nothing: a reader sees the old file or the new one, and so does a daemon that was killed in between.
fn replace(path: &Path, text: &[u8]) -> Result<(), PlaceError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|cause| PlaceError::new("write", path, cause))
}
