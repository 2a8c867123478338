//! `marca reload`.

use crate::{PlaceOptions, Refused, api};
use anyhow::{Result, bail};
use marca_daemon::api::Reloaded;
use marca_daemon::api::client::{Client, ClientError};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    place: PlaceOptions,
}

/// Has the daemon read its configuration again, and says what became of it.
pub fn reload(options: &Options) -> Result<()> {
    let client = Client::new(&options.place.place());
    match api::wait(client.post("/v1/reload", &()))? {
        Ok(reloaded) => {
            println!("{}", told(&reloaded));
            Ok(())
        }
        Err(error) if error.is_refusal() => Err(Refused(format!("{error}\nmarca: nothing was changed")).into()),
        Err(error @ ClientError::Problem(_)) => bail!("{error}; nothing was changed"),
        Err(error) => Err(error.into()),
    }
}

fn told(reloaded: &Reloaded) -> String {
    let Reloaded { services, changed, gone, milliseconds, warnings, findings } = reloaded;
    let warnings = Some(warnings.trim_end()).filter(|warnings| !warnings.is_empty());
    let mut lines: Vec<String> = warnings.into_iter().map(str::to_owned).collect();
    lines.extend(findings.iter().cloned());
    lines
        .push(format!("reloaded: {services} services, {changed} new or changed, {gone} gone, in {milliseconds:.1} ms"));
    lines.join("\n")
}
