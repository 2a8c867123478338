//! Any text on FTP control connections, in both directions.

use crate::Reader;
use crate::director::{Director, SMALL};
use crate::frames::assert_same_faults;
use crate::packet::{Segment, Way};
use marca_engine::ftp::lines::{self, Kind};
use marca_engine::layout::TCP;
use marca_engine::{Action, Reason};
use std::net::IpAddr;

const FTP: &str = "
[router]
outside = ['eth0']
inside = ['eth1']
[service.files]
vip = ['192.0.2.10', '2001:db8:10::10']
protocol = 'ftp'
passive = '1024-60000'
server = [{ address = ['10.0.0.11', 'fd00::11'] }, { address = ['10.0.0.12', 'fd00::12'] }]
";

/// A byte that says which control connection (bit 0: IPv6) and which direction (bit 1: from the server) and whether the
/// segment does not follow the one before (bits 2 and 3); two of length; and what is said.
pub fn ftp(data: &[u8]) {
    let config = marca_config::load("ftp.toml", FTP).unwrap_or_else(|faults| panic!("{faults}")).config;
    let director = Director::with(SMALL, &config);
    let mut sides = [Side::log_in(&director, false), Side::log_in(&director, true)];
    let mut reader = Reader(data);
    while !reader.is_empty() {
        let what = reader.byte();
        let length = usize::from(reader.short() & 0x3ff);
        let text = reader.bytes(length);
        let side = &mut sides[usize::from(what & 1)];
        if what >> 2 & 3 == 3 {
            side.sequence = side.sequence.wrapping_add(u32::from(what));
        }
        side.say(&director, what & 2 != 0, text);
    }
    director.check_loads();
}

/// A client's control connection.
struct Side {
    client: IpAddr,
    vip: IpAddr,
    server: IpAddr,
    /// Of the server.
    sequence: u32,
}

impl Side {
    fn log_in(director: &Director, v6: bool) -> Self {
        let [client, vip] = if v6 { ["2001:db8:51::7", "2001:db8:10::10"] } else { ["198.51.100.7", "192.0.2.10"] };
        let (client, vip): (IpAddr, IpAddr) = (client.parse().unwrap(), vip.parse().unwrap());
        let way = Way { protocol: TCP, from: (client, 4242), to: (vip, 21) };
        let (outcome, frame) = director.process(way.frame(Segment::Syn), 1);
        assert_eq!(outcome.reason, Reason::Nat);
        director.process(way.frame(Segment::Data), 1);
        Self { client, vip, server: Way::of(&frame).to.0, sequence: 1 }
    }

    fn say(&mut self, director: &Director, from_server: bool, text: &[u8]) {
        let way = if from_server {
            Way { protocol: TCP, from: (self.server, 21), to: (self.client, 4242) }
        } else {
            Way { protocol: TCP, from: (self.client, 4242), to: (self.vip, 21) }
        };
        let before = self.frame(&way, text);
        let (outcome, after) = director.process(before.clone(), if from_server { 2 } else { 1 });
        if from_server {
            self.sequence = self.sequence.wrapping_add(text.len() as u32);
        }
        assert_eq!(outcome.reason.action(), Action::Send, "{:?}", outcome.reason);
        assert_same_faults(&before, &after);
        let heard = &after[after.len() - text.len()..];
        let said = lines::Reader::read(from_server, &text[..text.len().min(marca_engine::ftp::SEGMENT)]).found;
        assert!(heard == text || said.kind == Kind::Passive, "nothing else is rewritten");
        if heard != text {
            let now = lines::Reader::read(true, &heard[..heard.len().min(marca_engine::ftp::SEGMENT)]).found;
            assert_eq!((now.kind, now.port, now.last), (said.kind, said.port, said.last));
            assert_eq!(now.address, u32::from_ne_bytes([192, 0, 2, 10]));
        }
        if outcome.reason == Reason::FtpAnnounced {
            self.comes(director, from_server, said.port);
        }
    }

    /// What was announced: to the server that has the control connection, or from it as the VIP. Nobody else's.
    fn comes(&self, director: &Director, from_server: bool, port: u16) {
        let (way, interface, reason) = if from_server {
            (Way { protocol: TCP, from: (self.client, 5000), to: (self.vip, port) }, 1, Reason::Nat)
        } else {
            (Way { protocol: TCP, from: (self.server, 20), to: (self.client, port) }, 2, Reason::Reply)
        };
        let (outcome, frame) = director.process(way.frame(Segment::Syn), interface);
        assert_eq!(outcome.reason, reason, "port {port}");
        let arrived = Way::of(&frame);
        let wanted =
            if from_server { Way { to: (self.server, port), ..way } } else { Way { from: (self.vip, 20), ..way } };
        assert_eq!(arrived, wanted);
        director.process(way.frame(Segment::Reset), interface);
    }

    fn frame(&self, way: &Way, text: &[u8]) -> Vec<u8> {
        let mut frame = way.frame(Segment::Data);
        let v4 = frame[12..14] == [0x08, 0x00];
        let (at, tcp) = if v4 { (16, 34) } else { (18, 54) };
        let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + text.len() as u16;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
        frame[tcp + 4..tcp + 8].copy_from_slice(&self.sequence.to_be_bytes());
        frame.extend(text);
        frame
    }
}
