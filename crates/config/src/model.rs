//! What a configuration says, as a value that cannot be wrong: every address parsed, every name resolved, every
//! contradiction refused before it gets here. No spans, no text: diagnostics are made on the way in.

mod availability;

pub use availability::{Availability, BelowQuorum, Measure, Quorum, Start};
mod check;

pub use check::{
    Check, CheckPolicy, Dns, DnsRecord, Exchange, Expect, Http, HttpVersion, MAX_PARTS, Script, Talk, Tls, Via,
};

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// One configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub router: Router,
    pub api: Api,
    pub metrics: Metrics,
    /// In the order of the file: as with `iptables -j MARK`, a later rule that matches overrides an earlier one.
    pub marks: Vec<MarkRule>,
    /// In the order of the file.
    pub services: Vec<Service>,
}

/// The director itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Router {
    /// Interfaces on which clients arrive and VIPs are put. At least one.
    pub outside: Vec<String>,
    /// Interfaces behind which the real servers are. May be empty: a one-armed director uses `outside` for both.
    pub inside: Vec<String>,
    /// How packets are met on the interfaces that `attach_on` does not name.
    pub attach: Attach,
    pub attach_on: Vec<(String, Attach)>,
    pub limits: Limits,
    pub reload: ReloadWhen,
}

impl Router {
    /// How packets are met on this interface.
    pub fn attach(&self, interface: &str) -> Attach {
        self.attach_on.iter().find(|(name, _)| name == interface).map_or(self.attach, |(_, attach)| *attach)
    }
}

/// Where in the kernel packets are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// XDP where every driver has it, else TC.
    #[default]
    Auto,
    /// In the driver, or right behind drivers without XDP.
    Xdp,
    /// In the kernel's traffic control, on what it has made of frames: late, and with all that it knows of them.
    Tc,
}

impl Attach {
    pub fn name(self) -> &'static str {
        match self {
            Attach::Auto => "auto",
            Attach::Xdp => "xdp",
            Attach::Tc => "tc",
        }
    }
}

/// Who may ask the daemon beside those who may use its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Addresses that take requests by TLS; none: nobody.
    pub listen: Vec<SocketAddr>,
    /// Files in PEM: the certificate with those that lead to it, and its key. Empty without `listen`.
    pub certificate: String,
    pub key: String,
    /// Never empty with `listen`.
    pub tokens: Vec<Token>,
}

/// A secret that its bearer shows; the file has only its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Unique.
    pub name: String,
    pub access: Access,
    /// SHA-256.
    pub digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// What changes nothing.
    Read,
    Admin,
}

impl Access {
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Admin => "admin",
        }
    }
}

/// When the file is put in force anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReloadWhen {
    /// When somebody says so.
    #[default]
    Told,
    /// When it changes, too.
    OnChange,
}

impl ReloadWhen {
    pub fn name(self) -> &'static str {
        match self {
            ReloadWhen::Told => "when-told",
            ReloadWhen::OnChange => "on-change",
        }
    }
}

/// How much memory the data plane takes, fixed when it is first loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Established connections remembered, 64 bytes each. Rounded up to a power of two.
    pub flows: u32,
    /// Half-open connections remembered, 64 bytes each. Rounded up to a power of two.
    pub half_open: u32,
    /// Persistence templates remembered, 64 bytes each. Rounded up to a power of two.
    pub templates: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 1 << 20, half_open: 1 << 18, templates: 1 << 18 }
    }
}

/// What is told to Prometheus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where it is served in plain HTTP; nowhere if none.
    pub listen: Option<SocketAddr>,
    pub detail: Detail,
}

/// What has series of its own, beside the director as a whole. Each takes the coarser ones along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// The finest that is not too many.
    #[default]
    Auto,
    Servers,
    Services,
    Totals,
}

impl Detail {
    pub fn name(self) -> &'static str {
        match self {
            Detail::Auto => "auto",
            Detail::Servers => "servers",
            Detail::Services => "services",
            Detail::Totals => "totals",
        }
    }
}

/// A firewall mark. Never 0: that is what an unmarked packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub std::num::NonZeroU32);

/// As in the file's `value = 80`.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// `iptables -t mangle -A PREROUTING … -j MARK --set-mark value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkRule {
    pub value: Mark,
    /// Destination prefixes; never empty.
    pub to: Vec<IpNet>,
    /// Source prefixes; empty means any.
    pub from: Vec<IpNet>,
    /// Protocols and destination ports; empty means every TCP, UDP and SCTP packet.
    pub ports: Vec<PortMatch>,
    /// Input interfaces; empty means any.
    pub interfaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `tcp/80`, `udp/10000-20000`; `all` becomes one entry for each protocol with the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    pub protocol: Protocol,
    pub ports: PortRange,
}

/// As in the file: `tcp`, `tcp/80`, `udp/10000-20000`. [`crate::text::ports::matches`] reads it back.
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            PortRange::ALL => write!(f, "{}", self.protocol),
            PortRange { first, last } if first == last => write!(f, "{}/{first}", self.protocol),
            PortRange { first, last } => write!(f, "{}/{first}-{last}", self.protocol),
        }
    }
}

/// An inclusive range of ports. `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// Every port, 0 included, as `all` means it.
    pub const ALL: PortRange = PortRange { first: 0, last: u16::MAX };

    pub fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Whether a port is in both.
    pub fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A member port of a service, and the real servers' port when it differs (`tcp/443 -> 8443`, NAT only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPort {
    pub matching: PortMatch,
    pub target: Option<u16>,
}

/// As in the file: `tcp/80`, `tcp/443 -> 8443`. [`crate::text::ports::members`] reads it back.
impl fmt::Display for MemberPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.matching)?;
        match self.target {
            Some(target) => write!(f, " -> {target}"),
            None => Ok(()),
        }
    }
}

/// How a service's packets are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By destination: these VIPs (at least one, v4 and v6 mixed freely) and these ports (at least one).
    Ports { vips: Vec<IpAddr>, ports: Vec<MemberPort> },
    /// By mark: everything that a `[[mark]]` rule with this value matches. `vips` are the addresses that the director
    /// announces for it: the host prefixes of those rules unless the service lists its own. `target` is the real servers'
    /// port for all of it when it has one (NAT only).
    Mark { mark: Mark, vips: Vec<IpAddr>, target: Option<u16> },
}

impl Selector {
    pub fn vips(&self) -> &[IpAddr] {
        match self {
            Selector::Ports { vips, .. } | Selector::Mark { vips, .. } => vips,
        }
    }
}

/// A virtual service: many ports, one choice of real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The key in `[service.NAME]`; unique.
    pub name: String,
    pub selector: Selector,
    pub scheduler: Scheduler,
    pub scheduler_flags: SchedulerFlags,
    pub persistence: Option<Persistence>,
    pub forward: Forward,
    pub timeouts: Timeouts,
    pub udp: Udp,
    pub reuse: Reuse,
    pub on_failure: OnFailure,
    /// How long persistent clients stay with a server of weight 0, and connections with one that was removed; `None`:
    /// as long as they like. 0: they move, or end, at once.
    pub drain: Option<Duration>,
    pub rate_limit: Option<RateLimit>,
    /// Single TCP and UDP ports from which real servers open connections as the service's first VIP. NAT only.
    pub outbound: Vec<PortMatch>,
    /// What real servers under fullnat take for the clients' addresses; at most [`MAX_SOURCES`]. Empty without fullnat.
    pub sources: Vec<SourceRange>,
    /// Its ports are those of FTP control connections, which the data plane reads. NAT only: else `protocol = "ftp"` is
    /// but a short form for member ports.
    pub ftp: Option<Ftp>,
    pub availability: Availability,
    /// Each with its port; a check of several ports is as many. Empty: nobody asks, and the servers are up.
    pub checks: Vec<Check>,
    pub check_policy: CheckPolicy,
    /// In the order of the file; at least one; names unique within the service.
    pub servers: Vec<Server>,
}

/// How many source addresses a service can have.
pub const MAX_SOURCES: usize = 256;

/// Addresses of one family that follow each other: `10.0.0.100`, `10.0.0.100-10.0.0.110`, `10.0.0.96/28`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceRange {
    first: IpAddr,
    /// How many follow the first.
    more: u8,
}

impl SourceRange {
    /// None: of two families, the wrong way round, or more than [`MAX_SOURCES`].
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let distance = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(last.to_bits().checked_sub(first.to_bits())?),
            (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().checked_sub(first.to_bits())?,
            _ => return None,
        };
        Some(Self { first, more: u8::try_from(distance).ok()? })
    }

    pub fn first(self) -> IpAddr {
        self.first
    }

    /// In ascending order.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (0..=self.more).map(move |more| match self.first {
            IpAddr::V4(first) => IpAddr::from(Ipv4Addr::from_bits(first.to_bits().saturating_add(more.into()))),
            IpAddr::V6(first) => IpAddr::from(Ipv6Addr::from_bits(first.to_bits().saturating_add(more.into()))),
        })
    }
}

/// FTP whose control connections are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ftp {
    /// The ports that real servers may announce for passive data connections.
    pub passive: PortRange,
}

impl Default for Ftp {
    fn default() -> Self {
        Self { passive: PortRange { first: 1024, last: u16::MAX } }
    }
}

/// Named as in IPVS; `maglev` is also known as `mh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection.
    Wlc,
    /// Source hashing.
    Sh,
    /// Maglev consistent hashing.
    Maglev,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Weighted fail-over.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Destination hashing.
    Dh,
    /// Power of two choices.
    Twos,
    /// Locality-based least connection.
    Lblc,
    /// The same with replication.
    Lblcr,
}

impl Scheduler {
    pub const ALL: [Scheduler; 14] = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sh,
        Scheduler::Maglev,
        Scheduler::Sed,
        Scheduler::Nq,
        Scheduler::Fo,
        Scheduler::Ovf,
        Scheduler::Dh,
        Scheduler::Twos,
        Scheduler::Lblc,
        Scheduler::Lblcr,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Rr => "rr",
            Scheduler::Wrr => "wrr",
            Scheduler::Lc => "lc",
            Scheduler::Wlc => "wlc",
            Scheduler::Sh => "sh",
            Scheduler::Maglev => "maglev",
            Scheduler::Sed => "sed",
            Scheduler::Nq => "nq",
            Scheduler::Fo => "fo",
            Scheduler::Ovf => "ovf",
            Scheduler::Dh => "dh",
            Scheduler::Twos => "twos",
            Scheduler::Lblc => "lblc",
            Scheduler::Lblcr => "lblcr",
        }
    }

    /// Whether a table of clients decides, so that packets need no record of their connection.
    pub fn is_by_table(self) -> bool {
        matches!(self, Scheduler::Sh | Scheduler::Maglev)
    }
}

/// How the schedulers with a table use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `sh` and `maglev`: the client's port is hashed as well (IPVS's `sh-port`, `mh-port`).
    pub port: bool,
    /// `sh`, `maglev` and `dh`: clients of a server that takes nobody get another one (`sh-fallback`, `mh-fallback`).
    pub fallback: bool,
}

impl Default for SchedulerFlags {
    fn default() -> Self {
        Self { port: false, fallback: true }
    }
}

/// A client stays with its real server for `timeout` after its last new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    pub timeout: Duration,
    /// Clients whose IPv4 addresses agree under this mask are one client. Need not be a prefix, as in IPVS.
    pub netmask: Ipv4Addr,
    /// Clients whose IPv6 addresses agree in this many leading bits are one client. 0 to 128.
    pub prefix_len_v6: u8,
}

/// The forwarding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Masquerading: addresses and ports are rewritten, replies come back through the director.
    Nat,
    /// NAT that replaces the client's address and port, too, so that answers come back wherever the real server's default
    /// route leads.
    FullNat,
    /// Direct routing: only the frame's MAC addresses change.
    Dr,
    /// IP-in-IP.
    Tunnel,
    /// Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue).
    Gue(Gue),
    /// Generic routing encapsulation (RFC 2784).
    Gre,
    /// The director itself serves: packets are passed up to its own sockets.
    Local,
}

impl Forward {
    pub const ALL: [Forward; 7] = [
        Forward::Nat,
        Forward::FullNat,
        Forward::Dr,
        Forward::Tunnel,
        Forward::Gue(Gue::DEFAULT),
        Forward::Gre,
        Forward::Local,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Forward::Nat => "nat",
            Forward::FullNat => "fullnat",
            Forward::Dr => "dr",
            Forward::Tunnel => "tunnel",
            Forward::Gue(_) => "gue",
            Forward::Gre => "gre",
            Forward::Local => "local",
        }
    }

    /// Whether addresses and ports are rewritten, there and back.
    pub fn is_nat(self) -> bool {
        matches!(self, Forward::Nat | Forward::FullNat)
    }

    /// Whether packets get another IP header, which may be of another family.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Forward::Tunnel | Forward::Gue(_) | Forward::Gre)
    }
}

/// How a GUE tunnel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gue {
    /// UDP's destination port.
    pub port: u16,
    /// Whether the outer UDP header has a checksum, where the packet's own tells it. None: in IPv6, where RFC 8200 §8.1
    /// wants one; in IPv4 none is needed.
    pub checksum: Option<bool>,
}

impl Gue {
    /// The port is IANA's.
    pub const DEFAULT: Gue = Gue { port: 6080, checksum: None };
}

/// How long a silent connection is remembered. Defaults are IPVS's (`net/netfilter/ipvs/ip_vs_proto_tcp.c`,
/// `tcp_timeouts`; `ip_vs_proto_udp.c`, `udp_timeouts`; `ip_vs_proto_sctp.c`, `sctp_timeouts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub established: Duration,
    pub closing: Duration,
    pub half_open: Duration,
    pub udp: Duration,
    pub sctp: Duration,
    pub sctp_closing: Duration,
    /// How long `lblc` and `lblcr` remember who has served a destination (`lblc_expiration`).
    pub locality: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            established: Duration::from_secs(900),
            closing: Duration::from_secs(120),
            half_open: Duration::from_secs(60),
            udp: Duration::from_secs(300),
            sctp: Duration::from_secs(900),
            sctp_closing: Duration::from_secs(60),
            locality: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What becomes of connections to a real server that has failed. Its datagram flows and its clients' persistence move
/// in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The client is told at its next packet.
    #[default]
    Reset,
    /// The client's packets are dropped.
    Drop,
    /// They are forwarded as if nothing had happened.
    Keep,
}

/// New connections that a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In a second.
    pub connections: u32,
    /// At once after a quiet time.
    pub burst: u32,
}

/// Whether datagrams are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Udp {
    #[default]
    Tracked,
    /// Table schedulers only: the table alone decides, nothing is recorded, a change of the pool moves clients.
    Stateless,
    /// Each datagram is scheduled by itself, and nothing is recorded (`ipvsadm -o`).
    OnePacket,
}

impl Udp {
    pub fn name(self) -> &'static str {
        match self {
            Udp::Tracked => "tracked",
            Udp::Stateless => "stateless",
            Udp::OnePacket => "one-packet",
        }
    }
}

/// What becomes of a SYN on the addresses and ports of a closed connection (IPVS `conn_reuse_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reuse {
    /// It is scheduled as every other.
    #[default]
    Schedule,
    /// It goes to the real server of the closed one.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Unique within the service; the address when the file gives no name.
    pub name: String,
    /// At most one IPv4 and one IPv6 address, at least one of them (`address = "10.0.0.1"` or
    /// `address = ["10.0.0.1", "fd00::1"]`). None for `forward = "local"`.
    pub addresses: Vec<IpAddr>,
    /// 0 takes no new clients.
    pub weight: u16,
    /// So many connections, and it takes no new clients until there are fewer than `lower`. 0: any number.
    pub upper: u32,
    /// 0: three quarters of `upper`.
    pub lower: u32,
    /// The service's method unless the server says otherwise.
    pub forward: Forward,
    /// The service's time unless the server says otherwise.
    pub drain: Option<Duration>,
}
