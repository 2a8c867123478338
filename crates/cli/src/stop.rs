//! `marca stop`.

use crate::{PlaceOptions, api};
use anyhow::{Context, Result, bail};
use marca_daemon::api::client::{Client, ClientError};
use marca_daemon::api::{Event, Kind, Stop, Stopping};
use marca_daemon::place::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use tokio::time::timeout;

#[derive(clap::Args)]
pub struct Options {
    /// Also takes away programs, tables, VIPs and sysctls: connections end
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

/// How long a daemon has to answer, before it gets a signal.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long it has to take away what it has set up.
const DETACH_PATIENCE: Duration = Duration::from_secs(60);
/// How long it has to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn stop(options: &Options) -> Result<()> {
    let place = options.place.place();
    let (process, mut done) = match api::wait(ask(&place, options.detach))? {
        Ok((process, done)) => (Some(process), done),
        // None runs, it hangs, or is of a version that is not asked for that.
        Err(why) => (signalled(&place, &why)?, Vec::new()),
    };
    if let Some(process) = process {
        wait_for_end(&place, process)?;
        println!("the daemon, process {process}, has ended");
    } else if !options.detach {
        println!("no daemon runs here");
    }
    if options.detach && !place.is_clear() {
        done.extend(api::wait(marca_daemon::director::detach(&place))??);
    }
    done.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// Has the daemon end; its process id, and what it has taken away.
async fn ask(place: &Place, detach: bool) -> Result<(u32, Vec<String>), ClientError> {
    let client = Client::new(place);
    let asked = async {
        let events = client.listen().await?;
        let Stopping { process, .. } = client.post("/v1/stop", &Stop { detach }).await?;
        Ok((events, process))
    };
    let (mut events, process) = timeout(ANSWER_PATIENCE, asked).await.unwrap_or(Err(ClientError::Slow))?;
    let mut done = Vec::new();
    let hear = async {
        while let Some(event) = events.next().await {
            if let Some(Event { kind: Kind::Detach, text, .. }) = event {
                done.push(text);
            }
        }
    };
    // Whoever is slower than that is seen not to have ended.
    let _ = timeout(DETACH_PATIENCE, hear).await;
    Ok((process, done))
}

/// Tells the daemon that runs here to end, as service managers do; its process id.
fn signalled(place: &Place, why: &ClientError) -> Result<Option<u32>> {
    let Some(process) = place.running_daemon()? else { return Ok(None) };
    match why {
        ClientError::NoDaemon => {}
        ClientError::Slow => {
            let seconds = ANSWER_PATIENCE.as_secs();
            eprintln!("marca: process {process} has not answered in {seconds} s: it is told to end by a signal");
        }
        why => eprintln!("marca: {why}; process {process} is told to end by a signal"),
    }
    let id = Pid::from_raw(i32::try_from(process).context("a process id")?);
    kill(id, Signal::SIGTERM).with_context(|| format!("tell process {process} to end"))?;
    Ok(Some(process))
}

fn wait_for_end(place: &Place, process: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Whoever may only ask the daemon does not see its lock, and has heard that it ends.
    while matches!(place.running_daemon(), Ok(Some(_))) {
        if Instant::now() > deadline {
            bail!("process {process} has not ended in {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
