//! The Linux adapters against a real kernel, in network namespaces of their own. Needs root and iproute2.

mod announce;
mod bpffs;
mod changes;
mod checks;
mod namespace;
mod neighbours;
mod network;
mod offload;
mod routes;
mod sysctl;
mod tc;
