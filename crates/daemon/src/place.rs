//! Where a director keeps its files and pins, and what it must remember to be taken away again.

use crate::linux::attach::Mode;
use crate::linux::data_plane::since_boot;
use crate::live::Live;
use crate::overrides::Overrides;
use crate::standings::Standings;
use crate::steps::{self, Step};
use ipnet::IpNet;
use marca_tables::ids::{Ids, Renumbered};
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A director's folders. Two directors on one host (in two network namespaces) have two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Files of this boot: state, the running configuration, the lock.
    pub run_dir: PathBuf,
    /// Files that outlive it: how real servers stand.
    pub state_dir: PathBuf,
    /// Below the BPF file system: programs and maps.
    pub pin_dir: PathBuf,
    /// What the process knows beside them.
    pub live: Live,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            run_dir: "/run/marca".into(),
            state_dir: "/var/lib/marca".into(),
            pin_dir: "/sys/fs/bpf/marca".into(),
            live: Live::default(),
        }
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

    /// What became of numbers since the state file was written.
    fn numbers_file(&self) -> PathBuf {
        self.run_dir.join("numbers.jsonl")
    }

    /// The configuration in force.
    pub fn running_file(&self) -> PathBuf {
        self.run_dir.join("running.toml")
    }

    fn standings_file(&self) -> PathBuf {
        self.state_dir.join("standings.json")
    }

    fn overrides_file(&self) -> PathBuf {
        self.state_dir.join("overrides.json")
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
        // Which file that is, before what is in it: one that comes in its place has what follows, too.
        let of = self.state_stamp();
        let mut state: State = read(&self.state_file())?;
        let path = self.numbers_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(state),
            Err(cause) => return Err(PlaceError::new("read", &path, cause)),
        };
        // A daemon that was killed may have left a piece of a line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        if lines.next() == of.as_deref() {
            for line in lines {
                let renumbered: Renumbered = serde_json::from_str(line)
                    .map_err(|e| PlaceError::new("understand", &path, io::Error::other(e.to_string())))?;
                state.ids.follow(&renumbered);
            }
        }
        Ok(state)
    }

    pub fn save_state(&self, state: &State) -> Result<(), PlaceError> {
        save(&self.state_file(), state)?;
        // Its lines are of the file before.
        match fs::remove_file(self.numbers_file()) {
            Ok(()) => steps::taken(Step::NumbersGone),
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(PlaceError::new("remove", &self.numbers_file(), cause));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// A change of numbers of which `state` is the outcome: with thousands of real servers that is not written as a whole for
    /// each of them.
    pub fn save_renumbered(&self, state: &State, renumbered: &Renumbered) -> Result<(), PlaceError> {
        if renumbered.is_empty() {
            return Ok(());
        }
        let path = self.numbers_file();
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let Some(of) = self.state_stamp().filter(|_| length < MOST_NUMBERS) else { return self.save_state(state) };
        let failed = |cause| PlaceError::new("write", &path, cause);
        let line = serde_json::to_string(renumbered).map_err(|e| failed(io::Error::other(e.to_string())))?;
        let first = if length == 0 { format!("{of}\n") } else { String::new() };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        // Not made sure to be on a disk: with the machine the tables end, which carry the numbers.
        file.write_all(format!("{first}{line}\n").as_bytes()).map_err(failed)?;
        steps::taken(Step::Numbers);
        Ok(())
    }

    /// What tells a state file from the one before it.
    fn state_stamp(&self) -> Option<String> {
        let metadata = fs::metadata(self.state_file()).ok()?;
        Some(format!("{}.{}.{}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Which real servers have failed, and whose time to drain runs. A file of its own, because it changes more often
    /// than the rest, and because it outlives a reboot: then its times are those of this boot.
    pub fn standings(&self) -> Result<Standings, PlaceError> {
        if let Some(standings) = self.live.standings() {
            return Ok(standings);
        }
        let remembered: Remembered<Standings> = read(&self.standings_file())?;
        Ok(match self.moment()? {
            now if now.boot == remembered.moment.boot || remembered.moment.boot.is_empty() => remembered.value,
            now => remembered.value.rebooted(|time| now.instead_of(&remembered.moment, time)),
        })
    }

    pub fn save_standings(&self, standings: &Standings) -> Result<(), PlaceError> {
        let saved = self.remember(&self.standings_file(), standings);
        self.live.saved_standings(standings, &saved);
        saved
    }

    fn remember<T: Serialize>(&self, file: &Path, value: T) -> Result<(), PlaceError> {
        fs::create_dir_all(&self.state_dir).map_err(|e| PlaceError::new("create", &self.state_dir, e))?;
        save(file, &Remembered { moment: self.moment()?, value })
    }

    /// Puts away what nobody understands, a power failure's half file or another version's; answers where it is now.
    pub fn set_standings_aside(&self) -> Result<PathBuf, PlaceError> {
        let (path, aside) = (self.standings_file(), self.standings_file().with_extension("broken"));
        fs::rename(&path, &aside).map_err(|e| PlaceError::new("set aside", &path, e))?;
        Ok(aside)
    }

    fn moment(&self) -> Result<Moment, PlaceError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(path).map_err(|e| PlaceError::new("read", path, e))?;
        let since_boot = since_boot().map_err(|e| PlaceError::new("date", &self.state_dir, io::Error::other(e)))?;
        // A clock before 1970 is a clock that was never set.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Moment { boot: boot.trim().to_owned(), since_boot, since_epoch })
    }

    /// What operators have said by hand. It outlives a reboot as standings do.
    pub fn overrides(&self) -> Result<Overrides, PlaceError> {
        if let Some(overrides) = self.live.overrides() {
            return Ok(overrides);
        }
        let remembered: Remembered<Overrides> = read(&self.overrides_file())?;
        Ok(match self.moment()? {
            now if now.boot == remembered.moment.boot || remembered.moment.boot.is_empty() => remembered.value,
            now => remembered.value.rebooted(|time| now.instead_of(&remembered.moment, time)),
        })
    }

    pub fn save_overrides(&self, overrides: &Overrides) -> Result<(), PlaceError> {
        // Nearly always there are none.
        let is_nothing = overrides.is_empty() && !self.overrides_file().exists();
        let saved = if is_nothing { Ok(()) } else { self.remember(&self.overrides_file(), overrides) };
        self.live.saved_overrides(overrides, &saved);
        saved
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
        let files = self.files();
        // A daemon that was killed while it wrote one has left what it wrote.
        let half = files.clone().map(|path| beside(&path));
        for path in files.into_iter().chain(half).chain([self.control_socket(), self.lock_file()]) {
            match fs::remove_file(&path) {
                Ok(()) => steps::taken(Step::FileGone),
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(PlaceError::new("remove", &path, cause));
                }
                Err(_) => {}
            }
        }
        // Somebody else's files may be in them; they stay.
        let _ = fs::remove_dir(&self.run_dir);
        let _ = fs::remove_dir(&self.state_dir);
        Ok(())
    }

    /// Whether nothing of a director is left here.
    pub fn is_clear(&self) -> bool {
        let more = [self.pin_dir.clone(), self.control_socket(), self.lock_file()];
        !self.files().iter().chain(&more).any(|path| path.exists())
    }

    /// What a director remembers; what it has put on its host first.
    fn files(&self) -> [PathBuf; 5] {
        [self.state_file(), self.numbers_file(), self.standings_file(), self.overrides_file(), self.running_file()]
    }
}

/// A value that outlives a reboot, and when it was written.
#[derive(Default, Serialize, Deserialize)]
struct Remembered<T> {
    #[serde(flatten)]
    moment: Moment,
    value: T,
}

/// A moment, by the clock that stops for nobody and begins anew at each boot, and by the one that people set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    boot: String,
    since_boot: Duration,
    since_epoch: Duration,
}

impl Moment {
    /// A time of an earlier boot, when `before` was now, as one of this boot. What lies before this boot becomes its
    /// beginning; a clock that was set back in between makes no time pass.
    fn instead_of(&self, before: &Self, time: Duration) -> Duration {
        let passed = self.since_epoch.saturating_sub(before.since_epoch);
        (self.since_boot + time).saturating_sub(before.since_boot + passed)
    }
}

/// Bytes of changes of numbers, of which a state is read quickly.
const MOST_NUMBERS: u64 = 1 << 20;

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
    let new = beside(path);
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        steps::taken(Step::FileBeside);
        fs::rename(&new, path)?;
        steps::taken(Step::FileInPlace);
        Ok(())
    };
    write().map_err(|cause| {
        // Half a file on a full disk helps nobody.
        let _ = fs::remove_file(&new);
        PlaceError::new("write", path, cause)
    })
}

/// Where a file is written that is to take this one's place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

#[cfg(test)]
mod tests {
    use super::*;
    use marca_config::plan::{Difference, Plan};

    fn moment(boot: &str, since_boot: u64, since_epoch: u64) -> Moment {
        let [since_boot, since_epoch] = [since_boot, since_epoch].map(Duration::from_secs);
        Moment { boot: boot.into(), since_boot, since_epoch }
    }

    #[test]
    fn a_time_of_an_earlier_boot_goes_on_by_the_clock_on_the_wall() {
        let before = moment("a", 5000, 1_000_000);
        // Rebooted within 100 seconds, up for 40.
        let now = moment("b", 40, 1_000_100);
        let seconds = |time| now.instead_of(&before, Duration::from_secs(time)).as_secs();
        assert_eq!(seconds(5600), 540, "600 seconds were left; now there are 500");
        assert_eq!(seconds(5070), 10, "it was over 30 seconds ago");
        assert_eq!(seconds(4000), 0);
        let set_back = moment("b", 40, 500);
        assert_eq!(set_back.instead_of(&before, Duration::from_secs(5600)), Duration::from_secs(640));
    }

    #[test]
    fn what_is_remembered_outlives_a_reboot_and_half_a_file_is_set_aside() {
        let dir = std::env::temp_dir().join(format!("marca-place-{}", std::process::id()));
        let place = Place { state_dir: dir.clone(), ..Place::default() };
        assert_eq!(place.standings().unwrap(), Standings::default());
        place.save_standings(&Standings::default()).unwrap();
        assert_eq!(place.standings().unwrap(), Standings::default());
        fs::write(place.standings_file(), "{\"boot\": ").unwrap();
        assert!(place.standings().is_err());
        assert_eq!(place.set_standings_aside().unwrap(), dir.join("standings.broken"));
        assert_eq!(place.standings().unwrap(), Standings::default());
        fs::remove_dir_all(dir).unwrap();
    }

    fn plan(servers: &str) -> Plan {
        let text = format!(
            "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\nserver = [{servers}]"
        );
        Plan::of(&marca_config::load("t", &text).unwrap().config).unwrap()
    }

    #[test]
    fn numbers_are_read_as_they_have_become_since_the_state_was_written() {
        let run_dir = std::env::temp_dir().join(format!("marca-place-{}", std::process::id()));
        fs::create_dir_all(&run_dir).unwrap();
        let place = Place { run_dir: run_dir.clone(), ..Place::default() };
        let (one, other) = (plan("{ address = '10.0.0.1' }"), plan("{ address = '10.0.0.2' }"));
        let mut state = State::default();
        state.ids.assign(&one, 8, 8).unwrap();
        place.save_state(&state).unwrap();
        let change = |state: &mut State, old, new| {
            let renumbered = state.ids.replace((old, new), &Difference::of(old, new), 8, 8).unwrap();
            place.save_renumbered(state, &renumbered).unwrap();
            assert_eq!(place.state().unwrap(), *state);
        };
        change(&mut state, &one, &other);
        change(&mut state, &other, &one);
        change(&mut state, &one, &other);
        let before = state.clone();
        let released = state.ids.release(|_| false);
        place.save_renumbered(&state, &released).unwrap();
        assert_ne!(place.state().unwrap(), before);
        assert_eq!(place.state().unwrap(), state);
        // A piece of a line is of a daemon that was killed before anything carried its numbers.
        let mut file = OpenOptions::new().append(true).open(place.numbers_file()).unwrap();
        file.write_all(b"{\"services\":{\"sh").unwrap();
        assert_eq!(place.state().unwrap(), state);
        // Lines of another file say nothing of this one.
        let lines = fs::read(place.numbers_file()).unwrap();
        place.save_state(&before).unwrap();
        fs::write(place.numbers_file(), lines).unwrap();
        assert_eq!(place.state().unwrap(), before);
        fs::remove_dir_all(&run_dir).unwrap();
    }
}
