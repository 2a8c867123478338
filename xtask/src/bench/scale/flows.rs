//! Millions of flows in tables of real size: what they take of memory, how fast they are recorded, and what the daemon's
//! sweep takes of a processor to keep them and to let them go.
//!
//! One half are datagrams' flows of a service by connection. The other half are TCP connections of a service by table, with
//! persistence of whole networks: of what the sweep knows, they are the most work.

use super::Line;
use super::configuration::map_bytes;
use crate::bench::stand::{Own, Stand, Template};
use crate::bench::world::{self, Pins};
use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use marca_config::model::Limits;
use marca_config::plan::Plan;
use marca_daemon::director::{TICK, sweep_piece};
use marca_daemon::linux::data_plane::{self, Maps};
use marca_tables::memory::Capacity;
use marca_tables::services::Clock;
use marca_tables::sweep::{Freed, RESET_SECONDS, Sweep, count_valid};
use marca_testkit::frame;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// To be called last: it moves the calling thread to another network namespace.
pub fn measure(flows: u32, results: &mut Vec<Line>) -> Result<()> {
    let mut stand = Stand::new()?;
    let loaded = marca_config::load("scale.toml", CONFIG).map_err(|faults| anyhow::anyhow!(faults.render(false)))?;
    let plan = Plan::of(&loaded.config)?;
    let pins = Pins::new(0)?;
    let capacity = Capacity::for_plan(&plan, &Limits { flows, ..Limits::default() });
    let mut ebpf = data_plane::object(&pins.dir().join("maps"), &capacity)?;
    let _calls = world::load(&mut ebpf, true)?;
    let now = world::now(&mut ebpf)?;
    let maps = Maps::open(pins.dir())?;
    maps.memory.initialise(world::SEED);
    world::configure(&maps.memory, &plan, CLOCK, stand.interface())?;
    let entry = world::entry(&mut ebpf)?;

    let half = flows / 2;
    let datagram = "192.0.2.1 / udp 4000 > 53 / data 10";
    let datagrams = open(&mut stand, &entry, half, 0x0a00_0000, [datagram; 2])?;
    let handshake = ["S", "A"].map(|flags| format!("192.0.2.2 / tcp 4000 > 80 {flags} / data 0"));
    let connections = open(&mut stand, &entry, half, 0x0b00_0000, [&handshake[0], &handshake[1]])?;
    let recorded = count_valid(&maps.memory.flows);
    let flows = half / CHUNK * CHUNK * 2;
    ensure!(recorded > flows / 10 * 9, "{recorded} of {flows} flows were recorded: {:?}", maps.reasons());
    results.push(Line::new("flows recorded", f64::from(recorded), ""));
    results.push(Line::new("flows that found no room", f64::from(flows - recorded), ""));
    let cells = f64::from(maps.memory.flows.len()) * 64.0;
    results.push(Line::new("memory of a flow", cells / f64::from(recorded), "bytes"));
    results.push(Line::new("all maps", map_bytes(&pins.dir().join("maps"))? as f64 / GIB, "GiB").at_most(2.0));
    results.push(Line::new("flows of two datagrams recorded, one processor", 1e9 / datagrams, "a second"));
    results.push(Line::new("TCP connections recorded (SYN and ACK), one processor", 1e9 / connections, "a second"));
    sweeps(&maps, now, results)
}

/// Nanoseconds for each flow, of two packets: as many at one time as the half-open connections' table holds, where a flow is
/// until its second packet.
fn open(stand: &mut Stand, entry: &ProgramFd, flows: u32, first: u32, packets: [&str; 2]) -> Result<f64> {
    let mut total = 0.0;
    let chunks = flows / CHUNK;
    for chunk in 0..chunks {
        let client = std::net::Ipv4Addr::from(first + chunk * CHUNK);
        for packet in packets {
            let template = Template::new(&frame::build(&format!("ip4 {client} > {packet}"))?, CHUNK, CLIENT_AT)?;
            let base = stand.measure_own(Own::Empty, &template, CHUNK)?;
            total += stand.measure(entry, &template, CHUNK)? - base;
        }
    }
    Ok(total / f64::from(chunks))
}

fn sweeps(maps: &Maps, now: u32, results: &mut Vec<Line>) -> Result<()> {
    let mut sweep = Sweep::new(CLOCK.ticks(Duration::from_secs(RESET_SECONDS)));
    // The first one finds all connections watched, as in a storm of them.
    let first = Pass::of(&mut sweep, maps, now)?;
    let calm = Pass::of(&mut sweep, maps, now)?;
    results.push(Line::new("a pass of the sweep lasts", calm.lasts.as_secs_f64(), "s"));
    results.push(Line::new("a piece of it, the longest", calm.longest.as_secs_f64() * 1e3, "ms"));
    results.push(
        Line::new("sweep, all flows live: share of a processor", first.share().max(calm.share()), "%").at_most(5.0),
    );

    let mut later = now.wrapping_add(CLOCK.ticks(IDLE));
    let over = Pass::of(&mut sweep, maps, later)?;
    results.push(Line::new("flows that one pass lets go", f64::from(over.freed.flows), ""));
    results.push(Line::new("sweep, half of the flows expire: share of a processor", over.share(), "%").at_most(5.0));

    // Connections by table go by and by: their slots must ask for records for a whole timeout first.
    let (mut passes, mut share, mut freed) = (0, 0.0f64, 0);
    while count_valid(&maps.memory.flows) > 0 && passes < MOST_PASSES {
        later = later.wrapping_add(CLOCK.ticks(ESTABLISHED + Duration::from_secs(60)));
        let pass = Pass::of(&mut sweep, maps, later)?;
        (passes, share, freed) = (passes + 1, share.max(pass.share()), freed + pass.freed.flows);
    }
    results.push(Line::new("connections by table that expired", f64::from(freed), ""));
    results.push(Line::new("passes, a timeout apart, that took", f64::from(passes), ""));
    results.push(Line::new("sweep, connections by table expire: share at the most", share, "%").at_most(5.0));
    results.push(Line::new("flows left", f64::from(count_valid(&maps.memory.flows)), "").at_most(0.0));
    Ok(())
}

/// One look at all records, in pieces as the daemon does it.
struct Pass {
    freed: Freed,
    /// Processor time, of all pieces and of the longest.
    took: Duration,
    longest: Duration,
    /// With the daemon's pauses.
    lasts: Duration,
}

impl Pass {
    fn of(sweep: &mut Sweep, maps: &Maps, now: u32) -> Result<Self> {
        let memory = &maps.memory;
        let piece = sweep_piece(memory);
        let mut pass =
            Self { freed: Freed::default(), took: Duration::ZERO, longest: Duration::ZERO, lasts: Duration::ZERO };
        loop {
            let before = processor_time()?;
            let (freed, complete) = sweep.step(memory, now, piece);
            let took = processor_time()? - before;
            pass.freed.flows += freed.flows;
            pass.took += took;
            pass.longest = pass.longest.max(took);
            pass.lasts += TICK;
            if complete {
                return Ok(pass);
            }
        }
    }

    /// Percent.
    fn share(&self) -> f64 {
        self.took.as_secs_f64() / self.lasts.as_secs_f64() * 100.0
    }
}

fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

const CLOCK: Clock = Clock { hz: 1000 };
/// IPv4's source address.
const CLIENT_AT: u32 = 26;
const CHUNK: u32 = 1 << 16;
const GIB: f64 = (1 << 30) as f64;
/// Longer than any timeout here.
const IDLE: Duration = Duration::from_secs(2 * 3600);
const ESTABLISHED: Duration = Duration::from_secs(900);
/// A sixteenth of the slots is audited at a time, and for two timeouts.
const MOST_PASSES: u32 = 64;

const CONFIG: &str = r#"
[router]
outside = "bench0"
attach = "xdp"

[service.datagrams]
check = 'none'
vip = "192.0.2.1"
ports = ["udp/53"]
scheduler = "wlc"
forward = "dr"
timeouts = { udp = "1h" }
server = [{ address = "10.1.1.1" }, { address = "10.1.1.2" }, { address = "10.1.1.3" }, { address = "10.1.1.4" },
  { address = "10.1.1.5" }, { address = "10.1.1.6" }, { address = "10.1.1.7" }, { address = "10.1.1.8" },
  { address = "10.1.1.9" }, { address = "10.1.1.10" }]

[service.connections]
check = 'none'
vip = "192.0.2.2"
ports = ["tcp/80"]
scheduler = "maglev"
forward = "dr"
persist = { timeout = "5m", netmask = "255.255.255.0" }
server = [{ address = "10.1.2.1" }, { address = "10.1.2.2" }, { address = "10.1.2.3" }, { address = "10.1.2.4" },
  { address = "10.1.2.5" }, { address = "10.1.2.6" }, { address = "10.1.2.7" }, { address = "10.1.2.8" },
  { address = "10.1.2.9" }, { address = "10.1.2.10" }]
"#;
