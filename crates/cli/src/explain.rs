//! `marca explain`.

use crate::{PlaceOptions, Refused, api, check};
use anyhow::{Context, Result};
use clap::ValueEnum;
use marca_config::model::Limits;
use marca_config::plan::Plan;
use marca_daemon::explain::{Explained, Proto, Question};
use marca_daemon::status::Running;
use marca_tables::explain::Director;
use marca_tables::ids::Ids;
use marca_tables::services::Clock;
use marca_tables::{Capacity, Memory, classifier, services};
use std::collections::HashMap;
use std::net::SocketAddr;
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
    let question = Question {
        from: options.from,
        to: options.to,
        proto: match options.proto {
            Protocol::Tcp => Proto::Tcp,
            Protocol::Udp => Proto::Udp,
            Protocol::Sctp => Proto::Sctp,
        },
        flags: options.flags.clone(),
        interface: options.interface.clone(),
    };
    let frame = question.frame().map_err(|error| Refused(format!("marca: {error}")))?;
    let explained = match &options.config {
        Some(file) => {
            let (loaded, plan) = check::load(file)?;
            by_configuration(options, &plan, &loaded.config.router.outside, &frame)?.into()
        }
        // The kernel's tables are there while no daemon runs.
        None => match api::get(&options.place, &format!("/v1/explain?{}", api::query(&question)?))? {
            Some(explained) => explained,
            None => Running::open(&options.place.place())?.explain(&frame, options.interface.as_deref())?,
        },
    };
    let Explained { lines, .. } = explained;
    lines.iter().for_each(|line| println!("{line}"));
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

fn interface(options: &Options, interfaces: &HashMap<String, u32>, outside: &[String]) -> Result<u32> {
    let name = options.interface.as_ref().or(outside.first()).context("the configuration has no outside interface")?;
    interfaces.get(name).copied().with_context(|| format!("there is no interface {name}"))
}
