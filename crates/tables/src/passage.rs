//! A packet of the director's own, put on the way that a client's packet to a real server takes: by the code that forwards
//! packets, and by the record of the real server as packets see it now.

use crate::frame::Frame;
use crate::memory::Memory;
use crate::view::View;
use marca_engine::forward::{self, Sent, nat};
use marca_engine::layout::{Real, real_flags};
use marca_engine::reason::Reason;
use marca_engine::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// The real server with this number, as one that serves: whether it has failed is what its checks are to find out.
pub fn real(memory: &Memory, number: u32) -> Option<Real> {
    let mut real = memory.reals.get(number)?;
    real.flags &= !real_flags::DOWN;
    Some(real)
}

/// Makes an IP packet to a VIP into the frame in which the real server gets it; and where that leaves. Nothing is counted.
/// `now` in ticks.
///
/// # Errors
/// Why there is none. [`Reason::NoNeighbour`]: the next hop's MAC address is not known, and the daemon has been asked for
/// it.
pub fn through(memory: &Memory, number: u32, packet: &[u8], now: u32) -> Result<(Vec<u8>, u32), Reason> {
    let Some(real) = real(memory, number) else { return Err(Reason::Inconsistent) };
    let ethertype = match packet.first() {
        Some(first) if first >> 4 == 4 => ETHERTYPE_IPV4,
        _ => ETHERTYPE_IPV6,
    };
    let mut bytes = Vec::with_capacity(ETHERNET + packet.len());
    bytes.extend([0; ETHERNET - 2]);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    let mut frame = Frame::new(bytes, 0);
    let view = View::new(memory, now);
    let mut headers = wire::network(&frame)?;
    wire::transport(&frame, &mut headers)?;
    let port = headers.destination_port;
    let Sent { interface, .. } = forward::to_server(&mut frame, &view, &headers, &real, port, &nat::Plain)?;
    Ok((frame.bytes, interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Capacity;
    use marca_config::model::Limits;
    use marca_config::plan::Plan;
    use marca_engine::forward::Method;
    use marca_engine::layout::{Address, Macs};
    use std::net::Ipv4Addr;

    const VIP: [u8; 4] = [192, 0, 2, 10];

    fn memory(method: Method, flags: u8) -> Memory {
        let limits = Limits { flows: 64, half_open: 64, templates: 64 };
        let memory = Memory::on_heap(Capacity::for_plan(&Plan::default(), &limits), 1);
        let real = Real {
            family: 4,
            method: method as u8,
            flags,
            interface: 3,
            mtu: 1500,
            address: crate::classifier::address(Ipv4Addr::new(10, 0, 0, 11).into()).1,
            source: crate::classifier::address(Ipv4Addr::new(10, 0, 0, 1).into()).1,
            macs: Macs::new([2, 0, 0, 0, 0, 11], [2, 0, 0, 0, 0, 1]),
            ..memory.reals.get(1).unwrap()
        };
        memory.reals.set(1, &real);
        memory
    }

    /// A SYN from the director's own address to the VIP.
    fn syn() -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], VIP, 3).tcp(61_000, 80, 1, 1024).syn();
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).unwrap();
        packet
    }

    #[test]
    fn direct_routing_gives_the_packet_the_real_servers_mac_address() {
        let (frame, interface) = through(&memory(Method::DirectRouting, real_flags::RESOLVED), 1, &syn(), 0).unwrap();
        assert_eq!(interface, 3);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 11, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame[30..34], VIP, "the destination stays");
        assert_eq!(frame[22], 2, "and the time to live is one less");
    }

    #[test]
    fn a_tunnel_puts_the_packet_into_another_one() {
        let (frame, _) = through(&memory(Method::Tunnel, real_flags::RESOLVED), 1, &syn(), 0).unwrap();
        assert_eq!(frame[23], 4, "IP in IP");
        assert_eq!(frame[30..34], [10, 0, 0, 11]);
        assert_eq!(frame[50..54], VIP);
    }

    #[test]
    fn one_that_has_failed_is_reached_as_any_other() {
        let failed = memory(Method::DirectRouting, real_flags::RESOLVED | real_flags::DOWN);
        assert!(through(&failed, 1, &syn(), 0).is_ok());
        assert_ne!(failed.reals.get(1).unwrap().flags & real_flags::DOWN, 0, "and is no other one for that");
    }

    #[test]
    fn a_next_hop_that_is_not_known_is_asked_for() {
        let memory = memory(Method::DirectRouting, 0);
        assert_eq!(through(&memory, 1, &syn(), 0), Err(Reason::NoNeighbour));
        let asked = (0..memory.neighbours.len()).filter_map(|i| memory.neighbours.at(i));
        assert_eq!(asked.filter(|place| place.asked.get() == 1).count(), 1);
        assert_eq!(Address::default(), memory.reals.get(0).unwrap().address);
    }

    #[test]
    fn what_is_no_packet_goes_nowhere() {
        let memory = memory(Method::DirectRouting, real_flags::RESOLVED);
        for length in 0..syn().len() {
            assert!(through(&memory, 1, &syn()[..length], 0).is_err(), "{length}");
        }
        assert_eq!(through(&memory, u32::MAX, &syn(), 0), Err(Reason::Inconsistent));
    }
}
