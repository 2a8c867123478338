//! `cargo xtask fuzz`: libFuzzer on the stable toolchain. See `fuzz/src/lib.rs`.

use crate::process::{cargo, root, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What libFuzzer wants to be told of a run: edges, and what is compared with what.
const INSTRUMENTATION: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

const HOST: &str = "x86_64-unknown-linux-gnu";

/// Looks for `seconds` for inputs that break the target, and keeps those that reach something new.
pub fn run_target(target: &str, seconds: u64) -> Result<()> {
    let binary = build(target)?;
    let kept = root().join("fuzz/corpus").join(target);
    ensure!(kept.is_dir(), "{target} is no target: fuzz/corpus has a folder for each");
    let work = root().join("target/fuzz").join(target);
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    if target == "frames" {
        // What the vectors reach is not looked for again each time that a feature is new.
        let mut seeds = cargo();
        seeds.args(["run", "--quiet", "--package", "marca-fuzz", "--features", "seeds", "--bin", "fuzz-seeds", "--"]);
        run(seeds.arg(&work))?;
    }
    let mut fuzz = Command::new(&binary);
    fuzz.arg(&work).arg(&kept).arg(format!("-max_total_time={seconds}"));
    fuzz.arg(format!("-artifact_prefix={}/finding-", work.parent().unwrap_or(&work).display()));
    run(fuzz.args(["-timeout=20", "-max_len=4096", "-print_final_stats=1", "-verbosity=1"]))?;
    // Only what reaches more than the inputs that are kept already.
    run(Command::new(&binary).args(["-merge=1", "-max_len=4096"]).arg(&kept).arg(&work))
}

fn build(target: &str) -> Result<PathBuf> {
    let folder = root().join("target/fuzz-build");
    let name = format!("fuzz-{target}");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", "marca-fuzz", "--features", "libfuzzer", "--bin", &name]);
    build.args(["--target", HOST, "--target-dir"]).arg(&folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f")).env_remove("RUSTFLAGS");
    run(&mut build)?;
    Ok(folder.join(HOST).join("release").join(name))
}
