//! The director as a daemon: one task owns the state, everything else is an event to it.
//!
//! | module | owns |
//! |---|---|
//! | [`place`] | where a director keeps its files and pins; what it must remember to be taken away again |
//! | [`live`] | what the daemon knows beside its files |
//! | [`director`] | from a configuration to a running data plane, and what has to be kept up while it runs |
//! | [`overrides`] | what operators have said of real servers by hand |
//! | [`checkers`] | health checks: what real servers are asked, and what follows from their answers |
//! | [`standings`] | which real servers have failed, and whose time to drain runs |
//! | [`api`] | what operators and programs ask of a running daemon |
//! | [`diff`] | what another configuration would change, in words |
//! | [`explain`] | where a packet would go, by a running director's tables |
//! | [`extras`] | what of the data plane few configurations need |
//! | [`hops`] | the way to each real server: interface, MAC addresses, tunnel source |
//! | `settling` | packets that were on their way when the tables changed |
//! | [`vips`] | VIPs on the outside interfaces, and their announcements |
//! | [`forwarding`] | the sysctls that routing replies needs |
//! | [`prefixes`] | the longest of many prefixes |
//! | [`routes`] | a copy of the kernel's routes, for replies to clients |
//! | [`run`] | the event loop |
//! | [`status`] | what a director counts, for people and programs |
//! | [`doctor`] | what is wrong with a host, and what mends it |
//! | [`steps`] | the steps in which a configuration comes into force, after each of which a daemon may be killed |
//! | [`watch`] | the same again and again |
//! | [`metrics`] | the same for Prometheus |
//! | [`linux`] | the kernel's interfaces |

pub mod api;
pub mod checkers;
pub mod diff;
pub mod director;
pub mod doctor;
pub mod explain;
pub mod extras;
pub mod forwarding;
pub mod hops;
pub mod linux;
pub mod live;
pub mod metrics;
pub mod overrides;
pub mod place;
pub mod prefixes;
pub mod routes;
pub mod run;
mod settling;
pub mod standings;
pub mod status;
pub mod steps;
pub mod vips;
pub mod watch;
