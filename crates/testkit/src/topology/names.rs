//! The names of a topology's namespaces: who owns them, and how they go away.

use super::{Error, SERVERS_MAX, namespace};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The right to make, and the duty to remove, the namespaces `marca-<test>-<role>`.
#[derive(Debug)]
pub(super) struct Names {
    test: String,
    /// An abstract socket: the kernel lets one process have the name, and takes it back when that process dies however
    /// it dies. A lock file would be left behind.
    _claim: UnixListener,
}

impl Names {
    pub fn claim(test: &str) -> Result<Self, Error> {
        let test = sanitised(test);
        let doing = || format!("set up the topology `{test}`");
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::new(doing(), io::Error::other("network namespaces need root")));
        }
        let address = SocketAddr::from_abstract_name(format!("marca-testkit/{test}"));
        let address = address.map_err(|error| Error::new(doing(), error))?;
        let deadline = Instant::now() + CLAIM_WITHIN;
        let claim = loop {
            match UnixListener::bind_addr(&address) {
                Ok(claim) => break claim,
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(Error::new(doing(), error)),
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Err(_) => return Err(Error::new(doing(), io::Error::other("a topology of this name is up already"))),
            }
        };
        Ok(Names { test, _claim: claim })
    }

    pub fn namespace(&self, role: &str) -> String {
        format!("marca-{}-{role}", self.test)
    }

    /// Removes what there is of these names, ours or a crashed run's, with any number of servers.
    pub fn remove(&self) -> Result<(), Error> {
        let names = roles(SERVERS_MAX).map(|role| self.namespace(&role));
        let there = names.filter(|name| Path::new(namespace::FOLDER).join(name).exists());
        let commands: Vec<String> = there.map(|name| format!("netns del {name}")).collect();
        namespace::ip_batch(None, &commands)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error}");
        }
    }
}

/// The three that each layout has, then the servers.
pub(super) fn roles(servers: usize) -> impl Iterator<Item = String> {
    ["client", "director", "switch"].map(str::to_owned).into_iter().chain((0..servers).map(server))
}

pub(super) fn server(index: usize) -> String {
    format!("server{}", index + 1)
}

/// A test's name as a part of a file name. Bounded, because a namespace's name is a file's (255 bytes).
fn sanitised(test: &str) -> String {
    const LENGTH_MAX: usize = 100;
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    test.chars().take(LENGTH_MAX).map(letter).collect()
}

/// A name that has just been given back may be held for a moment longer by a child that another thread has forked and
/// that has not yet become its program.
const CLAIM_WITHIN: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_name_becomes_a_file_name() {
        assert_eq!(sanitised("nat::HTTP over/IPv6"), "nat--http-over-ipv6");
        assert_eq!(sanitised(&"é".repeat(300)).len(), 100);
    }
}
