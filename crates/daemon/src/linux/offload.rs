//! Interface settings that break or weaken XDP or TC, asked through the ethtool ioctl. Owns the ioctl; mends nothing by
//! itself, because the operator may have reasons.

use crate::linux::attach::Mode;
use std::ffi::c_char;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

/// One setting that should be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is set, on which interface.
    pub what: String,
    /// What goes wrong because of it.
    pub why: &'static str,
    /// The command that mends it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (mend: {})", self.what, self.why, self.mend)
    }
}

/// What to change on `interface`, in the network namespace of the calling thread; empty when all is well. `kind` is
/// the link's kind as in `Interface::kind`, `mode` how its packets are met.
///
/// A device that knows no ethtool operations has none of these offloads, and no findings.
pub fn findings(interface: &str, kind: Option<&str>, mode: Mode) -> Result<Vec<Finding>, OffloadError> {
    let (lro, tx_checksum) = state(interface)?;
    Ok(judge(interface, kind, mode, Settings { lro, tx_checksum }))
}

/// Whether large receive offload and transmit checksum offload are on.
pub fn state(interface: &str) -> Result<(bool, bool), OffloadError> {
    let flags = ask(interface, ETHTOOL_GFLAGS, "read the offload flags")?;
    let tx_checksum = ask(interface, ETHTOOL_GTXCSUM, "read the transmit checksum offload")?;
    Ok((flags & ETH_FLAG_LRO != 0, tx_checksum != 0))
}

/// Switches transmit checksum offload, as `ethtool -K … tx on|off` does. Needs `CAP_NET_ADMIN`.
pub fn set_tx_checksum(interface: &str, on: bool) -> Result<(), OffloadError> {
    ethtool(interface, ETHTOOL_STXCSUM, on.into()).map(drop).map_err(|cause| OffloadError {
        doing: if on { "switch transmit checksum offload on" } else { "switch transmit checksum offload off" },
        interface: interface.to_owned(),
        cause,
    })
}

/// What could not be asked or set.
#[derive(Debug, thiserror::Error)]
#[error("{doing} of {interface}: {cause}")]
pub struct OffloadError {
    pub doing: &'static str,
    pub interface: String,
    pub cause: io::Error,
}

#[derive(Clone, Copy, Default)]
struct Settings {
    lro: bool,
    tx_checksum: bool,
}

fn judge(interface: &str, kind: Option<&str>, mode: Mode, settings: Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.lro {
        findings.push(Finding {
            what: format!("large receive offload is on for {interface}"),
            why: match mode {
                Mode::Native | Mode::Generic => {
                    "it merges TCP segments into frames that XDP cannot take: drivers refuse to attach the program, and \
                     merged frames cannot be forwarded as they came"
                }
                Mode::Tc => "it merges TCP segments into frames that cannot be forwarded as they came",
            },
            mend: format!("ethtool -K {interface} lro off"),
        });
    }
    // A physical card fills the checksum in before the frame is on the wire. A veth has no wire: the peer's XDP
    // program gets the frame as the sender's stack left it, and what it forwards is a bare frame, without the
    // skb's note that the checksum is still to be computed.
    if settings.tx_checksum && kind == Some("veth") && mode != Mode::Tc {
        findings.push(Finding {
            what: format!("transmit checksum offload is on for {interface}, a veth"),
            why: "packets sent here carry no TCP or UDP checksum, and leave without one when XDP forwards them: \
                  receivers drop them",
            mend: format!("ethtool -K {interface} tx off"),
        });
    }
    findings
}

/// The value of one legacy ethtool setting; 0 when the device knows no ethtool.
fn ask(interface: &str, command: u32, doing: &'static str) -> Result<u32, OffloadError> {
    match ethtool(interface, command, 0) {
        Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        answer => answer.map_err(|cause| OffloadError { doing, interface: interface.to_owned(), cause }),
    }
}

/// One `SIOCETHTOOL` call with a `struct ethtool_value`. Returns the value as the kernel left it.
fn ethtool(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    // Any socket will do: the kernel looks at its network namespace only.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data };
    let mut request = libc::ifreq {
        ifr_name: interface_name(interface)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: SIOCETHTOOL takes a pointer to an `ifreq` with a terminated name, whose data points to the command's
    // structure. Every command used here takes a `struct ethtool_value`, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}

/// `include/uapi/linux/ethtool.h`, `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn interface_name(interface: &str) -> io::Result<[c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    Ok(name)
}

// `include/uapi/linux/ethtool.h`. The libc crate has no ethtool commands. The legacy single-value commands are used
// because the feature strings of `ETHTOOL_GFEATURES` take three more calls to say the same.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_found_when_both_offloads_are_off() {
        assert_eq!(judge("eth0", Some("veth"), Mode::Native, Settings::default()), []);
    }

    #[test]
    fn lro_is_found_on_any_kind_with_the_command_that_mends_it() {
        for kind in [None, Some("veth"), Some("bond")] {
            let found = judge("eth0", kind, Mode::Native, Settings { lro: true, tx_checksum: false });
            assert_eq!(found.iter().map(|f| f.mend.as_str()).collect::<Vec<_>>(), ["ethtool -K eth0 lro off"]);
        }
    }

    #[test]
    fn transmit_checksum_offload_is_found_on_a_veth_under_xdp_only() {
        let settings = Settings { lro: false, tx_checksum: true };
        assert_eq!(judge("eth0", None, Mode::Native, settings), []);
        assert_eq!(judge("eth0.7", Some("veth"), Mode::Tc, settings), [], "TC knows how to finish them");
        let found = judge("eth0.7", Some("veth"), Mode::Native, settings);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "transmit checksum offload is on for eth0.7, a veth: packets sent here carry no TCP or UDP checksum, and \
             leave without one when XDP forwards them: receivers drop them (mend: ethtool -K eth0.7 tx off)"
        );
    }
}
