//! Where a packet would go: a question in words made a frame, and explained by a running director's tables.

use crate::linux::data_plane::{DataPlaneError, since_boot};
use crate::status::Running;
use etherparse::{PacketBuilder, ip_number};
use marca_tables::explain::{Director, Explanation};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use utoipa::{IntoParams, ToSchema};

/// A packet in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// Source address and port: the client, or a real server for a reply.
    #[param(value_type = String, example = "198.51.100.7:4242")]
    pub from: SocketAddr,
    /// Destination address and port.
    #[param(value_type = String, example = "192.0.2.10:443")]
    pub to: SocketAddr,
    #[serde(default)]
    #[param(required = false, inline)]
    pub proto: Proto,
    /// TCP flags, as tcpdump writes them: S, S., ., P., F., R.
    #[serde(default = "syn")]
    #[param(required = false, pattern = "^[SFRPAsfrpa.]{0,8}$")]
    pub flags: String,
    /// Input interface; without it the first one outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(nullable = false)]
    pub interface: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Proto {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

fn syn() -> String {
    "S".into()
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// Sentences, in the order of the packet's way.
    pub lines: Vec<String>,
    /// As `status` counts it.
    pub reason: String,
    pub service: Option<String>,
    /// The real server that gets the packet, or that has sent it.
    pub server: Option<String>,
}

/// A question that makes no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("{0} and {1} are of different families: a packet has one")]
    Families(IpAddr, IpAddr),
    #[error("no TCP flag is written `{0}`: S, F, R, P, and `.` or A for ACK")]
    Flag(char),
    #[error("{0}")]
    Write(String),
}

impl Question {
    /// The packet as a frame.
    ///
    /// # Errors
    /// When there is no such packet.
    pub fn frame(&self) -> Result<Vec<u8>, QuestionError> {
        let (source, destination) = (self.from, self.to);
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => start.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => start.ipv6(from.octets(), to.octets(), 64),
            (from, to) => return Err(QuestionError::Families(from, to)),
        };
        let (from, to) = (source.port(), destination.port());
        let mut bytes = Vec::new();
        let written = match self.proto {
            Proto::Tcp => {
                let mut tcp = ip.tcp(from, to, 1, 65_535);
                for flag in self.flags.chars() {
                    tcp = match flag.to_ascii_uppercase() {
                        'S' => tcp.syn(),
                        'F' => tcp.fin(),
                        'R' => tcp.rst(),
                        'P' => tcp.psh(),
                        'A' | '.' => tcp.ack(1),
                        other => return Err(QuestionError::Flag(other)),
                    };
                }
                tcp.write(&mut bytes, &[])
            }
            Proto::Udp => ip.udp(from, to).write(&mut bytes, &[]),
            Proto::Sctp => {
                // RFC 9260 §3.1: ports, verification tag, checksum; then an INIT chunk's header.
                let mut header = [0; 16];
                header[0..2].copy_from_slice(&from.to_be_bytes());
                header[2..4].copy_from_slice(&to.to_be_bytes());
                header[12] = 1;
                header[15] = 4;
                ip.write(&mut bytes, ip_number::SCTP, &header)
            }
        };
        written.map_err(|error| QuestionError::Write(error.to_string()))?;
        Ok(bytes)
    }
}

impl Running {
    /// What would become of a packet now.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn explain(&self, frame: &[u8], interface: Option<&str>) -> Result<Explained, DataPlaneError> {
        // Only for the sentences: an interface that is gone is told by its number.
        let mut interfaces = HashMap::new();
        for attached in &self.state.attached {
            if let Ok(index) = nix::net::if_::if_nametoindex(attached.interface.as_str()) {
                interfaces.insert(attached.interface.clone(), index);
            }
        }
        let name = interface.or(self.config.router.outside.first().map(String::as_str));
        let index = name.and_then(|name| interfaces.get(name)).copied().unwrap_or(0);
        let clock = self.clock();
        let plan = self.in_force();
        let director = Director {
            memory: &self.maps.memory,
            plan: &plan,
            ids: &self.state.ids,
            clock,
            now: clock.at(since_boot()?),
            route: None,
            interfaces: Some(&interfaces),
        };
        let mut explained = Explained::from(director.explain(frame, index));
        let attached = self.state.attached.iter().find(|attached| Some(attached.interface.as_str()) == name);
        if let Some(attached) = attached {
            let line = format!("In on {}, where {} meets it.", attached.interface, attached.mode.name());
            explained.lines.insert(0, line);
        }
        Ok(explained)
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Self {
        let Explanation { lines, reason, service, real, .. } = explanation;
        Self { lines, reason: reason.label().into(), service, server: real }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(from: &str, to: &str, flags: &str) -> Question {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Question { from, to, proto: Proto::Tcp, flags: flags.into(), interface: None }
    }

    #[test]
    fn a_packet_has_one_family_and_flags_that_there_are() {
        assert!(question("198.51.100.7:1", "192.0.2.10:80", "S.").frame().is_ok());
        let families = question("198.51.100.7:1", "[2001:db8::10]:80", "S").frame();
        assert!(matches!(families, Err(QuestionError::Families(..))));
        assert_eq!(question("198.51.100.7:1", "192.0.2.10:80", "SX").frame(), Err(QuestionError::Flag('X')));
    }
}
