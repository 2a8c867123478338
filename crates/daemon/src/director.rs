//! From a configuration to a running data plane, and what has to be kept up while it runs.
//!
//! | module | owns |
//! |---|---|
//! | `start` | the first configuration, on a data plane that is new or adopted; and the end of all |
//! | `replace` | another configuration in the place of the running one |
//! | `health` | real servers that fail, serve again, or have drained |
//! | `hand` | what operators say by hand: drains, weights, servers out of service |
//! | `upkeep` | what is due and what changes in the network |
//! | `again` | what interfaces that come again have lost |
//! | `interfaces` | attachments, VIPs, sysctls |

mod again;
mod hand;
mod health;
mod interfaces;
mod replace;
mod start;
mod upkeep;

pub use hand::now;
pub use replace::{Replaced, Wanted};
pub use start::detach;
pub use upkeep::sweep_piece;

use crate::hops::Hops;
use crate::linux::attach::Attachment;
use crate::linux::data_plane::{DataPlane, DataPlaneError};
use crate::linux::network::{Interface, Network, NetworkError};
use crate::linux::sysctl::SysctlError;
use crate::overrides::Overrides;
use crate::place::{Place, PlaceError, State};
use crate::routes::Routes;
use crate::settling::Settling;
use crate::standings::Standings;
use crate::status::RunningConfig;
use crate::vips::Announcements;
use marca_config::Diagnostics;
use marca_config::model::{self, Config, Metrics, ReloadWhen};
use marca_config::plan::{Plan, PlanError};
use marca_tables::classifier::{self, Classifier, WriteError};
use marca_tables::ids::{Ids, NoNumber};
use marca_tables::memory::Memory;
use marca_tables::services::NoRoom;
use marca_tables::sweep::Sweep;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a configuration is not in force.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    #[error("{0}")]
    Config(Diagnostics),
    #[error("read {file}: {cause}")]
    Read { file: String, cause: io::Error },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    NoNumber(#[from] NoNumber),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Packet(#[from] crate::linux::announce::PacketError),
    #[error(
        "the tables of the running data plane are too small for this configuration: `marca stop --detach`, which ends \
         its connections, and start again"
    )]
    TooSmall,
    #[error("no service has a real server `{0}`: `marca status` lists them")]
    NoServer(String),
    #[error("listen for requests: {0}")]
    Api(io::Error),
    #[error("read the configuration: {0}")]
    Reading(String),
    #[error("draw a random number: {0}")]
    Random(io::Error),
    #[error("start the thread for health checks: {0}")]
    Checkers(io::Error),
    #[error("listen for signals: {0}")]
    Signal(io::Error),
}

/// What to know once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub adopted: bool,
    /// As the file counts them.
    pub services: usize,
    pub attached: Vec<Attachment>,
    pub findings: Vec<String>,
    pub warnings: String,
    /// As the file says.
    pub metrics: Metrics,
}

/// A running director.
pub struct Director {
    place: Place,
    network: Network,
    plane: DataPlane,
    /// As the configuration has it; with what operators have said by hand; and as it is in force: with the real servers'
    /// standings.
    file: Arc<Plan>,
    configured: Arc<Plan>,
    plan: Arc<Plan>,
    /// Of the configuration: what concerns the daemon, and not packets.
    api: model::Api,
    reload_when: ReloadWhen,
    overrides: Overrides,
    standings: Standings,
    state: State,
    hops: Hops,
    routes: Routes,
    announcements: Vec<Announcements>,
    sweep: Sweep,
    /// When the ways to real servers are looked up again, after a change.
    look_again: Option<Instant>,
    /// The same for the copy of the routes.
    copy_again: Option<Instant>,
    /// When gateways were last made sure of.
    refreshed: Instant,
    classifier: Classifier,
    /// What it was written from.
    classified: Classified,
    settling: Settling,
    /// The interfaces as they were when last looked at; none after a change of the network. With thousands of VIPs on
    /// them a look takes longer than a reload.
    interfaces: Vec<Interface>,
    /// When standings that could not be written are tried again.
    save_again: Option<Instant>,
}

impl Director {
    /// Who may ask the daemon by the network.
    pub fn api(&self) -> &model::Api {
        &self.api
    }

    /// When the file is put in force anew.
    pub fn reload_when(&self) -> ReloadWhen {
        self.reload_when
    }

    /// The configuration in force, for whoever reads it in this process.
    fn tell_running(&self, config: &Arc<Config>) {
        self.place.live.set_running(RunningConfig { config: Arc::clone(config), plan: Arc::clone(&self.file) });
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }
}

/// What a half of the classifier was written from, beside the plan.
#[derive(Default, PartialEq, Eq)]
struct Classified {
    /// By name.
    interfaces: HashMap<String, u32>,
    leaving: BTreeSet<IpAddr>,
}

impl Classified {
    fn of(memory: &Memory, ids: &Ids, interfaces: &[Interface]) -> Self {
        Self {
            interfaces: interfaces.iter().map(|i| (i.name.clone(), i.index)).collect(),
            leaving: classifier::leaving(memory, ids),
        }
    }
}

/// How often [`Director::tick`] is called.
pub const TICK: Duration = Duration::from_millis(100);
