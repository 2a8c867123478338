//! `marca run`.

use crate::log::{Format, Level};
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
    /// How it logs. Where it is not text, everything that it says is logged
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: Format,
    /// How much it logs [default: info, or what MARCA_LOG says]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Runs until SIGTERM, SIGINT or a request to end; SIGHUP reads the configuration again.
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
    let ran = runtime
        .block_on(marca_daemon::run::run(place, &options.config, &text, |started| ready(started, options.log_format)));
    match ran {
        Ok(end) => {
            say(options.log_format, &end.to_string());
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

fn ready(started: &Started, format: Format) {
    if !started.warnings.is_empty() {
        complain(format, &started.warnings, "");
    }
    for finding in &started.findings {
        complain(format, finding, "marca: ");
    }
    for Attachment { interface, mode, why, .. } in &started.attached {
        match why {
            Some(why) => say(format, &format!("{interface}: attached by {}: {why}", mode.name())),
            None => say(format, &format!("{interface}: attached by {}", mode.name())),
        }
    }
    let how = if started.adopted { "adopted the running data plane" } else { "data plane loaded" };
    say(format, &format!("ready: {how}, {} services", started.services));
}

/// To whoever has started it, or where programs look for it.
fn say(format: Format, line: &str) {
    match format {
        Format::Text => println!("{line}"),
        Format::Json | Format::Journald => tracing::info!("{line}"),
    }
}

fn complain(format: Format, what: &str, by: &str) {
    match format {
        Format::Text => eprintln!("{by}{what}"),
        Format::Json | Format::Journald => tracing::warn!("{what}"),
    }
}
