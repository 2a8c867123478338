//! The engine over tables that plans were written into: real frames in, real frames out, all in this process.
//!
//! | module | holds |
//! |---|---|
//! | `director` | the director of these tests: tables, a plan, a clock, a sweep |
//! | `configuration` | services as values, in a few words |
//! | `packet` | frames of connections, made quickly |
//! | `schedulers`, `choices` | each scheduler against its published algorithm |
//! | `flows` | the flow property: a packet of a live connection goes where the connection began |
//! | `simulation` | its model: clients, an operator, a daemon |
//! | `moves` | single stories of the same, each a bug that was |
//! | `processors` | the same with several at once |
//! | `persistence` | templates |
//! | `load` | how full a connection table gets |
//! | `ipvs` | what IPVS does, where no other module shows it |
//! | `floods` | forged clients |
//! | `ftp` | control connections that are read |
//! | `fullnat` | sources of the director's own, and whose they are |
//! | `hops` | what a processor remembers of routes |
//! | `fragments` | pieces of packets, and how many are remembered |
//! | `rewriting` | frames there and back, checksums |
//! | `numbers` | ids and keys |
//! | `classifier` | plans as packets meet them |
//! | `replacing` | one configuration in the place of another |
//! | `many` | ten thousand services |

mod choices;
mod classifier;
mod configuration;
mod director;
mod floods;
mod flows;
mod fragments;
mod ftp;
mod fullnat;
mod hops;
mod ipvs;
mod load;
mod many;
mod moves;
mod numbers;
mod packet;
mod persistence;
mod processors;
mod records;
mod replacing;
mod rewriting;
mod schedulers;
mod simulation;
