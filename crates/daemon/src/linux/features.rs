//! Whether an interface's driver has native XDP, as the kernel says itself since Linux 6.3: the family `netdev` of generic netlink
//! (`Documentation/netlink/specs/netdev.yaml`).

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::time::Duration;

/// `None` where the kernel does not tell: it is older, or there is no such interface.
pub fn has_native_xdp(index: u32) -> Option<bool> {
    let mut socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_GENERIC))).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = ask(&mut socket, libc::GENL_ID_CTRL as u16, libc::CTRL_CMD_GETFAMILY as u8, &name).ok()?;
    let family = u16::from_ne_bytes(find(&answer, CTRL_ATTR_FAMILY_ID)?.try_into().ok()?);
    let answer = ask(&mut socket, family, DEV_GET, &attribute(DEV_IFINDEX, &index.to_ne_bytes())).ok()?;
    let features = u64::from_ne_bytes(find(&answer, DEV_XDP_FEATURES)?.try_into().ok()?);
    Some(features & (BASIC | REDIRECT) == BASIC | REDIRECT)
}

const PATIENCE: Duration = Duration::from_secs(1);

/// `include/uapi/linux/genetlink.h`.
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `include/uapi/linux/netdev.h`.
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// One request; the attributes of the one answer.
fn ask(socket: &mut Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (HEADER + GENERIC + attributes.len()) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Number and sender: there is one question at a time.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request)?;
    let mut answer = vec![0; 16_384];
    let read = socket.read(&mut answer)?;
    answer.truncate(read);
    let kind = answer.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
    if kind != family || read < HEADER + GENERIC {
        return Err(io::Error::other("the kernel refuses the question"));
    }
    Ok(answer.split_off(HEADER + GENERIC))
}

/// Length, kind, value, and zeros up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(0..2)?.try_into().ok()?));
        // Above are two flags.
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & 0x3fff;
        // One that is shorter than its own head leads nowhere.
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_their_kinds_and_half_ones_are_not() {
        let both = [attribute(1, b"netdev\0"), attribute(3, &7u64.to_ne_bytes())].concat();
        assert_eq!(find(&both, 3), Some(&7u64.to_ne_bytes()[..]));
        assert_eq!(find(&both, 1), Some(&b"netdev\0"[..]));
        assert_eq!(find(&both, 2), None);
        for length in 0..both.len() {
            assert_eq!(find(&both[..length], 3), None, "{length}");
        }
        assert_eq!(find(&[0; 16], 3), None, "an attribute without a length leads nowhere");
    }
}
