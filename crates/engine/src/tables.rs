//! The tables as the engine sees them: lookups by index, clocks and counters. No policy.

use crate::layout::Word64;
use crate::layout::{
    Address, AddressCell, Cell, Condition, Control, Destination, Fragment, Load, Macs, Neighbour, NextHop, PortCell,
    Processor, RangeCell, Real, Server, Service, Slot, Vip,
};
use crate::reason::Reason;
use crate::wire::Headers;

/// One of the tables of [`Cell`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellTable {
    /// Established connections, and datagram flows.
    Flows,
    /// Connections whose handshake is not finished, and datagram flows of one datagram: a flood pushes out only each
    /// other.
    HalfOpen,
    /// Persistence templates.
    Templates,
    /// Destinations, and the real servers that have served them: see [`crate::schedule::locality`].
    Localities,
}

/// Where a packet to an arbitrary address leaves the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Via {
        interface: u32,
        macs: Macs,
    },
    /// There is a route out of this interface, but the next hop's MAC address is not known.
    NoNeighbour {
        interface: u32,
    },
    /// The destination is the director itself.
    Here,
    None,
}

/// What a route is asked for.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    pub family: u8,
    pub source: Address,
    pub destination: Address,
    pub interface: u32,
}

/// A step of the decision, for whoever explains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A condition of a mark rule was asked.
    Condition {
        index: u32,
        holds: bool,
    },
    /// The destination is a member of a service; the real servers' port. `expected`: for connections that are recorded
    /// or announced.
    Member {
        service: u32,
        port: u16,
        expected: bool,
    },
    /// The real server opens a connection with the VIP's address.
    Outbound {
        real: u32,
    },
    /// An FTP control connection announces a data connection: of the client to this port of the VIP, or of the real
    /// server to this port of the client.
    Announced {
        real: u32,
        port: u16,
        passive: bool,
    },
    /// The connection that opens has been announced.
    Expected {
        real: u32,
    },
    /// The source is a real server.
    FromServer {
        node: u32,
    },
    /// The table scheduler's slot, its real server, and whether records must be asked.
    Slot {
        index: u32,
        real: u32,
        record: bool,
    },
    /// A record of the connection was found.
    Flow {
        table: CellTable,
        real: u32,
        state: u64,
    },
    /// None was.
    NoFlow,
    /// The closed connection of the same addresses and ports was on this real server.
    Again {
        real: u32,
    },
    /// The client's persistence template names a real server.
    Template {
        real: u32,
        ticks_left: u32,
    },
    /// It has one, but the real server takes no clients any more.
    TemplateStale {
        real: u32,
    },
    /// It has one, and stays there, but the real server takes no new flows of this part of the service.
    TemplateElsewhere {
        real: u32,
    },
    NoTemplate,
    /// It is an ICMP error that quotes this packet.
    Quote {
        packet: Headers,
    },
    /// A later fragment, whose first one has gone to a real server, or to the client.
    Fragment {
        real: u32,
        to_client: bool,
    },
    /// The real server of the client's slot has reached its threshold.
    Overloaded {
        real: u32,
    },
    /// The least loaded of the real servers that have served this destination lately; [`crate::layout::NO_REAL`]: none.
    Locality {
        real: u32,
    },
    /// The scheduler chose.
    Scheduled {
        real: u32,
    },
    /// Fullnat: a source is tried for the connection.
    Source {
        number: u32,
        port: u16,
        free: bool,
    },
    /// Fullnat: a reply to a source, and the connection that has it.
    Back {
        real: u32,
        client: Address,
        port: u16,
        vip: Address,
        vip_port: u16,
        family: u8,
    },
}

/// Visits numbers in order. See [`Tables::scan`].
pub trait Scan<T> {
    /// False ends the scan.
    fn visit(&mut self, tables: &T, index: u32) -> bool;
}

/// Everything that a packet can ask. An index out of bounds answers `None`.
pub trait Tables: Sized {
    fn control(&self) -> Option<Control>;

    fn address(&self, index: u32) -> Option<AddressCell>;
    fn port(&self, index: u32) -> Option<PortCell>;
    fn range(&self, index: u32) -> Option<RangeCell>;
    fn condition(&self, index: u32) -> Option<Condition>;
    fn destination(&self, index: u32) -> Option<Destination>;
    /// Number of the destination with the longest prefix that holds `address`, in this half of the classifier.
    fn prefix(&self, half: u32, family: u8, address: &Address) -> Option<u32>;
    fn vip(&self, index: u32) -> Option<Vip>;
    /// A source address of fullnat.
    fn source(&self, number: u32) -> Option<Address>;

    /// The version of the service that is in force.
    fn service(&self, index: u32) -> Option<Service>;
    fn slot(&self, index: u32) -> Option<&Slot>;
    fn server(&self, index: u32) -> Option<Server>;
    fn real(&self, index: u32) -> Option<Real>;
    fn load(&self, index: u32) -> Option<&Load>;
    /// The scheduler's place in its round, a word for each service.
    fn cursor(&self, service: u32) -> Option<&Word64>;

    fn cell(&self, table: CellTable, index: u32) -> Option<&Cell>;
    /// Word of a watch filter: 64 bits each, the second filter after the first.
    fn watch(&self, index: u32) -> Option<&Word64>;
    fn neighbour(&self, index: u32) -> Option<&Neighbour>;

    fn fragment(&self, index: u32) -> Option<&Fragment>;

    /// This one's own; `None`: packets take no shortcuts.
    fn processor(&self) -> Option<&Processor>;

    /// Of a group of clients: see [`crate::answer`].
    fn answers(&self, group: u32) -> Option<&Word64>;
    /// Of a service: see [`crate::rate`].
    fn rate(&self, service: u32) -> Option<&Word64>;

    /// Now, in ticks; wraps.
    fn now(&self) -> u32;
    /// The next hop of the longest of the copied routes' prefixes that holds this address.
    #[inline(always)]
    fn next_hop(&self, _family: u8, _address: &Address) -> Option<NextHop> {
        None
    }
    /// The kernel's own answer.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Visits `0..count` in order until the visitor has enough.
    fn scan<S: Scan<Self>>(&self, count: u32, visitor: &mut S);

    /// A packet to a real server.
    fn count_in(&mut self, real: u32, bytes: u32, new_connection: bool);
    /// A packet from a real server.
    fn count_out(&mut self, real: u32, bytes: u32);
    /// Where this processor counts a real server's traffic.
    fn traffic(&self, real: u32) -> u32;
    /// A packet to a real server, or from it (`out`), by where its traffic is counted.
    fn count_at(&self, place: u32, bytes: u32, out: bool);
    fn count(&mut self, reason: Reason);
    /// A new connection was one too many for its service.
    fn count_refused(&mut self, service: u32);

    /// Told of each step; for explanations. Free where nobody listens.
    #[inline(always)]
    fn note(&self, _step: Step) {}
}
