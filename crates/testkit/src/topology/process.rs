//! A program that a test has started, and that ends with the test.

use super::Error;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A running program whose output is kept. Dropped, it is asked to end (`SIGTERM`), soon after made to (`SIGKILL`), and
/// waited for.
///
/// It stays in the caller's process group: when a test runner is interrupted, its terminal or its own runner ends both.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
    output: Arc<Output>,
}

impl Process {
    /// Starts the command, with nothing as its input and both its outputs kept.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(command: &mut Command) -> Result<Self, Error> {
        let program = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Error::new(format!("start {program}"), error))?;
        let output = Arc::new(Output::default());
        if let Some(stdout) = child.stdout.take() {
            output.keep(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            output.keep(stderr);
        }
        Ok(Process { program, child, output })
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, to both outputs, line by line as it came.
    pub fn output(&self) -> String {
        self.output.lock().lines.concat()
    }

    /// The first line that contains `text`, waiting for it if need be.
    ///
    /// # Errors
    /// It ended, or the time did, without such a line; the error shows what was written instead.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + within;
        let mut kept = self.output.lock();
        let mut seen = 0;
        loop {
            if let Some(line) = kept.lines[seen..].iter().find(|line| line.contains(text)) {
                return Ok(line.trim_end().to_owned());
            }
            seen = kept.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if kept.open == 0 || left.is_zero() {
                let why = if kept.open == 0 { "it ended" } else { "the time is up" };
                let written = kept.lines.concat();
                let doing = format!("wait for `{text}` from {}", self.program);
                return Err(Error::new(doing, io::Error::other(format!("{why}; it wrote:\n{written}"))));
            }
            kept = self.output.changed.wait_timeout(kept, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn is_running(&mut self) -> Result<bool, Error> {
        let status =
            self.child.try_wait().map_err(|error| Error::new(format!("look after {}", self.program), error))?;
        Ok(status.is_none())
    }

    /// Waits for its end, and for the last of its output.
    ///
    /// # Errors
    /// The time is up.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, Error> {
        let deadline = Instant::now() + within;
        while self.is_running()? {
            if Instant::now() > deadline {
                let doing = format!("wait for the end of {}", self.program);
                let written = format!("the time is up; it wrote:\n{}", self.output());
                return Err(Error::new(doing, io::Error::other(written)));
            }
            thread::sleep(POLL);
        }
        // Children of its own may hold the outputs open for ever: then what there is must do.
        let mut kept = self.output.lock();
        let output_deadline = Instant::now() + OUTPUT_WITHIN;
        while kept.open > 0 && Instant::now() < output_deadline {
            kept = self.output.changed.wait_timeout(kept, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(kept);
        self.child.wait().map_err(|error| Error::new(format!("wait for {}", self.program), error))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        let doing = format!("send {signal} to {}", self.program);
        // Once it has been waited for, its id may be another's.
        if !self.is_running()? {
            return Err(Error::new(doing, io::Error::other("it has ended")));
        }
        kill(Pid::from_raw(self.child.id() as i32), signal).map_err(|error| Error::new(doing, error.into()))
    }

    /// Ends it as a crash would, without a word, and waits.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn crash(&mut self) -> Result<(), Error> {
        let doing = || format!("kill {}", self.program);
        self.child.kill().map_err(|error| Error::new(doing(), error))?;
        self.child.wait().map(drop).map_err(|error| Error::new(doing(), error))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.signal(Signal::SIGTERM).is_ok() && {
            let deadline = Instant::now() + ENDS_WITHIN;
            loop {
                match self.is_running() {
                    Ok(true) if Instant::now() < deadline => thread::sleep(POLL),
                    state => break matches!(state, Ok(false)),
                }
            }
        };
        if !ended {
            // It may have ended meanwhile: then both fail, and nothing is left to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[derive(Debug, Default)]
struct Output {
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    lines: Vec<String>,
    /// How many of the outputs may still bring something.
    open: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads on a thread of its own, because a full pipe would stop the program.
    fn keep(self: &Arc<Self>, from: impl Read + Send + 'static) {
        self.lock().open += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            // A read error ends the output as its end does: either way nothing more comes.
            while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                output.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                output.changed.notify_all();
                line.clear();
            }
            output.lock().open -= 1;
            output.changed.notify_all();
        });
    }
}

const POLL: Duration = Duration::from_millis(5);
/// A program that takes longer to end by itself has no reason to.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
const OUTPUT_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn lines_are_waited_for_and_kept_from_both_outputs() {
        let mut process = shell("echo one; sleep 0.1; echo two is ready >&2; exit 3");
        assert_eq!(process.wait_for_line("ready", SOON).unwrap(), "two is ready");
        assert_eq!(process.wait(SOON).unwrap().code(), Some(3));
        assert_eq!(process.output(), "one\ntwo is ready\n");
        assert_eq!(process.wait_for_line("one", SOON).unwrap(), "one");
    }

    #[test]
    fn waiting_for_a_line_that_does_not_come_shows_what_came() {
        let error = shell("echo something else").wait_for_line("ready", SOON).unwrap_err().to_string();
        assert!(error.contains("it ended; it wrote:\nsomething else"), "{error}");
        let error = shell("exec sleep 60").wait_for_line("ready", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("the time is up"), "{error}");
    }

    #[test]
    fn a_dropped_process_is_gone_even_if_it_does_not_want_to_end() {
        for script in ["exec sleep 60", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"] {
            let process = shell(script);
            let id = Pid::from_raw(process.id() as i32);
            if script.contains("deaf") {
                process.wait_for_line("deaf", SOON).unwrap();
            }
            kill(id, None).unwrap();
            drop(process);
            assert_eq!(kill(id, None), Err(nix::errno::Errno::ESRCH), "{script}");
        }
    }

    #[test]
    fn a_crashed_process_can_not_be_signalled_but_still_be_read() {
        let mut process = shell("echo hello; exec sleep 60");
        process.wait_for_line("hello", SOON).unwrap();
        process.crash().unwrap();
        assert!(!process.is_running().unwrap());
        assert!(process.signal(Signal::SIGTERM).is_err());
        assert_eq!(process.output(), "hello\n");
    }
}
