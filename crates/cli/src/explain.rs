//! `marca explain`.

use crate::{PlaceOptions, Refused, check};
use anyhow::{Context, Result};
use clap::ValueEnum;
use etherparse::{PacketBuilder, ip_number};
use marca_config::model::Limits;
use marca_config::plan::Plan;
use marca_daemon::linux::data_plane::since_boot;
use marca_daemon::status::Running;
use marca_tables::explain::Director;
use marca_tables::ids::Ids;
use marca_tables::services::Clock;
use marca_tables::{Capacity, Memory, classifier, services};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// Source address and port of the packet: the client, or a real server for a reply
    #[arg(long, value_name = "ADDRESS:PORT")]
    from: SocketAddr,
    /// Destination address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// TCP flags, as tcpdump writes them (S, S., ., P., F., R)
    #[arg(long, value_name = "FLAGS", default_value = "S")]
    flags: String,
    /// Input interface; without it the first one outside
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Explains by this configuration alone, instead of a running director's tables
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

pub fn explain(options: &Options) -> Result<()> {
    let frame = frame(options)?;
    let explanation = match &options.config {
        Some(file) => {
            let (loaded, plan) = check::load(file)?;
            by_configuration(options, &plan, &loaded.config.router.outside, &frame)?
        }
        None => {
            let running = Running::open(&options.place.place())?;
            let name = options.interface.as_ref().or(running.config.router.outside.first());
            let attached = running.state.attached.iter().find(|attached| Some(&attached.interface) == name);
            if let Some(attached) = attached {
                println!("In on {}, where {} meets it.", attached.interface, attached.mode.name());
            }
            by_director(options, &running, &frame)?
        }
    };
    print!("{explanation}");
    Ok(())
}

type Explanation = marca_tables::explain::Explanation;

/// Tables as a director would make them, on the heap. What a seed decides there, it decides anew.
fn by_configuration(options: &Options, plan: &Plan, outside: &[String], frame: &[u8]) -> Result<Explanation> {
    // Interfaces get numbers in the order of their names' appearance: none of the host's is asked.
    let mut names: Vec<&String> = outside.iter().collect();
    let conditions = plan.destinations.iter().flat_map(|d| &d.ports).flat_map(|p| &p.candidates);
    names.extend(conditions.filter_map(|candidate| candidate.condition.interface.as_ref()));
    names.extend(&options.interface);
    let mut interfaces = HashMap::new();
    for name in names {
        let next = interfaces.len() as u32 + 1;
        interfaces.entry(name.clone()).or_insert(next);
    }
    let limits = Limits { flows: 1024, half_open: 1024, templates: 1024 };
    let capacity = Capacity::for_plan(plan, &limits);
    let memory = Memory::on_heap(capacity, SEED);
    let mut ids = Ids::default();
    ids.assign(plan, capacity.services, capacity.reals)?;
    let clock = Clock { hz: 1000 };
    services::write(&memory, plan, &ids, clock)?;
    let written = classifier::write(&memory, plan, &ids, &interfaces)?;
    let memory = Memory { prefixes: written.prefixes.clone(), ..memory };
    classifier::switch(&memory, &written);
    let interface = interface(options, &interfaces, outside)?;
    let director =
        Director { memory: &memory, plan, ids: &ids, clock, now: 1, route: None, interfaces: Some(&interfaces) };
    Ok(director.explain(frame, interface))
}

/// Any; but always the same, so that a question has one answer.
const SEED: u64 = 1;

fn by_director(options: &Options, running: &Running, frame: &[u8]) -> Result<Explanation> {
    // Only for the sentences: an interface that is gone is told by its number.
    let mut interfaces = HashMap::new();
    for attached in &running.state.attached {
        if let Ok(index) = nix::net::if_::if_nametoindex(attached.interface.as_str()) {
            interfaces.insert(attached.interface.clone(), index);
        }
    }
    let interface = interface(options, &interfaces, &running.config.router.outside).unwrap_or(0);
    let clock = running.clock();
    let director = Director {
        memory: &running.maps.memory,
        plan: &running.plan,
        ids: &running.state.ids,
        clock,
        now: clock.at(since_boot()?),
        route: None,
        interfaces: Some(&interfaces),
    };
    Ok(director.explain(frame, interface))
}

fn interface(options: &Options, interfaces: &HashMap<String, u32>, outside: &[String]) -> Result<u32> {
    let name = options.interface.as_ref().or(outside.first()).context("the configuration has no outside interface")?;
    interfaces.get(name).copied().with_context(|| format!("there is no interface {name}"))
}

/// A packet as the question describes it.
fn frame(options: &Options) -> Result<Vec<u8>> {
    let (source, destination) = (options.from, options.to);
    let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => start.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => start.ipv6(from.octets(), to.octets(), 64),
        _ => {
            return Err(Refused(format!(
                "marca: {} and {} are of different families: a packet has one",
                source.ip(),
                destination.ip()
            ))
            .into());
        }
    };
    let (from, to) = (source.port(), destination.port());
    let mut bytes = Vec::new();
    match options.proto {
        Protocol::Tcp => {
            let mut tcp = ip.tcp(from, to, 1, 65_535);
            for flag in options.flags.chars() {
                tcp = match flag.to_ascii_uppercase() {
                    'S' => tcp.syn(),
                    'F' => tcp.fin(),
                    'R' => tcp.rst(),
                    'P' => tcp.psh(),
                    'A' | '.' => tcp.ack(1),
                    other => {
                        return Err(Refused(format!(
                            "marca: no TCP flag is written `{other}`: S, F, R, P, and `.` or A for ACK"
                        ))
                        .into());
                    }
                };
            }
            tcp.write(&mut bytes, &[])?;
        }
        Protocol::Udp => ip.udp(from, to).write(&mut bytes, &[])?,
        Protocol::Sctp => {
            // RFC 9260 §3.1: ports, verification tag, checksum; then an INIT chunk's header.
            let mut header = [0; 16];
            header[0..2].copy_from_slice(&from.to_be_bytes());
            header[2..4].copy_from_slice(&to.to_be_bytes());
            header[12] = 1;
            header[15] = 4;
            ip.write(&mut bytes, ip_number::SCTP, &header)?;
        }
    }
    Ok(bytes)
}
