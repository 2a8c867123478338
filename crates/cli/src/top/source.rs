//! The thread that reads. What a look costs is bounded by looking less often where it costs much.

use super::model::Event;
use super::sample::{Flow, Flows, Sample};
use crate::{PlaceOptions, api};
use anyhow::{Context, Result};
use marca_config::plan::RealPlan;
use marca_daemon::linux::data_plane::since_boot;
use marca_daemon::status::Running;
use marca_daemon::watch::Watch;
use marca_engine::flow;
use marca_engine::layout::{ANNOUNCED, SCTP, TCP, UDP, state_bits};
use marca_tables::classifier::ip;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What is to be read, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interval: Duration,
    pub paused: bool,
    /// A service and one of its real servers, whose connections are looked at.
    pub flows_of: Option<(String, String)>,
}

/// Where it is read: from the kernel's tables and the director's files by whoever may (root), whether a daemon runs or
/// not; else from the daemon.
pub struct Source {
    options: PlaceOptions,
    watch: Watch,
    reads_tables: bool,
}

impl Source {
    pub fn new(options: PlaceOptions) -> Self {
        Self { watch: Watch::new(options.place()), options, reads_tables: nix::unistd::geteuid().is_root() }
    }

    pub fn sample(&mut self) -> Result<Sample> {
        let began = Instant::now();
        let status = if self.reads_tables {
            self.watch.status()?
        } else {
            api::get(&self.options, "/v1/status")?.context("no daemon runs here, and the tables are root's to read")?
        };
        Ok(Sample { at: since_boot()?, took: began.elapsed(), ..Sample::from(status) })
    }

    fn flows(&mut self, service: &str, server: &str) -> Result<Flows> {
        anyhow::ensure!(self.reads_tables, "connections are root's to look at");
        Ok(flows(self.watch.look()?, service, server))
    }
}

/// At most a fifth of a processor's time is for reading.
pub fn pace(interval: Duration, took: Duration) -> Duration {
    interval.max(took * 4)
}

/// The connections of a real server.
fn flows(running: &Running, service: &str, server: &str) -> Flows {
    let mut numbers = Vec::new();
    for plan in running.plan.services.iter().filter(|plan| plan.name == service) {
        let number = |real: &RealPlan| running.state.ids.real(service, plan.family, real.address);
        numbers.extend(plan.reals.iter().filter(|real| real.name == server).filter_map(number));
    }
    let memory = &running.maps.memory;
    let now = running.clock().at(since_boot().unwrap_or_default());
    let mut found = Flows { service: service.into(), server: server.into(), ..Flows::default() };
    for region in [&memory.half_open, &memory.flows] {
        for cell in (0..region.len()).filter_map(|index| region.at(index)) {
            let Some((key, record)) = flow::read(cell) else { continue };
            let is_connection = !matches!(key.protocol, 0 | ANNOUNCED)
                && record.state & (state_bits::TEMPLATE | state_bits::REVERSE) == 0;
            if !is_connection || !numbers.contains(&record.real) {
                continue;
            }
            found.total += 1;
            if found.flows.len() < MOST_FLOWS {
                found.flows.push(Flow {
                    protocol: protocol(key.protocol),
                    client: SocketAddr::new(ip(key.family, &key.client), key.client_port),
                    vip: SocketAddr::new(ip(key.family, &key.vip), key.vip_port),
                    state: state(key.protocol, record.state),
                    idle: running.clock().duration(flow::idle(now, record.seen)),
                });
            }
        }
    }
    found
}

/// Nobody reads more.
const MOST_FLOWS: usize = 10_000;

fn protocol(number: u8) -> &'static str {
    match number {
        TCP => "tcp",
        UDP => "udp",
        SCTP => "sctp",
        _ => "other",
    }
}

fn state(protocol: u8, state: u64) -> &'static str {
    match state {
        _ if state & state_bits::RESET != 0 => "reset",
        _ if state & state_bits::ENDING != 0 => "closing",
        _ if state & state_bits::HALF_OPEN != 0 => "half-open",
        _ if protocol == UDP => "datagrams",
        _ => "established",
    }
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
        let only_flows = match changes.recv_timeout(next) {
            Ok(changed) => {
                let other = changed.flows_of.is_some() && changed.flows_of != wanted.flows_of;
                wanted = changed;
                if !other {
                    continue;
                }
                // What the operator goes to is there at once.
                true
            }
            Err(RecvTimeoutError::Timeout) if wanted.paused => continue,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let began = Instant::now();
        let mut told = Vec::new();
        if !only_flows {
            told.push(source.sample().map_or_else(|error| Event::Failed(format!("{error:#}")), Event::Sample));
        }
        if let Some((service, server)) = &wanted.flows_of {
            let flows = source.flows(service, server);
            told.push(flows.map_or_else(|error| Event::Failed(format!("{error:#}")), Event::Flows));
        }
        took = began.elapsed();
        if told.into_iter().any(|event| events.send(event).is_err()) {
            return;
        }
    }
}
