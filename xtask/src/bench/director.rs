//! The program `marca`, built for release, as its operator runs it: in a namespace, with folders of its own.

use crate::process::{build, target};
use anyhow::{Context, Result, bail, ensure};
use marca_testkit::topology::{Namespace, Process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Builds the program, and says where it is.
pub fn build_release() -> Result<PathBuf> {
    build(&["--release", "--quiet", "--package", "marca"])?;
    Ok(release())
}

/// Where [`build_release`] leaves the program.
pub fn release() -> PathBuf {
    target().join("release/marca")
}

/// A daemon that forwards; dropped, it takes away all that it has set up.
pub struct Director<'n> {
    namespace: &'n Namespace,
    marca: PathBuf,
    dir: PathBuf,
    pins: PathBuf,
    process: Option<Process>,
    /// From its start until packets flowed.
    pub started: Duration,
}

impl<'n> Director<'n> {
    /// Starts it and waits until packets flow.
    pub fn start(marca: &Path, namespace: &'n Namespace, config: &str) -> Result<Self> {
        let name = format!("marca-bench-{}", namespace.name());
        // In memory, as is what an operator has below /run.
        let dir = Path::new("/dev/shm").join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let mut director =
            Self { namespace, marca: marca.into(), dir, pins, process: None, started: Duration::default() };
        // What a run that was killed has left.
        let _ = director.command(&["stop", "--detach"]).output();
        director.write(config)?;
        let mut run = director.command(&["run"]);
        run.arg("--config").arg(director.file());
        let began = Instant::now();
        let process = Process::spawn(&mut run)?;
        process.wait_for_line("ready", PATIENCE).context("start the director")?;
        director.started = began.elapsed();
        director.process = Some(process);
        Ok(director)
    }

    /// Puts another configuration in force: what it says of that.
    pub fn reload(&self, config: &str) -> Result<String> {
        self.write(config)?;
        let output = self.command(&["reload"]).output().context("run marca")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "reload: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    /// Holds the daemon up until the result is dropped; and lets it look after its tables before.
    pub fn pause(&self) -> Result<Paused> {
        std::thread::sleep(A_WHILE);
        let Some(process) = &self.process else { bail!("the director does not run") };
        let daemon = Pid::from_raw(process.id() as i32);
        kill(daemon, Signal::SIGSTOP).context("hold the daemon up")?;
        Ok(Paused(daemon))
    }

    /// Where its programs and maps are pinned.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub fn memory_kib(&self, field: &str) -> Result<u64> {
        let Some(process) = &self.process else { bail!("the director does not run") };
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).context("read its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()).context("its status lacks a field")?;
        Ok(number.parse()?)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("marca.toml")
    }

    fn write(&self, config: &str) -> Result<()> {
        fs::write(self.file(), config).with_context(|| format!("write {}", self.file().display()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(&self.marca);
        command.args(arguments).arg("--run-dir").arg(self.dir.join("run")).arg("--pin-dir").arg(&self.pins);
        command
    }
}

impl Drop for Director<'_> {
    fn drop(&mut self) {
        let stopped = self.command(&["stop", "--detach"]).output();
        if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("the director did not stop cleanly: {stopped:?}");
        }
        // It ends before its folders do.
        self.process = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A daemon that is held up.
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = kill(self.0, Signal::SIGCONT) {
            eprintln!("let the daemon go on: {error}");
        }
    }
}

const A_WHILE: Duration = Duration::from_millis(500);
/// An emulated machine takes ten seconds and more to verify the programs.
const PATIENCE: Duration = Duration::from_secs(120);
