//! `marca reload`.

use crate::{PlaceOptions, Refused};
use anyhow::{Context, Result, bail};
use marca_daemon::linux::data_plane::since_boot;
use marca_daemon::place::ReloadOutcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    place: PlaceOptions,
}

/// How long a daemon has to read its file and put it in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has the daemon read its configuration again, and waits for what becomes of it.
pub fn reload(options: &Options) -> Result<()> {
    let place = options.place.place();
    let Some(pid) = place.running_daemon()? else { bail!("no daemon runs here (start one with `marca run`)") };
    // Only what began after this has seen the file as it is now.
    let asked = since_boot()?;
    let process = Pid::from_raw(i32::try_from(pid).context("a process id")?);
    kill(process, Signal::SIGHUP).with_context(|| format!("tell process {pid} to read its configuration"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(reloaded) = place.reloaded()?.filter(|reloaded| reloaded.began >= asked) {
            return match reloaded.outcome {
                ReloadOutcome::InForce => {
                    println!("{}", reloaded.text);
                    Ok(())
                }
                ReloadOutcome::Faulty => Err(Refused(format!("{}\nmarca: nothing was changed", reloaded.text)).into()),
                ReloadOutcome::Failed => bail!("{}; nothing was changed", reloaded.text),
            };
        }
        if place.running_daemon()?.is_none() {
            bail!("the daemon, process {pid}, has ended meanwhile");
        }
        if Instant::now() > deadline {
            bail!("process {pid} has not answered in {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
