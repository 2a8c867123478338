//! Cargo and other programs, run from the workspace's root.

use anyhow::{Context, Result, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}").replace('"', "");
    let status = command.status().with_context(|| format!("start {line}"))?;
    ensure!(status.success(), "failed: {line}");
    Ok(())
}

/// `cargo build` with these arguments.
pub fn build(arguments: &[&str]) -> Result<()> {
    run(cargo().arg("build").args(arguments))
}

/// A program that `build` has made.
pub fn built(name: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("debug").join(name)
}
