//! Addresses, prefixes and netmasks.

use super::{TextError, digits};
use crate::diagnostic::quoted;
use crate::model::{MAX_SOURCES, SourceRange};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A virtual address: one that a client can send to and a director can own.
pub fn vip(text: &str) -> Result<IpAddr, TextError> {
    let address = address(text)?;
    match unusable_as_vip(address) {
        Some(error) => Err(error),
        None => Ok(address),
    }
}

/// A real server's address.
pub fn server(text: &str) -> Result<IpAddr, TextError> {
    let address = address(text)?;
    match not_one_host(address) {
        Some(kind) if address.is_loopback() => Err(unusable(address, kind, "real server")
            .help("for a server on the director itself write `forward = \"local\"` and no address")),
        Some(kind) => Err(unusable(address, kind, "real server").help("write the address of one host")),
        None => Ok(address),
    }
}

/// Source addresses of fullnat: `10.0.0.100`, `10.0.0.100-10.0.0.110`, `10.0.0.96/28`.
pub fn source(text: &str) -> Result<SourceRange, TextError> {
    let (first, last) = if text.contains('/') {
        let net = prefix(text)?;
        (net.network(), net.broadcast())
    } else if let Some((first, last)) = text.split_once('-') {
        (address(first)?, address(last)?)
    } else {
        let only = address(text)?;
        (only, only)
    };
    for end in [first, last] {
        if let Some(kind) = not_one_host(end) {
            return Err(unusable(end, kind, "source address").help("write addresses that the director can have"));
        }
    }
    SourceRange::new(first, last).ok_or_else(|| {
        let error = |label: &str| TextError::new(format!("{} is not a range of addresses", quoted(text.trim())), label);
        if first.is_ipv4() != last.is_ipv4() {
            error("of two families").help("write one range for each family")
        } else if last < first {
            error("the wrong way round").help(format!("write \"{last}-{first}\""))
        } else {
            TextError::new(
                format!("{} is too large", quoted(text.trim())),
                format!("more than {MAX_SOURCES} addresses"),
            )
            .help("each address is put on the director; one is enough for 64,512 connections to each port of a server")
        }
    })
}

/// Where the daemon listens: an address of its host, or the unspecified one for all of them, and a port.
pub fn listen(text: &str) -> Result<SocketAddr, TextError> {
    let text = text.trim();
    let error = |label: &str| TextError::new(format!("{} is nothing to listen on", quoted(text)), label);
    let socket = text.parse::<SocketAddr>().map_err(|_| {
        if let Ok(address) = text.parse::<IpAddr>() {
            let example = SocketAddr::new(address, 9797);
            error("a port is missing").help(format!("write, for example, \"{example}\""))
        } else if let Some(port) = text.strip_prefix(':').and_then(digits).filter(|port| *port <= 65_535) {
            error("an address is missing")
                .help(format!("write \"127.0.0.1:{port}\" for this host alone, \"[::]:{port}\" for everybody"))
        } else {
            error("must be an address and a port").help("write, for example, \"127.0.0.1:9797\" or \"[::1]:9797\"")
        }
    })?;
    match socket.ip() {
        _ if socket.port() == 0 => Err(error("port 0").help("name the port that others are to ask")),
        ip if ip.is_multicast() => Err(error("a multicast address").help("write an address of this host")),
        _ => Ok(socket),
    }
}

/// An address or a prefix: `192.0.2.10`, `192.0.2.0/24`.
pub fn prefix(text: &str) -> Result<IpNet, TextError> {
    let text = text.trim();
    let Some((host, length_text)) = text.split_once('/') else { return Ok(IpNet::from(address(text)?)) };
    let host_address = address(host)?;
    let bits = if host_address.is_ipv4() { 32 } else { 128 };
    let (host, length_text) = (host.trim(), length_text.trim());
    let Some(length) = digits(length_text) else { return Err(bad_length(host, length_text)) };
    let net = u8::try_from(length).ok().and_then(|length| IpNet::new(host_address, length).ok());
    let Some(net) = net else {
        return Err(TextError::new(format!("prefix length {} is out of range", quoted(length_text)), "too long")
            .help(format!("the prefix length goes from 0 to {bits}")));
    };
    if net.trunc() != net {
        return Err(TextError::new(
            format!("{} has bits beyond its prefix length", quoted(text)),
            "neither net nor host",
        )
        .help(format!("write \"{}\" for the net or \"{host_address}\" for the one address", net.trunc())));
    }
    Ok(net)
}

/// A netmask for persistence, dotted or as a prefix length: `255.255.255.0`, `/24`, `24`. Need not be a prefix.
pub fn netmask(text: &str) -> Result<Ipv4Addr, TextError> {
    let text = text.trim();
    if let Ok(mask) = text.parse() {
        return Ok(mask);
    }
    digits(text.strip_prefix('/').unwrap_or(text)).and_then(|length| netmask_from_length(length.into())).ok_or_else(
        || {
            TextError::new(format!("{} is not a netmask", quoted(text)), "must be a mask or a prefix length up to 32")
                .help("write, for example, \"255.255.255.0\" or 24")
        },
    )
}

/// The netmask with this many leading ones; none beyond 32.
pub fn netmask_from_length(length: i64) -> Option<Ipv4Addr> {
    let length = u32::try_from(length).ok().filter(|length| *length <= 32)?;
    Some(Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - length).unwrap_or(0)))
}

/// Why an address cannot be a VIP, if it cannot.
pub fn unusable_as_vip(address: IpAddr) -> Option<TextError> {
    let kind = not_one_host(address)?;
    Some(unusable(address, kind, "VIP").help("write the unicast address that clients connect to"))
}

fn address(text: &str) -> Result<IpAddr, TextError> {
    let text = text.trim();
    text.parse().map_err(|_| {
        let error = |label: &str| TextError::new(format!("{} is not an address", quoted(text)), label);
        if text.parse::<SocketAddr>().is_ok() || has_port(text) {
            error("an address with a port").help(
                "write the address alone; ports go into the service's `ports`: \"tcp/80\", \
                 or \"tcp/80 -> 8080\" when the servers' port differs",
            )
        } else if text.contains('/') {
            error("a prefix, where one address is needed").help("write the address without the `/` and what follows")
        } else if text.contains('%') {
            error("an address with a zone")
                .help("write the address without the `%`; use one that is valid beyond its link")
        } else if text.starts_with('[') {
            error("brackets are for URLs").help("write the address without brackets")
        } else if text.contains(|c: char| c.is_alphabetic()) && !text.contains(':') {
            error("a name?")
                .help("names are not looked up; write an address such as \"192.0.2.10\" or \"2001:db8::10\"")
        } else {
            error("not IPv4, not IPv6").help("write an address such as \"192.0.2.10\" or \"2001:db8::10\"")
        }
    })
}

/// `web1:80`, and `10.0.0.300:80` too: the port is the fault to mention first.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| digits(port).is_some() && !host.contains(':'))
}

fn bad_length(host: &str, length: &str) -> TextError {
    let error = |label: &str| TextError::new(format!("{} is not a prefix length", quoted(length)), label);
    match length.parse::<Ipv4Addr>().ok().map(|mask| ipnet::ip_mask_to_prefix(IpAddr::V4(mask))) {
        Some(Ok(length)) => error("a netmask").help(format!("write \"{host}/{length}\"")),
        _ => error("must be a number").help("write, for example, \"192.0.2.0/24\" or \"2001:db8::/64\""),
    }
}

/// What an address is when it does not name one host.
fn not_one_host(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.is_loopback() => Some("a loopback address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 notation"),
        _ => None,
    }
}

fn unusable(address: IpAddr, kind: &str, role: &str) -> TextError {
    TextError::new(format!("`{address}` cannot be a {role}"), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!(vip("192.0.2.10"), Ok(IpAddr::from([192, 0, 2, 10])));
        assert_eq!(server(" fd00::11 "), Ok("fd00::11".parse().unwrap()));
    }

    #[test]
    fn refused_addresses_say_what_they_are() {
        for (text, label) in [
            ("", "not IPv4, not IPv6"),
            ("10.0.0.300", "not IPv4, not IPv6"),
            ("010.0.0.1", "not IPv4, not IPv6"),
            ("10.0.0.1:80", "an address with a port"),
            ("10.0.0.300:80", "an address with a port"),
            ("[2001:db8::1]:80", "an address with a port"),
            ("web1:80", "an address with a port"),
            ("[2001:db8::1]", "brackets are for URLs"),
            ("10.0.0.1/24", "a prefix, where one address is needed"),
            ("fe80::1%eth0", "an address with a zone"),
            ("web1.example.com", "a name?"),
            ("0.0.0.0", "the unspecified address"),
            ("::", "the unspecified address"),
            ("224.0.0.18", "a multicast address"),
            ("ff02::1", "a multicast address"),
            ("127.0.0.1", "a loopback address"),
            ("::1", "a loopback address"),
            ("255.255.255.255", "the broadcast address"),
            ("::ffff:192.0.2.10", "an IPv4 address in IPv6 notation"),
        ] {
            for error in [vip(text).unwrap_err(), server(text).unwrap_err()] {
                assert_eq!(error.label, label, "{text}");
                assert!(error.help.is_some(), "{text}");
            }
        }
    }

    #[test]
    fn prefixes_are_read_and_a_bare_address_is_one_host() {
        assert_eq!(prefix("192.0.2.10").unwrap().to_string(), "192.0.2.10/32");
        assert_eq!(prefix("2001:db8::/64").unwrap().to_string(), "2001:db8::/64");
        assert_eq!(prefix("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
    }

    #[test]
    fn refused_prefixes_say_why() {
        for (text, label, help) in [
            ("192.0.2.0/33", "too long", "the prefix length goes from 0 to 32"),
            ("2001:db8::/129", "too long", "the prefix length goes from 0 to 128"),
            ("192.0.2.0/256", "too long", "the prefix length goes from 0 to 32"),
            ("192.0.2.0/255.255.255.0", "a netmask", "write \"192.0.2.0/24\""),
            ("192.0.2.0/", "must be a number", "write, for example, \"192.0.2.0/24\" or \"2001:db8::/64\""),
            (
                "192.0.2.1/24",
                "neither net nor host",
                "write \"192.0.2.0/24\" for the net or \"192.0.2.1\" for the one address",
            ),
        ] {
            let error = prefix(text).unwrap_err();
            assert_eq!((error.label.as_str(), error.help.as_deref()), (label, Some(help)), "{text}");
        }
    }

    #[test]
    fn what_is_listened_on_is_an_address_and_a_port() {
        for text in ["127.0.0.1:9797", "[::]:80", "0.0.0.0:65535"] {
            assert_eq!(listen(text).unwrap().to_string(), text);
        }
        for (text, label) in [
            ("127.0.0.1", "a port is missing"),
            ("::1", "a port is missing"),
            (":9797", "an address is missing"),
            ("localhost:9797", "must be an address and a port"),
            ("127.0.0.1:65536", "must be an address and a port"),
            ("9797", "must be an address and a port"),
            ("127.0.0.1:0", "port 0"),
            ("224.0.0.1:80", "a multicast address"),
        ] {
            let error = listen(text).unwrap_err();
            assert_eq!(error.label, label, "{text}");
            assert!(error.help.is_some(), "{text}");
        }
    }

    #[test]
    fn netmasks_are_dotted_or_lengths() {
        for (text, mask) in [
            ("255.255.255.0", "255.255.255.0"),
            ("/24", "255.255.255.0"),
            ("0", "0.0.0.0"),
            ("255.0.255.0", "255.0.255.0"),
        ] {
            assert_eq!(netmask(text).unwrap().to_string(), mask);
        }
        assert_eq!(netmask_from_length(32), Some(Ipv4Addr::BROADCAST));
        assert_eq!(netmask_from_length(33), None);
        assert_eq!(netmask_from_length(-1), None);
        for text in ["", "/33", "255.255.255", "//24", "ffff::"] {
            assert!(netmask(text).is_err(), "{text}");
        }
    }
}
