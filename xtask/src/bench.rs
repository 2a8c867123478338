//! `cargo xtask bench packet`: what a packet costs, in nanoseconds. See `docs/performance.md`.
//!
//! | module | owns |
//! |---|---|
//! | `cases` | what is measured: services, frames, targets |
//! | `world` | tables of real size in the kernel, filled with real records |
//! | `stand` | the programs around the measured one, and the clock |
//! | `report` | medians, ratios, the table and the JSON |
//! | `verifier` | `cargo xtask bpf --verify` |

#[cfg(feature = "bench")]
mod cases;
#[cfg(feature = "bench")]
mod packet;
#[cfg(feature = "bench")]
mod report;
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
