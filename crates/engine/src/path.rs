//! The packet's way from end to end, in stages. [`enter`] serves what may take a shortcut, [`fast`] the other packets that
//! need no record written beyond its age; what that hands over goes through the other stages. In the kernel each stage is a program and handing over is a tail
//! call, because a program has 512 bytes of stack; what lies between them is in [`Between`].

use crate::answer::{self, Answer, Ask};
use crate::commit;
use crate::decap;
use crate::decide::{self, Change, ChangeKind, Decision, To, Way};
use crate::door;
use crate::flow::{self, NO_RECORD};
use crate::forward::fullnat::{self, Peer};
use crate::forward::{self, Method, Sent, nat};
use crate::fragment;
use crate::ftp::{self, Lines};
use crate::icmp;
use crate::layout::{Address, NO_REAL, V4, real_flags, state_bits};
use crate::look::{self, Other};
use crate::neighbour;
use crate::packet::{FURTHEST, Packet};
use crate::plain::{self, Plain};
use crate::reason::{Action, Reason};
use crate::shortcut;
use crate::tables::{CellTable, Tables};
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, SYN};

/// What to tell the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reason: Reason,
    /// Where the frame leaves, when the reason's action is [`Action::Send`].
    pub interface: u32,
}

/// A part of the packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// [`judge`]: the first half of the long way, of opens, closes, connections on the move, and everything unusual.
    Judge = 0,
    /// [`act`]: its second half.
    Act = 1,
    /// [`tell`]: the frame becomes an answer to whoever sent it.
    Answer = 2,
    /// [`full`]: the short way under fullnat, of packets to a real server.
    Full = 3,
    /// [`back`]: under fullnat the first half of the only way of packets from a real server.
    Back = 4,
    /// [`borrow`]: a source for a new connection under fullnat; between [`judge`] and [`act`].
    Borrow = 5,
    /// [`hide`]: the source is put in, behind [`act`].
    Hide = 6,
    /// [`follow`]: of fragments. The first one's way is remembered before [`act`]; the others go the same way.
    Follow = 7,
    /// [`quote`]: of ICMP. Which packet is it about?
    Quote = 8,
    /// [`relate`]: whose connection is that packet's?
    Relate = 9,
    /// [`relay`]: an error goes where its connection's packets go.
    Relay = 10,
    /// [`unwrap`]: an error about a tunnel becomes the packet that was inside, which is answered.
    Unwrap = 11,
    /// [`choose`]: between the halves of the long way, where a new connection's real server is still to be chosen.
    Choose = 12,
    /// [`give`]: the second half of what [`back`] begins.
    Give = 13,
    /// [`overhear`]: what goes over an FTP control connection is read.
    Ftp = 14,
    /// [`fast`]: the short way, of packets that have no shortcut.
    Serve = 15,
    /// [`remember`]: the packets that follow this one may take a shortcut.
    Remember = 16,
    /// The way is over: the frame leaves.
    Sent = u32::MAX - 1,
    /// The way is over.
    Done = u32::MAX,
}

/// The end of a stage: the stage that goes on, or the packet's end. Every field always has a value: see
/// [`crate::decide::Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub stage: Stage,
    /// Of [`Stage::Done`] and [`Stage::Sent`].
    pub outcome: Outcome,
}

impl Turn {
    #[inline(always)]
    pub fn to(stage: Stage) -> Self {
        Self { stage, outcome: Outcome { reason: Reason::Inconsistent, interface: 0 } }
    }

    #[inline(always)]
    pub(crate) fn done(outcome: Outcome) -> Self {
        Self { stage: Stage::Done, outcome }
    }

    /// The same of a frame that leaves: whoever is told need not look up what the reason's action is.
    #[inline(always)]
    pub(crate) fn sent(outcome: Outcome) -> Self {
        Self { stage: Stage::Sent, outcome }
    }
}

/// A packet from end to end.
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &mut T) -> Outcome {
    let mut between = Between::new();
    let mut turn = enter(p, t);
    loop {
        turn = match turn.stage {
            Stage::Serve => fast(p, t),
            Stage::Remember => remember(p, t),
            Stage::Judge => judge(p, t, &mut between),
            Stage::Choose => choose(t, &mut between),
            Stage::Act => act(p, t, &mut between),
            Stage::Answer => tell(p, t, &between),
            Stage::Full => full(p, t),
            Stage::Back => back(p, t, &mut between),
            Stage::Borrow => borrow(t, &mut between),
            Stage::Hide => hide(p, t, &between),
            Stage::Follow => follow(p, t, &mut between),
            Stage::Quote => quote(p, t, &mut between),
            Stage::Relate => relate(p, t, &mut between),
            Stage::Relay => relay(p, t, &mut between),
            Stage::Unwrap => unwrap(p, t, &mut between),
            Stage::Give => give(p, t, &mut between),
            Stage::Ftp => overhear(p, t, &mut between),
            Stage::Done | Stage::Sent => return turn.outcome,
        }
    }
}

/// Where every packet begins: the shortest way that it has.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(p: &mut P, t: &mut T) -> Turn {
    if P::IS_BYTES
        && let Some(turn) = plain(p, t)
    {
        return turn;
    }
    Turn::to(Stage::Serve)
}

/// A packet as most are, by a shortcut or through a door. `None`: nothing has been changed.
#[inline(always)]
fn plain<P: Packet, T: Tables>(p: &mut P, t: &T) -> Option<Turn> {
    let processor = t.processor()?;
    let Some(plain) = Plain::of(p) else {
        shortcut::see_nothing(processor);
        let h = plain::v6(p)?;
        return door::take(p, t, processor, &h, None);
    };
    let h = plain.headers();
    if !door::has_no_records(processor, &h)
        && let Some(turn) = shortcut::take(p, t, processor, &plain)
    {
        return Some(turn);
    }
    if p.reaches(ETHERNET + h.length as usize)
        && let Some(turn) = door::take(p, t, processor, &h, Some(&plain))
    {
        return Some(turn);
    }
    shortcut::see(p, processor, &plain, t.now());
    None
}

/// A packet that has been sent lays the shortcut for those that follow it.
#[inline(always)]
pub fn remember<P: Packet, T: Tables>(p: &P, t: &mut T) -> Turn {
    match shortcut::remember(p, t) {
        Some(outcome) => Turn::done(outcome),
        None => finish(t, Err(Reason::Inconsistent)),
    }
}

/// The short way: data of connections whose record, or slot, says where they go. What it hands over is as it came.
#[inline(always)]
pub fn fast<P: Packet, T: Tables>(p: &mut P, t: &mut T) -> Turn {
    let done = match look::look(p, t) {
        Err(Other { stage, .. }) if stage != Stage::Done => return Turn::to(stage),
        Err(Other { reason, .. }) => Err(reason),
        Ok((_, known)) if known.source != 0 => return Turn::to(Stage::Full),
        Ok((h, known)) => {
            if known.touch != NO_RECORD
                && let Some(cell) = t.cell(CellTable::Flows, known.touch)
            {
                let now = t.now();
                if P::IS_BYTES {
                    shortcut::note(t, cell, known.touch, known.real, now);
                }
                flow::touch(cell, now);
            }
            send(p, t, &h, known.real, &known.way, false)
        }
    };
    if let Err(Reason::TtlExceeded | Reason::TooBig | Reason::ServerFailed) = done {
        return Turn::to(Stage::Judge);
    }
    let turn = finish(t, done);
    if P::IS_BYTES && done.is_ok() && shortcut::is_wanted(t, &turn.outcome) {
        return Turn::to(Stage::Remember);
    }
    turn
}

/// What [`judge`] leaves to the stages after it.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub headers: Headers,
    pub decision: Decision,
    /// The tick of the decision.
    pub now: u32,
}

/// What stages leave for each other: outside of the stack, which cannot hold the headers beside all that a decision looks
/// at. In the kernel one for each processor.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    headers: Headers,
    /// The packet that an ICMP error quotes.
    quoted: Headers,
    work: Work,
    /// Of an ICMP error about a connection under fullnat.
    peer: Peer,
    ask: Ask,
    /// For [`overhear`] and [`hide`]: what would be the packet's end; for the former, room for its payload, too.
    outcome: Outcome,
    lines: Lines,
}

impl Between {
    pub fn new() -> Self {
        let headers = Headers::default();
        let decision = Decision::to_server(0, 0, 0, Change::NONE, false);
        let outcome = Outcome { reason: Reason::Inconsistent, interface: 0 };
        let work = Work { headers, decision, now: 0 };
        Self { headers, quoted: headers, work, peer: Peer::NONE, ask: Ask::NOTHING, outcome, lines: Lines::NOTHING }
    }

    /// Where [`judge`] has put its work.
    #[inline(always)]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Of an ICMP error: the end that fullnat rewrites besides.
    #[inline(always)]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The packet's headers, as far as they have been read.
    #[inline(always)]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Has the packet's sender told something. The packet's headers have been read, and its frame is as it came.
    #[inline(always)]
    pub fn ask(&mut self, ask: Ask) -> Turn {
        self.ask = ask;
        Turn::to(Stage::Answer)
    }
}

impl Default for Between {
    fn default() -> Self {
        Self::new()
    }
}

/// The first half of the long way: everything up to the decision. Writes nothing but `between`.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(p: &P, t: &mut T, between: &mut Between) -> Turn {
    let now = t.now();
    match look::study(p, t, &mut between.headers, now) {
        Ok(decision) => {
            between.work = Work { headers: between.headers, decision, now };
            if decision.open { Turn::to(Stage::Choose) } else { onwards(t, &between.work) }
        }
        Err(Other { stage, .. }) if stage != Stage::Done => Turn::to(stage),
        Err(Other { reason: Reason::Fragment, .. }) => Turn::to(Stage::Follow),
        Err(Other { reason: Reason::Icmp, .. }) => Turn::to(Stage::Quote),
        Err(Other { reason, .. }) => finish(t, Err(reason)),
    }
}

/// A connection under fullnat gets its source, and what it needs for that.
#[inline(always)]
pub fn borrow<T: Tables>(t: &mut T, between: &mut Between) -> Turn {
    match fullnat::borrow(t, &mut between.work) {
        Ok(()) => Turn::to(if between.work.headers.fragment { Stage::Follow } else { Stage::Act }),
        Err(reason) => {
            count_refused(t, reason, between);
            finish(t, Err(reason))
        }
    }
}

/// A new connection beyond the rate limit counts for its service, too.
#[inline(always)]
fn count_refused<T: Tables>(t: &mut T, reason: Reason, between: &Between) {
    if reason == Reason::RateLimited
        && let Some(settings) = t.service(between.work.decision.service)
    {
        t.count_refused(settings.owner);
    }
}

/// A new connection gets a real server. Writes nothing but `between`.
#[inline(always)]
pub fn choose<T: Tables>(t: &mut T, between: &mut Between) -> Turn {
    let Work { headers, decision, now } = &mut between.work;
    match decide::choose(t, headers, decision, *now) {
        Ok(()) => onwards(t, &between.work),
        Err(Reason::Refused) => between.ask(Ask::refusing(between.headers.protocol)),
        Err(reason) => finish(t, Err(reason)),
    }
}

/// Where a packet goes on whose real server is known.
#[inline(always)]
fn onwards<T: Tables>(t: &T, work: &Work) -> Turn {
    let next = if work.headers.fragment { Stage::Follow } else { Stage::Act };
    let concerns = fullnat::concerns(t, &work.headers, &work.decision);
    Turn::to(if concerns { Stage::Borrow } else { next })
}

/// The second half of the long way: writes the records and rewrites the frame.
#[inline(always)]
pub fn act<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    let done = carry_out(p, t, &between.work);
    if let Err(reason) = done {
        count_refused(t, reason, between);
        let ask = Ask::of(reason, between.work.decision.way.to);
        if ask.answer != Answer::Nothing {
            return between.ask(ask);
        }
    }
    if let Ok(sent) = done
        && is_control(&between.work)
    {
        between.outcome = Outcome { reason: sent.reason, interface: sent.interface };
        return Turn::to(Stage::Ftp);
    }
    if let Ok(Sent { reason: Reason::Nat, .. }) = done
        && between.work.decision.source != 0
    {
        return Turn::to(Stage::Hide);
    }
    finish(t, done)
}

/// What [`act`] has sent on by NAT gets its source; and what [`relay`] has, its other end.
#[inline(always)]
pub fn hide<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &Between) -> Turn {
    let Work { headers, decision, .. } = &between.work;
    if wire::is_icmp(headers) {
        let Outcome { reason, interface } = between.outcome;
        let done = icmp::replace(p, headers, &between.quoted, &between.peer.edit(decision.way.to));
        return finish(t, done.map(|()| Sent { reason, interface }));
    }
    let done = match t.real(decision.real_index) {
        Some(real) => fullnat::hide(p, t, headers, decision.source)
            .map(|()| Sent { reason: Reason::FullNat, interface: real.interface }),
        None => Err(Reason::Inconsistent),
    };
    finish(t, done)
}

/// The short way under fullnat, as [`fast`] for others.
#[inline(always)]
pub fn full<P: Packet, T: Tables>(p: &mut P, t: &mut T) -> Turn {
    let Ok((h, known)) = look::look(p, t) else { return Turn::to(Stage::Judge) };
    let Some(real) = t.real(known.real) else { return Turn::to(Stage::Judge) };
    let is_ready = real.flags & (real_flags::RESOLVED | real_flags::DOWN) == real_flags::RESOLVED;
    // Whatever is unusual.
    if known.source == 0
        || !is_ready
        || real.method != Method::Nat as u8
        || h.ttl <= 1
        || forward::is_too_big(p, &h, &real)
    {
        return Turn::to(Stage::Judge);
    }
    if let Some(cell) = t.cell(CellTable::Flows, known.touch) {
        flow::touch(cell, t.now());
    }
    let edit = nat::Edit { source: false, address: real.address, port: known.way.port };
    let done = match nat::rewrite(p, &h, &edit) {
        Ok(()) => fullnat::hide(p, t, &h, known.source),
        Err(reason) => Err(reason),
    };
    let done = match done {
        Ok(()) => forward::macs(p, real.macs),
        Err(reason) => Err(reason),
    };
    t.count_in(known.real, h.length, false);
    finish(t, done.map(|()| Sent { reason: Reason::FullNat, interface: real.interface }))
}

/// Packets to a source address of fullnat. They are read here and looked up elsewhere: what extension headers may do to
/// offsets the verifier would follow through all lookups.
#[inline(always)]
pub fn back<P: Packet, T: Tables>(p: &P, t: &mut T, between: &mut Between) -> Turn {
    match fullnat::read(p, &mut between.headers) {
        Ok(()) => Turn::to(Stage::Give),
        Err(Reason::Fragment) => Turn::to(Stage::Follow),
        Err(Reason::Icmp) => Turn::to(Stage::Quote),
        Err(reason) => finish(t, Err(reason)),
    }
}

/// The reply goes to the client.
#[inline(always)]
pub fn give<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    match fullnat::bring_back(p, t, &between.headers) {
        // To the kernel it would be one of its own packets, and no router's.
        Err(Reason::ReplyTtl) => between.ask(Ask::of(Reason::TtlExceeded, To::Client)),
        done => finish(t, done),
    }
}

/// Whether the packet may say something on an FTP control connection. It has been rewritten, and is as long as it was.
#[inline(always)]
fn is_control(work: &Work) -> bool {
    work.decision.change.to & state_bits::CONTROL != 0 && work.headers.tcp_flags & SYN == 0
}

/// What a packet of an FTP control connection says is heeded, before it leaves.
#[inline(always)]
pub fn overhear<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    let mut outcome = between.outcome;
    match ftp::overhear(p, t, &between.work, &mut between.lines) {
        ftp::Heard::Nothing => {}
        ftp::Heard::Announced => outcome.reason = Reason::FtpAnnounced,
        ftp::Heard::Unfollowed => outcome.reason = Reason::FtpUnfollowed,
    }
    t.count(outcome.reason);
    Turn::done(outcome)
}

/// The sender is told why its packet goes no further, if that may be.
#[inline(always)]
pub fn tell<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &Between) -> Turn {
    let outcome = answer::answer(p, t, &between.headers, &between.ask, between.work.decision.real_index);
    t.count(outcome.reason);
    Turn::done(outcome)
}

/// A fragment: see [`crate::fragment`].
#[inline(always)]
pub fn follow<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    let Some(control) = t.control() else { return finish(t, Err(Reason::Inconsistent)) };
    let now = t.now();
    if !between.headers.later {
        let decision = &between.work.decision;
        let peer = Peer::source(t, decision.source);
        fragment::remember(t, &control, &between.headers, decision.real_index, &decision.way, &peer, now);
        return Turn::to(Stage::Act);
    }
    let Some(followed) = fragment::find(t, &control, &between.headers, now) else {
        return finish(t, Err(Reason::Fragment));
    };
    let arrived = aim(between, &followed.way, &followed.peer);
    let mut done = send(p, t, &between.headers, followed.real, &followed.way, false);
    between.headers.destination = arrived;
    if let Ok(sent) = &mut done
        && has_other_end(sent, &followed.peer)
    {
        if sent.reason == Reason::Nat {
            sent.reason = Reason::FullNat;
        }
        if let Err(reason) = nat::network(p, &between.headers, &followed.peer.edit(followed.way.to), 0) {
            done = Err(reason);
        }
    }
    finish(t, done)
}

/// Under fullnat a packet to a client has another destination. For routes and neighbours it goes there already; answers
/// where it did.
#[inline(always)]
fn aim(between: &mut Between, way: &Way, peer: &Peer) -> Address {
    let arrived = between.headers.destination;
    if peer.is_there && way.to == To::Client {
        between.headers.destination = peer.address;
    }
    arrived
}

/// Whether what NAT has rewritten is fullnat's, and its other end to be rewritten, too.
#[inline(always)]
fn has_other_end(sent: &Sent, peer: &Peer) -> bool {
    peer.is_there && matches!(sent.reason, Reason::Nat | Reason::Reply)
}

/// The first third of an ICMP error's way: which packet is it about? See [`crate::icmp`].
#[inline(always)]
pub fn quote<P: Packet, T: Tables>(p: &P, t: &mut T, between: &mut Between) -> Turn {
    match icmp::quote(p, t, &mut between.headers, &mut between.quoted, &mut between.work.headers) {
        Ok(said) => {
            between.ask = Ask { mtu: said.mtu, silent: said.other, ..Ask::NOTHING };
            Turn::to(Stage::Relate)
        }
        Err(reason) => finish(t, Err(reason)),
    }
}

/// The second third of an ICMP error's way: whose connection is it about?
#[inline(always)]
pub fn relate<P: Packet, T: Tables>(p: &P, t: &mut T, between: &mut Between) -> Turn {
    let inside = between.ask.mtu != 0;
    let related = icmp::relate(t, &between.quoted, inside, &between.work.headers, p.interface());
    if related.real == NO_REAL {
        return finish(t, Err(between.ask.silent));
    }
    between.work.headers = between.headers;
    between.work.decision.real_index = related.real;
    between.work.decision.way = related.way;
    between.peer = related.peer;
    Turn::to(if inside { Stage::Unwrap } else { Stage::Relay })
}

/// The last third of an ICMP error's way.
#[inline(always)]
pub fn relay<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    let Decision { real_index, way, .. } = between.work.decision;
    let peer = between.peer;
    aim(between, &way, &peer);
    let rewriting = icmp::Quoting(&between.quoted);
    let mut done = forward::forward_by(p, t, &between.headers, real_index, &way, &rewriting);
    if let Ok(sent) = &mut done {
        let to_server = way.to == To::Server;
        if to_server {
            t.count_in(real_index, between.headers.length, false);
        } else {
            t.count_out(real_index, between.headers.length);
        }
        let hides = has_other_end(sent, &peer);
        if sent.reason.action() == Action::Send {
            sent.reason = if to_server { Reason::ErrorToServer } else { Reason::ErrorToClient };
        }
        if hides {
            // The headers in `work` are those that it came with.
            between.outcome = Outcome { reason: sent.reason, interface: sent.interface };
            return Turn::to(Stage::Hide);
        }
    }
    finish(t, done)
}

/// A router's word that a tunnel's packet was too large: the frame becomes what the router has quoted of the packet inside,
/// as if it had come from the client just now.
#[inline(always)]
pub fn unwrap<P: Packet, T: Tables>(p: &mut P, t: &mut T, between: &mut Between) -> Turn {
    let (h, inside) = (&between.headers, &between.quoted);
    let (from, to) = (h.network_at(), inside.network_at());
    let cut = to.wrapping_sub(from) & FURTHEST;
    let quoted = h.length.wrapping_sub(cut as u32);
    let ethertype = if inside.family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    if !decap::strip(p, from, cut, ethertype) {
        return finish(t, Err(Reason::Inconsistent));
    }
    let length = inside.length.min(quoted);
    between.headers = Headers { l3: h.l3, l4: inside.l4.wrapping_sub(cut as u16), length, ..*inside };
    let mtu = between.ask.mtu;
    between.ask(Ask { mtu, by_route: true, ..Ask::of(Reason::TooBig, To::Server) })
}

#[inline(always)]
fn finish<T: Tables>(t: &mut T, done: Result<Sent, Reason>) -> Turn {
    let outcome = match done {
        Ok(sent) => Outcome { reason: sent.reason, interface: sent.interface },
        Err(reason) => Outcome { reason, interface: 0 },
    };
    t.count(outcome.reason);
    Turn::done(outcome)
}

#[inline(always)]
fn send<P: Packet, T: Tables>(
    p: &mut P,
    t: &mut T,
    h: &Headers,
    real: u32,
    way: &Way,
    new: bool,
) -> Result<Sent, Reason> {
    let sent = forward::forward(p, t, h, real, way)?;
    match way.to {
        To::Server => t.count_in(real, h.length, new),
        To::Client => t.count_out(real, h.length),
        To::Kernel | To::Sender | To::Nowhere => {}
    }
    Ok(sent)
}

#[inline(always)]
fn carry_out<P: Packet, T: Tables>(p: &mut P, t: &mut T, work: &Work) -> Result<Sent, Reason> {
    let Some(control) = t.control() else { return Err(Reason::Inconsistent) };
    commit::commit(t, &control, &work.headers, &work.decision, work.now)?;
    let new = matches!(work.decision.change.kind, ChangeKind::Open | ChangeKind::Once);
    if new && work.decision.way.to == To::Server {
        neighbour::learn(p, t, &work.headers);
    }
    send(p, t, &work.headers, work.decision.real_index, &work.decision.way, new)
}

impl Outcome {
    /// What becomes of the frame.
    #[inline(always)]
    pub fn action(&self) -> Action {
        self.reason.action()
    }
}
