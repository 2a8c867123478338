//! Two questions to the kernel about an interface, by ioctl from inside its namespace, so that no `ethtool` is needed.

use super::Error;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::raw::c_char;

/// As `ethtool -K INTERFACE tx on|off`. The kernel then gives and takes segmentation offload by itself.
pub(super) fn switch_transmit_checksum(interface: &str, on: bool) -> Result<(), Error> {
    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, data: on.into() };
    ethtool(interface, &mut value, "switch transmit checksum offload")
}

/// Whether the interface is up and its carrier has been noticed.
pub(super) fn is_running(interface: &str) -> Result<bool, Error> {
    let mut request = request(interface);
    ioctl(libc::SIOCGIFFLAGS, &mut request, || format!("read the flags of {interface}"))?;
    // SAFETY: SIOCGIFFLAGS has filled this member of the union.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(flags & libc::IFF_RUNNING != 0)
}

#[cfg(test)]
pub(super) fn transmit_checksum(interface: &str) -> Result<bool, Error> {
    const ETHTOOL_GTXCSUM: u32 = 0x16;
    let mut value = EthtoolValue { command: ETHTOOL_GTXCSUM, data: 0 };
    ethtool(interface, &mut value, "read transmit checksum offload")?;
    Ok(value.data != 0)
}

/// `struct ethtool_value` of `linux/ethtool.h`
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_STXCSUM: u32 = 0x17;

fn ethtool(interface: &str, value: &mut EthtoolValue, doing: &str) -> Result<(), Error> {
    let mut request = request(interface);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast::<c_char>();
    ioctl(libc::SIOCETHTOOL, &mut request, || format!("{doing} of {interface}"))
}

/// # Panics
/// When the name is longer than the kernel allows; this crate makes all of them.
fn request(interface: &str) -> libc::ifreq {
    assert!(interface.len() < libc::IFNAMSIZ, "{interface} is no interface name");
    // SAFETY: all zero is a valid `ifreq`: an empty name and a union of numbers and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    request
}

fn ioctl(number: libc::Ioctl, request: &mut libc::ifreq, doing: impl Fn() -> String) -> Result<(), Error> {
    // Any socket of the namespace will do. Port 0: nothing is sent or received.
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| Error::new(doing(), error))?;
    // SAFETY: `request` is a valid `ifreq` for these requests, and what it may point to outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), number, request) } {
        -1 => Err(Error::last_os_error(doing())),
        _ => Ok(()),
    }
}
