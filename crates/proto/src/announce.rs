//! Announcements of a VIP: who has it now. Owns the frames and when they are due; sends nothing, reads no clock.
//!
//! IPv4 is announced with a gratuitous ARP request, IPv6 with an unsolicited neighbour advertisement. Both make the
//! neighbours that already know the VIP replace its MAC address at once, which is what moves a VIP between directors.

mod frame;

pub use frame::{Mac, announcement};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Announces the VIPs of one interface: each at once when it is added, then again as [`SCHEDULE`] says.
///
/// The driver calls [`poll`](Self::poll), sends what it returns, and sleeps until
/// [`next_deadline`](Self::next_deadline).
#[derive(Clone, Debug)]
pub struct Announcer {
    mac: Mac,
    vips: BTreeMap<IpAddr, Progress>,
    /// Set when a poll filled its burst: the rest waits until then.
    paced_until: Option<Instant>,
}

impl Announcer {
    /// `mac` is the address that the VIPs shall resolve to, usually the interface's own.
    pub fn new(mac: Mac) -> Self {
        Self { mac, vips: BTreeMap::new(), paced_until: None }
    }

    /// Announces `vip`, the first time at `now`. A VIP that is there already starts again from the beginning, as it
    /// must when another director may have announced it in between.
    pub fn add(&mut self, vip: IpAddr, now: Instant) {
        self.vips.insert(vip, Progress { added: now, due: now });
    }

    /// Announces `vip` no more. Returns whether announcements of it were outstanding.
    pub fn remove(&mut self, vip: IpAddr) -> bool {
        self.vips.remove(&vip).is_some()
    }

    /// Announces none but these any more.
    pub fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.vips.retain(|vip, _| keep(*vip));
    }

    /// The Ethernet frames that are due at `now`, at most [`BURST`], those that waited longest first. Announcements
    /// missed because nobody polled are not made up for: one frame says all that several would.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.paced_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let mut due: Vec<(Instant, IpAddr)> =
            self.vips.iter().filter(|(_, progress)| progress.due <= now).map(|(vip, p)| (p.due, *vip)).collect();
        due.sort_unstable();
        self.paced_until = (due.len() > BURST).then(|| now + PACE);
        due.truncate(BURST);
        for (_, vip) in &due {
            self.advance(*vip, now);
        }
        due.into_iter().map(|(_, vip)| announcement(self.mac, vip)).collect()
    }

    /// When to poll next; `None` when there is nothing left to announce. May lie in the past: poll at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.vips.values().map(|progress| progress.due).min()?;
        Some(self.paced_until.map_or(due, |until| due.max(until)))
    }

    /// Moves `vip` to its next announcement after `now`, or forgets it after the last.
    fn advance(&mut self, vip: IpAddr, now: Instant) {
        if let Some(progress) = self.vips.get_mut(&vip) {
            match SCHEDULE.iter().map(|offset| progress.added + *offset).find(|at| *at > now) {
                Some(at) => progress.due = at,
                None => drop(self.vips.remove(&vip)),
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    added: Instant,
    due: Instant,
}

/// When a VIP is announced, counted from its addition. A frame may be lost, or fall into the time in which a switch
/// still learns, so one is not enough: RFC 5227 §2.3 asks for two, two seconds apart (`ANNOUNCE_NUM`,
/// `ANNOUNCE_INTERVAL`), RFC 4861 §7.2.6 allows three, at least `RetransTimer` (one second) apart.
pub const SCHEDULE: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];

/// Most frames of one poll. A director with a thousand VIPs that becomes master must not flood its own link, nor the
/// receivers, of which many rate-limit ARP.
pub const BURST: usize = 64;

/// Least time between a poll that filled its burst and the next frame.
pub const PACE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
