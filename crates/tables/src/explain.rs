//! Where a packet would go, and why: the engine's own way through the tables, put into sentences.
//!
//! The packet goes its whole way (`marca_engine::process`) on copies of what it would write, so that the answer is the
//! one that the data plane would give, and nothing changes; the tables may be a running director's.

mod headers;
mod names;
mod shadow;
mod story;

use crate::frame::Frame;
use crate::ids::Ids;
use crate::memory::Memory;
use crate::services::Clock;
use crate::view::View;
use marca_config::plan::Plan;
use marca_engine::forward::fullnat::Peer;
use marca_engine::layout::Macs;
use marca_engine::reason::Reason;
use marca_engine::tables::{Route, Step};
use marca_engine::{Between, Stage, Work};
use names::Names;
use shadow::Shadow;
use std::collections::HashMap;
use std::fmt;
use story::Story;

/// What a packet's way depends on, besides the packet.
#[derive(Clone, Copy)]
pub struct Director<'a> {
    pub memory: &'a Memory,
    pub plan: &'a Plan,
    pub ids: &'a Ids,
    pub clock: Clock,
    /// Ticks.
    pub now: u32,
    /// Where a packet to the client leaves; `None`: nobody has asked the kernel, and it is taken to have a route.
    pub route: Option<Route>,
    /// Indices of interfaces by name, for the sentences; those that are missing are told by their numbers.
    pub interfaces: Option<&'a HashMap<String, u32>>,
}

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Sentences, in the order of the packet's way: headers, classification, connection, client, choice, forwarding,
    /// verdict.
    pub lines: Vec<String>,
    pub reason: Reason,
    /// The service's name.
    pub service: Option<String>,
    /// The real server's name: the one that gets the packet, or that has sent it.
    pub real: Option<String>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Where it leaves, when it is sent; 0: not known.
    pub interface: u32,
}

/// What a packet is, beyond the steps that led there.
enum Found {
    Nothing,
    /// A connection's.
    Work(Work),
    /// An ICMP error about one.
    Related(Work, Peer),
}

/// One line each.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Explains a frame that comes in on `interface`, at tick `now`.
pub fn explain(
    memory: &Memory,
    plan: &Plan,
    ids: &Ids,
    frame: &[u8],
    interface: u32,
    now: u32,
    clock: Clock,
) -> Explanation {
    Director { memory, plan, ids, clock, now, route: None, interfaces: None }.explain(frame, interface)
}

impl Director<'_> {
    /// Explains a frame that comes in on `interface`.
    pub fn explain(&self, frame: &[u8], interface: u32) -> Explanation {
        let pretend = !self.has_next_hops();
        let mut out = Frame::new(frame.to_vec(), interface);
        let mut shadow = self.shadow(pretend);
        let outcome = marca_engine::process(&mut out, &mut shadow);
        // The decision's are those of `judge`.
        let overheard: Vec<Step> =
            shadow.take_steps().into_iter().filter(|step| matches!(step, Step::Announced { .. })).collect();
        let (steps, found) = self.judge(&Frame::new(frame.to_vec(), interface), pretend);
        let names = Names::new(self);
        let mut story = Story::new(self, &names, pretend);
        let headers = headers::tell(frame, &mut story.lines);
        for step in &steps {
            story.step(step);
        }
        if let Some(headers) = &headers {
            story.why_not(outcome.reason, headers, &steps);
        }
        match &found {
            Found::Nothing => {}
            Found::Work(work) => story.work(work, &outcome),
            Found::Related(work, peer) => story.related(work, peer, &outcome),
        }
        for step in &overheard {
            story.step(step);
        }
        story.lines.push(outcome.reason.sentence().to_owned());
        Explanation {
            lines: story.lines,
            reason: outcome.reason,
            service: story.service,
            real: story.real,
            frame: out.bytes,
            interface: outcome.interface,
        }
    }

    /// The decision of the long way, which is that of the short one, and how it came about. Under fullnat there is more to
    /// it behind a request's decision, and of replies nothing else.
    fn judge(&self, frame: &Frame, pretend: bool) -> (Vec<Step>, Found) {
        let mut shadow = self.shadow(pretend);
        let mut between = Between::new();
        let mut turn = marca_engine::judge(frame, &mut shadow, &mut between);
        if turn.stage == Stage::Choose {
            turn = marca_engine::choose(&mut shadow, &mut between);
        }
        if turn.stage == Stage::Borrow {
            turn = marca_engine::borrow(&mut shadow, &mut between);
        }
        if turn.stage == Stage::Back {
            turn = marca_engine::back(frame, &mut shadow, &mut between);
        }
        if turn.stage == Stage::Give {
            turn = marca_engine::give(&mut frame.clone(), &mut shadow, &mut between);
        }
        if turn.stage == Stage::Follow {
            turn = marca_engine::follow(&mut frame.clone(), &mut shadow, &mut between);
        }
        if turn.stage == Stage::Quote {
            turn = marca_engine::quote(frame, &mut shadow, &mut between);
        }
        if turn.stage == Stage::Relate {
            turn = marca_engine::relate(frame, &mut shadow, &mut between);
        }
        let found = match turn.stage {
            Stage::Act => Found::Work(*between.work()),
            Stage::Relay | Stage::Unwrap => Found::Related(*between.work(), *between.peer()),
            _ => Found::Nothing,
        };
        (shadow.take_steps(), found)
    }

    fn shadow(&self, pretend: bool) -> Shadow<'_> {
        let mut view = View::new(self.memory, self.now);
        let anywhere = Route::Via { interface: 0, macs: Macs::default() };
        view.route = self.route.unwrap_or(anywhere);
        Shadow::new(view, pretend)
    }

    /// Whether a director has looked for the real servers' next hops in these tables: it knows at least an interface.
    fn has_next_hops(&self) -> bool {
        (0..self.memory.reals.len()).filter_map(|i| self.memory.reals.get(i)).any(|real| real.interface != 0)
    }
}

#[cfg(test)]
mod tests;
