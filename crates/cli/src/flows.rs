//! `marca flows`.

use crate::{PlaceOptions, api, print};
use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use marca_daemon::api::{Flows, FlowsEnded};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    which: Which,
    /// So many at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u64,
    /// Ends them: the next segment of each is reset, the next datagram begins another flow
    #[arg(long)]
    kill: bool,
    /// As JSON, one line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

#[derive(clap::Args, Serialize)]
pub struct Which {
    /// Of clients with this address, or in this prefix
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// With this real server: `shop/web1`, or `web1` or its address in all services
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,
}

impl Which {
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The path of a page.
    pub fn page(&self, path: &str, limit: u64, after: u64) -> Result<String> {
        Ok(format!("{path}?limit={}&after={after}&{}", limit.clamp(1, 10_000), api::query(self)?))
    }
}

pub fn flows(options: &Options) -> Result<()> {
    if options.kill {
        let done: FlowsEnded = api::delete(&options.place, &format!("/v1/flows?{}", api::query(&options.which)?))?;
        println!("{} connections ended", done.ended);
        if done.past_vip > 0 {
            println!("{} go on: clients have them with a real server itself, past the VIP", done.past_vip);
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["proto", "client", "vip", "service", "server", "port", "state", "idle"]);
    let (mut left, mut after, mut lines) = (options.limit, Some(0), Vec::new());
    while let (Some(from), true) = (after, left > 0) {
        let page = options.which.page("/v1/flows", left, from)?;
        let page: Flows = api::get(&options.place, &page)?.context(api::NO_DAEMON)?;
        left = left.saturating_sub(page.flows.len() as u64);
        after = page.next;
        for flow in page.flows {
            if options.json {
                lines.push(serde_json::to_string(&flow)?);
                continue;
            }
            table.add_row([
                flow.protocol,
                flow.client.to_string(),
                flow.vip.to_string(),
                flow.service,
                flow.server,
                flow.server_port.to_string(),
                flow.state,
                format!("{}s", flow.idle_seconds),
            ]);
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
