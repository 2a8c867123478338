//! The tables from the daemon's side: memory shared with the kernel, plans written into it, records swept out of it.
//!
//! Pure but for the memory mapping itself: the same code writes a test's heap and a running director's BPF maps.
//!
//! | module | owns |
//! |---|---|
//! | [`region`] | a piece of shared memory as an array of records |
//! | [`memory`] | all of them together, and how large they are |
//! | [`view`] | the engine's `Tables` over a memory |
//! | [`frame`] | a frame in memory, as the engine sees it |
//! | [`ids`] | which number a service, a real server, a host has, from one plan to the next |
//! | [`classifier`] | destinations, ports and marks written into the half that is not in force |
//! | `claims` | which service has a recorded connection's packets now |
//! | [`records`] | connections and persistence, listed and ended one by one |
//! | [`services`] | services, their real servers and slots, switched one at a time |
//! | [`slots`] | which real server each slot of a table has |
//! | `room` | where in a table there is room for them |
//! | [`sweep`] | what has timed out |
//! | [`explain`] | where a packet would go, and why |
//! | [`passage`] | packets of the director's own on the way of clients' packets |

mod claims;
pub mod classifier;
pub mod explain;
pub mod frame;
pub mod ids;
pub mod memory;
pub mod passage;
pub mod records;
pub mod region;
mod room;
pub mod services;
pub mod slots;
pub mod sweep;
pub mod view;

pub use frame::Frame;
pub use memory::{Capacity, Memory};
pub use region::Region;
pub use view::View;
