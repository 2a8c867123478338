//! Writes destinations, ports and marks into the half of the classifier that is not in force, and puts it in force.
//!
//! A [`Classifier`] knows what it has written into either half, and where it is behind: what a change costs is as much as it
//! changes. [`write()`] knows nothing, and writes all.
//!
//! | module | owns |
//! |---|---|
//! | `half` | one half: the whole plan, or where it is different |
//! | `cells` | open addressing |

mod cells;
mod half;

use crate::ids::Ids;
use crate::memory::{Memory, Prefix};
use half::{Half, Wanted, hosts};
use marca_config::plan::{Family, Plan, Touched};
use marca_engine::forward::Method;
use marca_engine::layout::{Address, V4, V6, control_flags};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// What cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error(
        "the {table} table of the running data plane, with places for {capacity} entries, has no room for this \
         configuration: `marca stop --detach`, which ends its connections, and start again"
    )]
    Full { table: &'static str, capacity: u32 },
    #[error("a mark rule names interface `{0}`, which this host does not have")]
    NoInterface(String),
    #[error("service `{0}` has no number")]
    NoNumber(String),
}

/// The engine's form of an address.
pub fn address(ip: IpAddr) -> (u8, Address) {
    match ip {
        IpAddr::V4(ip) => (V4, Address::v4(ip.octets())),
        IpAddr::V6(ip) => (V6, Address::v6(ip.octets())),
    }
}

/// The usual form of an engine's address.
pub fn ip(family: u8, address: &Address) -> IpAddr {
    if family == V4 { address.octets_v4().into() } else { address.octets_v6().into() }
}

/// Writes the plan into the other half, whatever is there. The prefixes are not in mapped memory: the caller puts the ones
/// that are returned into their table, then calls [`switch`].
///
/// # Errors
/// Nothing that is in force has changed.
pub fn write(
    memory: &Memory,
    plan: &Plan,
    ids: &Ids,
    interfaces: &HashMap<String, u32>,
) -> Result<Written, WriteError> {
    Classifier::default().write(memory, plan, ids, interfaces, None)
}

/// A half of the classifier, complete but for its prefixes.
#[derive(Debug)]
pub struct Written {
    pub half: u32,
    pub prefixes: Vec<Prefix>,
    known: Half,
    /// In what the other half is behind; `None`: nobody knows.
    behind: Option<Touched>,
}

/// Puts the half in force, for all services at once.
pub fn switch(memory: &Memory, written: &Written) {
    let mut control = memory.control();
    // The flag first when prefixes come, last when they go: the half itself is one store.
    if !written.prefixes.is_empty() {
        control.flags |= control_flags::PREFIXES;
        memory.control.set(0, &control);
    }
    control.half = written.half;
    if control.written == 0 {
        // There was none before, and no connection.
        control.swept = 1;
    }
    control.written = control.written.wrapping_add(1);
    memory.control.set(0, &control);
    if written.prefixes.is_empty() {
        control.flags &= !control_flags::PREFIXES;
        memory.control.set(0, &control);
    }
    memory.outdate_shortcuts();
}

/// Both halves, as they were written.
#[derive(Debug, Default)]
pub struct Classifier {
    halves: [Option<Behind>; 2],
    /// The half that is not in force cannot be written ahead: the plan leaves no room there.
    given_up: bool,
}

/// A half, and in what it is behind the plan in force.
#[derive(Debug)]
struct Behind {
    half: Half,
    touched: Touched,
}

impl Classifier {
    /// [`write()`], but that only what is different is written if that can be known: `touched` is what is different from the
    /// plan in force, if this has put that in force.
    ///
    /// # Errors
    /// Nothing that is in force has changed.
    pub fn write(
        &mut self,
        memory: &Memory,
        plan: &Plan,
        ids: &Ids,
        interfaces: &HashMap<String, u32>,
        touched: Option<&Touched>,
    ) -> Result<Written, WriteError> {
        let leaving = leaving(memory, ids);
        let wanted = Wanted { memory, plan, ids, interfaces, leaving: &leaving };
        let in_force = memory.control().half & 1;
        let number = in_force ^ 1;
        // Until it is in force nobody can tell what is in it.
        let other = self.halves[number as usize].take().filter(|other| other.half.interfaces == *interfaces);
        let behind = touched.cloned().filter(|_| {
            self.halves[in_force as usize].as_ref().is_some_and(|known| known.half.interfaces == *interfaces)
        });
        if let (Some(mut other), Some(touched)) = (other, touched.filter(|_| behind.is_some())) {
            other.touched.extend(touched);
            // Without room it is tried again from the beginning: what was replaced has left places unused.
            if other.half.bring(&wanted, &other.touched).is_ok() {
                return Ok(Written { half: number, prefixes: other.half.prefixes(), known: other.half, behind });
            }
        }
        let half = Half::write(number, &wanted)?;
        Ok(Written { half: number, prefixes: half.prefixes(), known: half, behind })
    }

    /// Puts in force what was written.
    pub fn switch(&mut self, memory: &Memory, written: Written) {
        switch(memory, &written);
        let Written { half, known, behind, .. } = written;
        let before = &mut self.halves[(half ^ 1) as usize];
        match (before.as_mut(), behind) {
            (Some(before), Some(behind)) => before.touched.extend(&behind),
            _ => *before = None,
        }
        self.halves[half as usize] = Some(Behind { half: known, touched: Touched::default() });
        self.given_up = false;
    }

    /// Brings the half that is not in force up to the plan that is, so that the next change finds it so: about `limit`
    /// entries of it. To be called when no packet that has begun before the last switch is on its way any more.
    pub fn catch_up(&mut self, memory: &Memory, plan: &Plan, ids: &Ids, limit: usize) {
        let in_force = memory.control().half & 1;
        let number = in_force ^ 1;
        let [first, second] = &mut self.halves;
        let (known, other) = if in_force == 0 { (first, second) } else { (second, first) };
        let Some(known) = known.as_ref().filter(|_| !self.given_up) else { return };
        let wanted = Wanted { memory, plan, ids, interfaces: &known.half.interfaces, leaving: &known.half.leaving };
        let other = match other {
            Some(other) if other.half.interfaces == *wanted.interfaces => other,
            // Where it begins all is to be done.
            other => other.insert(Behind { half: Half::clear(number, &wanted), touched: all(&wanted) }),
        };
        if other.touched.is_empty() && other.half.leaving == *wanted.leaving {
            return;
        }
        let piece = other.touched.take(limit);
        if other.half.bring(&wanted, &piece).is_err() {
            self.halves[number as usize] = None;
            self.given_up = true;
        }
    }

    /// Whether the other half has nothing to catch up with.
    pub fn is_level(&self) -> bool {
        self.halves.iter().all(|half| half.as_ref().is_some_and(|half| half.touched.is_empty()))
    }
}

/// Everything that a half holds.
fn all(wanted: &Wanted) -> Touched {
    let Wanted { plan, .. } = wanted;
    Touched {
        destinations: plan.destinations.iter().map(|destination| destination.net).collect(),
        replies: plan.replies.keys().copied().collect(),
        hosts: hosts(wanted),
    }
}

/// Real servers under NAT that are no longer in the plan: their live connections still send replies.
pub fn leaving(memory: &Memory, ids: &Ids) -> BTreeSet<IpAddr> {
    let reals = ids.leaving_reals().filter_map(|index| memory.reals.get(index));
    let reals = reals.filter(|real| real.family != 0 && real.method == Method::Nat as u8);
    reals.map(|real| ip(real.family, &real.address)).collect()
}

/// The engine's number for a family.
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}
