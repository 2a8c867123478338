//! `marca run`.

use crate::{PlaceOptions, Refused, check};
use anyhow::{Context, Result};
use marca_daemon::director::{DirectorError, Started};
use marca_daemon::place::{Lock, Place, PlaceError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "/etc/marca/marca.toml")]
    config: PathBuf,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again.
pub fn run(options: &Options) -> Result<()> {
    let place = options.place.place();
    // Kept until the end.
    let _lock = match lock(&place)? {
        Ok(lock) => lock,
        Err(pid) => {
            return Err(Refused(format!(
                "marca: a daemon runs here already, process {pid}: `marca stop` ends it, another --run-dir and \
                 --pin-dir go beside it"
            ))
            .into());
        }
    };
    let (text, loaded, _) = check::load(&options.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let ran = runtime.block_on(marca_daemon::run::run(place, &options.config, &text, |started| {
        ready(started, loaded.config.services.len());
    }));
    match ran {
        Ok(()) => {
            println!("the daemon ends; packets are forwarded as before (`marca stop --detach` takes everything away)");
            Ok(())
        }
        Err(error @ DirectorError::Config(_)) => Err(Refused(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// A daemon that was just killed may still be on its way out: it has large tables to let go of.
fn lock(place: &Place) -> Result<Result<Lock, u32>, PlaceError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match place.lock()? {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            done => return Ok(done),
        }
    }
}

fn ready(started: &Started, services: usize) {
    for finding in &started.findings {
        eprintln!("marca: {finding}");
    }
    for (interface, mode) in &started.attached {
        println!("{interface}: XDP attached, {}", mode.name());
    }
    let how = if started.adopted { "adopted the running data plane" } else { "data plane loaded" };
    println!("ready: {how}, {services} services");
}
