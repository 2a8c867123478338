//! `cargo xtask bench http`: requests, connections and processor time of HTTP through one director or another, and
//! without any. See `docs/benchmarks.md`.
//!
//! | module | owns |
//! |---|---|
//! | `ways` | the ways from client to server, and what has to run for each |
//! | `wrk` | the load, and what it says |
//! | `clock` | the machine's processor time |

mod clock;
mod ways;
mod wrk;

use super::report::{median, round};
use super::{Http, director};
use crate::test::install;
use anyhow::{Context, Result};
use clock::ProcessorTime;
use std::time::Duration;
use ways::Way;
use wrk::Load;

/// Debian packages of the peers.
const PACKAGES: &[&str] = &["curl", "ethtool", "haproxy", "iproute2", "nftables", "nginx-light", "wrk"];

pub fn run(options: &Http) -> Result<()> {
    install(PACKAGES)?;
    let marca = director::build_release()?;
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| way.name().contains(&options.filter)).collect();
    let mut rows: Vec<Row> = ways.iter().map(|&way| Row { way, kept: Vec::new(), closed: Vec::new() }).collect();
    let idle = idle()?;
    for round in 1..=options.rounds {
        // Way after way, round after round, so that a disturbance hits all alike.
        for row in &mut rows {
            eprint!("\rround {round} of {}: {:<24}", options.rounds, row.way.name());
            row.measure(&marca, options).with_context(|| format!("measure `{}`", row.way.name()))?;
        }
    }
    eprintln!();
    let lines: Vec<Line> = rows.iter().map(Line::of).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines.iter().map(Line::json).collect::<Vec<_>>())?);
    } else {
        print(&lines, idle);
    }
    Ok(())
}

/// How busy the machine is with other things: processors.
fn idle() -> Result<f64> {
    let before = ProcessorTime::now()?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(ProcessorTime::now()?.since(before))
}

/// A way, and what each round has measured.
struct Row {
    way: Way,
    kept: Vec<Measured>,
    closed: Vec<Measured>,
}

/// One load.
struct Measured {
    /// Requests a second.
    rate: f64,
    /// Microseconds of the whole machine's processors a request.
    cost_us: f64,
}

impl Row {
    fn measure(&mut self, marca: &std::path::Path, options: &Http) -> Result<()> {
        self.way.with(marca, |net, url| {
            // Neighbours, caches, and the first allocations.
            Load { url, seconds: 1, close: false }.run(net.client())?;
            for (close, measured) in [(false, &mut self.kept), (true, &mut self.closed)] {
                let before = ProcessorTime::now()?;
                let said = Load { url, seconds: options.seconds, close }.run(net.client())?;
                let spent = ProcessorTime::now()?.since(before);
                measured.push(Measured { rate: said.rate, cost_us: spent * 1e6 / said.requests as f64 });
            }
            Ok(())
        })
    }
}

/// Medians.
struct Line {
    name: &'static str,
    rate: f64,
    cost_us: f64,
    connections: f64,
    connection_us: f64,
}

impl Line {
    fn of(row: &Row) -> Self {
        let of = |list: &[Measured], what: fn(&Measured) -> f64| median(&list.iter().map(what).collect::<Vec<_>>());
        Self {
            name: row.way.name(),
            rate: of(&row.kept, |m| m.rate),
            cost_us: of(&row.kept, |m| m.cost_us),
            connections: of(&row.closed, |m| m.rate),
            connection_us: of(&row.closed, |m| m.cost_us),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "way": self.name,
            "requests_per_s": round(self.rate, 0),
            "cpu_us_per_request": round(self.cost_us, 2),
            "connections_per_s": round(self.connections, 0),
            "cpu_us_per_connection": round(self.connection_us, 2),
        })
    }
}

fn print(lines: &[Line], idle: f64) {
    println!("{idle:.2} processors were busy with other things before; ratios are to `{}`", Way::Direct.name());
    println!("{:<20} {:>20} {:>18} {:>20} {:>18}", "", "requests/s", "CPU us each", "connections/s", "CPU us each");
    let direct = lines.iter().find(|line| line.name == Way::Direct.name());
    for line in lines {
        let cell = |value: f64, of: fn(&Line) -> f64, digits: usize| match direct {
            Some(direct) => format!("{value:.digits$} = {:.2}", value / of(direct)),
            None => format!("{value:.digits$}"),
        };
        println!(
            "{:<20} {:>20} {:>18} {:>20} {:>18}",
            line.name,
            cell(line.rate, |l| l.rate, 0),
            cell(line.cost_us, |l| l.cost_us, 1),
            cell(line.connections, |l| l.connections, 0),
            cell(line.connection_us, |l| l.connection_us, 1),
        );
    }
    let cost = |way: Way| lines.iter().find(|line| line.name == way.name()).map(|line| line.cost_us);
    if let (Some(marca), Some(nftables)) = (cost(Way::Nat), cost(Way::Nftables)) {
        let met = if marca <= nftables { "met" } else { "MISSED" };
        println!("NAT at most nftables DNAT's processor time a request: {:.2}, {met}", marca / nftables);
    }
}
