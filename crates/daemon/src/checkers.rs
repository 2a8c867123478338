//! Health checks: a thread of their own asks real servers, so that neither a long reload nor a slow server is in the
//! other's way. Plans go in; what has changed about real servers comes out.
//!
//! | module | owns |
//! |---|---|
//! | [`targets`] | what a plan wants asked: each question to one server and port once, whoever shares it |
//! | [`schedule`] | when each is asked, how many at once, and what follows from the answers |
//! | [`probe`] | one question and its answer, over the network |
//! | [`health`] | what changes of a real server's health are called |

pub mod health;
pub mod probe;
pub mod schedule;
pub mod targets;

use crate::director::Director;
use crate::linux::data_plane::Maps;
use crate::live::Live;
use crate::standings::Health;
use marca_config::plan::Plan;
use probe::passage::Ground;
use schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::sync::mpsc;

/// What checks say of a real server from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// As [`real_key`](marca_tables::ids::real_key) has it.
    pub key: String,
    pub health: Health,
}

/// What is to be asked from now on, and what is known.
pub(crate) struct Order {
    pub plan: Arc<Plan>,
    pub known: BTreeMap<String, Health>,
    /// Real servers, by key, that wait for a first verdict.
    pub waiting: BTreeSet<String>,
    /// Servers of which nothing is known have been looked after by another run, and were up.
    pub has_served: bool,
    /// For checks that take the way of clients' packets.
    pub ground: Option<Ground>,
}

/// The thread that asks, while this value lives.
pub struct Checkers {
    orders: mpsc::UnboundedSender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// The plan that it follows.
    followed: Option<Arc<Plan>>,
    /// The director's tables, opened once a check goes through them.
    maps: Option<Arc<Maps>>,
}

impl Checkers {
    /// Starts the thread, in the network namespace of the calling one.
    ///
    /// # Errors
    /// The kernel gives no thread, or it no event queue.
    pub fn start() -> io::Result<Self> {
        Self::start_counting(Live::default())
    }

    /// The same, and counts what it asks.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_counting(live: Live) -> io::Result<Self> {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (reporting, reports) = mpsc::unbounded_channel();
        // The kernel's thread, the event queue and timers.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || runtime.block_on(Schedule::new(reporting, live).run(ordered));
        thread::Builder::new().name("checks".into()).spawn(body)?;
        Ok(Self { orders, reports, followed: None, maps: None })
    }

    /// Asks what the director's plan wants, if it is another one than before. `adopted`: another run has looked after what
    /// runs.
    pub fn follow(&mut self, director: &Director, adopted: bool) {
        let plan = director.configured();
        if self.followed.as_ref().is_none_or(|followed| !Arc::ptr_eq(followed, &plan)) {
            let ground = self.ground(director, &plan);
            self.order(plan, (director.healths().clone(), director.waiting().clone()), adopted, ground);
        }
    }

    /// If the plan has checks that go through the data path.
    fn ground(&mut self, director: &Director, plan: &Plan) -> Option<Ground> {
        if !plan.services.iter().flat_map(|service| service.checks.iter()).any(|planned| planned.vip.is_some()) {
            return None;
        }
        if self.maps.is_none() {
            match director.open_maps() {
                Ok(maps) => self.maps = Some(Arc::new(maps)),
                Err(error) => tracing::error!("no check can go to a VIP: {error}"),
            }
        }
        self.maps.as_ref().map(|maps| director.ground(Arc::clone(maps), plan))
    }

    /// Asks what this plan wants; `known` and `waiting` are what is known of real servers, by key.
    pub fn ask(&mut self, plan: Arc<Plan>, known: BTreeMap<String, Health>, waiting: BTreeSet<String>, adopted: bool) {
        self.order(plan, (known, waiting), adopted, None);
    }

    fn order(
        &mut self,
        plan: Arc<Plan>,
        (known, waiting): (BTreeMap<String, Health>, BTreeSet<String>),
        adopted: bool,
        ground: Option<Ground>,
    ) {
        let has_served = adopted && self.followed.is_none();
        self.followed = Some(Arc::clone(&plan));
        if self.orders.send(Order { plan, known, waiting, has_served, ground }).is_err() {
            tracing::error!("nobody checks real servers any more; their state stays as it is");
        }
    }

    /// What has changed; never empty.
    pub async fn next(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        if self.reports.recv_many(&mut reports, MOST_REPORTS).await == 0 {
            // The thread is gone; that was told.
            std::future::pending::<()>().await;
        }
        reports
    }
}

/// At once.
const MOST_REPORTS: usize = 65_536;
