//! What marca asks of the Linux it runs on. Each file owns one kernel interface; none decides anything.
//!
//! A network namespace belongs to a thread, and a socket to the namespace in which it was opened. Everything here acts
//! on the namespace of the thread that calls `open`, `read`, `findings` and so on.
//!
//! | file | kernel interface |
//! |---|---|
//! | [`network`] | route netlink: interfaces, addresses, routes, neighbours, and their changes |
//! | [`announce`] | a packet socket that sends whole frames |
//! | [`packets`] | packet sockets that send frames and hear packets past the kernel's TCP/IP |
//! | `object` | the BPF object, and its programs loaded beside |
//! | [`offload`] | the ethtool ioctl: offloads that break or weaken XDP |
//! | [`features`] | generic netlink, `netdev`: whether a driver has native XDP |
//! | [`sysctl`] | `/proc/sys/net` |
//! | [`bpffs`] | the BPF file system |
//! | [`data_plane`] | BPF programs and maps: loading, pinning, adopting |
//! | [`attach`] | how the programs come to interfaces: native and generic XDP, or TC |
//! | [`tc`] | attachments to TC |
//! | [`decap`] | the decapsulator on a real server |
//! | [`grace`] | `membarrier`: packets that are on their way |
//! | [`mod@file`] | inotify: changes of one file |
//! | [`peer`] | who is at the other end of a Unix socket |
//! | [`systemd`] | the service manager's socket |
//! | `link` | the `bpf` system call, where aya has no name for what it does |
pub mod announce;
pub mod attach;
pub mod bpffs;
pub mod data_plane;
pub mod decap;
pub mod features;
pub mod file;
pub mod grace;
pub(crate) mod link;
pub mod network;
mod object;
pub mod offload;
pub mod packets;
pub mod peer;
pub mod sysctl;
pub mod systemd;
pub mod tc;
