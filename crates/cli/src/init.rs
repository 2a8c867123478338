//! `marca init`.

use crate::Refused;
use anyhow::{Context, Result};
use marca_daemon::doctor::facts::{Facts, Link};
use marca_daemon::doctor::gather;
use marca_daemon::place::Place;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Options {
    /// The file to write, which must not be there yet; `-` for standard output
    #[arg(default_value = "/etc/marca/marca.toml")]
    file: PathBuf,
    /// An interface on which clients arrive, instead of the one of the default route; may be given several times
    #[arg(long, value_name = "NAME")]
    outside: Vec<String>,
    /// An interface behind which real servers are; may be given several times
    #[arg(long, value_name = "NAME")]
    inside: Vec<String>,
    /// The first service's virtual address; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "server")]
    vip: Vec<IpAddr>,
    /// A port of the first service; may be given several times
    #[arg(long, value_name = "PORT", default_values = ["tcp/80", "tcp/443"])]
    port: Vec<String>,
    /// A real server of the first service; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "vip")]
    server: Vec<IpAddr>,
}

/// Writes a first configuration for this host's interfaces.
pub fn init(options: &Options) -> Result<()> {
    let facts = gather::gather(&Place::default(), Path::new("/sys/fs/bpf/marca-decap"), None);
    let first = First {
        outside: options.outside.clone(),
        inside: options.inside.clone(),
        vips: options.vip.clone(),
        ports: options.port.clone(),
        servers: options.server.clone(),
    };
    let text = text(&first, &facts, fs::read_to_string("/proc/net/route").ok().as_deref())?;
    let name = options.file.display().to_string();
    // What it writes must be right, whatever the host's interfaces are called and whatever was asked for.
    let loaded = marca_config::load(&name, &text)
        .map_err(|faults| Refused(format!("{}\nmarca: nothing was written", faults.render(false))))?;
    if options.file == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    if let Some(dir) = options.file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&options.file) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Refused(format!("marca: {name} is there already, and stays as it is")).into());
        }
        Err(error) => return Err(error).with_context(|| format!("write {name}")),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("write {name}"))?;
    let router = &loaded.config.router;
    println!(
        "{name}: outside {}, inside {}",
        router.outside.join(", "),
        match router.inside.is_empty() {
            true => "the same".to_owned(),
            false => router.inside.join(", "),
        }
    );
    println!("look it over, then: marca check; systemctl start marca");
    Ok(())
}

/// What was asked for.
#[derive(Default)]
struct First {
    outside: Vec<String>,
    inside: Vec<String>,
    vips: Vec<IpAddr>,
    ports: Vec<String>,
    servers: Vec<IpAddr>,
}

/// `routes`: `/proc/net/route`, whose default routes tell where clients come from.
fn text(first: &First, facts: &Facts, routes: Option<&str>) -> Result<String, Refused> {
    let candidates: Vec<&Link> = facts.links.iter().filter(|link| is_candidate(link)).collect();
    let default = default_interface(routes.unwrap_or_default());
    let outside = match &first.outside[..] {
        [] => {
            let guess =
                candidates.iter().find(|link| default.as_deref() == Some(link.name.as_str())).or(candidates.first());
            vec![guess.ok_or_else(|| Refused(NO_INTERFACE.into()))?.name.clone()]
        }
        named => named.to_vec(),
    };
    let inside = match &first.inside[..] {
        // One that has an address, so that somebody meant it for something.
        [] => {
            let is_other = |link: &&&Link| !outside.contains(&link.name) && !link.addresses.is_empty();
            candidates.iter().find(is_other).map(|link| link.name.clone()).into_iter().collect()
        }
        named => named.to_vec(),
    };
    let mut text = String::from(
        "# marca's configuration. `marca check` looks for faults, `marca reload` puts a change in force,\n\
         # `marca doctor` looks at the host. Every key: docs/configuration.md.\n#\n# This host's interfaces:\n",
    );
    for link in &facts.links {
        let addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        let state = if link.up { "up" } else { "off" };
        let _ = writeln!(text, "#   {}: {state}, MTU {}, {}", comment(&link.name), link.mtu, addresses.join(" "));
    }
    let _ = write!(text, "\n[router]\n# Where clients are, and where VIPs are put.\noutside = {}\n", list(&outside));
    match inside.is_empty() {
        true => text.push_str("# Where real servers are, if that is elsewhere.\n# inside = [\"eth1\"]\n"),
        false => {
            let _ = writeln!(text, "# Where real servers are.\ninside = {}", list(&inside));
        }
    }
    text.push_str("# XDP where every interface has it in its driver, else TC.\nattach = \"auto\"\n\n");
    service(first, &mut text);
    Ok(text)
}

const NO_INTERFACE: &str = "marca: this host has no interface for clients: name one with --outside";

/// The one that was asked for; else an example, in comments.
fn service(first: &First, text: &mut String) {
    let asked = !first.vips.is_empty() && !first.servers.is_empty();
    let (vips, servers) = match asked {
        true => (first.vips.clone(), first.servers.clone()),
        false => (vec![ip([192, 0, 2, 10])], vec![ip([10, 0, 0, 11]), ip([10, 0, 0, 12])]),
    };
    let addresses = |addresses: &[IpAddr]| list(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut lines = String::new();
    let _ = write!(
        lines,
        "[service.shop]\nvip       = {}\n# One service: a client's connections to all of these meet one server.\nports     = {}\n\
         scheduler = \"wlc\"\n# So long a client stays with its server.\npersist   = \"5m\"\n\
         # nat: the real servers' default route is this host. Others: fullnat, dr, tunnel, gue, gre, local.\n\
         forward   = \"nat\"\n",
        addresses(&vips),
        list(&first.ports),
    );
    for (number, server) in (1..).zip(&servers) {
        let _ = write!(lines, "\n[[service.shop.server]]\nname    = \"web{number}\"\naddress = \"{server}\"\n");
    }
    if asked {
        text.push_str(&lines);
        return;
    }
    text.push_str("# A service, to be filled in:\n#\n");
    for line in lines.lines() {
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
    }
}

fn ip(bytes: [u8; 4]) -> IpAddr {
    IpAddr::from(bytes)
}

/// Bridges of containers, tunnels and the like are nobody's outside.
fn is_candidate(link: &Link) -> bool {
    let kind = link.kind.as_deref();
    link.name != "lo"
        && link.up
        && !matches!(kind, Some("bridge" | "dummy" | "ipip" | "sit" | "gre" | "ip6tnl" | "ip6gre" | "tun"))
}

/// Of `/proc/net/route`: interface, destination, …
fn default_interface(routes: &str) -> Option<String> {
    let mut lines = routes.lines().skip(1).map(|line| line.split_whitespace());
    lines.find_map(|mut words| {
        let (name, destination) = (words.next()?, words.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

/// As TOML has it.
fn list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.as_str())).collect();
    format!("[{}]", words.join(", "))
}

/// A name may hold anything but a slash and white space.
fn comment(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Link { name: name.into(), up: true, mtu: 1500, addresses, ..Link::default() }
    }

    const ROUTES: &str = "Iface\tDestination\tGateway\neth1\t0000000A\t00000000\neth1\t00000000\t0100000A\n";

    #[test]
    fn outside_is_where_the_default_route_leads_and_what_it_writes_is_right() {
        let links =
            vec![link("lo", &["127.0.0.1/8"]), link("eth0", &["10.0.0.1/24"]), link("eth1", &["198.51.100.1/24"])];
        let facts = Facts { links, ..Facts::default() };
        let ports = vec!["tcp/80".to_owned()];
        let first = First { ports: ports.clone(), ..First::default() };
        let written = text(&first, &facts, Some(ROUTES)).unwrap();
        let config = marca_config::load("marca.toml", &written).unwrap().config;
        assert_eq!((config.router.outside, config.router.inside), (vec!["eth1".to_owned()], vec!["eth0".to_owned()]));
        assert!(config.services.is_empty(), "an example is no service");
        let vips = vec!["192.0.2.10".parse().unwrap()];
        let first = First { vips, ports, servers: vec!["10.0.0.11".parse().unwrap()], ..First::default() };
        let written = text(&first, &facts, Some(ROUTES)).unwrap();
        assert_eq!(marca_config::load("marca.toml", &written).unwrap().config.services.len(), 1);
    }

    #[test]
    fn one_interface_is_both_and_none_is_refused() {
        let facts = Facts { links: vec![link("eth0", &["10.0.0.1/24"])], ..Facts::default() };
        let written = text(&First { ports: vec!["tcp/80".into()], ..First::default() }, &facts, None).unwrap();
        assert_eq!(marca_config::load("marca.toml", &written).unwrap().config.router.outside, ["eth0"]);
        assert!(text(&First::default(), &Facts::default(), None).is_err());
    }
}
