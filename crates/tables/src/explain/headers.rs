//! A frame's headers in one sentence.

use crate::classifier::ip;
use crate::frame::Frame;
use marca_engine::Packet;
use marca_engine::layout::{SCTP, TCP, UDP, V4};
use marca_engine::wire::{self, ACK, ETHERNET, FIN, Headers, RST, SYN};
use std::net::SocketAddr;

/// Tells as much of the frame as can be read, and answers it; `None` when there is no IP packet in it.
pub(super) fn tell(frame: &[u8], lines: &mut Vec<String>) -> Option<Headers> {
    let frame = Frame::new(frame.to_vec(), 0);
    let link = link(&frame);
    let Ok(mut h) = wire::network(&frame) else {
        lines.push(format!("{link}, {} bytes.", frame.bytes.len()));
        return None;
    };
    if wire::has_extensions(&h) {
        // What ends too early is the verdict's to tell.
        let _ = wire::extensions(&frame, &mut h);
    }
    let transport = wire::transport(&frame, &mut h).is_ok();
    let tags = tags(&frame, &h);
    let (source, destination) = if transport {
        (end(&h, true).to_string(), end(&h, false).to_string())
    } else {
        (ip(h.family, &h.source).to_string(), ip(h.family, &h.destination).to_string())
    };
    let version = if h.family == V4 { "IPv4" } else { "IPv6" };
    let life = if h.family == V4 { "time to live" } else { "hop limit" };
    let fragment = if h.fragment { ", a fragment" } else { "" };
    let flags = if h.protocol == TCP && transport { flags(h.tcp_flags) } else { String::new() };
    lines.push(format!(
        "{version} {}{flags} from {source} to {destination}, {} bytes, {life} {}{fragment}{tags}.",
        protocol(h.protocol),
        h.length,
        h.ttl
    ));
    Some(h)
}

/// An end of the packet's connection.
pub(super) fn end(h: &Headers, source: bool) -> SocketAddr {
    if source {
        SocketAddr::new(ip(h.family, &h.source), h.source_port)
    } else {
        SocketAddr::new(ip(h.family, &h.destination), h.destination_port)
    }
}

/// The protocol's name (IANA).
pub(super) fn protocol(number: u8) -> String {
    match number {
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        SCTP => "SCTP".into(),
        1 => "ICMP".into(),
        58 => "ICMPv6".into(),
        _ => format!("protocol {number}"),
    }
}

fn flags(flags: u8) -> String {
    let set = [(SYN, " SYN"), (FIN, " FIN"), (RST, " RST"), (ACK, " ACK")];
    set.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}

fn link(frame: &Frame) -> String {
    match frame.read::<2>(12) {
        Some(ethertype) => format!("Ethernet, ethertype {:04x}", u16::from_be_bytes(ethertype)),
        None => "No Ethernet header".into(),
    }
}

fn tags(frame: &Frame, h: &Headers) -> String {
    let ids: Vec<String> = (ETHERNET..usize::from(h.l3))
        .step_by(4)
        .filter_map(|at| frame.read::<2>(at))
        .map(|tag| (u16::from_be_bytes(tag) & 0x0fff).to_string())
        .collect();
    if ids.is_empty() { String::new() } else { format!(", VLAN {}", ids.join(" in ")) }
}
