//! `marca diff`.

use crate::{PlaceOptions, Refused, api};
use anyhow::{Context, Result};
use marca_daemon::api::client::{Client, ClientError};
use marca_daemon::diff::Diff;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// Another configuration; without it the daemon's own file as it is now
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Something would change: exit code 1, and all is said.
#[derive(Debug)]
pub struct Differs;

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("they differ")
    }
}

impl std::error::Error for Differs {}

/// As diff(1): 0, nothing would change; 1, something would; 2, trouble.
pub fn diff(options: &Options) -> Result<()> {
    let diff = compared(options).map_err(|error| match error.downcast::<Refused>() {
        Ok(refused) => refused,
        Err(error) => Refused(format!("marca: {error:#}")),
    })?;
    if !diff.warnings.is_empty() {
        eprintln!("{}", diff.warnings);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&diff)?);
    } else {
        print!("{diff}");
    }
    if diff.is_empty() { Ok(()) } else { Err(Differs.into()) }
}

fn compared(options: &Options) -> Result<Diff> {
    let file = options.file.as_ref().map(|file| {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
        text.map(|text| (file.display().to_string(), text))
    });
    let file = file.transpose()?;
    let body = match &file {
        Some((file, text)) => json!({ "file": file, "text": text }),
        None => json!({}),
    };
    match api::wait(Client::new(&options.place.place()).post("/v1/diff", &body))? {
        // What is in force is known without it.
        Err(ClientError::NoDaemon) => {
            let running = options.place.place().running()?.context("no configuration is in force here")?;
            let (name, text) = match file {
                Some(file) => file,
                None => {
                    let text = fs::read_to_string(DEFAULT).with_context(|| format!("read {DEFAULT}"))?;
                    (DEFAULT.to_owned(), text)
                }
            };
            Diff::of(&running, &name, &text).map_err(|error| Refused(error.to_string()).into())
        }
        Err(ClientError::Problem(problem)) => Err(Refused(problem.to_string()).into()),
        answer => Ok(answer?),
    }
}

const DEFAULT: &str = "/etc/marca/marca.toml";
