//! `marca doctor`: what is wrong with a director or a real server, and the command that mends it.
//!
//! What is to be known is gathered first, as one value; what to say of it is decided by functions that know nothing else.
//!
//! | module | owns |
//! |---|---|
//! | [`facts`] | what is known of a host |
//! | [`gather`] | finding it out: files of `/proc` and `/sys`, and the programs `ip`, `tc`, `nft`, `iptables-save` |
//! | [`director`] | what it means for a director |
//! | [`real_server`] | what it means for a real server |
//! | [`firewall`] | rules of a packet filter that are about the same traffic |

pub mod director;
pub mod facts;
pub mod firewall;
pub mod gather;
pub mod real_server;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Works worse, or will fail some day.
    Warning,
    /// Packets are lost, or would be.
    Fault,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Fault => "FAULT",
        }
    }
}

/// Something that should be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word: `mtu`.
    pub check: &'static str,
    pub severity: Severity,
    pub what: String,
    pub why: String,
    /// A command, or a line of the configuration.
    pub mend: String,
}

/// Something that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Well {
    pub check: &'static str,
    pub what: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub well: Vec<Well>,
}

impl Report {
    pub fn has_faults(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Fault)
    }

    fn well(&mut self, check: &'static str, what: impl Into<String>) {
        self.well.push(Well { check, what: what.into() });
    }

    fn find(
        &mut self,
        severity: Severity,
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.findings.push(Finding { check, severity, what: what.into(), why: why.into(), mend: mend.into() });
    }

    /// What could not be looked at is not well.
    fn unread(&mut self, unread: &[facts::Unread]) {
        for unread in unread {
            let why = "what depends on it has not been looked at";
            self.find(Severity::Note, "doctor", format!("{}: {}", unread.what, unread.why), why, unread.mend.clone());
        }
    }

    /// The worst first.
    fn sorted(mut self) -> Self {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self
    }
}

fn clock(facts: &facts::Facts, report: &mut Report) {
    match facts.clock_is_kept {
        Some(true) => report.well("clock", "kept by somebody"),
        Some(false) => report.find(
            Severity::Note,
            "clock",
            "nobody keeps the clock right",
            "logs of several hosts do not fit together, and certificates seem expired; deadlines do not depend on it",
            "timedatectl set-ntp true",
        ),
        None => {}
    }
}
