//! The event loop: one task owns the director, everything else is an event to it.

use crate::api::ask::{Done, Reloaded, Reply};
use crate::api::{Api, Asked, Events, Kind, Problem};
use crate::director::{Director, DirectorError, Replaced, Started, TICK, Wanted};
use crate::linux::network::Changes;
use crate::linux::systemd::Manager;
use crate::place::Place;
use crate::standings::Meant;
use marca_config::plan::Plan;
use std::fs;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    let mut api = Api::open(&place).map_err(DirectorError::Api)?;
    let (mut director, started) = Director::start(place, &file.display().to_string(), text).await?;
    ready(&started);
    let mut manager = Manager::of_environment();
    manager.ready(director.summary());
    let mut summed_up = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reloads = Reloads::default();
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
                let now = Instant::now();
                manager.alive(now);
                if now.duration_since(summed_up) >= SUMMARY {
                    summed_up = now;
                    manager.status(director.summary());
                }
            }
            asked = api.next() => match asked {
                Asked::Reload { reply } => {
                    manager.reloading();
                    reloads.ask(file, &director, Some(reply));
                }
                asked => answer(&mut director, api.events(), asked),
            },
            _ = hangup.recv() => {
                manager.reloading();
                reloads.ask(file, &director, None);
            }
            read = reloads.read() => {
                reload(&mut director, api.events(), read, reloads.done()).await;
                reloads.go_on(file, &director);
                if reloads.reading.is_none() {
                    manager.ready(director.summary());
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    manager.stopping();
    Ok(())
}

/// How often the line for the service manager is made anew.
const SUMMARY: Duration = Duration::from_secs(5);

/// Files that are read beside the event loop, one at a time: with thousands of services that takes long.
#[derive(Default)]
struct Reloads {
    reading: Option<JoinHandle<Result<Wanted, DirectorError>>>,
    /// Who hears of it.
    replies: Vec<Reply<Reloaded>>,
    /// The file may be another one since it was read, and who hears of the next reading.
    again: bool,
    next: Vec<Reply<Reloaded>>,
}

impl Reloads {
    /// Reads the file now, or once more when it has been read.
    fn ask(&mut self, file: &Path, director: &Director, reply: Option<Reply<Reloaded>>) {
        self.again = true;
        self.next.extend(reply);
        if self.reading.is_none() {
            self.go_on(file, director);
        }
    }

    fn go_on(&mut self, file: &Path, director: &Director) {
        if !mem::take(&mut self.again) {
            return;
        }
        self.replies = mem::take(&mut self.next);
        let (file, plan) = (file.to_owned(), director.plan());
        self.reading = Some(spawn_blocking(move || read(&file, plan)));
    }

    /// The next file that has been read.
    async fn read(&mut self) -> Result<Wanted, DirectorError> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read.unwrap_or_else(|error| Err(DirectorError::Reading(error.to_string())))
    }

    /// Who hears of what was read last.
    fn done(&mut self) -> Vec<Reply<Reloaded>> {
        mem::take(&mut self.replies)
    }
}

fn read(file: &Path, plan: Arc<Plan>) -> Result<Wanted, DirectorError> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|cause| DirectorError::Read { file: name.clone(), cause });
    let wanted = text.and_then(|text| Wanted::of(&name, &text));
    wanted.map(|wanted| wanted.against(plan))
}

fn answer(director: &mut Director, events: &Events, asked: Asked) {
    match asked {
        Asked::Health { servers, up, reply } => {
            let meant: Vec<Meant> = servers.iter().map(|text| Meant::of(text)).collect();
            let done = director.health(&meant, up).map(|lines| {
                lines.iter().for_each(|line| tell(events, Kind::Health, line));
                Done { lines }
            });
            // Whoever has asked may be gone.
            let _ = reply.send(done.map_err(|error| of_servers(&error, &servers)));
        }
        Asked::Reload { .. } => unreachable!("the event loop sees to these"),
    }
}

/// A problem with one of these servers.
fn of_servers(error: &DirectorError, servers: &[String]) -> Problem {
    let problem = Problem::from(error);
    match error {
        DirectorError::NoServer(name) => match servers.iter().position(|server| server == name) {
            Some(index) => problem.at(format!("/servers/{index}")),
            None => problem,
        },
        _ => problem,
    }
}

/// In the log and to listeners; a line begins with the server that it is about, `shop/web1`.
fn tell(events: &Events, kind: Kind, line: &str) {
    tracing::info!("{line}");
    let about = line.split(' ').next().and_then(|word| word.split_once('/'));
    events.tell(kind, (about.map(|about| about.0), about.map(|about| about.1)), line);
}

async fn reload(
    director: &mut Director,
    events: &Events,
    read: Result<Wanted, DirectorError>,
    replies: Vec<Reply<Reloaded>>,
) {
    let replaced = match read {
        Ok(wanted) => director.put(wanted).await,
        Err(error) => Err(error),
    };
    let answer = match replaced {
        Ok(replaced) => {
            tracing::info!("configuration replaced: {replaced}");
            events.tell(Kind::Reload, (None, None), format!("configuration replaced: {replaced}"));
            Ok(reloaded(replaced))
        }
        Err(error) => {
            tracing::error!("{error}\nnothing was changed");
            let text = error.to_string();
            let headline = text.lines().next().unwrap_or_default();
            events.tell(Kind::Reload, (None, None), format!("nothing was changed: {headline}"));
            Err(Problem::from(&error))
        }
    };
    for reply in replies {
        let _ = reply.send(answer.clone());
    }
}

fn reloaded(replaced: Replaced) -> Reloaded {
    Reloaded {
        services: replaced.services,
        changed: replaced.changed,
        gone: replaced.gone,
        milliseconds: replaced.took.as_secs_f64() * 1e3,
        warnings: replaced.warnings,
        findings: replaced.findings,
    }
}
