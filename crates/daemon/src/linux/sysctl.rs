//! Reads and writes `net.*` sysctls. Owns the names and the files under `/proc/sys/net`.
//!
//! The kernel shows each thread the values of its own network namespace, so nothing here may move to another thread:
//! the calls block, for microseconds, instead of going through `tokio::fs` and its thread pool.

use std::io;
use std::path::{Path, PathBuf};

/// The value of a sysctl of the calling thread's network namespace, without its line end: `read("net.ipv4.ip_forward")`.
///
/// An interface's name may hold dots, as in `net.ipv4.conf.eth0.100.rp_filter`. The form of sysctl(8), in which it
/// holds slashes instead (`net.ipv4.conf.eth0/100.rp_filter`), is understood as well.
pub fn read(name: &str) -> Result<String, SysctlError> {
    let file = path(name)?;
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(cause) => Err(SysctlError::Read { name: name.to_owned(), hint: hint(&cause), cause }),
    }
}

/// Sets a sysctl of the calling thread's network namespace. Names are those of [`read`].
pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    let file = path(name)?;
    // Without `create`: a sysctl that does not exist is ENOENT, not an attempt to make a file in /proc.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut open| io::Write::write_all(&mut open, value.as_bytes()))
        .map_err(|cause| SysctlError::Write {
            name: name.to_owned(),
            value: value.to_owned(),
            hint: hint(&cause),
            cause,
        })
}

/// What could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("{0} is not the name of a network sysctl, like net.ipv4.ip_forward")]
    Name(String),
    #[error("read the sysctl {name}: {cause}{hint}")]
    Read { name: String, cause: io::Error, hint: &'static str },
    #[error("set the sysctl {name} to {value}: {cause}{hint}")]
    Write { name: String, value: String, cause: io::Error, hint: &'static str },
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => " (this kernel or namespace has no such sysctl, or no such interface)",
        io::ErrorKind::ReadOnlyFilesystem => " (/proc/sys is mounted read-only, as in an unprivileged container)",
        _ => "",
    }
}

fn path(name: &str) -> Result<PathBuf, SysctlError> {
    let refuse = || SysctlError::Name(name.to_owned());
    let rest = name.strip_prefix("net.").ok_or_else(refuse)?;
    let parts = match PER_INTERFACE.iter().find_map(|tree| Some((tree, rest.strip_prefix(tree)?.strip_prefix('.')?))) {
        // No sysctl of these trees has a dot in its own name, so all between is the interface.
        Some((tree, rest)) => {
            let (interface, key) = rest.rsplit_once('.').ok_or_else(refuse)?;
            let mut parts: Vec<String> = tree.split('.').map(str::to_owned).collect();
            parts.push(interface.replace('/', "."));
            parts.push(key.to_owned());
            parts
        }
        None => rest.split('.').map(str::to_owned).collect(),
    };
    // No part may lead elsewhere.
    if parts.iter().any(|part| part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0'])) {
        return Err(refuse());
    }
    Ok(parts.iter().fold(Path::new("/proc/sys/net").to_owned(), |path, part| path.join(part)))
}

/// The trees under `net.` with a directory for each interface.
const PER_INTERFACE: [&str; 5] = ["ipv4.conf", "ipv4.neigh", "ipv6.conf", "ipv6.neigh", "mpls.conf"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_and_an_interface_keeps_its_dots() {
        for (name, wanted) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net.core.bpf_jit_enable", "/proc/sys/net/core/bpf_jit_enable"),
            ("net.ipv4.vs.expire_nodest_conn", "/proc/sys/net/ipv4/vs/expire_nodest_conn"),
            ("net.ipv4.conf.all.rp_filter", "/proc/sys/net/ipv4/conf/all/rp_filter"),
            ("net.ipv4.conf.eth0.100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"),
            ("net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"),
            ("net.ipv6.neigh.a.b.c.gc_stale_time", "/proc/sys/net/ipv6/neigh/a.b.c/gc_stale_time"),
        ] {
            assert_eq!(path(name).unwrap(), Path::new(wanted), "{name}");
        }
    }

    #[test]
    fn a_name_that_leads_out_of_the_tree_is_refused() {
        for name in [
            "",
            "net",
            "net.",
            "kernel.hostname",
            "/proc/sys/net/ipv4/ip_forward",
            "net.ipv4/ip_forward",
            "net.ipv4..ip_forward",
            "net.ipv4.conf.rp_filter",
            "net.ipv4.conf...rp_filter",
            "net.ipv4.conf....rp_filter",
            "net.ipv4.conf.//.rp_filter",
            "net.ipv4.conf.eth0.",
            "net.ipv4.conf.eth0.a/b",
            "net.ipv4.ip_forward\0",
        ] {
            assert!(matches!(path(name), Err(SysctlError::Name(_))), "{name:?} gave {:?}", path(name));
        }
    }
}
