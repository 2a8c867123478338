//! `marca fail` and `marca restore`.

use crate::{PlaceOptions, Refused};
use anyhow::{Context, Result, bail};
use marca_daemon::control::{Answer, Request, ask};

#[derive(clap::Args)]
pub struct Options {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it
    #[arg(required = true, value_name = "SERVER")]
    servers: Vec<String>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Tells the daemon that real servers have failed, or serve again (`up`).
pub fn health(options: &Options, up: bool) -> Result<()> {
    let place = options.place.place();
    let Some(pid) = place.running_daemon()? else { bail!("no daemon runs here (start one with `marca run`)") };
    let request = Request::Health { servers: options.servers.clone(), up };
    let answer = ask(&place, &request)
        .with_context(|| format!("ask the daemon, process {pid}, by {}", place.control_socket().display()))?;
    match answer {
        Answer::Done(text) => {
            println!("{text}");
            Ok(())
        }
        Answer::Refused(text) => Err(Refused(format!("marca: {text}")).into()),
        Answer::Failed(text) => bail!("{text}"),
    }
}
