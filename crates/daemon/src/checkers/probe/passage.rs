//! The way of clients' packets, for checks: to the VIP, forwarded to one real server by its own method.
//!
//! The kernel cannot be asked to send such packets: to it the VIP is an address of the director's own. So under direct
//! routing and in tunnels the check speaks TCP/IP itself. It is a client at an address of the director's and a port of
//! [`PORTS`]; its packets are made into frames by the code that forwards packets ([`marca_tables::passage`]) and sent by a
//! packet socket; what comes back is heard by another one. The kernel sees the answers, too, and does nothing about them:
//! in IPv4 a packet from an address of its own is a martian, and its IPv6 answers to the VIP, which is itself.
//!
//! Under NAT the real server sees no VIP. There a check is a connection of the kernel's, from the address that the director
//! has towards clients and tied to the interface that leads to the server: answered as clients are, by a server whose way
//! to clients leads through this director.
//!
//! | module | owns |
//! |---|---|
//! | [`arrival`] | what comes back: whose it is, and what an ICMP error says |
//! | [`stream`] | a TCP connection |

pub mod arrival;
pub mod stream;

use super::{Fault, plain};
use crate::linux::data_plane::{Maps, since_boot};
use crate::linux::packets::{Listener, Sender};
use arrival::{Arrival, Complaint, Key, What};
use marca_engine::forward::{self, Method};
use marca_engine::layout::{Address, Real};
use marca_engine::reason::Reason;
use marca_tables::classifier::ip;
use marca_tables::passage;
use marca_tables::services::Clock;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What is to be known of the director.
#[derive(Clone)]
pub struct Ground {
    pub maps: Arc<Maps>,
    pub clock: Clock,
    /// Its interfaces, outside and inside.
    pub interfaces: Vec<String>,
    /// Addresses that it has for others: VIPs, and sources of fullnat.
    pub lent: BTreeSet<IpAddr>,
    /// Real servers by key, as [`marca_tables::ids::real_key`] has it.
    pub numbers: HashMap<String, u32>,
}

/// All passages of a director: the sockets, and who waits for what.
pub struct Passages {
    maps: Arc<Maps>,
    clock: Clock,
    sender: Sender,
    /// Of IPv4 and IPv6.
    listeners: [Listener; 2],
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: HashMap<Key, mpsc::Sender<Arrival>>,
    /// Where answers are heard.
    heard: Vec<IpAddr>,
    last_port: u16,
    interfaces: Vec<String>,
    lent: BTreeSet<IpAddr>,
    /// Of the host, each with its interface, and when that was looked up.
    addresses: Vec<(String, IpAddr)>,
    looked: Option<Instant>,
}

/// One to a real server.
#[derive(Clone)]
pub struct Passage {
    pub passages: Arc<Passages>,
    pub real: u32,
    pub vip: IpAddr,
}

/// How a real server is reached as clients reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a socket of the kernel's that is bound so.
    Socket { own: Option<IpAddr>, interface: u32 },
    /// By frames, of packets of at most so many bytes.
    Frames { own: IpAddr, mtu: u32 },
}

/// Where the director's own ports for these checks are: above those that Linux gives to others by default
/// (`net.ipv4.ip_local_port_range`, 32768 to 60999).
pub const PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// The time to live of packets. The director takes one away; with what is left the server may hand them to a container of
/// its own. But if it is a router that lacks the VIP, and hands them back to the director, they end there, and are not
/// forwarded to another real server, which would answer in its place.
pub const HOPS: u8 = 3;

impl Passages {
    /// In the network namespace of the calling thread, and in its tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no sockets.
    pub fn open(ground: &Ground) -> io::Result<Arc<Self>> {
        let shared = Shared { last_port: random() as u16, ..Shared::default() };
        let passages = Arc::new(Self {
            maps: Arc::clone(&ground.maps),
            clock: ground.clock,
            sender: Sender::open()?,
            listeners: [Listener::open(true, PORTS)?, Listener::open(false, PORTS)?],
            shared: Mutex::new(shared),
        });
        passages.follow(ground);
        for family in 0..passages.listeners.len() {
            tokio::spawn(Arc::clone(&passages).listen(family));
        }
        Ok(passages)
    }

    /// Something may have changed about the director.
    pub fn follow(&self, ground: &Ground) {
        let mut shared = self.shared();
        (shared.interfaces, shared.lent) = (ground.interfaces.clone(), ground.lent.clone());
        shared.looked = None;
    }

    async fn listen(self: Arc<Self>, family: usize) {
        let mut buffer = vec![0; MOST_BYTES];
        loop {
            match self.listeners[family].receive(&mut buffer).await {
                Ok(len) => self.hand_out(buffer.get(..len).unwrap_or_default()),
                // Of an interface that went down (packet(7), `ENETDOWN`): others go on.
                Err(error) => {
                    tracing::debug!("listen for answers to checks: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn hand_out(&self, packet: &[u8]) {
        let Some((key, arrival)) = arrival::read(packet) else { return };
        let waiting = self.shared().waiting.get(&key).cloned();
        if let Some(waiting) = waiting {
            // One that sends more than is taken will send it again.
            let _ = waiting.try_send(arrival);
        }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing is left half done in there.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// An address of the director's own of this family: that of this interface, or of any other of the director's; with
    /// `other`, only of others.
    fn own(&mut self, is_v4: bool, interface: u32, other: bool) -> Option<IpAddr> {
        if self.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
            self.addresses = crate::linux::packets::addresses();
            self.looked = Some(Instant::now());
        }
        let name = nix::net::if_::if_indextoname(interface).ok();
        let name = name.as_ref().and_then(|name| name.to_str().ok()).unwrap_or_default();
        let is_own = |(on, address): &&(String, IpAddr)| {
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            address.is_ipv4() == is_v4 && !link_local && !self.lent.contains(address) && self.interfaces.contains(on)
        };
        let own = || self.addresses.iter().filter(is_own);
        let there = own().find(|(on, _)| on == name).filter(|_| !other);
        there.or_else(|| own().find(|(on, _)| on != name)).map(|(_, address)| *address)
    }

    /// A conversation that nobody has.
    fn free(&mut self, protocol: u8, vip: IpAddr, port: u16, own: IpAddr) -> Option<Key> {
        (0..PORTS.len()).find_map(|_| {
            self.last_port =
                self.last_port.checked_add(1).filter(|port| PORTS.contains(port)).unwrap_or(*PORTS.start());
            let key = Key { protocol, vip, port, own, own_port: self.last_port };
            (!self.waiting.contains_key(&key)).then_some(key)
        })
    }
}

impl Passage {
    pub(super) fn way(&self) -> Result<Way, Fault> {
        let Some(real) = passage::real(&self.passages.maps.memory, self.real) else {
            return Err(Fault::Ours("the tables do not have the real server".into()));
        };
        if real.interface == 0 {
            return Err(Fault::Theirs("no way to the host".into()));
        }
        let is_v4 = self.vip.is_ipv4();
        if real.method == Method::Nat as u8 {
            let own = self.passages.shared().own(is_v4, real.interface, true);
            return Ok(Way::Socket { own, interface: real.interface });
        }
        let own = own_source(&real, is_v4).or_else(|| self.passages.shared().own(is_v4, real.interface, false));
        let Some(own) = own else {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            return Err(Fault::Ours(format!("the director has no {family} address of its own to ask from")));
        };
        Ok(Way::Frames { own, mtu: forward::largest(&real) })
    }

    /// Begins a conversation with a port of the VIP, as the client at this address of the director's.
    pub(super) fn begin(&self, own: IpAddr, protocol: u8, port: u16) -> Result<Conversation, Fault> {
        let (sender, heard) = mpsc::channel(MOST_WAITING);
        let mut shared = self.passages.shared();
        if !shared.heard.contains(&own) {
            shared.heard.push(own);
            let listening = self.passages.listeners.iter().try_for_each(|listener| listener.listen_to(&shared.heard));
            listening.map_err(|error| Fault::Ours(format!("listen for answers: {}", plain(&error))))?;
        }
        let Some(key) = shared.free(protocol, self.vip, port, own) else {
            return Err(Fault::Ours(format!("all ports from {} are in use", PORTS.start())));
        };
        shared.waiting.insert(key, sender);
        Ok(Conversation { passage: self.clone(), key, heard, trouble: None })
    }
}

/// The address that tunnels to the real server begin at, and the kernel would choose: never a VIP.
fn own_source(real: &Real, is_v4: bool) -> Option<IpAddr> {
    let source = ip(real.family, &real.source);
    (real.source != Address::default() && source.is_ipv4() == is_v4).then_some(source)
}

/// Packets to a port of the VIP, and what comes back.
pub(super) struct Conversation {
    passage: Passage,
    pub key: Key,
    heard: mpsc::Receiver<Arrival>,
    /// Why the last packet was not sent.
    trouble: Option<String>,
}

impl Conversation {
    /// Sends an IP packet. One that cannot be sent now is as good as lost on the way.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        let Passages { maps, clock, sender, .. } = &*self.passage.passages;
        // Only for the tick at which a neighbour is asked for.
        let now = clock.at(since_boot().unwrap_or_default());
        self.trouble = match passage::through(&maps.memory, self.passage.real, packet, now) {
            Ok((frame, interface)) => sender.send(interface, &frame).err().map(|error| plain(&error)),
            Err(Reason::NoNeighbour) => Some("its MAC address is not known".into()),
            Err(reason) => Some(reason.sentence().into()),
        };
        self.trouble.is_none()
    }

    pub fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<Arrival> {
        match self.heard.poll_recv(context) {
            Poll::Ready(Some(arrival)) => Poll::Ready(arrival),
            // Nobody will say anything any more; whoever waits has a deadline.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    async fn hear(&mut self) -> Arrival {
        std::future::poll_fn(|context| self.poll_heard(context)).await
    }

    pub fn complained(&self, Complaint { from, what }: Complaint) -> Fault {
        let vip = self.key.vip;
        Fault::Theirs(match what {
            What::PortClosed => "connection refused".into(),
            What::NoTunnel => format!("{from} refuses the tunnel's packets: has it a decapsulator?"),
            // Perhaps it is the director who says so, to whom the packet has come back.
            What::PassedOn => format!("it passes on what is for {vip}, and so has not got that address itself"),
            What::Unreachable => format!("{from} says that {vip} cannot be reached"),
        })
    }

    /// Nothing has come.
    pub fn silent(&self, timeout: Duration) -> Fault {
        let trouble = self.trouble.as_ref().map_or_else(String::new, |trouble| format!(": {trouble}"));
        Fault::Theirs(format!("{SILENCE} {} within {timeout:?}{trouble}", self.key.vip))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.passage.passages.shared().waiting.remove(&self.key);
    }
}

/// How it begins what is said of a server that does not answer.
pub const SILENCE: &str = "no answer through";

/// Datagrams to a port of the VIP.
pub(super) struct Datagrams(Conversation);

impl Datagrams {
    pub fn new(conversation: Conversation) -> Self {
        Self(conversation)
    }

    /// Waits until it can be sent.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let packet = packet(&self.0.key, bytes).ok_or(io::ErrorKind::InvalidInput)?;
        while !self.0.send(&packet) {
            tokio::time::sleep(SEND_AGAIN).await;
        }
        Ok(())
    }

    /// What comes as an answer, or a refusal.
    pub async fn receive(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            match self.0.hear().await {
                Arrival::Packet(packet) => {
                    if let Some(bytes) = arrival::datagram(&packet) {
                        return Ok(bytes.to_vec());
                    }
                }
                Arrival::Complaint(complaint) => return Err(self.0.complained(complaint)),
            }
        }
    }

    pub fn silent(&self, timeout: Duration) -> Fault {
        self.0.silent(timeout)
    }
}

fn packet(key: &Key, bytes: &[u8]) -> Option<Vec<u8>> {
    let builder = match (key.own, key.vip) {
        (IpAddr::V4(own), IpAddr::V4(vip)) => etherparse::PacketBuilder::ipv4(own.octets(), vip.octets(), HOPS),
        (IpAddr::V6(own), IpAddr::V6(vip)) => etherparse::PacketBuilder::ipv6(own.octets(), vip.octets(), HOPS),
        _ => return None,
    };
    let builder = builder.udp(key.own_port, key.port);
    let mut packet = Vec::with_capacity(builder.size(bytes.len()));
    builder.write(&mut packet, bytes).ok()?;
    Some(packet)
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// What the kernel's receive offload makes of several segments is at most an IP packet.
const MOST_BYTES: usize = 65_536;
/// Packets that one conversation leaves unread.
const MOST_WAITING: usize = 64;
/// How long the host's addresses are taken to be the same.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// As long as the daemon takes to have a neighbour found.
const SEND_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        let address = |on: &str, address: &str| (on.to_owned(), address.parse().unwrap());
        Shared {
            interfaces: ["eth0", "lo"].map(str::to_owned).into(),
            lent: ["192.0.2.10".parse().unwrap()].into(),
            addresses: vec![
                address("eth0", "fe80::1"),
                address("eth0", "192.0.2.10"),
                address("eth7", "192.0.2.7"),
                address("eth0", "192.0.2.1"),
                address("lo", "127.0.0.1"),
            ],
            looked: Some(Instant::now()),
            ..Shared::default()
        }
    }

    #[test]
    fn a_check_comes_from_an_address_of_the_directors_own() {
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let own = |is_v4, interface, other| shared().own(is_v4, interface, other).map(|own| own.to_string());
        assert_eq!(own(true, loopback, false).as_deref(), Some("127.0.0.1"));
        assert_eq!(own(true, loopback, true).as_deref(), Some("192.0.2.1"), "no VIP, and no foreign interface");
        assert_eq!(own(false, loopback, false), None);
    }

    #[test]
    fn no_two_conversations_are_alike() {
        let mut shared = shared();
        let mut next = |port| {
            let key = shared.free(arrival::TCP, [192, 0, 2, 10].into(), port, [192, 0, 2, 1].into())?;
            shared.waiting.insert(key, mpsc::channel(1).0).is_none().then_some(key.own_port)
        };
        let ports: BTreeSet<u16> = (0..PORTS.len()).filter_map(|_| next(80)).collect();
        assert_eq!(ports.len(), PORTS.len());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        assert_eq!(next(80), None, "there is none left");
        assert!(next(443).is_some());
    }

    #[test]
    fn a_datagram_is_a_packet_to_the_vip() {
        let key = Key {
            protocol: arrival::UDP,
            vip: [192, 0, 2, 10].into(),
            port: 53,
            own: [10, 0, 0, 1].into(),
            own_port: 61_000,
        };
        let packet = packet(&key, b"hello").unwrap();
        assert_eq!((packet[8], &packet[16..20]), (HOPS, &[192, 0, 2, 10][..]));
        assert_eq!(arrival::datagram(&packet), Some(&b"hello"[..]));
        let mixed = Key { own: [1; 16].into(), ..key };
        assert_eq!(super::packet(&mixed, b""), None);
    }
}
