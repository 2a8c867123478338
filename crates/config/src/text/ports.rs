//! Ports: `tcp/80`, `udp/10000-20000`, `tcp`, `all`, and for services `tcp/443 -> 8443`.

use super::{TextError, digits};
use crate::diagnostic::quoted;
use crate::model::{MemberPort, PortMatch, PortRange, Protocol};
use crate::similar::closest;

/// The ports of a mark rule. `all` is one entry for each protocol.
pub fn matches(text: &str) -> Result<Vec<PortMatch>, TextError> {
    match text.find("->") {
        None => matching(text, text),
        Some(arrow) => Err(TextError::new("a mark rule has no port targets", "not possible in a rule")
            .at(&text[arrow..], text)
            .help("a rule only marks packets; targets belong in the `ports` of a service")),
    }
}

/// A port from which connections are opened.
pub fn outbound(text: &str) -> Result<PortMatch, TextError> {
    let error = |label: &str| {
        TextError::new(format!("{} is not a port that connections are opened from", quoted(text)), label)
            .help("write a single port of TCP or UDP, such as \"tcp/20\"")
    };
    if text.contains("->") {
        return Err(error("connections that a server opens keep their port"));
    }
    match matching(text, text)?[..] {
        [PortMatch { protocol: Protocol::Sctp, .. }] => Err(error("not for SCTP")),
        [port] if port.ports.is_single() => Ok(port),
        _ => Err(error("this is more than one port")),
    }
}

/// The ports of passive FTP: `10000-10100`, always TCP.
pub fn passive(text: &str) -> Result<PortRange, TextError> {
    let help = "write a range of TCP ports, such as \"10000-10100\"";
    if text.contains('/') || text.contains("->") {
        let message = format!("{} is not a range of ports", quoted(text));
        return Err(TextError::new(message, "only ports, which are TCP's").help(help));
    }
    range(text.trim(), text)
}

/// The ports of a service. `all` is one entry for each protocol.
pub fn members(text: &str) -> Result<Vec<MemberPort>, TextError> {
    let Some((left, right)) = text.split_once("->") else {
        let matching = matching(text, text)?;
        return Ok(matching.into_iter().map(|matching| MemberPort { matching, target: None }).collect());
    };
    let matching = matching(left, text)?;
    let target = target(right, text)?;
    match matching[..] {
        [PortMatch { protocol: Protocol::Sctp, .. }] => {
            Err(TextError::new("SCTP ports cannot be mapped", "not for SCTP")
                .at(right.trim(), text)
                .help("let the servers listen on the same port, and leave out the `->`"))
        }
        [matching] if matching.ports.is_single() => {
            let target = (target != matching.ports.first).then_some(target);
            Ok(vec![MemberPort { matching, target }])
        }
        _ => Err(TextError::new("only a single port can have a target", "this is more than one port")
            .at(left.trim(), text)
            .help("write one entry for each port, such as \"tcp/443 -> 8443\", or leave out the `->`")),
    }
}

fn matching(text: &str, whole: &str) -> Result<Vec<PortMatch>, TextError> {
    let text = text.trim();
    let (name, ports) = match text.split_once('/') {
        Some((name, ports)) => (name.trim(), Some(ports.trim())),
        None => (text, None),
    };
    let protocols = match protocol(name) {
        Some(protocol) => vec![protocol],
        None if name == "all" => Protocol::ALL.to_vec(),
        None => return Err(unknown_protocol(name, ports, whole)),
    };
    let Some(ports) = ports else {
        return Ok(protocols.into_iter().map(|protocol| PortMatch { protocol, ports: PortRange::ALL }).collect());
    };
    match protocols[..] {
        [protocol] => Ok(vec![PortMatch { protocol, ports: range(ports, whole)? }]),
        _ => Err(TextError::new("`all` takes no port", "`all` is every port of TCP, UDP and SCTP")
            .at(text, whole)
            .help(format!("write one entry for each protocol: \"tcp/{ports}\", \"udp/{ports}\""))),
    }
}

fn range(text: &str, whole: &str) -> Result<PortRange, TextError> {
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text, whole)?;
        return Ok(PortRange { first: port, last: port });
    };
    let (first, last) = (port(first, whole)?, port(last, whole)?);
    if first > last {
        return Err(TextError::new("this range of ports is reversed", "the first port is above the last")
            .at(text, whole)
            .help(format!("write the lower port first: {last}-{first}")));
    }
    Ok(PortRange { first, last })
}

fn port(text: &str, whole: &str) -> Result<u16, TextError> {
    let text = text.trim();
    let Some(number) = digits(text) else { return Err(not_a_port(text, whole)) };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(TextError::new(format!("port {} is out of range", quoted(text)), "ports go from 1 to 65535")
            .at(text, whole)
            .help("a protocol alone, such as \"tcp\", stands for all of its ports")),
    }
}

fn target(text: &str, whole: &str) -> Result<u16, TextError> {
    let text = text.trim();
    let help = "write the servers' port after the arrow: \"tcp/443 -> 8443\"";
    if text.is_empty() {
        return Err(TextError::new("the target port is missing", "no port after `->`").at(text, whole).help(help));
    }
    if digits(text).is_none() {
        return Err(TextError::new(format!("{} is not a target port", quoted(text)), "must be one port number")
            .at(text, whole)
            .help(help));
    }
    port(text, whole)
}

fn protocol(name: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
}

/// Guesses what was meant by a text that does not begin with a protocol.
fn unknown_protocol(name: &str, ports: Option<&str>, whole: &str) -> TextError {
    let error = |label: &str| TextError::new(format!("{} is not a protocol", quoted(name)), label).at(name, whole);
    match ports {
        _ if name.is_empty() => TextError::new("the protocol is missing", "no protocol here")
            .at(name, whole)
            .help("write \"tcp/80\", \"udp/10000-20000\", \"tcp\" or \"all\""),
        None if digits(name).is_some() => {
            error("no protocol before the port").help(format!("write \"tcp/{name}\" or \"udp/{name}\""))
        }
        Some(protocol_name) if protocol(protocol_name).is_some() && digits(name).is_some() => {
            error("the protocol comes first").help(format!("write \"{protocol_name}/{name}\""))
        }
        _ => {
            let known = Protocol::ALL.map(Protocol::name).into_iter().chain(["all"]);
            let proposal = closest(name, known).map(|name| format!("did you mean `{name}`? "));
            error("unknown protocol").help(format!(
                "{}write \"tcp/80\", \"udp/10000-20000\", \"sctp/2905\", \"tcp\" or \"all\"",
                proposal.unwrap_or_default()
            ))
        }
    }
}

fn not_a_port(text: &str, whole: &str) -> TextError {
    let error = |label: &str| TextError::new(format!("{} is not a port", quoted(text)), label).at(text, whole);
    let is_numbers = |separator: char| text.split(separator).all(|part| digits(part.trim()).is_some());
    if text.is_empty() {
        return TextError::new("a port is missing", "no port here")
            .at(text, whole)
            .help("write \"tcp/80\", \"tcp/10000-20000\", or \"tcp\" for all TCP ports");
    }
    if is_numbers(':') {
        return error("a range has a dash").help(format!("write {}", text.replace(':', "-")));
    }
    if is_numbers(',') {
        return error("one port or one range").help("write one entry for each port: [\"tcp/80\", \"tcp/443\"]");
    }
    error("must be a port number or a range").help("names are not looked up: write \"tcp/80\", not \"tcp/http\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn single(protocol: Protocol, port: u16, target: Option<u16>) -> MemberPort {
        MemberPort { matching: PortMatch { protocol, ports: PortRange { first: port, last: port } }, target }
    }

    /// What is refused, which part of the text is underlined, and the label.
    fn refusal(text: &str) -> (String, String) {
        let error = members(text).unwrap_err();
        let at = error.at.clone().unwrap_or(0..text.len());
        assert!(error.help.is_some(), "{text} is refused without a next step");
        (text[at].to_string(), error.label)
    }

    #[test]
    fn ports_are_read() {
        assert_eq!(members("tcp/80"), Ok(vec![single(Protocol::Tcp, 80, None)]));
        assert_eq!(members(" udp / 443 "), Ok(vec![single(Protocol::Udp, 443, None)]));
        assert_eq!(members("tcp/443->8443"), Ok(vec![single(Protocol::Tcp, 443, Some(8443))]));
        assert_eq!(members("tcp/443 -> 443"), Ok(vec![single(Protocol::Tcp, 443, None)]));
        assert_eq!(members("tcp/80-80 -> 81"), Ok(vec![single(Protocol::Tcp, 80, Some(81))]));
        let range = PortRange { first: 10000, last: 20000 };
        assert_eq!(matches("sctp/10000-20000"), Ok(vec![PortMatch { protocol: Protocol::Sctp, ports: range }]));
        assert_eq!(matches("tcp"), Ok(vec![PortMatch { protocol: Protocol::Tcp, ports: PortRange::ALL }]));
    }

    #[test]
    fn all_is_every_port_of_each_protocol() {
        let all = Protocol::ALL.map(|protocol| PortMatch { protocol, ports: PortRange::ALL });
        assert_eq!(matches("all"), Ok(all.to_vec()));
    }

    #[test]
    fn refusals_point_at_the_part_at_fault() {
        for (text, part, label) in [
            ("", "", "no protocol here"),
            ("/80", "", "no protocol here"),
            ("80", "80", "no protocol before the port"),
            ("80/tcp", "80", "the protocol comes first"),
            ("tpc/80", "tpc", "unknown protocol"),
            ("TCP/80", "TCP", "unknown protocol"),
            ("tcp/", "", "no port here"),
            ("tcp/0", "0", "ports go from 1 to 65535"),
            ("tcp/65536", "65536", "ports go from 1 to 65535"),
            ("tcp/99999999999999999999", "99999999999999999999", "ports go from 1 to 65535"),
            ("tcp/+80", "+80", "must be a port number or a range"),
            ("tcp/http", "http", "must be a port number or a range"),
            ("tcp/80,443", "80,443", "one port or one range"),
            ("tcp/80:90", "80:90", "a range has a dash"),
            ("tcp/90-80", "90-80", "the first port is above the last"),
            ("tcp/80-", "", "no port here"),
            ("tcp/1-2-3", "2-3", "must be a port number or a range"),
            ("all/80", "all/80", "`all` is every port of TCP, UDP and SCTP"),
            ("tcp/443 ->", "", "no port after `->`"),
            ("tcp/443 -> 0", "0", "ports go from 1 to 65535"),
            ("tcp/443 -> tcp/8443", "tcp/8443", "must be one port number"),
            ("tcp/443 -> 80-90", "80-90", "must be one port number"),
            ("tcp/80-90 -> 8080", "tcp/80-90", "this is more than one port"),
            ("tcp -> 8080", "tcp", "this is more than one port"),
            ("all -> 8080", "all", "this is more than one port"),
            ("sctp/80 -> 8080", "8080", "not for SCTP"),
        ] {
            assert_eq!(refusal(text), (part.to_string(), label.to_string()), "{text}");
        }
    }

    #[test]
    fn a_rule_has_no_targets() {
        assert!(matches("tcp/80 -> 8080").is_err());
    }

    prop_compose! {
        fn any_match()(protocol in 0..3usize, ends: (u16, u16), shape in 0..3) -> PortMatch {
            let (first, last) = (ends.0.min(ends.1).max(1), ends.0.max(ends.1).max(1));
            let ports = match shape {
                0 => PortRange::ALL,
                1 => PortRange { first, last: first },
                _ => PortRange { first, last },
            };
            PortMatch { protocol: Protocol::ALL[protocol], ports }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(matching in any_match(), target: Option<u16>) {
            prop_assert_eq!(matches(&matching.to_string()), Ok(vec![matching]));
            let single = matching.ports.is_single() && matching.protocol != Protocol::Sctp;
            let target = target.filter(|target| single && *target > 0 && *target != matching.ports.first);
            let member = MemberPort { matching, target };
            prop_assert_eq!(members(&member.to_string()), Ok(vec![member]));
        }

        #[test]
        fn no_text_is_a_panic(text in "[a-z0-9/ >.,:é-]{0,20}") {
            let _ = members(&text);
            let _ = matches(&text);
        }
    }
}
