//! Programs that check. They may hang, and they may leave others behind: each has a process group of its own, all of which
//! ends with the check.

use super::super::targets::Target;
use super::{Fault, plain};
use marca_config::model;
use marca_proto::health::talk::agent::{self, Said, Weight};
use marca_proto::health::talk::shown;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

/// A program, and what it is told.
#[derive(Debug)]
pub(super) struct Script {
    command: Vec<String>,
    environment: Vec<(&'static str, String)>,
    weight: bool,
}

/// Runs beside each other.
static ROOM: Semaphore = Semaphore::const_new(64);

impl Script {
    pub fn new(wanted: &model::Script, target: &Target) -> Self {
        let mut environment = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("MARCA_ADDRESS", target.address.to_string()),
        ];
        environment.extend(target.check.port.map(|port| ("MARCA_PORT", port.to_string())));
        Self { command: wanted.command.clone(), environment, weight: wanted.weight }
    }

    /// `timeout` runs from when the program does.
    pub async fn run(&self, timeout: Duration) -> Result<Option<Weight>, Fault> {
        let _room = ROOM.acquire().await.map_err(|error| Fault::Ours(error.to_string()))?;
        let (program, arguments) = self.command.split_first().ok_or_else(|| Fault::Ours("no program".into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Fault::Ours(format!("run {program}: {}", plain(&error))))?;
        let group = Group(child.id());
        let mut output = Output::default();
        let ended = tokio::time::timeout(timeout, output.until_end(&mut child)).await;
        // Whatever it has left behind goes with it.
        drop(group);
        match ended {
            Ok(Ok(status)) => self.judge(status, &output),
            Ok(Err(error)) => Err(Fault::Ours(format!("wait for {program}: {}", plain(&error)))),
            Err(_) => Err(Fault::Theirs(format!("the script has not ended within {timeout:?}"))),
        }
    }

    fn judge(&self, status: ExitStatus, output: &Output) -> Result<Option<Weight>, Fault> {
        if !status.success() {
            let how = match status.code() {
                Some(code) => format!("exit code {code}"),
                None => "it was killed".into(),
            };
            let said = output.last_line();
            let said = said.map_or_else(String::new, |line| format!(": {}", shown(line.as_bytes())));
            return Err(Fault::Theirs(format!("{how}{said}")));
        }
        if !self.weight {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.out);
        match agent::line(text.lines().next().unwrap_or_default()) {
            Ok(Said::Up(weight)) => Ok(weight),
            Ok(Said::Down(why)) => Err(Fault::Theirs(why)),
            // It is up, and its weight is as it was configured.
            Err(_) => Ok(None),
        }
    }
}

/// All processes of a program that was started for a check.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            // Nobody is left: all the better. The number is not another group's yet: the kernel hands them out in turn.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The beginning of what a program writes.
#[derive(Debug, Default)]
struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Output {
    /// Reads until the program has ended, also while somebody that it has left behind keeps its output open.
    async fn until_end(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let mut reading = std::pin::pin!(async {
            tokio::join!(read(out, &mut self.out), read(err, &mut self.err));
        });
        tokio::select! {
            biased;
            status = child.wait() => {
                // What it wrote last is in the pipe.
                let _ = tokio::time::timeout(LAST_WORDS, reading).await;
                status
            }
            () = &mut reading => child.wait().await,
        }
    }

    /// What it says about its failure, for people.
    fn last_line(&self) -> Option<String> {
        let last = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
        };
        last(&self.err).or_else(|| last(&self.out))
    }
}

/// Keeps the beginning and reads on, so that no program waits for room in the pipe.
async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let room = MOST_BYTES.saturating_sub(into.len());
        into.extend(buffer.iter().take(len.min(room)));
    }
}

const MOST_BYTES: usize = 4096;
const LAST_WORDS: Duration = Duration::from_millis(100);
