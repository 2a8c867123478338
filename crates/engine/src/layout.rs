//! What the tables hold: one `repr(C)` record a table, shared by the kernel, the daemon and the tests.
//!
//! Configuration records are plain values that only the daemon writes. Records that packets write are made of atomics,
//! so that the same safe code serves the kernel, a memory map and a test. Addresses are in network byte order; ports
//! and lengths are numbers in host order, because ranges compare them.

pub use marca_atomic::{Word32, Word64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Of all layouts in this file: daemon and pinned tables must agree.
pub const LAYOUT_VERSION: u32 = 16;

/// Limits, each with its reason.
pub mod limits {
    /// VLAN tags that are followed: 802.1Q and QinQ.
    pub const TAGS: usize = 2;
    /// IPv6 extension headers that are followed. RFC 8200 §4.1 names seven kinds; real traffic has one or two.
    pub const EXTENSIONS: usize = 6;
    /// Cells looked at for an address or port before it counts as absent; the writer grows the table until that holds.
    pub const PROBES: u32 = 8;
    /// Conditional mark rules at one destination and port: each is a step for every packet that meets none before it.
    pub const CONDITIONS: u32 = 32;
    /// Steps of the binary search among a destination's port ranges: 2^16 ranges cannot be more than there are ports.
    pub const RANGE_STEPS: u32 = 16;
    /// Real servers in a service.
    pub const SERVERS: u32 = 4096;
    /// Cells a bucket of a connection table holds, and buckets that a key may be in.
    pub const WAYS: u32 = 4;
    /// See [`WAYS`].
    pub const CHOICES: u32 = 2;
    /// Bits of the watch filter (128 KiB: it stays in a second-level cache).
    pub const WATCH_BITS: u32 = 1 << 20;
    /// Neighbours that packets remember, until the kernel knows them: clients that came within about a second.
    pub const NEIGHBOURS: u32 = 4096;
    /// Groups of clients whose ICMP errors are limited in their rate: each for itself.
    pub const ANSWERS: u32 = 256;
    /// Fragmented packets whose later fragments are still to come. They come within milliseconds: a flood of a million first
    /// fragments a second leaves every record 16.
    pub const FRAGMENTS: u32 = 1 << 14;
    /// Records of a bucket of that table.
    pub const FRAGMENT_WAYS: u32 = 8;
    /// Destinations that the schedulers `lblc` and `lblcr` remember, of all services together (2 MiB). IPVS begins to
    /// forget at 16,384 for each service.
    pub const LOCALITIES: u32 = 1 << 15;
    /// Real servers that `lblcr` remembers for a destination.
    pub const REPLICAS: usize = 6;
    /// Slots looked at for a client whose slot's real server is over its threshold, before the list of the real
    /// servers: IPVS's whole table.
    pub const FALLBACKS: u32 = 256;
    /// Shortcuts of a processor (104 KiB: they stay in a second-level cache); a power of two.
    pub const SHORTCUTS: usize = 1 << 10;
    /// Doors of a processor (48 KiB); a power of two.
    pub const DOORS: usize = 1 << 10;
    /// Clients, or blocks of them, to which a processor remembers the next hop (10 KiB); a power of two.
    pub const HOPS: usize = 1 << 8;
    /// Room for the counters of packets by reason; a power of two.
    pub const REASONS: usize = 64;
    /// Prefixes of copied routes: some thousands of VIPs among them. A router with more (a full Internet table has a
    /// million) asks the kernel.
    pub const ROUTES: u32 = 1 << 16;
    /// Source addresses of fullnat, former ones included; a record names one by 16 bits.
    pub const SOURCES: u32 = 4096;
    /// Sources that a new connection under fullnat tries: with nine of ten in use, one connection in thirty finds none.
    pub const SOURCE_TRIES: u32 = 32;
}

/// `BPF` jiffies are shifted right by this to give ticks: fine enough for timeouts in seconds, and 32 bits of them last
/// for more than 200 days of silence at any `CONFIG_HZ`.
pub const TICK_SHIFT: u32 = 2;

/// An IPv4 or IPv6 address in network byte order; IPv4 is in the last four bytes, the others are 0. Which family it is, is
/// always known beside it.
///
/// Two words of eight bytes in memory order, which LLVM for BPF compares and hashes as they are; of parts of four it would
/// put them together each time.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Address([u64; 2]);

impl Address {
    pub const NONE: Self = Self([0; 2]);

    /// Of what [`Address::parts`] gives.
    #[inline(always)]
    pub const fn new([a, b, c, d]: [u32; 4]) -> Self {
        Self([a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32])
    }

    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::of_last(u32::from_ne_bytes(octets))
    }

    pub fn v6(octets: [u8; 16]) -> Self {
        Self(zerocopy::transmute!(octets))
    }

    /// An IPv4 address, as it is in memory.
    #[inline(always)]
    pub const fn of_last(part: u32) -> Self {
        Self([0, (part as u64) << 32])
    }

    /// Of what [`Address::words`] gives.
    #[inline(always)]
    pub const fn of_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// As two words, in memory order.
    #[inline(always)]
    pub fn words(&self) -> [u64; 2] {
        self.0
    }

    /// As four words, in memory order.
    #[inline(always)]
    pub fn parts(&self) -> [u32; 4] {
        let [a, b] = self.0;
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
    }

    /// The last of them: all of an IPv4 address.
    #[inline(always)]
    pub fn last(&self) -> u32 {
        (self.0[1] >> 32) as u32
    }

    /// Bits that both have.
    #[inline(always)]
    pub fn masked(&self, mask: &Address) -> Address {
        let ([a, b], [p, q]) = (self.0, mask.0);
        Address([a & p, b & q])
    }

    /// The IPv4 octets, if this is known to be IPv4.
    #[inline(always)]
    pub fn octets_v4(&self) -> [u8; 4] {
        self.last().to_ne_bytes()
    }

    /// The IPv6 octets, if this is known to be IPv6.
    #[inline(always)]
    pub fn octets_v6(&self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }
}

/// The MAC addresses of a frame, destination's and source's, in memory order: words, since LLVM for BPF moves bytes one by
/// one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Macs(pub [u32; 3]);

impl Macs {
    #[inline(always)]
    pub fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (destination, source);
        Self([[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes))
    }

    pub fn destination(&self) -> [u8; 6] {
        let [[a, b, c, d], [e, f, ..], _] = self.0.map(u32::to_ne_bytes);
        [a, b, c, d, e, f]
    }

    pub fn source(&self) -> [u8; 6] {
        let [_, [.., g, h], [i, j, k, l]] = self.0.map(u32::to_ne_bytes);
        [g, h, i, j, k, l]
    }
}

/// The address family, as the IP version number. 0 marks an empty cell.
pub const V4: u8 = 4;
/// See [`V4`].
pub const V6: u8 = 6;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
/// In place of a protocol, in the key of a data connection that an FTP control connection has announced: reserved by IANA,
/// and so no packet's.
pub const ANNOUNCED: u8 = 255;

macro_rules! record {
    ($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

record! {
    /// Sizes and switches; one cell.
    Control = 72 {
        seed: u64,
        version: u32,
        /// Which half of the classifier's tables is in force: 0 or 1.
        half: u32,
        /// Cells in one half of the address and port tables, minus 1; cells are a power of two.
        address_mask: u32,
        port_mask: u32,
        /// Elements in one half of the destination, range, condition and VIP tables; for the writer.
        half_len: u32,
        /// See `control_flags`.
        flags: u32,
        /// Buckets of the connection tables, minus 1.
        flow_mask: u32,
        half_open_mask: u32,
        template_mask: u32,
        /// Which of the two watch filters is read: 0 or 1. Both are written.
        watch: u32,
        /// Tick from which on the copied routes are not to be used; see [`control_flags::ROUTES`].
        routes_until: u32,
        /// Ticks that each of a group's ICMP errors uses up; see [`crate::answer`].
        answer_ticks: u32,
        /// How many times the classifier has been written, and which of those the last whole pass of the sweep knew.
        written: u32,
        swept: u32,
        /// Ticks that a fragmented packet is remembered; see [`crate::fragment`].
        fragment_ticks: u32,
        spare: u32,
    }
}

pub mod control_flags {
    /// Some mark rule has a destination shorter than a host: ask the prefix table for what the address table lacks.
    pub const PREFIXES: u32 = 1;
    /// There are copied routes; good until `routes_until`.
    pub const ROUTES: u32 = 2;
}

record! {
    /// Address table: an address that matters, as VIP, as real server under NAT, or both. Open addressing by
    /// `hash::own_address`.
    AddressCell = 32 {
        address: Address,
        /// Index into the destinations when it is one, else 0.
        destination: u32,
        /// Number of the real server (host) when it is one under NAT, else 0.
        node: u32,
        /// V4, V6, or 0: empty.
        family: u8,
        /// See `node_flags`.
        flags: u8,
        /// How many cells there are to look at, from this one on, for an address whose home this is; 0: no such address. It
        /// is the place's own, whoever is in it: most packets that are nobody's are known as such by one cell.
        reach: u8,
        spare: [u8; 5],
    }
}

pub mod node_flags {
    /// Replies from ports without a cell of their own may belong to a connection: a service has ranges.
    pub const RANGES: u8 = 1;
    /// A source address of fullnat.
    pub const SOURCE: u8 = 2;
}

record! {
    /// Destinations: where the port ranges of a VIP (or of a prefix of mark rules) are.
    Destination = 32 {
        /// First range; those of TCP, then of UDP, then of SCTP follow each other, each sorted and disjoint.
        ranges: u32,
        tcp: u32,
        udp: u32,
        sctp: u32,
        spare: [u32; 4],
    }
}

record! {
    /// What a port means: see `target_flags`.
    Target = 16 {
        /// Service number, or first condition.
        owner: u32,
        /// Replies: index of the VIP's cell in the VIP table.
        vip: u32,
        /// Conditions at `owner`.
        conditions: u16,
        /// The real servers' port, or for replies the VIP's port; 0 keeps it.
        port: u16,
        flags: u32,
    }
}

pub mod target_flags {
    /// `owner` is the first of `conditions` conditions; none holds: not a member.
    pub const CONDITIONAL: u32 = 1;
    /// Replies: all connections from this port of this node are of one service, VIP and port.
    pub const UNIQUE: u32 = 2;
    /// Replies: will be unique when the connections of a service that left the node are gone. Until then each reply
    /// asks its record; clients that come past the VIP are recorded already.
    pub const UNIQUE_LATER: u32 = 4;
    /// Destinations: only connections that are recorded, or that a real server has announced, are members.
    pub const EXPECTED: u32 = 8;
    /// Replies: the real server may open connections from this port, as the VIP at `vip`; `owner` is its own number.
    pub const OUTBOUND: u32 = 16;
    /// Replies: with UNIQUE, of a service that schedules each datagram by itself; `owner` is the real server's own number.
    pub const SINGLE: u32 = 32;
}

record! {
    /// Port table: exact ports, of destinations and of nodes. Open addressing by `hash::word(seed, key)`.
    PortCell = 24 {
        /// `port_key`; 0: empty.
        key: u64,
        target: Target,
    }
}

record! {
    /// Port ranges of a destination.
    RangeCell = 24 {
        first: u16,
        last: u16,
        spare: u32,
        target: Target,
    }
}

record! {
    /// A condition of a mark rule, with what holds when it does. Rules with the last word come first.
    Condition = 64 {
        from: Address,
        mask: Address,
        target: Target,
        /// 0: any.
        interface: u32,
        /// V4 or V6: of `from`; 0: any source.
        family: u8,
        /// 1: no service takes this mark (and no port service this port): not a member.
        absent: u8,
        spare: u16,
        spare2: u64,
    }
}

/// Key of the port table for a destination's port.
#[inline(always)]
pub fn port_key(destination: u32, protocol: u8, port: u16) -> u64 {
    u64::from(destination) << 32 | u64::from(protocol) << 16 | u64::from(port)
}

/// Key of the port table for a node's port: the same space, told apart by a bit.
#[inline(always)]
pub fn node_port_key(node: u32, protocol: u8, port: u16) -> u64 {
    port_key(node, protocol, port) | 1 << 31
}

record! {
    /// VIPs, for replies.
    Vip = 16 { address: Address, }
}

record! {
    /// One address family of a virtual service.
    Service = 128 {
        /// Clients equal under this mask are one client, to table schedulers and to persistence.
        mask: Address,
        slots: u32,
        slots_len: u32,
        servers: u32,
        servers_len: u32,
        /// 0: no persistence. Ticks, as all below.
        persist: u32,
        half_open: u32,
        established: u32,
        closing: u32,
        udp: u32,
        max_weight: u32,
        gcd_weight: u32,
        /// Which number of the configuration's services this is.
        config: u32,
        /// How long `lblc` and `lblcr` remember a destination, and how soon the latter takes back a replica.
        locality: u32,
        /// See `service_flags`.
        flags: u32,
        /// See [`crate::schedule::Scheduler`].
        scheduler: u8,
        /// log2 of `slots_len` for `sh`.
        sh_bits: u8,
        spare: [u8; 2],
        /// Fullnat: the first of its source addresses, and how many there are.
        sources: u32,
        sources_len: u32,
        /// Established SCTP associations, and those that shut down.
        sctp: u32,
        sctp_closing: u32,
        /// A datagram flow whose real server still answers so long after the client's one datagram is no flood's.
        assured: u32,
        /// New connections: see [`crate::rate`]. 0: no limit.
        rate_each: u64,
        rate_most: u64,
        /// FTP: ports that real servers may announce, first and last.
        passive_first: u16,
        passive_last: u16,
        /// The number under which the service has its real servers, templates and rate: its own, but for a part of a service.
        owner: u32,
        /// Of a part: its bit in [`Real::closed`]; else 0.
        part: u32,
        spare2: u32,
    }
}

pub mod service_flags {
    /// A table decides: data packets of a slot that has not changed need no record.
    pub const TABLE: u32 = 1;
    /// UDP is not recorded.
    pub const UDP_STATELESS: u32 = 2;
    /// The client's port is part of what the table hashes.
    pub const HASH_PORT: u32 = 4;
    /// Each datagram is scheduled by itself, and UDP is not recorded.
    pub const ONE_PACKET: u32 = 1 << 3;
    /// Of table schedulers: clients of a real server that takes nobody are refused.
    pub const NO_FALLBACK: u32 = 1 << 4;
    /// Some real server has a threshold: see [`crate::schedule::threshold`].
    pub const THRESHOLDS: u32 = 1 << 5;
    /// Clients are not told that their connection's real server has failed.
    pub const SILENT: u32 = 1 << 8;
    /// Nor are new ones that no real server takes.
    pub const UNSERVED_DROPPED: u32 = 1 << 9;
    /// Its TCP connections are FTP control connections under NAT: see [`crate::ftp`].
    pub const FTP: u32 = 1 << 16;
    /// Connections have records, and packets ask them, even where a table decides: some real server is under fullnat,
    /// or what connections say is read.
    pub const RECORDED: u32 = 1 << 20;
    /// A SYN on the addresses and ports of a closed connection goes to the same real server again.
    pub const REUSE_KEEPS: u32 = 1 << 28;
}

record! {
    /// Services: two versions and which one is in force, so that one store changes a service.
    ServiceCell = 264 {
        current: u32,
        spare: u32,
        versions: [Service; 2],
    }
}

record! {
    /// A real server in the list of its service.
    Server = 8 { real: u32, weight: u32, }
}

record! {
    /// A real server of one service: everything that forwarding needs, in one cache line.
    Real = 64 {
        address: Address,
        /// Tunnels: the outer source.
        source: Address,
        /// To the next hop; valid with `real_flags::RESOLVED`.
        macs: Macs,
        interface: u32,
        /// Number of the service.
        service: u32,
        /// Largest IP packet on the way to it; 0: not known.
        mtu: u16,
        /// See [`crate::forward::Method`].
        method: u8,
        /// V4 or V6: of `address`.
        family: u8,
        /// See `real_flags`.
        flags: u8,
        spare: u8,
        /// GUE: the destination port.
        tunnel_port: u16,
        /// The last weight that was not 0; for the daemon. 0: none since it has this number.
        last_weight: u16,
        /// Parts of its service whose new flows it does not take: see [`Service::part`].
        closed: u16,
    }
}

pub mod real_flags {
    /// The next hop is known.
    pub const RESOLVED: u8 = 1;
    /// Takes clients that a persistence template names.
    pub const UP: u8 = 2;
    /// Gone from the configuration; only its live connections know it.
    pub const LEAVING: u8 = 4;
    /// Has failed: see `KEEP`, and `service_flags::SILENT`.
    pub const DOWN: u8 = 8;
    /// GUE: the outer UDP header has a checksum, where the packet's own tells it.
    pub const CHECKSUM: u8 = 1 << 7;
    /// NAT: new connections get another source, too (fullnat).
    pub const FULL: u8 = 1 << 6;
    /// When it has failed, connections go on to it as if nothing had happened; datagrams do not.
    pub const KEEP: u8 = 16;
}

/// A slot of a table scheduler: the real server in the low 32 bits ([`NO_REAL`]: none), and bits above.
pub type Slot = Word64;
/// See [`Slot`].
pub const NO_REAL: u32 = u32::MAX;
/// The number of no real server; that of connections which have been ended by hand. Its record has failed.
pub const NOBODY: u32 = 0;

pub mod slot_bits {
    /// Some connection of this slot may belong to another real server: ask its record.
    pub const CONSULT: u64 = 1 << 32;
    /// The daemon wants the ages of this slot's records to be true: refresh them.
    pub const AUDIT: u64 = 1 << 33;
    /// Set with CONSULT by whoever causes it; taken back by the sweep, which ends CONSULT only where it has stayed away
    /// for a whole pass.
    pub const FRESH: u64 = 1 << 34;
    /// Either sends the packet to its record.
    pub const RECORD: u64 = CONSULT | AUDIT;
}

/// Connections that a real server has now (`ActiveConn` and `InActConn` of ipvsadm), and how many it may have.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Load {
    pub active: Word64,
    pub inactive: Word64,
    /// See [`crate::schedule::threshold`]; 0: no thresholds.
    pub bounds: Word64,
}

/// A connection, a half-open connection or a persistence template: one cache line. See [`crate::flow`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Cell {
    /// Low two bits: 0 empty, 1 being written, 2 valid; above: how many times it was taken.
    pub stamp: Word32,
    /// Tick of the last packet that looked it up. Templates: tick at which it expires.
    pub seen: Word32,
    pub key: [Word64; 5],
    /// Real server (low half) and service (high half).
    pub owner: Word64,
    /// Server's port (16 bits), `state_bits` (16 bits), and 32 bits more: fullnat's source (see
    /// [`crate::forward::fullnat`]), or with one of `state_bits::FTP` what that says.
    pub state: Word64,
}
const _: () = assert!(size_of::<Cell>() == 64);

pub mod state_bits {
    /// Bits below are the real server's port.
    pub const SHIFT: u32 = 16;
    /// The handshake is not finished. Datagram flows have none, and are half-open connections without it until the
    /// client's second datagram.
    pub const HALF_OPEN: u64 = 1 << 16;
    pub const FIN_CLIENT: u64 = 1 << 17;
    pub const FIN_SERVER: u64 = 1 << 18;
    pub const RESET: u64 = 1 << 19;
    /// A client's connection straight to a real server's own address, past the VIP: its replies are left alone.
    pub const DIRECT: u64 = 1 << 20;
    /// Not a connection but a persistence template whose client has not proved to be there. With `HALF_OPEN` it waits for
    /// a handshake, else for the second datagram of a flow.
    pub const TEMPLATE: u64 = 1 << 21;
    /// Of a connection under fullnat, as its real server sees it: the other record knows the connection.
    pub const REVERSE: u64 = 1 << 29;
    /// The real server has opened it, with the VIP's address.
    pub const OUTBOUND: u64 = 1 << 28;
    /// Bits above are fullnat's source; 0: the client's own.
    pub const SOURCE_SHIFT: u32 = 32;
    /// What tells the records of one real server's ports apart.
    pub const KIND: u64 = REVERSE | 0xffff_ffff << SOURCE_SHIFT;
    /// An FTP control connection. The upper 32 bits are the sequence number at which the real server's next line begins;
    /// 0: not known.
    pub const CONTROL: u64 = 1 << 30;
    /// Not a connection but one that an FTP control connection has announced.
    pub const ANNOUNCED: u64 = 1 << 31;
    /// A connection that was announced.
    pub const DATA: u64 = 1 << 27;
    /// With one of these the upper 32 bits are no source. Of a connection that was announced, and of its announcement, they
    /// are the client's port and the real server's of the control connection.
    pub const FTP: u64 = CONTROL | ANNOUNCED | DATA;
    /// Where the upper 32 bits begin.
    pub const UPPER: u32 = SOURCE_SHIFT;
    /// Any of the ways to end.
    pub const ENDING: u64 = FIN_CLIENT | FIN_SERVER | RESET;
}

record! {
    /// Copied routes: the next hop of a prefix.
    NextHop = 24 {
        /// 0: the kernel must be asked.
        interface: u32,
        macs: Macs,
        /// An address whose longest prefix this is shares it with its whole block: 1: the small one, 2: the large one
        /// ([`crate::route::block_bits`]).
        whole: u32,
        spare: u32,
    }
}

/// A neighbour as packets know it. See [`crate::neighbour`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Neighbour {
    /// V4 or V6; 0: free, or being written.
    pub family: Word32,
    pub interface: Word32,
    pub address: [Word64; 2],
    /// Its MAC address, and the director's own towards it, in memory order; 0: not known.
    pub macs: [Word64; 2],
    /// 1: a packet needs the kernel to know it; the daemon sees to that.
    pub asked: Word64,
}
const _: () = assert!(size_of::<Neighbour>() == 48);

/// Where the first fragment of a packet went. See [`crate::fragment`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Fragment {
    /// As [`Cell::stamp`].
    pub stamp: Word32,
    /// Tick of the first fragment.
    pub seen: Word32,
    /// Source, destination; identification, protocol and family.
    pub key: [Word64; 5],
    /// To a client: the VIP.
    pub vip: [Word64; 2],
    /// Under fullnat: to a real server the source's address, to a client the client's.
    pub peer: [Word64; 2],
    /// Real server (low half), and above: 1 when it goes to the client, and 2 under fullnat.
    pub way: Word64,
}
const _: () = assert!(size_of::<Fragment>() == 88);

/// What each processor has for itself. Made of shared words only, so that safe code can write it; but for the daemon, which
/// reads the counters and raises the generation, nobody else does.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Processor {
    pub shortcuts: [Shortcut; limits::SHORTCUTS],
    /// How many times anything has been written on which shortcuts, doors or hops rest; see [`crate::shortcut`].
    pub generation: Word32,
    pub spare: Word32,
    /// Packets by reason.
    pub reasons: [Word64; limits::REASONS],
    pub sight: Sight,
    /// See [`crate::schedule::foresee`]: of the packet that is on its way.
    pub foreseen: Word64,
    pub doors: [Door; limits::DOORS],
    pub hops: [Hop; limits::HOPS],
}
const _: () = assert!(size_of::<Processor>() == 8 + 64 * 8 + 40 + 8 + 1024 * (104 + 48) + 256 * 40);

impl Processor {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(&self, reason: u32) {
        if let Some(count) = self.reasons.get(reason as usize & (limits::REASONS - 1)) {
            count.set(count.get().wrapping_add(1));
        }
    }
}

/// What the classifier says of a port. See [`crate::door`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Door {
    pub address: [Word64; 2],
    /// Port (16 bits), protocol and family (8 each), and above: 1 when they are the destination of packets, 2 when they are
    /// the source. 0: no door.
    pub port: Word64,
    /// The classifier that has said it, and [`Processor::generation`].
    pub foundation: Word64,
    pub service: Word32,
    /// Of a real server's port: as in [`crate::classify::Unique`], like the next.
    pub single: Word32,
    pub vip: Word32,
    /// The real servers' port, or of a real server's port the VIP's.
    pub server_port: Word32,
}
const _: () = assert!(size_of::<Door>() == 48);

/// What the copied routes say of an address, or of all in its block. See [`crate::route`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Hop {
    pub address: [Word64; 2],
    /// Its family, whether it is a block, and [`Processor::generation`] above. 0: of no address.
    pub foundation: Word64,
    /// As in [`NextHop`].
    pub interface: Word32,
    pub macs: [Word32; 3],
}
const _: () = assert!(size_of::<Hop>() == 40);

/// What becomes of one connection's packets in one direction. See [`crate::shortcut`].
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Shortcut {
    /// Source and destination of the packets, in memory order. 0: no shortcut.
    pub addresses: Word64,
    /// Their ports in memory order, and the protocol above.
    pub flow: Word64,
    /// The interface that they come in on.
    pub arrives: Word32,
    /// As in [`Processor`].
    pub generation: Word32,
    /// The connection's record.
    pub record: Word32,
    pub stamp: Word32,
    /// The low half of its state.
    pub state: Word32,
    /// The last tick of the shortcut's life.
    pub until: Word32,
    /// The largest packet that the way takes.
    pub mtu: Word32,
    /// What is counted, which also says how the frame is changed.
    pub reason: Word32,
    /// Where the real server's traffic is counted.
    pub traffic: Word32,
    /// The interface that they leave by.
    pub leaves: Word32,
    /// The new MAC addresses, in memory order.
    pub macs: [Word32; 3],
    /// The new addresses and ports, in memory order.
    pub source: Word32,
    pub destination: Word32,
    pub ports: Word32,
    /// What they, and the time to live, change for the header's checksum; and for TCP's or UDP's. Both in 16 bits.
    pub header_change: Word32,
    pub transport_change: Word32,
    /// Of a tunnel's outer header: the addresses, and the sum of all that is the same in each packet.
    pub outer_source: Word32,
    pub outer_destination: Word32,
    pub outer_sum: Word32,
    pub spare: Word32,
}
const _: () = assert!(size_of::<Shortcut>() == 104);

/// What is known of a packet that takes no shortcut, from its programs' first to the last: which flow it is, and what has
/// become of it.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Sight {
    /// As in [`Shortcut`]. 0: it can have none.
    pub addresses: Word64,
    pub flow: Word64,
    pub arrives: Word32,
    /// Before anything was looked up.
    pub generation: Word32,
    /// The record that its way was read from; [`crate::flow::NO_RECORD`]: none, or the connection is not busy.
    pub record: Word32,
    pub real: Word32,
    /// Its end.
    pub reason: Word32,
    pub leaves: Word32,
}
const _: () = assert!(size_of::<Sight>() == 40);

record! {
    /// Traffic of a real server; one a CPU. Bytes are of IP packets, as IPVS counts them.
    Traffic = 40 {
        connections: u64,
        in_packets: u64,
        in_bytes: u64,
        out_packets: u64,
        out_bytes: u64,
    }
}
