//! `marca doctor`.

use crate::{PlaceOptions, Refused, Told, api, check};
use anyhow::Result;
use marca_config::model::{Forward, PortMatch};
use marca_daemon::doctor::{Report, director, gather, real_server};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// The director's configuration; of a real server: a copy of it, which tells what this host should have
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Looks at this host as a real server
    #[arg(long)]
    real_server: bool,
    /// An address of the virtual service, without a configuration; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "real_server", conflicts_with = "config")]
    vip: Vec<IpAddr>,
    /// How packets come to this real server
    #[arg(long, value_name = "METHOD", requires = "real_server", conflicts_with = "config", default_value = "dr",
          value_parser = ["nat", "fullnat", "dr", "tunnel", "gue", "gre"])]
    method: String,
    /// A port that this real server serves, as `tcp/80`; may be given several times
    #[arg(long, value_name = "PORT", requires = "real_server", conflicts_with = "config")]
    port: Vec<String>,
    /// A director's address on this side; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "real_server")]
    director: Vec<IpAddr>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Folder of the decapsulators
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/marca-decap")]
    decap_dir: PathBuf,
    #[command(flatten)]
    place: PlaceOptions,
}

/// How long a daemon has to say how full its tables are, before they are counted here.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exit code 1 when there is a fault.
pub fn doctor(options: &Options) -> Result<()> {
    // A daemon that hangs shall not keep anybody from finding out why.
    let told = api::get_within(&options.place, "/v1/status?servers=false", PATIENCE).ok().flatten();
    let facts = gather::gather(&options.place.place(), &options.decap_dir, told);
    let report = if options.real_server {
        let own: Vec<IpAddr> = facts.links.iter().flat_map(|l| l.addresses.iter().map(|net| net.addr())).collect();
        let expected = expected(options, &own)?;
        real_server::examine(&expected, &facts)
    } else {
        let file = options.config.clone().unwrap_or("/etc/marca/marca.toml".into());
        let (loaded, plan) = check::load(&file)?;
        director::examine(&loaded.config, &plan, &facts)
    };
    let text = if options.json { serde_json::to_string_pretty(&report)? } else { render(&report) };
    println!("{text}");
    if report.has_faults() { Err(Told.into()) } else { Ok(()) }
}

fn expected(options: &Options, own: &[IpAddr]) -> Result<real_server::Expected> {
    let mut expected = match &options.config {
        Some(file) => real_server::Expected::of(&check::load(file)?.0.config, own),
        None => {
            let method = Forward::ALL.into_iter().find(|method| method.name() == options.method);
            let mut ports: Vec<PortMatch> = Vec::new();
            for port in &options.port {
                let read = marca_config::text::ports::matches(port);
                ports.extend(read.map_err(|error| Refused(format!("marca: {port}: {error}")))?);
            }
            real_server::Expected {
                vips: options.vip.iter().copied().collect(),
                methods: method.into_iter().collect(),
                ports: ports.into_iter().collect(),
                directors: Vec::new(),
            }
        }
    };
    expected.directors.clone_from(&options.director);
    if expected.vips.is_empty() {
        return Err(Refused(match &options.config {
            Some(file) => format!("marca: no real server in {} has an address of this host", file.display()),
            None => "marca: say what this real server is for: --config with a copy of the director's file, or --vip, \
                     --method and --port"
                .into(),
        })
        .into());
    }
    Ok(expected)
}

fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(format!("{} {}: {}", finding.severity.name(), finding.check, finding.what));
        lines.push(format!("    because: {}", finding.why));
        lines.push(format!("    mend it: {}", finding.mend));
    }
    lines.extend(report.well.iter().map(|well| format!("well {}: {}", well.check, well.what)));
    let count = report.findings.len();
    lines.push(match count {
        0 => "nothing to mend".to_owned(),
        1 => "1 finding".to_owned(),
        _ => format!("{count} findings"),
    });
    lines.join("\n")
}
