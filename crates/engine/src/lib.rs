//! What happens to a packet.
//!
//! Pure logic, `no_std` and free of unsafe: the same code runs in the kernel (compiled to BPF), in tests, and in
//! `marca explain`. The world enters through two traits, [`Packet`] and [`Tables`]; time is an answer of the latter.
//!
//! A packet's way, one module a step:
//!
//! | step | module | answers |
//! |---|---|---|
//! | parse | [`wire`] | which addresses, protocol, ports, flags |
//! | classify | [`classify`] | which virtual service, or which real server's reply |
//! | flow | [`flow`] | the record of this connection |
//! | persist | [`persist`] | the record of this client |
//! | schedule | [`schedule`] | which real server a new connection gets |
//! | decide | [`decide`] | all of the above as one decision, nothing written |
//! | commit | [`commit`], [`rate`] | the decision's records written, unless a new connection is one too many |
//! | forward | [`forward`], [`route`], [`neighbour`] | the frame rewritten, and to which MAC address it goes |
//! | relate | [`icmp`] | which connection an ICMP error is about |
//! | fragment | [`fragment`] | where the first fragment of a packet went |
//! | overhear | [`ftp`] | the data connection that an FTP control connection announces |
//! | answer | [`answer`] | the frame made into an answer to its sender, where it goes no further |
//!
//! [`path`] walks them, in stages: `fast` for the packets that need no record written, others for the rest; up to where a
//! packet goes they [`look`] at it. [Plain](plain) packets of busy connections need not walk: see [`shortcut`]; and most others
//! only half the way: see [`door`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod classify;
pub mod commit;
pub mod decap;
pub mod decide;
pub mod door;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod ftp;
pub mod hash;
pub mod icmp;
pub mod layout;
pub mod look;
pub mod neighbour;
pub mod packet;
pub mod path;
pub mod persist;
pub mod plain;
pub mod rate;
pub mod reason;
pub mod route;
pub mod schedule;
pub mod shortcut;
pub mod tables;
pub mod wire;

pub use packet::Packet;
pub use path::{
    Between, Outcome, Stage, Turn, Work, act, back, borrow, choose, enter, fast, follow, full, give, hide, judge,
    overhear, process, quote, relate, relay, remember, tell, unwrap,
};
pub use reason::{Action, Reason};
pub use tables::Tables;
