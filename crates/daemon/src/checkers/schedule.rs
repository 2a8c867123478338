//! When each target is asked, how many at once, and what follows from the answers.
//!
//! One task owns all of it; each question is a task that ends within its timeout and sends its [`Outcome`].

use super::probe::passage::{Ground, Passage, Passages, SILENCE};
use super::probe::{Outcome, Probe};
use super::targets::{Member, Target, Targets};
use super::{Order, Report};
use crate::linux::data_plane::since_boot;
use crate::live::{Asked, Live};
use crate::standings::{Failure, Health};
use marca_config::model::Forward;
use marca_config::plan::CheckPlan;
use marca_proto::health::member::{self, Checked, Verdict};
use marca_proto::health::monitor::{self, Before, Monitor};
use marca_proto::health::talk::agent::Weight;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// All targets of a plan and what is known of them.
pub(crate) struct Schedule {
    entries: HashMap<u64, Entry>,
    members: Vec<Member>,
    /// By member, in the order of its checks.
    asked: Vec<Vec<u64>>,
    /// What was last said of each member that does not serve as configured.
    said: BTreeMap<String, Health>,
    /// Members, by key, of which every check has had an answer. The first verdict is told also if all is well.
    settled: HashSet<String>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    in_flight: usize,
    most_in_flight: usize,
    next_id: u64,
    chance: Chance,
    outcomes: mpsc::UnboundedSender<(u64, Outcome, Duration)>,
    ended: mpsc::UnboundedReceiver<(u64, Outcome, Duration)>,
    reports: mpsc::UnboundedSender<Report>,
    complained: Complaints,
    /// Where questions are counted.
    live: Live,
    /// The way of clients' packets, once somebody has asked for it.
    passages: Option<Arc<Passages>>,
    /// Plans that have been followed.
    orders: u64,
}

struct Entry {
    target: Target,
    probe: Arc<Probe>,
    /// On the way of clients' packets.
    passage: Option<Passage>,
    monitor: Monitor,
    /// While it is down: what was wrong when it went down, and when that was.
    failure: Option<(String, Duration)>,
    weight: Option<Weight>,
    /// To this process.
    has_answered: bool,
    /// Indices of members that ask for it.
    members: Vec<usize>,
    /// When it is asked, or was.
    at: Instant,
    running: Option<AbortHandle>,
}

impl Schedule {
    pub fn new(reports: mpsc::UnboundedSender<Report>, live: Live) -> Self {
        let (outcomes, ended) = mpsc::unbounded_channel();
        Self {
            entries: HashMap::new(),
            members: Vec::new(),
            asked: Vec::new(),
            said: BTreeMap::new(),
            settled: HashSet::new(),
            due: BinaryHeap::new(),
            in_flight: 0,
            most_in_flight: most_in_flight(),
            next_id: 0,
            chance: Chance(RandomState::new().hash_one(0)),
            outcomes,
            ended,
            reports,
            complained: Complaints::default(),
            live,
            passages: None,
            orders: 0,
        }
    }

    /// Until nobody gives orders any more.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut ended = Vec::new();
        loop {
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            let can_ask = next.is_some() && self.in_flight < self.most_in_flight;
            let next = next.unwrap_or_else(Instant::now);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.follow(order),
                    None => return,
                },
                _ = self.ended.recv_many(&mut ended, MOST_OUTCOMES) => {
                    let mut concerned = BTreeSet::new();
                    for (id, outcome, took) in ended.drain(..) {
                        self.in_flight -= 1;
                        concerned.extend(self.answered(id, outcome, took));
                    }
                    concerned.into_iter().for_each(|member| self.judge(member));
                }
                () = tokio::time::sleep_until(next.into()), if can_ask => self.ask_due(),
            }
        }
    }

    /// Asks what is due.
    fn ask_due(&mut self) {
        let now = Instant::now();
        while self.in_flight < self.most_in_flight {
            let Some(Reverse((at, id))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now) else {
                return;
            };
            self.due.pop();
            // Of a former plan, or of a former turn.
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.at == at && entry.running.is_none())
            else {
                continue;
            };
            entry.at = now;
            let (probe, passage) = (Arc::clone(&entry.probe), entry.passage.clone());
            // Made here, so that it is dropped, and heard of, also if the task never begins.
            let ending = Ending { id, outcomes: self.outcomes.clone(), outcome: None, took: Duration::ZERO };
            let task = tokio::spawn(async move {
                let mut ending = ending;
                let began = Instant::now();
                ending.outcome = Some(probe.run(passage.as_ref()).await);
                ending.took = began.elapsed();
            });
            entry.running = Some(task.abort_handle());
            self.in_flight += 1;
        }
    }

    /// What follows from an answer: members to be judged again.
    fn answered(&mut self, id: u64, outcome: Outcome, took: Duration) -> Vec<usize> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        entry.running = None;
        let check = &entry.target.check;
        let pause = monitor::pause(check.interval, check.jitter, self.chance.next());
        // One that took longer than its interval is asked again at once, and no turn is made up for.
        entry.at = (entry.at + pause).max(Instant::now());
        self.due.push(Reverse((entry.at, id)));
        self.live.count_asked(match outcome {
            Outcome::Good(_) => Asked::Good,
            Outcome::Bad(_) => Asked::Bad,
            Outcome::Unasked(_) => Asked::Unasked,
        });
        if !matches!(outcome, Outcome::Unasked(_)) {
            self.live.count_took(check.talk.name(), took);
        }
        let (is_good, weight, why) = match outcome {
            Outcome::Good(weight) => (true, weight, None),
            Outcome::Bad(why) => (false, None, Some(why)),
            Outcome::Unasked(why) => {
                self.complained.of(&entry.target, &why);
                return Vec::new();
            }
        };
        let is_first = !entry.monitor.is_known();
        let changed = entry.monitor.step(is_good);
        let weighed = is_good && std::mem::replace(&mut entry.weight, weight) != weight;
        let weighed = !std::mem::replace(&mut entry.has_answered, true) || weighed;
        match changed {
            Some(false) => {
                // The first answer of all decides alone.
                let times = if is_first { 1 } else { check.fall };
                let times = if times > 1 { format!(", {times} times in a row") } else { String::new() };
                let why = why.unwrap_or_default() + &times;
                entry.failure = Some((why, since_boot().unwrap_or_default()));
            }
            Some(true) => entry.failure = None,
            None => {}
        }
        if changed.is_some() || weighed { entry.members.clone() } else { Vec::new() }
    }

    /// Says what has changed about a member.
    fn judge(&mut self, member: usize) {
        let Some((member, asked)) = self.members.get(member).zip(self.asked.get(member)) else { return };
        let entries: Vec<&Entry> = asked.iter().filter_map(|id| self.entries.get(id)).collect();
        let mut health = health(member, &entries);
        let said = self.said.get(&member.key);
        // One that has said its weight to another run keeps it until it is asked again.
        if health.weight.is_none() && entries.iter().any(|entry| !entry.has_answered) {
            health.weight = said.and_then(|said| said.weight);
        }
        let is_first = is_settled(&entries) && !self.settled.contains(&member.key);
        if said.unwrap_or(&Health::default()) == &health && !is_first {
            return;
        }
        if is_first {
            self.settled.insert(member.key.clone());
        }
        if health == Health::default() {
            self.said.remove(&member.key);
        } else {
            self.said.insert(member.key.clone(), health.clone());
        }
        // Whoever has asked may be gone, and so will be this.
        let _ = self.reports.send(Report { key: member.key.clone(), health });
    }

    /// Another plan: what is asked as before goes on as before.
    fn follow(&mut self, Order { plan, known, waiting, has_served, ground }: Order) {
        self.open_passages(ground.as_ref());
        // Here, not where packets' tables are written: with a hundred thousand servers it takes a while.
        let targets = Targets::of(&plan);
        let now = Instant::now();
        let mut former: HashMap<Target, (u64, Entry)> =
            self.entries.drain().map(|(id, entry)| (entry.target.clone(), (id, entry))).collect();
        let before = before(&targets.members, &known);
        // One that was not asked for a while, by an operator's hand: what was known of it is old.
        let asked: HashSet<&str> = self.members.iter().map(|member| member.key.as_str()).collect();
        let was_asked = |member: &&Member| self.orders == 0 || asked.contains(member.key.as_str());
        let known_well = targets.members.iter().filter(was_asked);
        let known_well: HashSet<usize> = known_well.flat_map(|member| member.targets.iter().copied()).collect();
        self.orders += 1;
        // One that waits is asked first, whatever another run has known.
        let wait = targets.members.iter().filter(|member| waiting.contains(&member.key));
        let wait: HashSet<usize> = wait.flat_map(|member| member.targets.iter().copied()).collect();
        let mut ids = Vec::with_capacity(targets.targets.len());
        for (place, target) in targets.targets.into_iter().enumerate() {
            let (id, entry) = match former.remove(&target) {
                Some((id, entry)) => (id, Entry { members: Vec::new(), ..entry }),
                None => {
                    self.next_id += 1;
                    let unknown = match has_served && !wait.contains(&place) {
                        true => Before::Known { up: true },
                        false => Before::Unknown { up: true },
                    };
                    let former = before.get(&place).copied().map(|former| match former {
                        Former::Failed(failure) if !known_well.contains(&place) => Former::Old(failure),
                        former => former,
                    });
                    let entry = Entry::new(target, former, unknown, now, self.chance.next());
                    self.due.push(Reverse((entry.at, self.next_id)));
                    (self.next_id, entry)
                }
            };
            ids.push(id);
            self.entries.insert(id, entry);
        }
        former.into_values().filter_map(|(_, entry)| entry.running).for_each(|running| running.abort());
        self.due.retain(|Reverse((_, id))| self.entries.contains_key(id));
        self.asked = targets
            .members
            .iter()
            .map(|member| member.targets.iter().filter_map(|&place| ids.get(place).copied()).collect())
            .collect();
        for (index, asked) in self.asked.iter().enumerate() {
            for id in asked {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.members.push(index);
                }
            }
        }
        self.find_passages(ground.as_ref(), &targets.members);
        self.members = targets.members;
        self.said = known;
        let settled = std::iter::zip(&self.members, &self.asked).filter(|(member, asked)| {
            let entries: Vec<&Entry> = asked.iter().filter_map(|id| self.entries.get(id)).collect();
            is_settled(&entries) && !waiting.contains(&member.key)
        });
        self.settled = settled.map(|(member, _)| member.key.clone()).collect();
        for member in 0..self.members.len() {
            self.judge(member);
        }
    }
}

impl Schedule {
    /// Some checks take the way of clients' packets.
    fn open_passages(&mut self, ground: Option<&Ground>) {
        let Some(ground) = ground else { return };
        if let Some(passages) = &self.passages {
            return passages.follow(ground);
        }
        match Passages::open(ground) {
            Ok(passages) => self.passages = Some(passages),
            Err(error) => tracing::error!("no check can go to a VIP: open a packet socket: {error}"),
        }
    }

    /// Numbers may be others than before.
    fn find_passages(&mut self, ground: Option<&Ground>, members: &[Member]) {
        let numbers = ground.map(|ground| &ground.numbers);
        for (member, asked) in std::iter::zip(members, &self.asked) {
            let number = numbers.and_then(|numbers| numbers.get(&member.key));
            for id in asked {
                let Some(entry) = self.entries.get_mut(id) else { continue };
                let Some(through) = entry.target.through else { continue };
                let passages = self.passages.as_ref().map(Arc::clone);
                let passage = passages.zip(number).map(|(passages, real)| (passages, *real, through.vip));
                entry.passage = passage.map(|(passages, real, vip)| Passage { passages, real, vip });
            }
        }
    }
}

/// How a target that is new to this process was when it was last asked.
#[derive(Clone, Copy)]
enum Former<'k> {
    Failed(&'k Failure),
    /// Likewise, and that was a while ago: the first answer decides.
    Old(&'k Failure),
    /// Its server is down, for what other checks have said; it is to stay so until these have spoken.
    Untold,
}

/// Of targets by their places.
fn before<'k>(members: &[Member], known: &'k BTreeMap<String, Health>) -> HashMap<usize, Former<'k>> {
    let mut before = HashMap::new();
    for member in members {
        let Some(health) = known.get(&member.key) else { continue };
        let failure = |planned: &CheckPlan| {
            let name = planned.to_string();
            health.failures.iter().find(|failure| failure.check == name)
        };
        let is_told = member.checks.iter().any(|planned| failure(planned).is_some());
        for (place, planned) in member.targets.iter().zip(member.checks.iter()) {
            let former = match failure(planned) {
                Some(failure) => Former::Failed(failure),
                None if health.is_down && !is_told => Former::Untold,
                None => continue,
            };
            before.entry(*place).or_insert(former);
        }
    }
    before
}

fn is_settled(entries: &[&Entry]) -> bool {
    entries.iter().all(|entry| entry.monitor.is_known())
}

/// What its checks together say of a member.
fn health(member: &Member, entries: &[&Entry]) -> Health {
    let ports = |place: usize| member.checks.get(place).map_or(&[][..], |planned| &planned.ports);
    let checked: Vec<Checked<'_, _>> = entries
        .iter()
        .enumerate()
        .map(|(place, entry)| Checked { is_up: entry.monitor.is_up(), ports: ports(place) })
        .collect();
    let verdict = member::verdict(member.policy, &checked);
    let failed = entries.iter().zip(member.checks.iter()).filter(|(entry, _)| !entry.monitor.is_up());
    let failures = failed.map(|(entry, planned)| {
        let (mut why, since) = entry.failure.clone().unwrap_or_default();
        if why.starts_with(SILENCE)
            && let Some(question) = question(entry, entries)
            && !why.ends_with(&question)
        {
            why.push_str(&question);
        }
        Failure { check: planned.to_string(), why, since }
    });
    Health {
        is_down: verdict == Verdict::Down,
        ports: match &verdict {
            Verdict::Without(ports) => ports.iter().map(|port| (*port).into()).collect(),
            Verdict::Serves | Verdict::Down => BTreeSet::new(),
        },
        // Of several that say one, the least.
        weight: entries.iter().filter_map(|entry| entry.weight).map(|weight| weight.of(member.weight)).min(),
        failures: failures.collect(),
    }
}

/// What to look at when nothing comes back from the VIP, and the server itself answers on the same port.
fn question(entry: &Entry, entries: &[&Entry]) -> Option<String> {
    let Target { address, through, check } = &entry.target;
    let through = through.as_ref()?;
    let is_plain = |other: &&&Entry| other.target.through.is_none() && other.target.check.port == check.port;
    entries.iter().find(|other| is_plain(other) && other.has_answered && other.monitor.is_up())?;
    let vip = through.vip;
    let question = match through.forward {
        Forward::Nat => "does its way to clients lead through this director?".into(),
        Forward::Dr => format!("has it {vip} on lo?"),
        _ => format!("has it {vip} on lo, and a decapsulator?"),
    };
    Some(format!("; {address} itself answers: {question}"))
}

impl Entry {
    fn new(target: Target, former: Option<Former<'_>>, unknown: Before, now: Instant, chance: u32) -> Self {
        let (before, failure) = match former {
            Some(Former::Failed(failure)) => (Before::Known { up: false }, Some((failure.why.clone(), failure.since))),
            Some(Former::Old(failure)) => (Before::Unknown { up: false }, Some((failure.why.clone(), failure.since))),
            Some(Former::Untold) => {
                let since = since_boot().unwrap_or_default();
                (Before::Unknown { up: false }, Some(("it was down, and has not been asked since".into(), since)))
            }
            None => (unknown, None),
        };
        Self {
            probe: Arc::new(Probe::new(&target)),
            passage: None,
            monitor: Monitor::new(target.check.rise, target.check.fall, before),
            failure,
            weight: None,
            has_answered: false,
            members: Vec::new(),
            at: now + monitor::first_pause(target.check.interval, chance),
            running: None,
            target,
        }
    }
}

/// Sends the outcome in any case: also of a question that was called off, or in which the program is at fault.
struct Ending {
    id: u64,
    outcomes: mpsc::UnboundedSender<(u64, Outcome, Duration)>,
    outcome: Option<Outcome>,
    took: Duration,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Outcome::Unasked("it was called off".into()));
        // Nobody listens at the end of the program.
        let _ = self.outcomes.send((self.id, outcome, self.took));
    }
}

/// What the director itself is at fault for, told once in a while.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    untold: u64,
}

impl Complaints {
    fn of(&mut self, target: &Target, why: &str) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINTS) {
            self.untold += 1;
            return;
        }
        let untold = if self.untold > 0 { format!(", and {} others", self.untold) } else { String::new() };
        let via = target.through.map_or_else(String::new, |through| format!(" via {}", through.vip));
        tracing::warn!("{}{via} of {} says nothing: {why}{untold}", target.check, target.address);
        *self = Self { last: Some(Instant::now()), untold: 0 };
    }
}

const COMPLAINTS: Duration = Duration::from_secs(60);

/// Random enough to spread checks (Steele et al., SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }
}

/// Each takes a file descriptor. The limit of this process is raised as far as it may be.
fn most_in_flight() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 256 };
    let wanted = hard.min(MOST_IN_FLIGHT as u64 + SPARE_FILES).max(soft);
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(limit.saturating_sub(SPARE_FILES)).unwrap_or(0).clamp(16, MOST_IN_FLIGHT)
}

/// Questions that wait for an answer: with ten thousand dead servers all of them.
const MOST_IN_FLIGHT: usize = 16_384;
/// For everything else that the daemon has open.
const SPARE_FILES: u64 = 512;
/// That are looked at in one turn.
const MOST_OUTCOMES: usize = 1024;
