//! `marca check`.

use crate::Refused;
use anyhow::{Context, Result};
use marca_config::Loaded;
use marca_config::plan::Plan;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Options {
    /// The configuration
    #[arg(default_value = "/etc/marca/marca.toml")]
    file: PathBuf,
}

/// Reads a configuration; its faults go to standard error.
pub fn check(options: &Options) -> Result<()> {
    let (loaded, plan) = load(&options.file)?;
    let services = loaded.config.services.len();
    let servers: usize = loaded.config.services.iter().map(|s| s.servers.len()).sum();
    println!(
        "{}: {services} services, {servers} real servers, {} VIPs, {} mark rules; no faults",
        options.file.display(),
        plan.vips.len(),
        loaded.config.marks.len(),
    );
    Ok(())
}

/// What a file says, and what the tables must hold for it. Warnings go to standard error.
pub fn load(file: &Path) -> Result<(Loaded, Plan)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let color = std::io::stderr().is_terminal();
    let loaded = marca_config::load(&file.display().to_string(), &text)
        .map_err(|diagnostics| Refused(format!("{}\nmarca: nothing was changed", diagnostics.render(color))))?;
    if !loaded.warnings.is_empty() {
        eprintln!("{}", loaded.warnings.render(color));
    }
    let plan = Plan::of(&loaded.config).map_err(|error| Refused(format!("{}: {error}", file.display())))?;
    Ok((loaded, plan))
}
