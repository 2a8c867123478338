//! Tables of real size in the kernel, filled with the records of real connections.

use super::cases::Case;
use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use marca_config::model::{Forward, Limits};
use marca_config::plan::Plan;
use marca_daemon::linux::bpffs;
use marca_daemon::linux::data_plane::{self, Maps};
use marca_daemon::linux::network::Network;
use marca_daemon::routes::Routes;
use marca_engine::Stage;
use marca_engine::layout::Macs;
use marca_engine::tables::Route;
use marca_tables::frame::Frame;
use marca_tables::ids::Ids;
use marca_tables::memory::{Capacity, Memory};
use marca_tables::services::{Clock, Hop};
use marca_tables::sweep::{Sweep, count_valid};
use marca_tables::view::View;
use marca_tables::{classifier, services};
use marca_testkit::frame;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A director with one service for each of its cases, and its tables.
pub struct World {
    pub cases: Vec<Case>,
    pub maps: Maps,
    _pins: Pins,
    /// Of the entry program. The maps and programs live as long as the object.
    entry: ProgramFd,
    _ebpf: Ebpf,
    _calls: ProgramArray<MapData>,
}

impl World {
    /// Loads the programs, writes the configuration and fills the tables. `interface` is the one to all real servers.
    pub fn new(number: usize, cases: Vec<Case>, interface: u32) -> Result<Self> {
        let plan = plan(&cases)?;
        let records: u32 = cases.iter().map(|case| case.flows * case.records()).sum();
        let default = Limits::default();
        let limits = Limits { flows: (records * 4).max(default.flows), ..default };
        let capacity = Capacity::for_plan(&plan, &limits);
        let pins = Pins::new(number)?;
        let mut ebpf = data_plane::object(&pins.0.join("maps"), &capacity)?;
        let calls = load(&mut ebpf, cases.iter().any(Case::long_way))?;
        let now = now(&mut ebpf)?;
        let maps = Maps::open(&pins.0)?;
        maps.memory.initialise(SEED);
        let entry = entry(&mut ebpf)?;
        let mut world = Self { cases, maps, _pins: pins, entry, _ebpf: ebpf, _calls: calls };
        configure(&world.maps.memory, &plan, Clock { hz: 1000 }, interface)?;
        // As long as anything is measured.
        world.maps.memory.set_fragment_ticks(u32::MAX / 4);
        world.fill(now)?;
        world.copy_routes(now)?;
        Ok(world)
    }

    pub fn entry(&self) -> &ProgramFd {
        &self.entry
    }

    /// The routes of the stand's namespace, as the daemon copies them for replies.
    fn copy_routes(&mut self, now: u32) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut routes = Routes::default();
        runtime.block_on(async { routes.look_up(&Network::open()?, &mut self.maps).await })?;
        routes.renew(&self.maps, now.wrapping_add(u32::MAX / 4));
        Ok(())
    }

    /// Opens every flow: the engine itself writes the records, here in user space into the shared memory. Then a whole
    /// sweep, after which the watch filter knows only of what is under way.
    fn fill(&mut self, now: u32) -> Result<()> {
        let memory = &self.maps.memory;
        let mut view = View::new(memory, now);
        // What real servers announce goes on to clients.
        view.route = Route::Via { interface: 1, macs: Macs::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]) };
        let mut expected = 0;
        for (number, case) in self.cases.iter().enumerate() {
            let mut frames = Vec::new();
            for (text, at) in case.opening(number + 1) {
                frames.push((frame::build(&text).with_context(|| format!("build `{text}`"))?, at as usize));
            }
            for flow in 0..case.flows {
                for (frame, at) in &frames {
                    let mut frame = Frame::new(frame.clone(), 1);
                    frame.bytes[*at..].iter_mut().zip(flow.to_be_bytes()).for_each(|(byte, x)| *byte ^= x);
                    marca_engine::process(&mut frame, &mut view);
                    view.take_steps();
                }
            }
            expected += case.flows * case.records();
        }
        let recorded = count_valid(&memory.flows);
        // A few find both of their buckets full, also in a table that is a quarter full.
        ensure!(
            u64::from(recorded) * 1000 >= u64::from(expected) * 999,
            "{recorded} flows are recorded instead of {expected}: {:?}",
            view.reasons
        );
        let (_, complete) = Sweep::new(1).step(memory, now, u32::MAX);
        if !complete {
            bail!("the sweep did not finish");
        }
        Ok(())
    }
}

/// Writes the plan into empty tables; all its real servers are behind this interface, and known.
pub(super) fn configure(memory: &Memory, plan: &Plan, clock: Clock, interface: u32) -> Result<()> {
    let mut ids = Ids::default();
    ids.assign(plan, memory.services.len(), memory.reals.len())?;
    services::write(memory, plan, &ids, clock)?;
    let written = classifier::write(memory, plan, &ids, &HashMap::new())?;
    classifier::switch(memory, &written);
    for service in &plan.services {
        for real in &service.reals {
            let Some(number) = ids.real(&service.name, service.family, real.address) else { continue };
            let source = real.address.filter(|_| real.forward == Forward::Tunnel);
            let hop = Hop {
                interface,
                source_mac: [2, 0, 0, 0, 0, 1],
                destination_mac: Some([2, 0, 0, 0, 0, 2]),
                source: source.map(|_| {
                    if source.is_some_and(|a| a.is_ipv4()) { [203, 0, 113, 1].into() } else { V6_SOURCE.into() }
                }),
                mtu: 1500,
            };
            services::set_hop(memory, number, &hop);
        }
    }
    Ok(())
}

/// Where a world's maps are pinned while it lives: that is how the daemon's code finds them.
pub(super) struct Pins(PathBuf);

impl Pins {
    pub(super) fn new(number: usize) -> Result<Self> {
        let dir = bpffs::ensure(Path::new(&format!("marca-bench-{}-{number}", std::process::id())))?;
        let pins = Self(dir);
        std::fs::create_dir_all(pins.0.join("maps"))?;
        Ok(pins)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = data_plane::detach(&self.0) {
            eprintln!("{} is still there: {error}", self.0.display());
        }
    }
}

/// Any; the same in each run, so that runs can be compared.
pub(super) const SEED: u64 = 0x6d61_7263_6121;
/// 2001:db8:f::1, the outer source of tunnels.
const V6_SOURCE: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0xf, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The cases' services among some others.
fn plan(cases: &[Case]) -> Result<Plan> {
    let mut text = format!("[router]\noutside = \"{}\"\n", super::stand::OUTSIDE);
    for number in 0..20 {
        write!(
            text,
            "[service.other{number}]\nvip = [\"192.0.3.{number}\", \"2001:db8:3::{number}\"]\nports = [\"tcp/80\", \
             \"tcp/443\", \"udp/443\"]\nserver = [{{ address = [\"10.2.{number}.1\", \"fd00:2::{number}:1\"] }}, {{ \
             address = [\"10.2.{number}.2\", \"fd00:2::{number}:2\"] }}]\n"
        )?;
    }
    for (number, case) in cases.iter().enumerate() {
        text += &case.service(number + 1);
    }
    let loaded = marca_config::load("bench.toml", &text).map_err(|faults| anyhow::anyhow!(faults.render(false)))?;
    Ok(Plan::of(&loaded.config)?)
}

pub(super) fn load(ebpf: &mut Ebpf, long_way: bool) -> Result<ProgramArray<MapData>> {
    for name in [marca_bpf::ENTRY, marca_bpf::CLOCK] {
        program(ebpf, name)?.load().with_context(|| format!("load {name}"))?;
    }
    let mut calls = ProgramArray::try_from(ebpf.take_map("PROGRAMS").context("PROGRAMS is missing")?)?;
    let needed = |stage| long_way || [Stage::Serve as usize, Stage::Remember as usize].contains(&stage);
    for (place, name) in marca_bpf::TAIL_CALLS.iter().enumerate().filter(|(stage, _)| needed(*stage)) {
        let program = program(ebpf, name)?;
        program.load().with_context(|| format!("load {name}"))?;
        calls.set(place as u32, program.fd()?, 0)?;
    }
    Ok(calls)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("{name} is missing"))?.try_into()?)
}

/// The program that every packet meets first.
pub(super) fn entry(ebpf: &mut Ebpf) -> Result<ProgramFd> {
    Ok(program(ebpf, marca_bpf::ENTRY)?.fd()?.try_clone()?)
}

/// The engine's clock.
pub(super) fn now(ebpf: &mut Ebpf) -> Result<u32> {
    let options = TestRunOptions { data_in: Some(&[0; 64]), repeat: 1, ..TestRunOptions::default() };
    Ok(program(ebpf, marca_bpf::CLOCK)?.test_run(options)?.return_value)
}
