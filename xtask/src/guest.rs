//! `cargo xtask guest`: Debian 12 with its kernel 6.1 in a machine that qemu emulates, so that it runs anywhere and touches
//! nothing of the host: the oldest kernel that marca is for, and one that has IPVS.
//!
//! | module | owns |
//! |---|---|
//! | `root` | the root file system: Debian packages in cargo's target folder, built when its recipe changes |
//! | `machine` | one boot: the host's folders in it, a command, its output and exit status, a time limit |

mod machine;
mod root;

pub use machine::Job;

use crate::process::built_tests;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// What to do with the guest.
#[derive(clap::Subcommand)]
pub enum Guest {
    /// Checks that the programs load and forward, by some of the tests that build networks
    Check {
        /// Runs the tests of `crates/cli/tests/network` whose names contain one of these, and nothing else
        tests: Vec<String>,
    },
    /// Runs a command; the host's sources and target folder are in the same place as on the host, read-only
    Run {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

pub fn run(guest: Guest) -> Result<()> {
    match guest {
        Guest::Check { tests } if tests.is_empty() => check(),
        Guest::Check { tests } => succeed(network_tests(&tests)?),
        Guest::Run { command } => std::process::exit(job(command.join(" ")).run()?),
    }
}

/// A Debian 12 with systemd, for whoever wants one without its kernel.
pub fn root() -> Result<PathBuf> {
    root::ensure()
}

/// Each forwarding method in both families, in one boot.
pub fn check() -> Result<()> {
    let tests = network_tests(&TESTS.map(str::to_owned))?;
    succeed(format!("uname --kernel-release\n{tests}"))
}

/// Few, since the verifier takes an emulated machine ten seconds and more for each daemon.
const TESTS: [&str; 3] = ["selftest::", "tunnels_of_ipv4_in_ipv6", "tunnels_of_ipv6_in_ipv4"];

fn network_tests(names: &[String]) -> Result<String> {
    let program: PathBuf = built_tests("marca", "network")?;
    Ok(format!("RUST_BACKTRACE=0 {} --test-threads 2 {}", program.display(), names.join(" ")))
}

fn succeed(command: String) -> Result<()> {
    let status = job(command).run()?;
    ensure!(status == 0, "exit status {status} in the guest");
    Ok(())
}

fn job(command: String) -> Job {
    Job { command, processors: 2, memory_mib: 3072, limit: LIMIT, counts_instructions: false }
}

const LIMIT: Duration = Duration::from_secs(600);
