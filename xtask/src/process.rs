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

/// Cargo's target folder.
pub fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()))
}

/// A program that `build` has made.
pub fn built(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Builds the tests of a package that are named so, and says where they are.
pub fn built_tests(package: &str, test: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--package", package, "--test", test]);
    let output = build.output().context("run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests do not compile: {said}");
    // `Executable tests/network/main.rs (/…/network-0123456789abcdef)`
    let line = said.lines().rev().find(|line| line.trim_start().starts_with("Executable"));
    let program = line.and_then(|line| line.split_once('(')).and_then(|(_, rest)| rest.strip_suffix(')'));
    Ok(root().join(program.with_context(|| format!("cargo does not say where the tests are: {said}"))?))
}
