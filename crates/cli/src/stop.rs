//! `marca stop`.

use crate::PlaceOptions;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    /// Also takes away programs, tables, VIPs and sysctls: connections end
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

/// How long a daemon has to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn stop(options: &Options) -> Result<()> {
    let place = options.place.place();
    match place.running_daemon()? {
        Some(pid) => {
            let process = Pid::from_raw(i32::try_from(pid).context("a process id")?);
            kill(process, Signal::SIGTERM).with_context(|| format!("tell process {pid} to end"))?;
            let deadline = Instant::now() + PATIENCE;
            while place.running_daemon()?.is_some() {
                if Instant::now() > deadline {
                    bail!("process {pid} has not ended in {} s", PATIENCE.as_secs());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("the daemon, process {pid}, has ended");
        }
        None if options.detach => {}
        None => println!("no daemon runs here"),
    }
    if options.detach {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for line in runtime.block_on(marca_daemon::director::detach(&place))? {
            println!("{line}");
        }
    }
    Ok(())
}
