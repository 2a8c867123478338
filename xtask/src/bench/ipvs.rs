//! `cargo xtask bench ipvs`: what a packet costs in marca and in kernel IPVS, in instructions: the same packets over the same
//! wires, one after the other in one guest whose clock counts instructions. See `docs/benchmarks.md`.
//!
//! | module | owns |
//! |---|---|
//! | `wires` | client, director and real server in the guest |
//! | `frames` | packets sent as a driver would bring them, and the clock |

mod frames;
mod wires;

use super::Ipvs;
use super::director::{self, Director, build_release};
use super::report::{median, round};
use crate::guest::Job;
use anyhow::{Context, Result, ensure};
use frames::Sender;
use std::env;
use std::process::Command;
use std::time::Duration;
use wires::{CLIENT, SERVER, Wires};

pub fn run(options: &Ipvs) -> Result<()> {
    if options.inside {
        return inside(options.json);
    }
    build_release()?;
    let json = if options.json { " --json" } else { "" };
    let command = format!("{} bench ipvs --inside{json}", env::current_exe()?.display());
    let job = Job { command, processors: 1, memory_mib: 2048, limit: LIMIT, counts_instructions: true };
    let status = job.run()?;
    ensure!(status == 0, "exit status {status} in the guest");
    Ok(())
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    DirectRouting,
    Nat,
    /// From the real server.
    Reply,
    Tunnel,
}

impl Case {
    const ALL: [Case; 4] = [Case::DirectRouting, Case::Nat, Case::Reply, Case::Tunnel];

    fn name(self) -> &'static str {
        match self {
            Case::DirectRouting => "direct routing",
            Case::Nat => "NAT",
            Case::Reply => "NAT, reply",
            Case::Tunnel => "tunnel (IP in IP)",
        }
    }

    /// Its service's VIP, and the forwarding method as marca's configuration and ipvsadm have it.
    fn service(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Case::DirectRouting => ("192.0.2.10", "dr", "-g"),
            Case::Nat | Case::Reply => ("192.0.2.11", "nat", "-m"),
            Case::Tunnel => ("192.0.2.12", "tunnel", "-i"),
        }
    }

    fn frame(self) -> String {
        let (vip, ..) = self.service();
        match self {
            Case::Reply => format!("ip4 {SERVER} > {CLIENT} / udp {PORT} > {FIRST} nosum / data 18"),
            _ => format!("ip4 {CLIENT} > {vip} / udp {FIRST} > {PORT} nosum / data 18"),
        }
    }

    /// Where the 32 bits begin that end with the client's port.
    fn flow_at(self) -> u32 {
        if self == Case::Reply { 34 } else { 32 }
    }
}

/// Instructions a packet, of everything, in the rounds.
struct Row {
    case: Case,
    base: Vec<f64>,
    ipvs: Vec<f64>,
    marca: Vec<f64>,
}

fn inside(json: bool) -> Result<()> {
    modprobe(&["veth", "ip_vs", "ip_vs_wlc", "ipip"])?;
    let wires = Wires::lay()?;
    let sender = Sender::load()?;
    let mut rows: Vec<Row> =
        Case::ALL.into_iter().map(|case| Row { case, base: Vec::new(), ipvs: Vec::new(), marca: Vec::new() }).collect();
    let sinks = wires.sinks_for_xdp()?;
    for row in &mut rows {
        let frames = wires.past_the_director(row.case.frame(), row.case == Case::Reply)?;
        row.base = measure(&sender, &wires, row.case, frames)?;
    }
    drop(sinks);
    {
        let _ipvs = wires.ipvs(&Case::ALL.map(Case::service), PORT)?;
        for row in &mut rows {
            let frames = wires.to_the_director(row.case.frame(), row.case == Case::Reply)?;
            row.ipvs = measure(&sender, &wires, row.case, frames)?;
        }
    }
    let _sinks = wires.sinks_for_xdp()?;
    eprintln!("the verifier looks at marca's programs");
    let director = Director::start(&director::release(), wires.director(), &configuration())?;
    for row in &mut rows {
        let frames = wires.to_the_director(row.case.frame(), row.case == Case::Reply)?;
        // On a single processor the daemon's own work would be among the packets'.
        let _paused = director.pause()?;
        row.marca = measure(&sender, &wires, row.case, frames)?;
    }
    print(&rows, json)
}

fn modprobe(modules: &[&str]) -> Result<()> {
    let status = Command::new("modprobe").arg("--all").args(modules).status().context("run modprobe")?;
    ensure!(status.success(), "the guest's kernel lacks one of {}", modules.join(", "));
    Ok(())
}

/// Rounds, after one that opens the flows.
fn measure(sender: &Sender, wires: &Wires, case: Case, frames: frames::Frames) -> Result<Vec<f64>> {
    eprintln!("{}", case.name());
    let frames = frames.flows(FLOWS, case.flow_at())?;
    sender.send(&frames, 1024)?;
    (0..ROUNDS)
        .map(|_| {
            let before = wires.arrived(case == Case::Reply)?;
            let cost = sender.measure(&frames, PACKETS)?;
            let arrived = wires.arrived(case == Case::Reply)? - before;
            ensure!(arrived * 100 >= u64::from(PACKETS) * 99, "{}: {arrived} of {PACKETS} arrived", case.name());
            Ok(cost)
        })
        .collect()
}

fn configuration() -> String {
    let mut text =
        "[router]\noutside = 'out'\ninside = 'in'\nattach = 'xdp'\nlimits = { flows = 65536, half_open = 16384, \
                    templates = 16384 }\n"
            .to_owned();
    for case in [Case::DirectRouting, Case::Nat, Case::Tunnel] {
        let (vip, forward, _) = case.service();
        text += &format!(
            "[service.{forward}]\nvip = '{vip}'\nports = 'udp/{PORT}'\nscheduler = 'wlc'\nforward = '{forward}'\nserver = \
             [{{ address = '{SERVER}' }}]\n"
        );
    }
    text
}

fn print(rows: &[Row], json: bool) -> Result<()> {
    let own = |row: &Row, of: &[f64]| median(of) - median(&row.base);
    if json {
        let array: Vec<_> = rows
            .iter()
            .map(|row| {
                let (ipvs, marca) = (own(row, &row.ipvs), own(row, &row.marca));
                serde_json::json!({
                    "case": row.case.name(), "path": round(median(&row.base), 0), "ipvs": round(ipvs, 0),
                    "marca": round(marca, 0), "ratio": round(ipvs / marca, 2)
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&array)?);
        return Ok(());
    }
    println!("instructions a packet, of the director's own; {FLOWS} UDP flows, scheduler wlc");
    println!("{:<20} {:>14} {:>10} {:>10} {:>12}", "", "path without", "IPVS", "marca", "IPVS/marca");
    for row in rows {
        let (ipvs, marca) = (own(row, &row.ipvs), own(row, &row.marca));
        let met = if ipvs >= marca * LEAST { "met" } else { "MISSED" };
        println!(
            "{:<20} {:>14.0} {ipvs:>10.0} {marca:>10.0} {:>12.1}  at least {LEAST}, {met}",
            row.case.name(),
            median(&row.base),
            ipvs / marca
        );
    }
    Ok(())
}

const PORT: u16 = 5000;
/// The first client's port; a multiple of the number of flows.
const FIRST: u16 = 4096;
const FLOWS: u32 = 64;
const ROUNDS: u32 = 3;
const PACKETS: u32 = 6_400;
/// How many times marca's instructions IPVS must take.
const LEAST: f64 = 5.0;
/// Of the guest: most of it is the verifier's.
const LIMIT: Duration = Duration::from_secs(900);
