//! `cargo xtask bench`: what marca costs, and what it can hold. See `docs/performance.md` and `docs/benchmarks.md`.
//!
//! | module | owns |
//! |---|---|
//! | `packet` | `bench packet`: nanoseconds a packet |
//! | `cases` | what is measured there: services, frames, targets |
//! | `world` | tables of real size in the kernel, filled with real records |
//! | `stand` | the programs around the measured one, and the clock |
//! | `report` | medians, ratios, the table and the JSON |
//! | `http` | `bench http`: HTTP through marca and others |
//! | `scale` | `bench scale`: ten thousand services, ten million flows |
//! | `checks` | `bench checks`: ten thousand health checks a second |
//! | `ipvs` | `bench ipvs`: instructions a packet, beside IPVS |
//! | `director` | the program `marca` in a namespace, for the last three |
//! | `verifier` | `cargo xtask bpf --verify` |

#[cfg(feature = "bench")]
mod cases;
#[cfg(feature = "bench")]
mod checks;
#[cfg(feature = "bench")]
mod director;
#[cfg(feature = "bench")]
mod http;
#[cfg(feature = "bench")]
mod ipvs;
#[cfg(feature = "bench")]
mod packet;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod scale;
#[cfg(feature = "bench")]
mod stand;
#[cfg(feature = "bench")]
mod verifier;
#[cfg(feature = "bench")]
mod world;

use anyhow::Result;

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Nanoseconds a packet, by BPF_PROG_TEST_RUN
    Packet(Packet),
    /// HTTP through marca, nftables and HAProxy, and directly: requests and connections a second, and their processor time
    Http(Http),
    /// Ten thousand services and ten million flows: time, memory, packets lost, the sweep's share of a processor
    Scale(Scale),
    /// Instructions a packet beside kernel IPVS, in an emulated Debian 12 that counts them
    Ipvs(Ipvs),
    /// Ten thousand health checks a second: their share of a processor
    Checks(Checks),
}

#[derive(clap::Args)]
pub struct Checks {
    /// Prints an array of {kind, checks_per_s, processors, target} to stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// How long each kind is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

#[derive(clap::Args)]
pub struct Http {
    /// Prints an array of {way, requests_per_s, cpu_us_per_request, …} to stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Measures only ways whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// How often each way is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long each load lasts; there are two for each way
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

#[derive(clap::Args)]
pub struct Scale {
    /// Prints an array of {what, value, unit, target} to stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Measures only one part
    #[arg(long, value_name = "PART", value_parser = ["services", "flows"])]
    pub only: Option<String>,
    /// How many services, with ten real servers each
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    pub services: u32,
    /// How many flows
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000_000..=16_000_000))]
    pub flows: u32,
}

#[cfg(feature = "bench")]
impl Scale {
    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

#[derive(clap::Args)]
pub struct Ipvs {
    /// Prints an array of {case, flows, instructions, ratio} to stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// In the guest: measures, and prints what it has measured
    #[arg(long, hide = true)]
    pub inside: bool,
}

#[derive(clap::Args)]
pub struct Packet {
    /// Prints an array of {case, flows, net_ns, ratio} to stdout, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Measures only cases whose name and number of flows (`tcp4 nat wlc 65536`) contain all of these words
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// How often each case is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measures this pinned XDP program (with the frags attribute) instead of marca's
    #[arg(long, value_name = "PATH")]
    pub pin: Option<std::path::PathBuf>,
}

#[cfg(feature = "bench")]
pub fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Packet(options) => packet::run(&options),
        Bench::Http(options) => http::run(&options),
        Bench::Scale(options) => scale::run(&options),
        Bench::Ipvs(options) => ipvs::run(&options),
        Bench::Checks(options) => checks::run(&options),
    }
}

#[cfg(feature = "bench")]
pub fn verify() -> Result<()> {
    verifier::run()
}

#[cfg(not(feature = "bench"))]
pub fn run(_: Bench) -> Result<()> {
    again()
}

#[cfg(not(feature = "bench"))]
pub fn verify() -> Result<()> {
    again()
}

/// Runs this task again in an xtask that can load programs.
#[cfg(not(feature = "bench"))]
fn again() -> Result<()> {
    let arguments = ["run", "--quiet", "--release", "--package", "xtask", "--features", "bench", "--"];
    crate::process::run(crate::process::cargo().args(arguments).args(std::env::args_os().skip(1)))
}
