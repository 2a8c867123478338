//! Thousands of services with ten real servers each: loaded by a director, one server changed, everything replaced.

use super::{Line, stream};
use crate::bench::director::{self, Director};
use anyhow::{Context, Result};
use aya::maps::MapData;
use marca_daemon::linux::data_plane::Maps;
use marca_testkit::topology::{ETH0, IN, OUT, Topology};
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn measure(services: u32, results: &mut Vec<Line>) -> Result<()> {
    let marca = director::build_release()?;
    let net = Topology::routed("bench scale", 1)?;
    let (client, server) = (net.client(), net.server(0));
    // One host is all real servers; they are behind it.
    server.ip(&[format!("route add local {SERVERS} dev lo")])?;
    net.director().ip(&[format!("route add {SERVERS} via {} dev {IN}", net.server_address(0).v4)])?;
    client.ip(&[format!("route add {VIPS} via {} dev {ETH0}", net.director_outside().v4)])?;
    let sample: Vec<SocketAddrV4> =
        sample(services).map(|service| SocketAddrV4::new(vip(service), port(service))).collect();

    let shop = Shop { services, ..Shop::default() };
    let text = shop.text();
    results.push(Line::new("configuration", text.len() as f64 / 1e6, "MB"));
    let director = Director::start(&marca, net.director(), &text)?;
    results.push(
        Line::new("cold load, from the start of `marca run` to `ready`", director.started.as_secs_f64(), "s")
            .at_most(2.0),
    );
    results.push(Line::new("maps", map_bytes(&director.pins().join("maps"))? as f64 / 1e6, "MB"));
    results.push(Line::new("daemon, resident", director.memory_kib("VmRSS")? as f64 / 1e3, "MB"));

    let changes = [
        ("one weight changed", Shop { weight: Some((services / 2, 3)), ..shop }, 10.0),
        ("one server exchanged", Shop { weight: Some((services / 2, 3)), exchanged: Some(services / 2), ..shop }, 10.0),
        ("all replaced", Shop { all: true, ..shop }, f64::INFINITY),
    ];
    for (what, changed, target) in changes {
        let text = changed.text();
        let began = Instant::now();
        let (said, counted) = stream::during(client, server, &sample, || {
            let began = Instant::now();
            let said = director.reload(&text)?;
            Ok((said, began.elapsed()))
        })
        .with_context(|| format!("reload: {what} (after {:.1} s)", began.elapsed().as_secs_f64()))?;
        let (said, elapsed) = said;
        let took = took_ms(&said).with_context(|| format!("`marca reload` said: {said}"))?;
        let line = Line::new(format!("{what}: the tables"), took, "ms");
        results.push(if target.is_finite() { line.at_most(target) } else { line });
        results.push(Line::new(
            format!("{what}: `marca reload`, reading and checking the file included"),
            ms(elapsed),
            "ms",
        ));
        results.push(Line::new(format!("{what}: packets sent meanwhile"), counted.sent as f64, ""));
        results.push(Line::new(format!("{what}: packets lost"), counted.lost as f64, "").at_most(0.0));
        if counted.lost > 0 {
            let reasons = Maps::open(director.pins())?.reasons();
            let met = reasons.iter().filter(|(_, packets)| *packets > 0);
            met.for_each(|(reason, packets)| eprintln!("{packets:>12} {}", reason.label()));
        }
    }
    results.push(Line::new("daemon, resident, at the most", director.memory_kib("VmHWM")? as f64 / 1e3, "MB"));
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Of `… in 3.2 ms`.
fn took_ms(said: &str) -> Option<f64> {
    let (_, rest) = said.rsplit_once(" in ")?;
    rest.trim().strip_suffix(" ms")?.parse().ok()
}

/// Memory that the kernel has for the maps that are pinned here.
pub fn map_bytes(pins: &Path) -> Result<u64> {
    let mut bytes = 0;
    for pin in fs::read_dir(pins).with_context(|| format!("list {}", pins.display()))? {
        let map = MapData::from_pin(pin?.path())?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        bytes += memlock(&info).context("a map's memory is not told")?;
    }
    Ok(bytes)
}

fn memlock(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// The network of all real servers, and that of the VIPs.
const SERVERS: &str = "10.64.0.0/10";
const VIPS: &str = "198.18.0.0/15";

/// Ten services share one: the kernel takes seconds to put ten thousand addresses on an interface, one by one
/// (`net/ipv4/devinet.c`, `__inet_insert_ifa` walks all that are there).
fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc612_0000 + service / 10)
}

/// Of datagrams; its other port is as far from 80.
fn port(service: u32) -> u16 {
    stream::PORT + (service % 10) as u16
}

fn server(service: u32, server: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a40_0000 + service * 16 + server)
}

/// Services to which packets are sent: first, last, some between, and the one that is changed.
fn sample(services: u32) -> impl Iterator<Item = u32> {
    (0..services).step_by((services as usize / 31).max(1)).chain([services / 2, services - 1])
}

/// A configuration, and what is otherwise in it.
#[derive(Clone, Copy, Default)]
struct Shop {
    services: u32,
    /// The weight of a service's first server.
    weight: Option<(u32, u32)>,
    /// A service whose last server is another one.
    exchanged: Option<u32>,
    /// All services have other weights, another scheduler, and another host for their last server.
    all: bool,
}

impl Shop {
    fn text(&self) -> String {
        let mut text = format!(
            "[router]\noutside = '{OUT}'\ninside = '{IN}'\nattach = 'xdp'\nlimits = {{ flows = 65536, half_open = 16384, templates = 16384 }}\n"
        );
        let scheduler = if self.all { "wrr" } else { "wlc" };
        for service in 0..self.services {
            let _ = write!(
                text,
                "[service.s{service}]\ncheck = 'none'\nvip = '{}'\nports = ['tcp/{} -> 80', 'udp/{} -> {}']\nscheduler = \
                 '{scheduler}'\nserver = [",
                vip(service),
                80 + service % 10,
                port(service),
                stream::PORT
            );
            for number in 0..10 {
                let exchanged = number == 9 && (self.all || self.exchanged == Some(service));
                let address = server(service, if exchanged { 10 } else { number });
                let weight = match self.weight {
                    Some((changed, weight)) if changed == service && number == 0 => weight,
                    _ if self.all => 2 + number % 2,
                    _ => 1,
                };
                let _ = write!(text, "{{address='{address}',weight={weight}}},");
            }
            text += "]\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_took_is_read_from_what_it_says() {
        let said = "a finding in the way\nreloaded: 10000 services, 1 new or changed, 0 gone, in 3.2 ms\n";
        assert_eq!(took_ms(said), Some(3.2));
        assert_eq!(took_ms("nothing was changed"), None);
    }

    #[test]
    fn a_maps_memory_is_read_from_its_descriptor() {
        assert_eq!(memlock("pos:\t0\nmap_type:\t2\nmemlock:\t4096\nmap_id:\t7\n"), Some(4096));
        assert_eq!(memlock("pos:\t0\n"), None);
    }

    #[test]
    fn the_configurations_are_good_and_differ_where_they_say() {
        let load = |shop: Shop| marca_config::load("t", &shop.text()).map_err(|f| f.render(false)).unwrap();
        let shop = Shop { services: 40, ..Shop::default() };
        assert_eq!(load(shop).config.services.len(), 40);
        load(Shop { all: true, ..shop });
        let lines = |shop: Shop| shop.text().lines().map(str::to_owned).collect::<Vec<_>>();
        let differing = |other| lines(shop).iter().zip(lines(other)).filter(|(a, b)| *a != b).count();
        assert_eq!(differing(Shop { weight: Some((7, 3)), ..shop }), 1);
        assert_eq!(differing(Shop { exchanged: Some(7), ..shop }), 1);
    }
}
