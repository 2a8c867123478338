//! The topologies and the peers, on this machine's kernel. Needs root.

mod peers;
mod topologies;
