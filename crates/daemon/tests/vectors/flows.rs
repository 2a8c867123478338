//! The flow property in the kernel: for any sequence of opens, data, pool changes and closes, a packet of a live
//! connection goes where the connection began. Millions of operations run natively in `marca-tables`; here are fewer, and
//! every one of them meets the engine natively, in the kernel and through `explain`.

use super::Noise;
use super::both::Both;
use super::format::{Arrival, Side};
use marca_engine::Reason;
use marca_tables::Frame;
use marca_tables::classifier;
use marca_tables::sweep::Sweep;
use marca_testkit::frame;
use std::net::IpAddr;

/// Per scheduler.
const OPERATIONS: usize = 1500;
/// A sweep's ticks after a reset; none is old enough here.
const LONG: u32 = u32::MAX / 4;

/// A connection that is open.
struct Live {
    client: [u8; 4],
    port: u16,
    vip_port: u16,
    server: IpAddr,
}

pub fn a_live_flow_goes_where_it_began(both: &mut Both, scheduler: &str, persist: bool) {
    let pools: Vec<String> = POOLS.iter().map(|servers| configuration(scheduler, persist, servers)).collect();
    both.start(&pools[0]);
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let mut sweeps = [Sweep::new(LONG), Sweep::new(LONG)];
    let mut live: Vec<Live> = Vec::new();
    let (mut opened, mut followed) = (0, 0);
    for number in 0..OPERATIONS {
        match noise.below(20) {
            0 => both.load(&pools[noise.below(pools.len())]),
            1 => both.sweep(&mut sweeps),
            2..=7 => {
                let client = [203, 0, 113, 1 + noise.below(60) as u8];
                let (port, vip_port) = (10_000 + number as u16, [80, 443][noise.below(2)]);
                opened += 1;
                live.extend(open(both, client, port, vip_port));
            }
            8 | 9 if !live.is_empty() => {
                let flow = live.swap_remove(noise.below(live.len()));
                close(both, &flow);
            }
            _ if !live.is_empty() => {
                followed += 1;
                let flow = &live[noise.below(live.len())];
                if noise.below(2) == 0 {
                    assert_eq!(to_server(both, flow, "PA"), Some(flow.server), "{scheduler}: {}", text(flow));
                } else {
                    from_server(both, flow, "PA");
                }
            }
            _ => {}
        }
        if number % 100 == 0 {
            both.assert_same_tables(scheduler);
        }
    }
    assert!(opened > 100 && followed > 100, "{scheduler}: {opened} opened, {followed} followed");
}

/// Servers, weights; 0 and absence are what a change of the pool is about.
const POOLS: [&[(&str, u16)]; 4] = [
    &[("10.0.0.11", 1), ("10.0.0.12", 1), ("10.0.0.13", 2)],
    &[("10.0.0.11", 1), ("10.0.0.12", 0), ("10.0.0.13", 2)],
    &[("10.0.0.11", 3), ("10.0.0.12", 1)],
    &[("10.0.0.12", 1), ("10.0.0.13", 1), ("10.0.0.11", 5)],
];

fn configuration(scheduler: &str, persist: bool, servers: &[(&str, u16)]) -> String {
    let persist = if persist { "persist = \"10m\"\n" } else { "" };
    let head = "[service.shop]\nvip = \"192.0.2.10\"\nports = [\"tcp/80\", \"tcp/443 -> 8443\"]\n";
    let mut text = format!("{head}scheduler = \"{scheduler}\"\n{persist}");
    for (address, weight) in servers {
        text += &format!("[[service.shop.server]]\naddress = \"{address}\"\nweight = {weight}\n");
    }
    text
}

/// The whole handshake; none when nobody takes the client.
fn open(both: &mut Both, client: [u8; 4], port: u16, vip_port: u16) -> Option<Live> {
    let mut flow = Live { client, port, vip_port, server: [0, 0, 0, 0].into() };
    flow.server = to_server(both, &flow, "S")?;
    from_server(both, &flow, "SA");
    assert_eq!(to_server(both, &flow, "A"), Some(flow.server), "the handshake stays together: {}", text(&flow));
    Some(flow)
}

/// From either side, in either order, or by a reset.
fn close(both: &mut Both, flow: &Live) {
    match flow.port % 3 {
        0 => {
            to_server(both, flow, "FA");
            from_server(both, flow, "FA");
        }
        1 => {
            from_server(both, flow, "FA");
            to_server(both, flow, "FA");
        }
        _ => _ = to_server(both, flow, "R"),
    }
}

/// A client's segment; the real server that gets it.
fn to_server(both: &mut Both, flow: &Live, flags: &str) -> Option<IpAddr> {
    let [a, b, c, d] = flow.client;
    let (port, vip_port) = (flow.port, flow.vip_port);
    let line = format!("ip4 {a}.{b}.{c}.{d} > 192.0.2.10 / tcp {port} > {vip_port} {flags} / data 20");
    let frame = frame::build(&line).unwrap();
    let ran = both.take(&Arrival { interface: Side::Outside, frame });
    if ran.reason != Reason::Nat {
        return None;
    }
    let h = marca_engine::wire::network(&Frame::new(ran.frame, 0)).unwrap();
    Some(classifier::ip(h.family, &h.destination))
}

/// A real server's segment, which reaches the client as the VIP's.
fn from_server(both: &mut Both, flow: &Live, flags: &str) {
    let [a, b, c, d] = flow.client;
    let (port, server_port) = (flow.port, if flow.vip_port == 443 { 8443 } else { flow.vip_port });
    let line = format!("ip4 {} > {a}.{b}.{c}.{d} / tcp {server_port} > {port} {flags} / data 20", flow.server);
    let frame = frame::build(&line).unwrap();
    let ran = both.take(&Arrival { interface: Side::Inside, frame });
    assert_eq!(ran.reason, Reason::Reply, "{}", text(flow));
    let described = frame::describe(&ran.frame);
    assert!(described.contains(&format!("tcp {} > {port}", flow.vip_port)), "{described}");
}

fn text(flow: &Live) -> String {
    format!("{:?}:{} to port {}, began at {}", flow.client, flow.port, flow.vip_port, flow.server)
}
