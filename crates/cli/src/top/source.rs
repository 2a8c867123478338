//! The thread that reads. What a look costs is bounded by looking less often where it costs much.

use super::model::Event;
use super::sample::{Flow, Flows, Sample, Service};
use crate::{PlaceOptions, api};
use anyhow::{Context, Result};
use marca_daemon::api::Flows as Page;
use marca_daemon::linux::data_plane::since_boot;
use marca_daemon::status::{Depth, Status};
use marca_daemon::watch::Watch;
use serde::Serialize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What is to be read, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interval: Duration,
    pub paused: bool,
    /// The service whose real servers are looked at.
    pub service: Option<String>,
    /// A service and one of its real servers, whose connections are looked at.
    pub flows_of: Option<(String, String)>,
}

/// Where it is read: from the daemon; where none runs, from the kernel's tables and the director's files.
pub struct Source {
    options: PlaceOptions,
    watch: Watch,
}

impl Source {
    pub fn new(options: PlaceOptions) -> Self {
        Self { watch: Watch::new(options.place()), options }
    }

    /// All services, and the real servers of one.
    pub fn sample(&mut self, service: Option<&str>) -> Result<Sample> {
        let began = Instant::now();
        let mut sample = Sample::from(self.status(None, Depth::Services)?);
        sample.at = since_boot()?;
        if let Some(service) = service
            && sample.service(service).is_some()
            && let Some(service) = self.service(service)?
        {
            sample.put(service);
        }
        Ok(Sample { took: began.elapsed(), ..sample })
    }

    /// A service with its real servers; `None`: it has left the configuration.
    fn service(&mut self, name: &str) -> Result<Option<Service>> {
        let services = self.status(Some(name), Depth::Servers)?.services;
        let at = since_boot()?;
        Ok(services.into_iter().next().map(|service| Service { at, ..Service::from(service) }))
    }

    fn status(&mut self, only: Option<&str>, depth: Depth) -> Result<Status> {
        #[derive(Serialize)]
        struct Parameters<'a> {
            service: Option<&'a str>,
            servers: bool,
        }
        let parameters = Parameters { service: only, servers: depth == Depth::Servers };
        match api::get(&self.options, &format!("/v1/status?{}", api::query(&parameters)?))? {
            Some(status) => Ok(status),
            None => Ok(self.watch.look()?.told(only, depth)),
        }
    }

    /// The connections of a real server.
    fn flows(&mut self, service: &str, server: &str) -> Result<Flows> {
        #[derive(Serialize)]
        struct Parameters<'a> {
            server: &'a str,
            limit: usize,
            after: u64,
        }
        let (mut flows, mut next) = (Vec::new(), Some(0));
        let name = format!("{service}/{server}");
        while let (Some(after), true) = (next, flows.len() < MOST_FLOWS) {
            let parameters = api::query(&Parameters { server: &name, limit: MOST_FLOWS, after })?;
            let page: Page = match api::get(&self.options, &format!("/v1/flows?{parameters}"))? {
                Some(page) => page,
                None => self.watch.look()?.flows_of(&name, after)?,
            };
            flows.extend(page.flows.into_iter().map(Flow::from));
            next = page.next;
        }
        Ok(Flows { service: service.into(), server: server.into(), flows, more: next.is_some() })
    }
}

/// Nobody reads more.
const MOST_FLOWS: usize = 10_000;

/// At most a fifth of a processor's time is for reading.
pub fn pace(interval: Duration, took: Duration) -> Duration {
    interval.max(took * 4)
}

/// The thread.
pub struct Reader {
    wanted: Sender<Wanted>,
    last: std::cell::RefCell<Wanted>,
}

impl Reader {
    /// Reads once an interval, until nobody takes its events.
    pub fn start(source: Source, wanted: Wanted, events: Sender<Event>) -> Result<Self> {
        let (sender, receiver) = channel();
        let first = wanted.clone();
        let work = move || read(source, first, &receiver, &events);
        std::thread::Builder::new().name("reader".into()).spawn(work).context("start a thread that reads")?;
        Ok(Self { wanted: sender, last: wanted.into() })
    }

    pub fn want(&self, wanted: Wanted) {
        if *self.last.borrow() != wanted {
            *self.last.borrow_mut() = wanted.clone();
            // It ends with the program.
            let _ = self.wanted.send(wanted);
        }
    }
}

fn read(mut source: Source, mut wanted: Wanted, changes: &Receiver<Wanted>, events: &Sender<Event>) {
    let mut took = Duration::ZERO;
    loop {
        let next = if wanted.paused { Duration::from_secs(3600) } else { pace(wanted.interval, took) };
        let (mut service, mut flows) = (None, None);
        match changes.recv_timeout(next) {
            Ok(changed) => {
                // What the operator goes to is there at once.
                if changed.service != wanted.service {
                    service.clone_from(&changed.service);
                }
                if changed.flows_of != wanted.flows_of {
                    flows.clone_from(&changed.flows_of);
                }
                wanted = changed;
            }
            Err(RecvTimeoutError::Timeout) if wanted.paused => continue,
            Err(RecvTimeoutError::Timeout) => {
                let began = Instant::now();
                let sample = source.sample(wanted.service.as_deref());
                took = began.elapsed();
                if events.send(sample.map_or_else(failed, Event::Sample)).is_err() {
                    return;
                }
                flows.clone_from(&wanted.flows_of);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let began = Instant::now();
        let mut told = Vec::new();
        if let Some(name) = service {
            // One that has gone is told by the next look at all.
            told.extend(source.service(&name).map_or_else(|error| Some(failed(error)), |s| s.map(Event::Service)));
        }
        if let Some((service, server)) = flows {
            told.push(source.flows(&service, &server).map_or_else(failed, Event::Flows));
        }
        took += began.elapsed();
        if told.into_iter().any(|event| events.send(event).is_err()) {
            return;
        }
    }
}

fn failed(error: anyhow::Error) -> Event {
    Event::Failed(format!("{error:#}"))
}
