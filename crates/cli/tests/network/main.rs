//! Directors between real clients and real servers, in network namespaces of this machine's kernel: the program as
//! its operator runs it. Needs root and the Debian packages of [`peers::PACKAGES`].

mod api;
mod checks;
mod doctor;
mod failure;
mod flapping;
mod fragments;
mod ftp;
mod fullnat;
mod hand;
mod hops;
mod icmp;
mod ipvs;
mod killed;
mod lifecycle;
mod methods;
mod metrics;
mod mishaps;
mod mutated;
mod peers;
mod persistence;
mod quorum;
mod refusal;
mod reload;
mod schemathesis;
mod selftest;
mod services;
mod site;
mod stop;
mod streams;
mod survival;
mod tc;
mod through;
mod top;
mod tutorial;
mod untouched;
