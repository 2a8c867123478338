//! `marca run`.

use crate::{PlaceOptions, Refused};
use anyhow::{Context, Result};
use marca_daemon::director::{DirectorError, Started};
use marca_daemon::linux::attach::Attachment;
use marca_daemon::place::{Lock, Place, PlaceError};
use std::fs;
use std::io::IsTerminal;
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
    let text = fs::read_to_string(&options.config).with_context(|| format!("read {}", options.config.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let ran = runtime.block_on(marca_daemon::run::run(place, &options.config, &text, ready));
    match ran {
        Ok(()) => {
            println!("the daemon ends; packets are forwarded as before (`marca stop --detach` takes everything away)");
            Ok(())
        }
        Err(DirectorError::Config(faults)) => {
            let faults = faults.render(std::io::stderr().is_terminal());
            Err(Refused(format!("{faults}\nmarca: nothing was changed")).into())
        }
        Err(DirectorError::Plan(error)) => Err(Refused(format!("{}: {error}", options.config.display())).into()),
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

fn ready(started: &Started) {
    if !started.warnings.is_empty() {
        eprintln!("{}", started.warnings);
    }
    for finding in &started.findings {
        eprintln!("marca: {finding}");
    }
    for Attachment { interface, mode, why, .. } in &started.attached {
        match why {
            Some(why) => println!("{interface}: attached by {}: {why}", mode.name()),
            None => println!("{interface}: attached by {}", mode.name()),
        }
    }
    let how = if started.adopted { "adopted the running data plane" } else { "data plane loaded" };
    println!("ready: {how}, {} services", started.services);
}
