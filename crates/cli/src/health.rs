//! `marca fail` and `marca restore`.

use crate::{PlaceOptions, api, hand};
use anyhow::Result;
use marca_daemon::api::Done;
use serde_json::json;

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
    let path = if up { "/v1/restore" } else { "/v1/fail" };
    let done: Done = api::post(&options.place, path, &json!({ "servers": options.servers }))?;
    hand::say(&done)
}
