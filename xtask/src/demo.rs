//! `cargo xtask demo`: builds the program and the demonstration, and becomes the latter.

use crate::process::{build, built, root};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs the demonstration in place of this process, so that Ctrl-C reaches it alone.
pub fn run(once: bool) -> Result<()> {
    build(&["--package", "marca", "--package", "marca-testkit", "--bins"])?;
    let mut demo = Command::new(built("marca-demo"));
    demo.arg("--marca").arg(built("marca")).args(once.then_some("--once")).current_dir(root());
    Err(demo.exec()).context("run the demonstration")
}
