//! Tools for marca's tests and demonstrations. Nothing in the program depends on this crate.
//!
//! - [`frame`]: a packet as one line of text, and back
//! - [`topology`]: client, director and real servers in network namespaces, removed when dropped
#![warn(missing_docs)]

pub mod frame;
pub mod topology;
