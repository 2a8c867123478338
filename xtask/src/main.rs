//! The project's tasks: `cargo xtask --help`.

mod bench;
mod bpf;
mod demo;
mod fuzz;
mod generate;
mod guest;
mod package;
mod process;
mod test;

use anyhow::Result;
use clap::Parser;

/// marca's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Shows what marca does, in network namespaces of this host, until Ctrl-C (needs root)
    Demo {
        /// Ends after the table; fails if a client met two servers
        #[arg(long)]
        once: bool,
    },
    /// Runs all checks and tests, as CI does (needs root; installs Debian packages that the tests' peers need)
    Test,
    /// Builds the BPF objects from crates/bpf/programs
    Bpf {
        /// Compares with the committed objects instead of writing them
        #[arg(long)]
        check: bool,
        /// Loads the committed objects into the kernel and says how many instructions its verifier followed (needs root)
        #[arg(long, conflicts_with = "check")]
        verify: bool,
    },
    /// Writes man pages and completions, and whatever else is made from the program's own tables
    Gen(generate::Options),
    /// Looks for inputs that break a fuzz target, and adds those that reach something new to its corpus
    Fuzz {
        /// A folder of fuzz/corpus
        target: String,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Makes a .deb and an .rpm of the program
    Package(package::Options),
    /// Boots Debian 12 with its kernel 6.1, which has IPVS, in an emulated machine (needs root)
    #[command(subcommand)]
    Guest(guest::Guest),
    /// Measures (needs root)
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Demo { once } => demo::run(once),
        Task::Test => test::test(),
        Task::Bpf { verify: true, .. } => bench::verify(),
        Task::Bpf { check, .. } => bpf::run(check),
        Task::Gen(options) => generate::run(&options),
        Task::Fuzz { target, seconds } => fuzz::run_target(&target, seconds),
        Task::Package(options) => package::package(&options),
        Task::Guest(guest) => guest::run(guest),
        Task::Bench(bench) => bench::run(bench),
    }
}
