//! Tools for marca's tests and demonstrations. Nothing in the program depends on this crate.
//!
//! - [`frame`]: a packet as one line of text, and back
//! - [`mutation`]: good texts, spoilt by a seed
//! - [`topology`]: client, director and real servers in network namespaces, removed when dropped
//! - `peer` (feature `peer`): the servers and the clients that live there, also as the program `marca-peer`
#![warn(missing_docs)]

mod error;
pub mod frame;
pub mod mutation;
#[cfg(feature = "peer")]
pub mod peer;
pub mod topology;

pub use error::Error;
