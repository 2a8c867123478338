//! What to do with a packet, and what to remember of it. Reads tables, writes nothing: [`crate::commit`] does.

use crate::classify::{Class, Outbound, Unique};
use crate::flow::{self, Found, FromClient, FromServer, Key, NO_RECORD};
use crate::forward::fullnat;
use crate::layout::{
    ANNOUNCED, Address, Control, NO_REAL, Real, Service, TCP, UDP, Word64, real_flags, service_flags, state_bits,
};
use crate::persist;
use crate::reason::Reason;
use crate::schedule::{self, CursorMove, Newcomer, SlotView, locality};
use crate::tables::{CellTable, Step, Tables};
use crate::wire::{ACK, FIN, Headers, RST, SYN};

/// What was decided. Here and below every field always has a value: the verifier refuses a program that moves an
/// undefined one, which LLVM is free to do with the unused payload of an enum.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// The real server is still to be chosen: see [`choose`].
    pub open: bool,
    pub service: u32,
    pub real_index: u32,
    pub way: Way,
    pub change: Change,
    /// Index of the connection's record that is dead and makes room first, or [`NO_RECORD`]; and its table.
    pub release: u32,
    pub release_table: CellTable,
    /// Index of the announcement that the connection follows, which is used up by that, or [`NO_RECORD`]; among the
    /// half-open connections.
    pub announced: u32,
    pub template: Remember,
    pub cursor: CursorMove,
    pub locality: locality::Change,
    /// The service's table decides: the watch filter must know of handshakes and closes.
    pub table: bool,
    /// To the server: what it takes for the client; 0: the client's own address and port. See
    /// [`crate::forward::fullnat`].
    pub source: u32,
}

impl Decision {
    /// To a real server, with nothing to remember but `change`.
    #[inline(always)]
    pub fn to_server(service: u32, real_index: u32, port: u16, change: Change, table: bool) -> Self {
        Self {
            open: false,
            service,
            real_index,
            way: Way::to_server(port),
            change,
            release: NO_RECORD,
            release_table: CellTable::Flows,
            announced: NO_RECORD,
            template: Remember::NOTHING,
            cursor: CursorMove::NONE,
            locality: locality::Change::NOTHING,
            table,
            source: 0,
        }
    }
}

/// Where the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub to: To,
    /// The real server's port, or the VIP's.
    pub port: u16,
    /// To the client: from this VIP.
    pub vip: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Server,
    Client,
    /// On through the kernel, though a record of it is kept: a client's packet past the VIP, or its reply.
    Kernel,
    /// Back, as a reset: the connection's real server has failed.
    Sender,
    /// Dropped for the same reason.
    Nowhere,
}

impl Way {
    #[inline(always)]
    pub fn to_server(port: u16) -> Self {
        Self { to: To::Server, port, vip: Address::NONE }
    }

    #[inline(always)]
    pub fn to_client(vip: Address, port: u16) -> Self {
        Self { to: To::Client, port, vip }
    }

    #[inline(always)]
    pub fn to_kernel() -> Self {
        Self { to: To::Kernel, ..Self::to_server(0) }
    }
}

/// What becomes of the connection's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub table: CellTable,
    pub index: u32,
    /// State before and after.
    pub from: u64,
    pub to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    None,
    /// It was looked up.
    Touch,
    /// It was looked up, and its state changes.
    Update,
    /// The handshake is finished: from the half-open connections to the flows.
    Promote,
    /// A new one.
    Open,
    /// None: the packet is a connection by itself.
    Once,
}

impl Change {
    pub const NONE: Self = Self { kind: ChangeKind::None, table: CellTable::Flows, index: NO_RECORD, from: 0, to: 0 };

    #[inline(always)]
    fn touch(table: CellTable, index: u32) -> Self {
        Self { kind: ChangeKind::Touch, table, index, ..Self::NONE }
    }

    /// Only a touch when the state stays.
    #[inline(always)]
    pub(crate) fn update(table: CellTable, index: u32, from: u64, to: u64) -> Self {
        let kind = if from == to { ChangeKind::Touch } else { ChangeKind::Update };
        Self { kind, table, index, from, to }
    }

    const ONCE: Self = Self { kind: ChangeKind::Once, ..Self::NONE };

    #[inline(always)]
    fn open(table: CellTable, to: u64) -> Self {
        Self { kind: ChangeKind::Open, table, to, ..Self::NONE }
    }
}

/// What becomes of the client's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remember {
    pub kind: RememberKind,
    /// The template to renew or overwrite, or [`NO_RECORD`].
    pub at: u32,
    /// Tick at which it expires.
    pub expires: u32,
    /// Whether the template at `at` was followed: it is renewed then.
    pub followed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RememberKind {
    Nothing,
    /// The client has proved to be there.
    Template,
    /// Until the handshake is finished.
    Provisional,
}

impl Remember {
    pub const NOTHING: Self = Self { kind: RememberKind::Nothing, at: NO_RECORD, expires: 0, followed: false };
}

/// For a packet of a known class. `now` in ticks.
#[inline(always)]
pub fn decide<T: Tables>(t: &T, control: &Control, h: &Headers, class: &Class, now: u32) -> Result<Decision, Reason> {
    match class {
        Class::Request { service, port, expected, .. } => request(t, control, h, *service, *port, *expected, now),
        Class::Reply { unique, outbound } => reply(t, control, h, *unique, outbound, now),
    }
}

/// The key of the packet's connection, wherever it goes.
#[inline(always)]
pub fn key_of(h: &Headers, way: &Way) -> Key {
    if way.to != To::Client {
        return key(h);
    }
    Key {
        client: h.destination,
        vip: way.vip,
        client_port: h.destination_port,
        vip_port: way.port,
        protocol: h.protocol,
        family: h.family,
    }
}

/// The key of a client's connection, of its own packet.
#[inline(always)]
pub fn key(h: &Headers) -> Key {
    Key {
        client: h.source,
        vip: h.destination,
        client_port: h.source_port,
        vip_port: h.destination_port,
        protocol: h.protocol,
        family: h.family,
    }
}

#[inline(always)]
fn request<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    service: u32,
    port: u16,
    expected: bool,
    now: u32,
) -> Result<Decision, Reason> {
    let Some(settings) = t.service(service) else { return Err(Reason::Inconsistent) };
    // With RECORDED the table chooses for new connections, and that is all.
    let table = settings.flags & (service_flags::TABLE | service_flags::RECORDED) == service_flags::TABLE;
    let slot = schedule::slot(t, control, &settings, h.family, &h.source, h.source_port);
    if settings.flags & service_flags::TABLE != 0 && slot.is_none() {
        return Err(Reason::Inconsistent);
    }
    // Packets to such ports ask their records, whatever the slot.
    let table = table && !expected;
    if let Some(slot) = &slot {
        t.note(Step::Slot { index: slot.index, real: slot.real, record: slot.record });
    }
    let unrecorded = is_unrecorded(h, &settings, expected);
    let stateless = unrecorded && settings.flags & service_flags::UDP_STATELESS != 0;
    let key = key(h);
    let mut release = NO_RECORD;
    let mut release_table = CellTable::Flows;
    let mut former = NO_REAL;
    if !unrecorded {
        let m = FromClient::new(&key, control.seed, port);
        let found = flow::find(t, control, CellTable::Flows, &m);
        if found.exists() {
            t.note(Step::Flow { table: CellTable::Flows, real: found.real, state: found.state });
            let failed = has_failed(t, h, &settings, &found, CellTable::Flows);
            if is_over(h, &settings, &found, failed, now) {
                release = found.index;
                former = found.real;
            } else if failed {
                return Ok(failure(&settings, &found, CellTable::Flows));
            } else {
                let to = found.state | closing(h, state_bits::FIN_CLIENT);
                let change = Change::update(CellTable::Flows, found.index, found.state, to);
                return Ok(to_server(&found, change, table));
            }
        } else {
            let found = flow::find(t, control, CellTable::HalfOpen, &m);
            if found.exists() {
                t.note(Step::Flow { table: CellTable::HalfOpen, real: found.real, state: found.state });
                let failed = has_failed(t, h, &settings, &found, CellTable::HalfOpen);
                if is_over(h, &settings, &found, failed, now) {
                    release = found.index;
                    release_table = CellTable::HalfOpen;
                } else if failed {
                    return Ok(failure(&settings, &found, CellTable::HalfOpen));
                } else {
                    let mut decision = to_server(&found, half_open(h, &found), table);
                    if decision.change.kind == ChangeKind::Promote && found.state & state_bits::OUTBOUND == 0 {
                        decision.template = proved(t, control, &settings, h, now);
                    }
                    return Ok(decision);
                }
            }
        }
        t.note(Step::NoFlow);
    }
    if expected {
        let mut decision = announced(t, control, service, &settings, h, &key, now)?;
        decision.release = release;
        decision.release_table = release_table;
        return Ok(decision);
    }
    let stray = h.protocol != UDP && !h.opens();
    // Where replies pass the director by, a client's first packet may answer its real server, which has opened the
    // connection (active FTP): only a template can tell which one that is.
    let answers = h.protocol == TCP && h.tcp_flags & (SYN | ACK | RST | FIN) == SYN | ACK;
    let mut followed = NO_REAL;
    let mut at = NO_RECORD;
    let mut elsewhere = false;
    if settings.persist != 0 && (!stray || answers) {
        let key = persist::key(&settings, h.family, &h.source);
        let client = persist::find(t, control, &key, settings.part, now);
        (followed, at, elsewhere) = (client.real, client.template, client.elsewhere);
    }
    if stray && followed == NO_REAL {
        // Without a record, the table still says where it belongs; without a table nothing does, and the kernel, which
        // has the VIP and no such connection, resets or aborts it.
        return match slot {
            Some(slot) if table && slot.real != NO_REAL => {
                Ok(Decision::to_server(service, slot.real, port, Change::NONE, table))
            }
            _ => Err(Reason::NoFlow),
        };
    }
    // The template has said already where its client goes.
    if settings.flags & service_flags::REUSE_KEEPS != 0 && settings.persist == 0 && h.protocol == TCP {
        followed = again(t, &settings, former);
    }
    let ftp = if settings.flags & service_flags::FTP != 0 && h.protocol == TCP { state_bits::CONTROL } else { 0 };
    let change = match h.protocol {
        UDP if stateless => Change::NONE,
        UDP if unrecorded => Change::ONCE,
        UDP => Change::open(CellTable::HalfOpen, u64::from(port)),
        _ => Change::open(CellTable::HalfOpen, u64::from(port) | state_bits::HALF_OPEN | ftp),
    };
    // As in IPVS (`ip_vs_check_template`) thresholds do not keep out who comes back.
    let mut decision = Decision::to_server(service, followed, port, change, table);
    decision.open = followed == NO_REAL;
    decision.release = release;
    decision.release_table = release_table;
    // A client that is elsewhere for this part only keeps its template as it is.
    if settings.persist != 0 && !elsewhere {
        let expires = now.wrapping_add(settings.persist);
        let known = at != NO_RECORD;
        decision.template = Remember {
            // No proof is needed to renew, nor to move away from a real server that is gone. Of datagrams that are
            // scheduled one by one the client's second one is all the proof that there will be.
            kind: if known || (unrecorded && !stateless && followed != NO_REAL) {
                RememberKind::Template
            } else if followed == NO_REAL || h.protocol == UDP {
                // Datagrams of other flows renew one that waits, since they have no handshake that it could wait for.
                RememberKind::Provisional
            } else {
                RememberKind::Nothing
            },
            at,
            expires,
            followed: known && followed != NO_REAL,
        };
    }
    Ok(decision)
}

/// The real server of the closed connection of the same addresses and ports, if it is still of the service (IPVS
/// `conn_reuse_mode=0`); else [`NO_REAL`].
#[inline(always)]
fn again<T: Tables>(t: &T, settings: &Service, former: u32) -> u32 {
    match t.real(former) {
        Some(real)
            if real.flags & (real_flags::UP | real_flags::DOWN) == real_flags::UP
                && real.service == settings.owner
                && !is_closed(&real, settings) =>
        {
            t.note(Step::Again { real: former });
            former
        }
        _ => NO_REAL,
    }
}

/// Chooses the real server of a new connection. [`Reason::Refused`]: nobody takes it, and its client is to be told.
#[inline(always)]
pub fn choose<T: Tables>(t: &T, h: &Headers, d: &mut Decision, now: u32) -> Result<(), Reason> {
    let Some(control) = t.control() else { return Err(Reason::Inconsistent) };
    let Some(settings) = t.service(d.service) else { return Err(Reason::Inconsistent) };
    // Not an `Option`: what is in one that is none the verifier takes for undefined.
    let mut slot = SlotView::NONE;
    if settings.flags & service_flags::TABLE != 0
        && let Some(found) = schedule::slot(t, &control, &settings, h.family, &h.source, h.source_port)
    {
        slot = found;
    }
    let newcomer = Newcomer {
        family: h.family,
        client: &h.source,
        client_port: h.source_port,
        destination: &h.destination,
        slot,
        // Stateless datagrams are no connections.
        counts: d.change.kind != ChangeKind::None,
        seed: control.seed,
        now,
    };
    let pick = schedule::pick(t, &control, d.service, &settings, &newcomer);
    if pick.real == NO_REAL {
        let drops = settings.flags & service_flags::UNSERVED_DROPPED != 0;
        return Err(if drops { Reason::NoServer } else { Reason::Refused });
    }
    d.open = false;
    d.real_index = pick.real;
    d.cursor = pick.cursor;
    d.locality = pick.locality;
    Ok(())
}

/// Whether the packet is a datagram of which nothing is recorded.
#[inline(always)]
pub fn is_unrecorded(h: &Headers, settings: &Service, expected: bool) -> bool {
    h.protocol == UDP && settings.flags & (service_flags::UDP_STATELESS | service_flags::ONE_PACKET) != 0 && !expected
}

/// A client's connection that is let in only because a real server has announced it.
#[inline(always)]
fn announced<T: Tables>(
    t: &T,
    control: &Control,
    service: u32,
    settings: &Service,
    h: &Headers,
    key: &Key,
    now: u32,
) -> Result<Decision, Reason> {
    if !h.opens() {
        return Err(Reason::NotMember);
    }
    let key = Key { client_port: 0, protocol: ANNOUNCED, ..*key };
    let found = flow::find(t, control, CellTable::HalfOpen, &FromClient::new(&key, control.seed, key.vip_port));
    if !is_expected(t, settings, &found, now) {
        return Err(Reason::NotMember);
    }
    t.note(Step::Expected { real: found.real });
    let state = found.state & !state_bits::ANNOUNCED | state_bits::DATA | state_bits::HALF_OPEN;
    let change = Change::open(CellTable::HalfOpen, state);
    let mut decision = Decision::to_server(service, found.real, key.vip_port, change, false);
    decision.announced = found.index;
    Ok(decision)
}

/// Whether an announcement is there, in its time, and its real server, too.
#[inline(always)]
fn is_expected<T: Tables>(t: &T, settings: &Service, found: &Found, now: u32) -> bool {
    let in_time = found.exists() && flow::idle(now, found.seen) <= settings.half_open;
    in_time && t.real(found.real).is_some_and(|real| real.flags & real_flags::DOWN == 0)
}

/// Whether a record's connection has ended though the record is still there: a datagram flow past its time, or a SYN on
/// the four-tuple of a closed connection (IPVS `conn_reuse_mode=1`). When its real server has `failed`, a SYN is a new
/// attempt, and datagrams go to another one.
#[inline(always)]
fn is_over(h: &Headers, settings: &Service, found: &Found, failed: bool, now: u32) -> bool {
    match h.protocol {
        UDP => failed || flow::idle(now, found.seen) > settings.udp,
        _ => h.opens() && (failed || found.state & state_bits::ENDING != 0),
    }
}

/// Whether the record's real server has failed, and its service does not keep such a connection. One that has not even
/// begun is never kept. Nor is that, with a real server that is closed to this part of the service: what has begun goes on.
#[inline(always)]
fn has_failed<T: Tables>(t: &T, h: &Headers, settings: &Service, found: &Found, table: CellTable) -> bool {
    let Some(real) = t.real(found.real) else { return false };
    let waits = table == CellTable::HalfOpen && (h.protocol == UDP || h.opens());
    let failed =
        real.flags & real_flags::DOWN != 0 && (real.flags & real_flags::KEEP == 0 || h.protocol == UDP || waits);
    failed || (waits && is_closed(&real, settings))
}

/// Whether a real server takes no new flows of this part of its service.
#[inline(always)]
pub(crate) fn is_closed(real: &Real, settings: &Service) -> bool {
    u32::from(real.closed) & settings.part != 0
}

/// A segment of a connection whose real server has failed. When its client is told, the record goes; else it stays, lest
/// the next segment be one of no connection, which the kernel would reset.
#[inline(always)]
fn failure(settings: &Service, found: &Found, table: CellTable) -> Decision {
    let mut decision = to_server(found, Change::NONE, false);
    decision.way.to = if settings.flags & service_flags::SILENT == 0 {
        decision.release = found.index;
        decision.release_table = table;
        To::Sender
    } else {
        To::Nowhere
    };
    decision
}

/// State bits that a TCP segment sets; `fin` is the sender's.
#[inline(always)]
pub(crate) fn closing(h: &Headers, fin: u64) -> u64 {
    let reset = if h.tcp_flags & RST != 0 { state_bits::RESET } else { 0 };
    let fin = if h.tcp_flags & FIN != 0 { fin } else { 0 };
    reset | fin
}

/// What a client's segment does to its half-open record.
#[inline(always)]
fn half_open(h: &Headers, found: &Found) -> Change {
    let ended = closing(h, state_bits::FIN_CLIENT);
    if h.tcp_flags & RST != 0 {
        Change::update(CellTable::HalfOpen, found.index, found.state, found.state | ended)
    } else if h.protocol == UDP {
        // A forged one has no second datagram, or costs twice as much.
        Change {
            kind: ChangeKind::Promote,
            from: found.state,
            to: found.state,
            ..Change::touch(CellTable::HalfOpen, found.index)
        }
    } else if h.tcp_flags & (SYN | ACK) == if found.state & state_bits::OUTBOUND != 0 { SYN | ACK } else { ACK } {
        // Whoever was asked has proved to be there: the client by its answer to a SYN-ACK, or to the real server's SYN.
        Change {
            kind: ChangeKind::Promote,
            from: found.state,
            to: found.state & !state_bits::HALF_OPEN | ended,
            ..Change::touch(CellTable::HalfOpen, found.index)
        }
    } else {
        Change::touch(CellTable::HalfOpen, found.index)
    }
}

/// The client has proved to be there: its template becomes a lasting one.
#[inline(always)]
fn proved<T: Tables>(t: &T, control: &Control, settings: &Service, h: &Headers, now: u32) -> Remember {
    if settings.persist == 0 {
        return Remember::NOTHING;
    }
    let key = persist::key(settings, h.family, &h.source);
    let expires = now.wrapping_add(settings.persist);
    // If there is one, the packet that opened this connection has renewed it.
    if flow::find(t, control, CellTable::Templates, &FromClient::new(&key, control.seed, 0)).exists() {
        return Remember::NOTHING;
    }
    Remember { kind: RememberKind::Template, expires, ..Remember::NOTHING }
}

#[inline(always)]
fn to_server(found: &Found, change: Change, table: bool) -> Decision {
    let mut decision = Decision::to_server(found.service, found.real, found.state as u16, change, table);
    decision.source = fullnat::of_state(found.state);
    decision
}

#[inline(always)]
fn reply<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    unique: Option<Unique>,
    outbound: &Outbound,
    now: u32,
) -> Result<Decision, Reason> {
    let m = FromServer::new(h, control.seed);
    let mut table = CellTable::Flows;
    let mut found = flow::find(t, control, table, &m);
    if !found.exists() {
        table = CellTable::HalfOpen;
        found = flow::find(t, control, table, &m);
    }
    if found.exists() {
        t.note(Step::Flow { table, real: found.real, state: found.state });
    } else {
        t.note(Step::NoFlow);
    }
    // A SYN on the four-tuple of a closed connection is a new one's.
    let opens = if h.protocol == UDP {
        !found.exists()
    } else {
        h.opens() && (!found.exists() || found.state & state_bits::ENDING != 0)
    };
    if opens {
        let opener = opener(t, control, h, outbound, now)?;
        if opener.real != NO_REAL {
            return open_outbound(t, control, h, &opener);
        }
    }
    if !found.exists() {
        let (real, way) = stateless_reply(t, control, h, unique, None)?;
        let mut decision = Decision::to_server(0, real, 0, Change::NONE, true);
        decision.way = way;
        return Ok(decision);
    }
    let (mut by_table, mut assured) = (false, u32::MAX);
    if let Some(settings) = t.service(found.service) {
        by_table = settings.flags & (service_flags::TABLE | service_flags::RECORDED) == service_flags::TABLE;
        assured = settings.assured;
    }
    let to = found.state | closing(h, state_bits::FIN_SERVER);
    let change = if h.protocol != UDP || table == CellTable::Flows {
        Change::update(table, found.index, found.state, to)
    } else if flow::idle(now, found.seen) > assured {
        // The client's one datagram has begun something that lasts.
        Change { kind: ChangeKind::Promote, from: found.state, to, ..Change::touch(table, found.index) }
    } else {
        // An answer to one datagram proves nothing about its sender.
        Change::NONE
    };
    let mut decision = to_server(&found, change, by_table);
    decision.way = if found.state & state_bits::DIRECT != 0 {
        Way::to_kernel()
    } else {
        Way::to_client(found.vip, found.vip_port)
    };
    Ok(decision)
}

/// As whom a real server opens the connection of a packet.
struct Opener {
    /// [`NO_REAL`]: as itself.
    real: u32,
    vip: Address,
    /// What the control connection's announcement hands on to the record, and its index.
    state: u64,
    announced: u32,
}

/// By what a client has announced to it, else by the port.
#[inline(always)]
fn opener<T: Tables>(t: &T, control: &Control, h: &Headers, outbound: &Outbound, now: u32) -> Result<Opener, Reason> {
    if h.protocol == TCP {
        let found = flow::find(t, control, CellTable::HalfOpen, &FromServer::announced(h, control.seed));
        if found.exists()
            && let Some(settings) = t.service(found.service)
            && is_expected(t, &settings, &found, now)
        {
            t.note(Step::Expected { real: found.real });
            let state = found.state >> state_bits::UPPER << state_bits::UPPER | state_bits::DATA;
            return Ok(Opener { real: found.real, vip: found.vip, state, announced: found.index });
        }
    }
    let mut opener = Opener { real: outbound.real, vip: Address::NONE, state: 0, announced: NO_RECORD };
    if outbound.real != NO_REAL {
        let Some(vip) = t.vip(outbound.vip) else { return Err(Reason::Inconsistent) };
        t.note(Step::Outbound { real: outbound.real });
        opener.vip = vip.address;
    }
    Ok(opener)
}

/// A connection that the real server opens: its peer is the client, and its port the VIP's.
#[inline(always)]
fn open_outbound<T: Tables>(t: &T, control: &Control, h: &Headers, opener: &Opener) -> Result<Decision, Reason> {
    let Some(real) = t.real(opener.real) else { return Err(Reason::Inconsistent) };
    let table = match t.service(real.service) {
        Some(settings) => settings.flags & service_flags::TABLE != 0,
        None => false,
    };
    let state = u64::from(h.source_port) | state_bits::OUTBOUND | opener.state;
    let change = match h.protocol {
        UDP => Change::open(CellTable::Flows, state),
        _ => Change::open(CellTable::HalfOpen, state | state_bits::HALF_OPEN),
    };
    let mut decision = Decision::to_server(real.service, opener.real, h.source_port, change, table);
    decision.announced = opener.announced;
    decision.way = Way::to_client(opener.vip, h.source_port);
    // What the peer knows by the same addresses and ports has ended, whichever real server had it: a SYN says so.
    let m = FromClient::new(&key_of(h, &decision.way), control.seed, h.source_port);
    let mut former = flow::find(t, control, CellTable::Flows, &m);
    if !former.exists() {
        decision.release_table = CellTable::HalfOpen;
        former = flow::find(t, control, CellTable::HalfOpen, &m);
    }
    decision.release = former.index;
    Ok(decision)
}

/// A reply without a record: of a table service whose table sends this client to this real server, and whose port can
/// mean nothing else. Where the slot asks records, or is another real server's, nothing is certain. Of datagrams that are
/// scheduled one by one the port alone tells.
#[inline(always)]
pub fn stateless_reply<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    unique: Option<Unique>,
    foreseen: Option<&Word64>,
) -> Result<(u32, Way), Reason> {
    let Some(unique) = unique else { return Err(Reason::NotAReply) };
    let mut sender = unique.single;
    if sender == NO_REAL {
        let Some(settings) = t.service(unique.service) else { return Err(Reason::Inconsistent) };
        let (client, port) = (&h.destination, h.destination_port);
        let Some(slot) = schedule::slot_foreseen(t, control, &settings, h.family, client, port, foreseen) else {
            return Err(Reason::NotAReply);
        };
        let stateless = h.protocol == TCP || (h.protocol == UDP && settings.flags & service_flags::UDP_STATELESS != 0);
        if slot.record || !stateless || settings.flags & service_flags::RECORDED != 0 {
            return Err(Reason::NotAReply);
        }
        let Some(real) = t.real(slot.real) else { return Err(Reason::NotAReply) };
        if real.address != h.source || real.family != h.family {
            return Err(Reason::NotAReply);
        }
        sender = slot.real;
    }
    let Some(vip) = t.vip(unique.vip) else { return Err(Reason::Inconsistent) };
    Ok((sender, Way::to_client(vip.address, unique.port)))
}

/// A client's SYN straight to a real server, past the VIP: if its replies could be taken for those of a table service,
/// it is recorded and its slot asks records from now on. The slot may well have another real server: not always.
#[inline(always)]
pub fn direct<T: Tables>(t: &T, control: &Control, h: &Headers, unique: Unique) -> Result<Decision, Reason> {
    let Some(settings) = t.service(unique.service) else { return Err(Reason::NotOurs) };
    let slot = schedule::slot(t, control, &settings, h.family, &h.source, h.source_port);
    let Some(slot) = slot else { return Err(Reason::NotOurs) };
    let state = u64::from(h.destination_port) | state_bits::DIRECT;
    let m = FromClient::new(&key(h), control.seed, h.destination_port);
    let found = flow::find(t, control, CellTable::Flows, &m);
    let change = if found.exists() {
        // Perhaps of an earlier connection, which has ended.
        Change::update(CellTable::Flows, found.index, found.state, state)
    } else {
        Change::open(CellTable::Flows, state)
    };
    let mut decision = Decision::to_server(unique.service, slot.real, h.destination_port, change, true);
    decision.way = Way::to_kernel();
    Ok(decision)
}
