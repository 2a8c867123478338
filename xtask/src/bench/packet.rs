//! The measurement: all cases in turn, round after round, so that a disturbance hits all alike; and the yardstick right before
//! each of them, since a shared host's processor changes its speed within a round.

use super::Packet;
use super::cases::{Case, FLOWS, Scheduler, Traffic, Way};
use super::report::{self, Measured};
use super::stand::{Own, Stand, Template};
use super::world::World;
use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramFd, ProgramInfo};
use marca_testkit::frame;
use std::collections::BTreeMap;

/// Packets of one measurement, when flows are fewer: some 10 ms.
const REPEAT: u32 = 100_000;

pub fn run(options: &Packet) -> Result<()> {
    let mut stand = Stand::new()?;
    let cases = wanted(options);
    ensure!(!cases.is_empty(), "no case has `{}` in its name", options.filter);
    let pinned = match &options.pin {
        Some(path) => Some(ProgramInfo::from_pin(path).with_context(|| format!("open {}", path.display()))?),
        None => None,
    };
    let mut subjects = Vec::new();
    let worlds = if pinned.is_some() { Vec::new() } else { worlds(&cases, stand.interface())? };
    if let Some(program) = &pinned {
        for case in cases {
            subjects.push(Subject::new(case, 1, None, program.fd()?)?);
        }
    }
    for (index, world) in worlds.iter().enumerate() {
        for (number, case) in world.cases.iter().enumerate() {
            subjects.push(Subject::new(*case, number + 1, Some(index), world.entry().try_clone()?)?);
        }
    }
    let vip = frame::build("ip4 10.32.0.0 > 192.0.2.10 / tcp 4000 > 80 A / data 10")?;
    let mut yardstick = Yardstick { template: Template::new(&vip, 1, 26)?, empty: Vec::new(), lookup: Vec::new() };
    for round in 0..=options.rounds {
        eprint!("\rround {round} of {}", options.rounds);
        for subject in &mut subjects {
            let unit = yardstick.measure(&mut stand)?;
            subject.measure(&mut stand, &worlds, unit)?;
        }
        // The first round warms up.
        if round == 0 {
            subjects.iter_mut().for_each(|subject| subject.measured.clear());
            (yardstick.empty, yardstick.lookup) = (Vec::new(), Vec::new());
        }
    }
    eprintln!("\r");
    let order: Vec<Case> = Case::all();
    let mut measured: Vec<Measured> = subjects.into_iter().map(|subject| subject.measured).collect();
    measured.sort_by_key(|m| order.iter().position(|case| *case == m.case));
    report::print(&measured, &yardstick.lookup, &yardstick.empty, options.json)
}

/// One lookup, and what is taken off from each measurement.
struct Yardstick {
    template: Template,
    empty: Vec<f64>,
    lookup: Vec<f64>,
}

impl Yardstick {
    fn measure(&mut self, stand: &mut Stand) -> Result<f64> {
        let base = stand.measure_own(Own::Empty, &self.template, REPEAT)?;
        let unit = stand.measure_own(Own::Lookup, &self.template, REPEAT)? - base;
        self.empty.push(base);
        self.lookup.push(unit);
        Ok(unit)
    }
}

fn wanted(options: &Packet) -> Vec<Case> {
    let matches = |case: &Case| {
        let name = case.to_string();
        let words: Vec<&str> = name.split(' ').collect();
        options
            .filter
            .split_whitespace()
            .all(|word| words.contains(&word) || word.parse::<u32>().is_err() && name.contains(word))
    };
    let mut cases: Vec<Case> = Case::all().into_iter().filter(matches).collect();
    if options.pin.is_some() {
        cases = FLOWS
            .map(|flows| Case { traffic: Traffic::Pinned, way: Way::None, scheduler: Scheduler::None, flows })
            .into();
    }
    cases
}

fn worlds(cases: &[Case], interface: u32) -> Result<Vec<World>> {
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases {
        groups.entry(case.world()).or_default().push(*case);
    }
    let count = groups.len();
    let mut worlds = Vec::new();
    for (number, (name, cases)) in groups.into_iter().enumerate() {
        eprint!("\rtables {} of {count}", number + 1);
        worlds.push(World::new(number, cases, interface).with_context(|| format!("make the tables of `{name}`"))?);
    }
    eprintln!();
    Ok(worlds)
}

/// A case, with what it takes to measure it.
struct Subject {
    measured: Measured,
    template: Template,
    world: Option<usize>,
    program: ProgramFd,
}

impl Subject {
    fn new(case: Case, number: usize, world: Option<usize>, program: ProgramFd) -> Result<Self> {
        let (text, at) = case.frame(number);
        let template = Template::new(&frame::build(&text)?, case.flows, at)?;
        Ok(Self { measured: Measured::new(case), template, world, program })
    }

    /// `unit`: what a lookup costs just now.
    fn measure(&mut self, stand: &mut Stand, worlds: &[World], unit: f64) -> Result<()> {
        let case = self.measured.case;
        let maps = self.world.map(|index| &worlds[index].maps);
        let count = || maps.map(|maps| maps.reasons()[case.reason() as usize].1);
        // What restoring this very frame costs.
        let base = stand.measure_own(Own::Empty, &self.template, REPEAT)?;
        let before = count();
        // Once round all flows, or the processor's caches hold those that come next.
        let repeat = REPEAT.max(case.flows);
        let gross = stand.measure(&self.program, &self.template, repeat)?;
        if let (Some(before), Some(after)) = (before, count()) {
            let met = after - before;
            ensure!(
                met * 1000 >= u64::from(repeat) * 999,
                "{case}: {met} of {repeat} packets came to `{}`",
                case.reason().label()
            );
        }
        self.measured.net_ns.push(gross - base);
        self.measured.lookups.push((gross - base) / unit);
        Ok(())
    }
}
