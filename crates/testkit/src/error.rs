//! One error for everything here that asks the system for something.

use std::io;

/// What was being done to what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Error {
    doing: String,
    /// Not called `source`, because the message tells it already: printers of chains would say it twice.
    why: io::Error,
}

impl Error {
    pub(crate) fn new(doing: impl Into<String>, why: io::Error) -> Self {
        Error { doing: doing.into(), why }
    }

    /// Right behind a system call that has failed.
    pub(crate) fn last_os_error(doing: impl Into<String>) -> Self {
        Error::new(doing, io::Error::last_os_error())
    }

    /// What the system said: `TimedOut`, `ConnectionRefused`, `HostUnreachable`, …
    pub fn kind(&self) -> io::ErrorKind {
        self.why.kind()
    }
}
