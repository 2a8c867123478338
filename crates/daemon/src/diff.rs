//! What another configuration would change: in the words of the file, and in what packets would notice.

use crate::director::{DirectorError, Wanted};
use marca_config::change::{Change, changes};
use marca_config::plan::{Difference, Plan};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// From the configuration in force to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    pub changes: Vec<Changed>,
    /// Services, by address family, that packets would find new or otherwise, and gone; those that only have another place
    /// in the file are neither.
    pub services_changed: usize,
    pub services_gone: usize,
    /// Whether packets would be told apart otherwise: VIPs, ports, marks.
    pub classifier: bool,
    /// Diagnostics of the file that are no errors, drawn for people.
    pub warnings: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// `added`, `gone` or `changed`.
    pub what: String,
    /// Neither: the router, the API, or mark rules.
    pub service: Option<String>,
    pub server: Option<String>,
    /// `weight: 1 -> 3`.
    pub text: String,
    /// The same in one line, as `marca diff` prints it.
    pub line: String,
}

impl From<Change> for Changed {
    fn from(change: Change) -> Self {
        let line = change.to_string();
        let Change { kind, service, server, text } = change;
        Self { what: kind.name().into(), service, server, text, line }
    }
}

impl Diff {
    /// `running` is the text of the configuration in force, `file` the name to print for the other one.
    ///
    /// # Errors
    /// The faults of either.
    pub fn of(running: &str, file: &str, text: &str) -> Result<Self, DirectorError> {
        let wanted = Wanted::of(file, text)?;
        let old = marca_config::load("running.toml", running).map_err(DirectorError::Config)?;
        let difference = Difference::of(&Plan::of(&old.config)?, &wanted.plan);
        Ok(Self {
            changes: changes(&old.config, &wanted.config).into_iter().map(Changed::from).collect(),
            services_changed: difference.changed.len(),
            services_gone: difference.gone.len(),
            classifier: !difference.classifier.is_empty(),
            warnings: wanted.warnings,
        })
    }

    /// Whether a reload would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A line for each change, and what packets would notice.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{}", change.line)?;
        }
        if self.is_empty() {
            return Ok(());
        }
        let Self { services_changed, services_gone, .. } = self;
        let apart = if self.classifier { "otherwise" } else { "as now" };
        writeln!(
            f,
            "in the tables: {services_changed} services new or changed, {services_gone} gone; packets are told apart {apart}"
        )
    }
}
