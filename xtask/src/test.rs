//! `cargo xtask test`: everything that must hold, as CI runs it.

use crate::process::{cargo, run};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Debian packages of the tests' peers, of what they look with, and of the guest with the oldest kernel.
const PACKAGES: &[&str] = &[
    "curl",
    "ethtool",
    "faketime",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "lftp",
    "mmdebstrap",
    "nftables",
    "nginx-light",
    "openssl",
    "prometheus",
    "python3",
    "python3-venv",
    "qemu-system-x86",
    "traceroute",
    "util-linux",
    "vsftpd",
];

/// Checks and tests, in the order in which faults are cheapest to find.
pub fn test() -> Result<()> {
    step("Debian packages", packages)?;
    step("formatting", || run(cargo().args(["fmt", "--all", "--check"])))?;
    step("lints", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
    })?;
    step("lints of the benchmark", || {
        let arguments = ["clippy", "--package", "xtask", "--features", "bench", "--quiet", "--", "--deny", "warnings"];
        run(cargo().args(arguments))
    })?;
    step("BPF objects are those of the sources", || crate::bpf::run(true))?;
    step("tests", tests)?;
    step("examples in the documentation", || run(cargo().args(["test", "--doc", "--workspace", "--quiet"])))?;
    step("documentation", || {
        let mut doc = cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
        run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    step("the oldest kernel", crate::guest::check)?;
    step("the package", crate::package::test)?;
    step("demonstration", || run(cargo().args(["run", "--quiet", "--package", "xtask", "--", "demo", "--once"])))
}

fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {what}");
    let start = Instant::now();
    work().with_context(|| what.to_owned())?;
    println!("== {what}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Each test in a process of its own where nextest is there, which namespaces like; else all in one.
fn tests() -> Result<()> {
    let has_nextest = cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if has_nextest.is_ok_and(|status| status.success()) {
        run(cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]))
    } else {
        run(cargo().args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]))
    }
}

fn packages() -> Result<()> {
    install(PACKAGES)
}

/// Installs what is missing of these; on a host without apt, says what to install.
pub fn install(packages: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|package| !is_installed(package)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-y"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // Standard output may be a benchmark's, with nothing else in it.
        command.stdout(std::io::stderr());
        run(&mut command)
    };
    let hint = || format!("install these by hand and try again: {}", missing.join(" "));
    apt(&["update"]).with_context(hint)?;
    apt(&[&["install", "--no-install-recommends"], &missing[..]].concat()).with_context(hint)
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}
