//! `marca drain`, `undrain`, `disable`, `enable` and `weight`.

use crate::{PlaceOptions, Refused, api, print};
use anyhow::Result;
use marca_daemon::api::Done;
use serde_json::{Value, json};

/// Which real servers.
#[derive(clap::Args)]
pub struct Options {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it
    #[arg(required = true, value_name = "SERVER")]
    servers: Vec<String>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Which real servers, and until when.
#[derive(clap::Args)]
pub struct Until {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it
    #[arg(required = true, value_name = "SERVER")]
    servers: Vec<String>,
    /// Until then: a duration (`10m`, `1h30m`) or a moment (`2026-12-31T18:00:00Z`); without it, until it is taken back
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Which real server, which weight, and until when.
#[derive(clap::Args)]
pub struct Weight {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it
    #[arg(value_name = "SERVER")]
    server: String,
    /// From 0 to 65535; `configured` takes the hand away again
    #[arg(value_name = "WEIGHT")]
    weight: String,
    /// Until then: a duration (`10m`, `1h30m`) or a moment (`2026-12-31T18:00:00Z`); without it, until it is taken back
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    place: PlaceOptions,
}

/// `path`: of the API.
pub fn take_back(options: &Options, path: &str) -> Result<()> {
    tell(&options.place, path, &json!({ "servers": options.servers }))
}

/// `path`: of the API.
pub fn set(options: &Until, path: &str) -> Result<()> {
    tell(&options.place, path, &json!({ "servers": options.servers, "until": options.until }))
}

pub fn weight(options: &Weight) -> Result<()> {
    let weight = match options.weight.as_str() {
        "configured" => None,
        number => Some(number.parse::<u16>().map_err(|_| {
            Refused(format!("marca: `{number}` is no weight: a number from 0 to 65535, or `configured`"))
        })?),
    };
    let body = json!({ "servers": [options.server], "weight": weight, "until": options.until });
    tell(&options.place, "/v1/weight", &body)
}

fn tell(place: &PlaceOptions, path: &str, body: &Value) -> Result<()> {
    let done: Done = api::post(place, path, body)?;
    say(&done)
}

/// What has been done; what to know besides goes to standard error.
pub fn say(done: &Done) -> Result<()> {
    done.warnings.iter().for_each(|warning| eprintln!("marca: {warning}"));
    print(&done.lines.join("\n"))
}
