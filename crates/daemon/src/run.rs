//! The event loop: one task owns the director, everything else is an event to it.

use crate::api::ask::{Done, Reloaded, Reply, Stopping};
use crate::api::{About, Api, Asked, Events, Kind, Problem};
use crate::checkers::health::{Matter, Said};
use crate::checkers::{Checkers, Report};
use crate::director::{self, Director, DirectorError, Replaced, Started, TICK, Wanted};
use crate::linux::file::FileWatch;
use crate::linux::network::Changes;
use crate::linux::systemd::Manager;
use crate::metrics::{self, Scraper};
use crate::place::Place;
use crate::standings::Meant;
use marca_config::model::Metrics;
use marca_config::plan::Plan;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, fs, mem};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

/// What becomes of packets when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They are forwarded on.
    Stopped,
    /// They are the kernel's again, as far as what was set up could be taken away.
    Detached,
}

/// Runs a director until SIGTERM, SIGINT, or a request to end; the data plane goes on without it unless that request says
/// otherwise. `ready` is called once packets flow. SIGHUP puts in force what `file` says then.
///
/// # Errors
/// When it cannot start; what ran before goes on running.
pub async fn run(place: Place, file: &Path, text: &str, ready: impl FnOnce(&Started)) -> Result<End, DirectorError> {
    // Opened before the state is read, so that no change falls between.
    let mut changes = Changes::open()?;
    // And these before anybody is told that packets flow, and ends the daemon for it.
    let mut terminate = signal(SignalKind::terminate()).map_err(DirectorError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DirectorError::Signal)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DirectorError::Signal)?;
    let (metrics, wanted) = watch::channel(Metrics::default());
    let scraper = Scraper::new(place.clone(), wanted);
    let (live, own) = (place.live.clone(), place.clone());
    let mut api = Api::open(&place, file, scraper.clone()).map_err(DirectorError::Api)?;
    let (mut director, mut started) = Director::start(place, &file.display().to_string(), text).await?;
    started.findings.extend(api.configure(director.api()));
    let mut checkers = Checkers::start_counting(live).map_err(DirectorError::Checkers)?;
    metrics.send_replace(started.metrics);
    tokio::spawn(metrics::serve(scraper, started.adopted));
    ready(&started);
    let mut manager = Manager::of_environment();
    manager.ready(director.summary());
    let mut summed_up = Instant::now();
    let mut watch = FileWatch::default();
    watch.set(file, director.reload_when());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reloads = Reloads::after(text);
    let detach = loop {
        checkers.follow(&director, started.adopted);
        tokio::select! {
            change = changes.next() => match change {
                Ok(change) => director.change(change).await,
                Err(error) => tracing::warn!("{error}"),
            },
            _ = tick.tick() => {
                if let Err(error) = director.tick().await {
                    tracing::error!("{error}");
                }
                match director.end_overrides() {
                    Ok((told, quorums)) => {
                        told.iter().for_each(|line| tell_override(api.events(), &line.to_string()));
                        quorums.iter().for_each(|said| tell(api.events(), said));
                    }
                    Err(error) => tracing::error!("{error}"),
                }
                let now = Instant::now();
                manager.alive(now);
                if now.duration_since(summed_up) >= SUMMARY {
                    summed_up = now;
                    manager.status(director.summary());
                }
            }
            reports = checkers.next() => checked(&mut director, api.events(), reports),
            asked = api.next() => match asked {
                Asked::Reload { reply } => {
                    manager.reloading();
                    reloads.ask(file, &director, Some(reply));
                }
                Asked::Stop { detach, reply } => {
                    let _ = reply.send(Ok(Stopping { process: std::process::id(), detach }));
                    break detach;
                }
                asked => answer(&mut director, api.events(), asked),
            },
            _ = hangup.recv() => {
                manager.reloading();
                reloads.ask(file, &director, None);
            }
            () = watch.changed() => reloads.look(file, &director),
            read = reloads.read() => {
                if let Some(read) = read {
                    reload(&mut director, &metrics, &mut api, read, reloads.done()).await;
                    watch.set(file, director.reload_when());
                }
                reloads.go_on(file, &director);
                if reloads.reading.is_none() {
                    manager.ready(director.summary());
                }
            }
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
        }
    };
    manager.stopping();
    api.refuse();
    let end = if detach { End::Detached } else { End::Stopped };
    api.events().tell(Kind::Stop, About::default(), end.to_string());
    if detach {
        // What it holds of the kernel goes with it.
        drop((director, checkers));
        take_away(&own, api.events()).await;
    }
    api.end().await;
    Ok(end)
}

/// Takes away what was set up. What hinders that is said; whoever has asked does the rest.
async fn take_away(place: &Place, events: &Events) {
    let tell = |text| events.tell(Kind::Detach, About::default(), text);
    match director::detach(place).await {
        Ok(mut done) => {
            let more = done.len().saturating_sub(MOST_LINES);
            done.truncate(MOST_LINES);
            done.into_iter().for_each(tell);
            if more > 0 {
                tell(format!("and {more} more like these"));
            }
        }
        Err(error) => {
            tracing::error!("{error}");
            events.tell(Kind::Stop, About::default(), error.to_string());
        }
    }
}

/// How many lines say what was taken away: listeners hear fewer than are kept for them.
const MOST_LINES: usize = 500;

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Stopped => {
                "the daemon ends; packets are forwarded as before (`marca stop --detach` takes everything away)"
            }
            End::Detached => "the daemon ends, and takes away everything that it has set up",
        })
    }
}

/// How often the line for the service manager is made anew.
const SUMMARY: Duration = Duration::from_secs(5);

/// Files that are read beside the event loop, one at a time: with thousands of services that takes long.
struct Reloads {
    reading: Option<JoinHandle<Option<Read>>>,
    /// Who hears of it.
    replies: Vec<Reply<Reloaded>>,
    /// The file may be another one since it was read, and who hears of the next reading.
    next: Next,
    waiting: Vec<Reply<Reloaded>>,
    /// Of the text that was read last, good or bad.
    last: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Nothing,
    /// It is read if it is another one.
    Look,
    Read,
}

/// A file as it was.
struct Read {
    hash: u64,
    wanted: Result<Wanted, DirectorError>,
}

impl Reloads {
    /// This text is in force.
    fn after(text: &str) -> Self {
        let (replies, waiting) = Default::default();
        Self { reading: None, replies, next: Next::Nothing, waiting, last: hash(text) }
    }

    /// Reads the file now, or once more when it has been read.
    fn ask(&mut self, file: &Path, director: &Director, reply: Option<Reply<Reloaded>>) {
        self.waiting.extend(reply);
        self.need(Next::Read, file, director);
    }

    /// Something has happened to the file.
    fn look(&mut self, file: &Path, director: &Director) {
        self.need(Next::Look, file, director);
    }

    fn need(&mut self, next: Next, file: &Path, director: &Director) {
        self.next = self.next.max(next);
        if self.reading.is_none() {
            self.go_on(file, director);
        }
    }

    fn go_on(&mut self, file: &Path, director: &Director) {
        let unless = match mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => return,
            Next::Look => Some(self.last),
            Next::Read => None,
        };
        self.replies = mem::take(&mut self.waiting);
        let (file, plan) = (file.to_owned(), director.plan());
        self.reading = Some(spawn_blocking(move || Read::of(&file, plan, unless)));
    }

    /// The next file that has been read; `None` for one that is as it was.
    async fn read(&mut self) -> Option<Result<Wanted, DirectorError>> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(read) => {
                let read = read?;
                self.last = read.hash;
                Some(read.wanted)
            }
            Err(error) => Some(Err(DirectorError::Reading(error.to_string()))),
        }
    }

    /// Who hears of what was read last.
    fn done(&mut self) -> Vec<Reply<Reloaded>> {
        mem::take(&mut self.replies)
    }
}

impl Read {
    /// `None` if it has this hash.
    fn of(file: &Path, plan: Arc<Plan>, unless: Option<u64>) -> Option<Self> {
        let name = file.display().to_string();
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            // Whoever writes it may be about to put it there.
            Err(error) if unless.is_some() && error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(cause) => {
                let hash = hash(&cause.to_string());
                return (unless != Some(hash))
                    .then(|| Self { hash, wanted: Err(DirectorError::Read { file: name, cause }) });
            }
        };
        let hash = hash(&text);
        if unless == Some(hash) {
            return None;
        }
        Some(Self { hash, wanted: Wanted::of(&name, &text).map(|wanted| wanted.against(plan)) })
    }
}

/// Enough to see that a text is another one.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn answer(director: &mut Director, events: &Events, asked: Asked) {
    match asked {
        Asked::Health { servers, up, reply } => {
            let meant: Vec<Meant> = servers.iter().map(|text| Meant::of(text)).collect();
            let done = director.health(&meant, up).map(|said| {
                said.iter().for_each(|said| tell(events, said));
                let lines = said.into_iter().map(|said| said.line).collect();
                Done { lines, warnings: director.unwritten().into_iter().collect() }
            });
            // Whoever has asked may be gone.
            let _ = reply.send(done.map_err(|error| of_servers(&error, &servers)));
        }
        Asked::Say { servers, change, until, reply } => {
            let meant: Vec<Meant> = servers.iter().map(|text| Meant::of(text)).collect();
            let done = director.say(&meant, change, until).map(|(told, quorums)| {
                let mut lines: Vec<String> = told.iter().map(ToString::to_string).collect();
                lines.iter().for_each(|line| tell_override(events, line));
                quorums.iter().for_each(|said| tell(events, said));
                lines.extend(quorums.into_iter().map(|said| said.line));
                Done { lines, warnings: director.unwritten().into_iter().collect() }
            });
            let _ = reply.send(done.map_err(|error| of_servers(&error, &servers)));
        }
        Asked::Reload { .. } | Asked::Stop { .. } => unreachable!("the event loop sees to these"),
    }
}

fn checked(director: &mut Director, events: &Events, reports: Vec<Report>) {
    match director.checked(reports) {
        Ok(said) => said.iter().for_each(|said| tell(events, said)),
        Err(error) => tracing::error!("what health checks say is not in force: {error}"),
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

/// In the log and to listeners.
fn tell(events: &Events, said: &Said) {
    let Said { matter, service, server, line } = said;
    let (kind, check) = match matter {
        Matter::Server | Matter::Consequence => (Kind::Health, None),
        Matter::Check(check) => (Kind::Check, Some(check.as_str())),
        Matter::Quorum => (Kind::Quorum, None),
    };
    // The check's line has said it.
    if *matter != Matter::Consequence {
        tracing::info!("{line}");
    }
    events.tell(kind, About { service: Some(service), server: server.as_deref(), check }, line);
}

/// The same; the line begins with the server that it is about, `shop/web1`.
fn tell_override(events: &Events, line: &str) {
    tracing::info!("{line}");
    let about = line.split(' ').next().and_then(|word| word.split_once('/'));
    let about = About { service: about.map(|about| about.0), server: about.map(|about| about.1), check: None };
    events.tell(Kind::Override, about, line);
}

async fn reload(
    director: &mut Director,
    metrics: &watch::Sender<Metrics>,
    api: &mut Api,
    read: Result<Wanted, DirectorError>,
    replies: Vec<Reply<Reloaded>>,
) {
    let replaced = match read {
        Ok(wanted) => {
            let told = wanted.metrics();
            let replaced = director.put(wanted).await;
            if replaced.is_ok() {
                metrics.send_replace(told);
            }
            replaced
        }
        Err(error) => Err(error),
    };
    let answer = match replaced {
        Ok(mut replaced) => {
            replaced.findings.extend(api.configure(director.api()));
            replaced.findings.iter().for_each(|finding| tracing::warn!("{finding}"));
            tracing::info!("configuration replaced: {replaced}");
            api.events().tell(Kind::Reload, About::default(), format!("configuration replaced: {replaced}"));
            for Said { service, line, .. } in &replaced.quorums {
                api.events().tell(Kind::Quorum, About { service: Some(service), ..About::default() }, line);
            }
            Ok(reloaded(replaced))
        }
        Err(error) => {
            tracing::error!("{error}\nnothing was changed");
            let text = error.to_string();
            let headline = text.lines().next().unwrap_or_default();
            api.events().tell(Kind::Reload, About::default(), format!("nothing was changed: {headline}"));
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
