//! `marca persist`.

use crate::flows::Which;
use crate::{PlaceOptions, api, print};
use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use marca_config::text::duration;
use marca_daemon::api::{Persist, Unpinned};
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    which: Which,
    /// So many at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u64,
    /// Lets this client go elsewhere with its next connection, in all services or that of --service
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["client", "server"])]
    unpin: Option<IpAddr>,
    /// As JSON, one line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

pub fn persist(options: &Options) -> Result<()> {
    if let Some(client) = options.unpin {
        let mut which = json!({ "client": client });
        if let Some(service) = options.which.service() {
            which["service"] = service.into();
        }
        let done: Unpinned = api::delete(&options.place, &format!("/v1/persist?{}", api::query(&which)?))?;
        match done.unpinned {
            0 => println!("{client} stays with nobody"),
            services => println!("{client} may go elsewhere, in {services} services"),
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["client", "service", "server", "left"]);
    let (mut left, mut after, mut lines) = (options.limit, Some(0), Vec::new());
    while let (Some(from), true) = (after, left > 0) {
        let page = options.which.page("/v1/persist", left, from)?;
        let page: Persist = api::get(&options.place, &page)?.context(api::NO_DAEMON)?;
        left = left.saturating_sub(page.clients.len() as u64);
        after = page.next;
        for client in page.clients {
            if options.json {
                lines.push(serde_json::to_string(&client)?);
                continue;
            }
            let time = match client.seconds_left {
                Some(0) => "as long as its connections".into(),
                Some(seconds) => duration::print(Duration::from_secs(seconds)),
                None => "unproved".into(),
            };
            table.add_row([client.client.to_string(), client.service, client.server, time]);
        }
    }
    if !options.json {
        lines.push(table.trim_fmt());
        if after.is_some() {
            lines.push(format!("(the first {}: --limit shows more)", options.limit));
        }
    }
    print(&lines.join("\n"))
}
