//! Where what the program has to say of its work goes, and in which form.

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How `marca run` logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people, to standard error
    #[default]
    Text,
    /// One JSON object a line, to standard error
    Json,
    /// To the journal, with its fields
    Journald,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Begins to log. Without a level `MARCA_LOG` counts, which may tell modules apart; else it is `info`.
pub fn begin(format: Format, level: Option<Level>) -> Result<()> {
    let filter = match level {
        Some(level) => EnvFilter::new(level.name()),
        None => EnvFilter::try_from_env("MARCA_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let lines = || tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr);
    let all = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => all.with(lines()).init(),
        Format::Json => all.with(lines().json().flatten_event(true)).init(),
        Format::Journald => {
            let journal = tracing_journald::layer().context("open the journal's socket /run/systemd/journal/socket")?;
            // Fields of ours are few, and have no names of the journal's own.
            all.with(journal.with_field_prefix(None)).init();
        }
    }
    Ok(())
}
