//! The event loop: one task owns the director, everything else is an event to it.

use crate::control::{Answer, Asked, Control, Request};
use crate::director::{Director, DirectorError, Replaced, Started, TICK, Wanted};
use crate::linux::data_plane::since_boot;
use crate::linux::network::Changes;
use crate::place::{Place, ReloadOutcome, Reloaded};
use crate::standings::Meant;
use marca_config::plan::Plan;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

/// Runs a director until SIGTERM or SIGINT; the data plane goes on without it. `ready` is called once packets flow.
/// SIGHUP puts in force what `file` says then.
///
/// # Errors
/// When it cannot start; what ran before goes on running.
pub async fn run(place: Place, file: &Path, text: &str, ready: impl FnOnce(&Started)) -> Result<(), DirectorError> {
    // Opened before the state is read, so that no change falls between.
    let mut changes = Changes::open()?;
    // And these before anybody is told that packets flow, and ends the daemon for it.
    let mut terminate = signal(SignalKind::terminate()).map_err(DirectorError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DirectorError::Signal)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DirectorError::Signal)?;
    let mut control = Control::open(&place).map_err(DirectorError::Control)?;
    let (mut director, started) = Director::start(place.clone(), &file.display().to_string(), text).await?;
    ready(&started);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reading: Option<JoinHandle<Read>> = None;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Ok(change) => director.change(change).await,
                Err(error) => tracing::warn!("{error}"),
            },
            _ = tick.tick() => {
                if let Err(error) = director.tick().await {
                    tracing::error!("{error}");
                }
            }
            asked = control.next() => answer(&mut director, asked),
            // While one is being read the next one waits.
            _ = hangup.recv(), if reading.is_none() => {
                let (file, plan) = (file.to_owned(), director.plan());
                reading = Some(spawn_blocking(move || Read::of(&file, plan)));
            }
            read = async { reading.as_mut().expect("the branch is on while there is one").await },
                if reading.is_some() =>
            {
                reading = None;
                match read {
                    Ok(read) => reload(&mut director, &place, read).await,
                    Err(error) => tracing::error!("read the configuration: {error}"),
                }
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// A file that was read beside the event loop: with thousands of services that takes long.
struct Read {
    began: Duration,
    wanted: Result<Wanted, DirectorError>,
}

impl Read {
    fn of(file: &Path, plan: Arc<Plan>) -> Self {
        let began = since_boot().unwrap_or_default();
        let name = file.display().to_string();
        let text = fs::read_to_string(file).map_err(|cause| DirectorError::Read { file: name.clone(), cause });
        let wanted = text.and_then(|text| Wanted::of(&name, &text));
        Self { began, wanted: wanted.map(|wanted| wanted.against(plan)) }
    }
}

fn answer(director: &mut Director, asked: Asked) {
    let answer = match &asked.request {
        Request::Health { servers, up } => {
            let servers: Vec<Meant> = servers.iter().map(|text| Meant::of(text)).collect();
            match director.health(&servers, *up) {
                Ok(told) => {
                    told.iter().for_each(|line| tracing::info!("{line}"));
                    Answer::Done(told.join("\n"))
                }
                Err(error @ DirectorError::NoServer(_)) => Answer::Refused(error.to_string()),
                Err(error) => Answer::Failed(error.to_string()),
            }
        }
    };
    // Whoever has asked may be gone.
    let _ = asked.answer.send(answer);
}

async fn reload(director: &mut Director, place: &Place, read: Read) {
    let replaced = match read.wanted {
        Ok(wanted) => director.put(wanted).await,
        Err(error) => Err(error),
    };
    let (outcome, text) = match replaced {
        Ok(replaced) => {
            tracing::info!("configuration replaced: {replaced}");
            (ReloadOutcome::InForce, told(&replaced))
        }
        Err(error) => {
            tracing::error!("{error}\nnothing was changed");
            let faulty = matches!(error, DirectorError::Config(_) | DirectorError::Plan(_));
            (if faulty { ReloadOutcome::Faulty } else { ReloadOutcome::Failed }, error.to_string())
        }
    };
    if let Err(error) = place.save_reloaded(&Reloaded { began: read.began, outcome, text }) {
        tracing::error!("{error}");
    }
}

fn told(replaced: &Replaced) -> String {
    let warnings = replaced.warnings.trim_end();
    let lines = [warnings].into_iter().filter(|warnings| !warnings.is_empty());
    let lines = lines.chain(replaced.findings.iter().map(String::as_str)).map(str::to_owned);
    lines.chain([format!("reloaded: {replaced}")]).collect::<Vec<_>>().join("\n")
}
