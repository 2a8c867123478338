//! Real servers and clients for tests and demonstrations: a server says its name in everything that it answers.
//!
//! Plain threads and blocking sockets. Sockets and threads belong to the network namespace of the thread that makes
//! them, so that a whole farm of servers runs in the test's own process:
//!
//! ```no_run
//! use marca_testkit::peer::{self, Offer, Server};
//! use marca_testkit::topology::Topology;
//! use std::time::Duration;
//!
//! let net = Topology::routed("my-test", 1)?;
//! let offer = Offer { name: "web1".into(), http: vec![80], ..Offer::default() };
//! let _web1 = net.server(0).enter(|| Server::start(offer))?;
//! let answer = net.director().enter(|| peer::ask(None, "http://10.0.0.11/", Duration::from_secs(1)))?;
//! assert_eq!(answer.server, "web1");
//! # Ok::<(), marca_testkit::Error>(())
//! ```
//!
//! Over HTTP and HTTPS, each answer with the server's name in `X-Served-By` and the peer it saw in `X-Client`:
//!
//! | request | answer |
//! |---|---|
//! | `GET /bytes/N` | N bytes of [`frame::pattern`](crate::frame::pattern) |
//! | `GET /slow/N` | N bytes in up to 30 lines, one each 100 ms |
//! | `POST /sink` | the length of the body and its [`checksum`] in hexadecimal |
//! | `GET /healthz` | status 200, or what `POST /healthz/N` has set |
//! | `GET` of anything else | `web1 saw 192.0.2.101:40000` |
//!
//! Over UDP, `web1: ` and the payload. On an echo port, `web1: ` and each line, as long as the connection is open: see
//! [`Session`].

mod ask;
mod http;
mod server;
mod session;
mod tls;
mod udp;

pub use ask::{Answer, ask, send};
pub use server::{Offer, Server};
pub use session::Session;

use crate::Error;
use std::io;
use std::path::PathBuf;

/// The FNV-1a hash of a body, which is as quick to compute in an unoptimised test as it is to explain.
pub fn checksum(bytes: &[u8]) -> u64 {
    checksum_more(FNV_OFFSET, bytes)
}

/// Where the program `marca-peer` is, for tests that need a process to kill: what the variable `MARCA_PEER` says, or
/// beside the running test.
///
/// # Errors
/// It has not been built.
pub fn program() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("MARCA_PEER") {
        return Ok(path.into());
    }
    let doing = || "find marca-peer (build it by `cargo build --package marca-testkit`, or set MARCA_PEER)";
    let test = std::env::current_exe().map_err(|error| Error::new(doing(), error))?;
    // Tests are in `target/debug/deps`, programs one folder up.
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join("marca-peer")).find(|path| path.is_file());
    found.ok_or_else(|| Error::new(doing(), io::ErrorKind::NotFound.into()))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn checksum_more(hash: u64, bytes: &[u8]) -> u64 {
    const FNV_PRIME: u64 = 0x100_0000_01b3;
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_published_examples() {
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
