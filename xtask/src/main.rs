//! The project's tasks: `cargo xtask --help`.

mod bpf;

use anyhow::Result;
use clap::Parser;

/// marca's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Builds the BPF objects from crates/bpf/programs
    Bpf {
        /// Compares with the committed objects instead of writing them
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Bpf { check } => bpf::run(check),
    }
}
