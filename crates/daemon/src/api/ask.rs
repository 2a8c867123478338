//! What the owner of the director is asked, and answers.

use super::Problem;
use super::problem::Sort;
use crate::director::now;
use crate::overrides::{Change, Until};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

/// Where an answer goes. Whoever has asked may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// A request that is an event to the owner.
pub enum Asked {
    /// These real servers have failed, or serve again: see [`crate::standings::Meant`].
    Health { servers: Vec<String>, up: bool, reply: Reply<Done> },
    /// An operator says something of these real servers.
    Say { servers: Vec<String>, change: Change, until: Until, reply: Reply<Done> },
    /// Put in force what the daemon's file says now.
    Reload { reply: Reply<Reloaded> },
    /// End, once that is answered; and take away what was set up.
    Stop { detach: bool, reply: Reply<Stopping> },
}

/// Reads until when something is to hold.
///
/// # Errors
/// When it is neither a duration nor a moment to come.
pub fn until(text: Option<&str>) -> Result<Until, Problem> {
    let Some(text) = text else { return Ok(Until::TakenBack) };
    let now = now().map_err(|error| Problem::from(&error))?;
    Until::parse(text, now).map_err(|detail| Problem::new(Sort::BadRequest, detail).at("/until"))
}

/// Something was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// What became of it, for people.
    pub lines: Vec<String>,
    /// What to know besides: that it cannot be written down now, so that a restart would not know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The daemon ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stopping {
    /// Its process id.
    pub process: u32,
    /// Programs, tables, VIPs and sysctls go with it; events say which.
    pub detach: bool,
}

/// Another configuration is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Services, by address family: those that there are, new or otherwise, and gone.
    pub services: usize,
    pub changed: usize,
    pub gone: usize,
    /// Until the tables had it.
    pub milliseconds: f64,
    /// Diagnostics of the file that are no errors, drawn for people.
    pub warnings: String,
    /// What about the host hinders it, each with what mends it.
    pub findings: Vec<String>,
}
