//! A packet in one line of text, and back.
//!
//! Test vectors are written in this language, so it has to say every frame that a test may want, the broken ones
//! included, and read well:
//!
//! ```
//! use marca_testkit::frame;
//!
//! let bytes = frame::build(r#"ip4 198.51.100.7 > 192.0.2.10 ttl=63 / tcp 4242 > 443 PA / data "hello""#)?;
//! assert_eq!(bytes.len(), 14 + 20 + 20 + 5);
//! assert_eq!(
//!     frame::describe(&bytes),
//!     r#"eth 02:00:00:00:00:02 > 02:00:00:00:00:01 / ip4 198.51.100.7 > 192.0.2.10 ttl=63 / tcp 4242 > 443 PA / data "hello""#
//! );
//! # Ok::<(), frame::FrameError>(())
//! ```
//!
//! Layers stand between slashes, from the outside in. A layer is a name, its necessary words, and fields in any order.
//! Numbers are decimal, or hexadecimal after `0x`; bytes, ethertypes and checksums are always hexadecimal. Lengths,
//! ethertypes, next headers and checksums are computed from the layers that follow, unless a field says otherwise
//! (`len=`, `type=`, `proto=`, `csum=bad`, `csum=1a2b`, `ihl=`, `doff=`, `ver=`).
//!
//! | layer | fields with their defaults |
//! |---|---|
//! | `eth SOURCE > DESTINATION` | `type=`; put in front by itself when the text begins with another header |
//! | `vlan ID` | `tpid=8100 pcp=0 dei type=` |
//! | `arp request\|reply\|N MAC IP > MAC IP` | sender, then target |
//! | `ip4 SOURCE > DESTINATION` | `ttl=64 tos=0 id=1 df mf rf frag=0 opts=HEX proto= len= csum= ihl= ver=` |
//! | `ip6 SOURCE > DESTINATION` | `hop=64 tc=0 flow=0 proto= len= ver=` |
//! | `hopopts`, `dstopts` | `opts=HEX proto= len=` |
//! | `route` | `type=0 left=0 body=HEX proto= len=` |
//! | `frag` | `id=1 off=0 more proto= res=` |
//! | `ah` | `spi=1 seq=1 icv=HEX proto= len=` |
//! | `tcp PORT > PORT FLAGS` | `seq=1 ack=0 win=65535 urg=0 opts=HEX csum= doff= res=0 cut=` |
//! | `udp PORT > PORT` | `nosum len= csum=` |
//! | `sctp PORT > PORT` | `tag=0`, a chunk (`init`, `init-ack`, `cookie-echo`, `data`, `shutdown`, `abort`, … or `chunk=N`) `flags= value=HEX len= csum= cut=` |
//! | `gre` | `flags=0 type=` |
//! | `gue` | `first=0 flags=0 proto=`; behind `udp` to port 6080 |
//! | `icmp KIND` | `echo id=1 seq=1`, `reply`, `unreachable mtu=0`, `exceeded`, `redirect`, … or `type=N`; `code=0 rest=HEX csum=` |
//! | `icmp6 KIND` | `echo`, `reply`, `unreachable`, `too-big mtu=0`, `exceeded`, `problem`, `solicit`, `advert`, … |
//! | `data "text"`, `data N`, `hex HEX` | the payload, or raw bytes between headers; first in the text: a frame without Ethernet |
//! | `pad N`, `trailer HEX` | behind the packet, counted by no length; last in the text |
//!
//! IP may follow anything: IP is a tunnel, ICMP errors a quotation. `cut=8` on `tcp` or `sctp` is what an ICMP error
//! quotes of it. **Not here:** ESP, options of GRE and extensions of GUE (write `hex`), SCTP's
//! second chunk, ICMP extensions.

mod checksum;
mod icmp;
mod ip4;
mod ip6;
mod link;
mod payload;
mod read;
mod sctp;
#[cfg(test)]
mod tests;
mod transport;
mod tunnel;
mod words;

pub use checksum::{crc32c, internet as internet_checksum};
pub use payload::pattern;

use checksum::Pseudo;
use icmp::{Icmp, Version};
use ip4::Ip4;
use ip6::{Extension, Ip6};
use link::{Arp, Eth, Vlan};
use payload::{Payload, Trailer};
use sctp::Sctp;
use std::fmt;
use std::ops::Range;
use transport::{Tcp, Udp};
use tunnel::{Gre, Gue};
use words::Fields;

/// The bytes of the frame that `text` describes. The language is this module's documentation.
///
/// # Errors
/// What the text says is not a frame: the error names the words and what would have been right.
pub fn build(text: &str) -> Result<Vec<u8>, FrameError> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut spans = Vec::new();
    for fields in words::layers(text)? {
        if layers.is_empty() && !matches!(fields.name.text, "eth" | "data" | "hex") {
            layers.push(Layer::Eth(Eth::default()));
            spans.push(0..0);
        }
        let span = fields.span();
        let layer = Layer::parse(fields)?;
        if let Some(reason) = layer.misplaced(&layers) {
            return Err(FrameError::new(text, span, reason));
        }
        layers.push(layer);
        spans.push(span);
    }
    emit(&layers).map_err(|(index, what)| FrameError::new(text, spans[index].clone(), what))
}

/// A text from which [`build`] makes exactly these bytes, whatever they are.
///
/// What is not a well-formed packet is said as overrides, and what cannot be said so, as `hex`.
pub fn describe(bytes: &[u8]) -> String {
    let layers = read::layers(bytes);
    // Reading is generous: that a text is right is shown by building it. Each header that cannot be said makes
    // raw bytes of itself and of what follows. With none left the whole frame is raw, which always can be said.
    for keep in (0..=layers.len()).rev() {
        let mut kept: Vec<Layer> = layers[..keep].iter().map(|(_, layer)| layer.clone()).collect();
        if let Some((at, _)) = layers.get(keep) {
            kept.push(Layer::Payload(Payload(bytes[*at..].to_vec())));
        }
        simplify(&mut kept);
        let text = print(&kept);
        if build(&text).is_ok_and(|built| built == bytes) {
            return text;
        }
    }
    Layer::Payload(Payload(bytes.to_vec())).print()
}

/// Why a text is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// What is wrong, in words.
    pub what: String,
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// The whole text.
    pub text: String,
}

impl FrameError {
    fn new(text: &str, span: Range<usize>, what: impl Into<String>) -> Self {
        FrameError { what: what.into(), span, text: text.to_owned() }
    }
}

impl fmt::Display for FrameError {
    /// The message, the line of the text, and the words underlined.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = &self.text[..self.span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let indent = self.text[line_start..self.span.start].chars().count();
        let marked = self.text[self.span.clone()].lines().next().unwrap_or("").chars().count().max(1);
        write!(out, "{}\n  {line}\n  {:indent$}{}", self.what, "", "^".repeat(marked))
    }
}

impl std::error::Error for FrameError {}

/// What every layer can do. Reading differs from header to header and is in [`read`].
trait Header: Sized {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError>;
    fn print(&self) -> String;
    /// This header and its payload.
    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String>;
    /// The same header with one override fewer, or one that says more. [`simplify`] tries those that print shorter.
    fn simpler(&self) -> Vec<Self> {
        Vec::new()
    }
}

/// What a header has to know of its neighbours to be written.
struct Around<'a> {
    next: Option<&'a Layer>,
    payload: &'a [u8],
    ip: Option<Pseudo>,
}

impl Around<'_> {
    fn pseudo(&self) -> Result<Pseudo, String> {
        self.ip.ok_or_else(|| NEEDS_IP.to_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layer {
    Eth(Eth),
    Vlan(Vlan),
    Arp(Arp),
    Ip4(Ip4),
    Ip6(Ip6),
    Extension(Extension),
    Tcp(Tcp),
    Udp(Udp),
    Sctp(Sctp),
    Gre(Gre),
    Gue(Gue),
    Icmp(Icmp),
    Payload(Payload),
    Trailer(Trailer),
}

/// The same expression for the header in each kind of layer.
macro_rules! each {
    ($layer:expr, $header:ident => $expression:expr) => {
        match $layer {
            Layer::Eth($header) => $expression,
            Layer::Vlan($header) => $expression,
            Layer::Arp($header) => $expression,
            Layer::Ip4($header) => $expression,
            Layer::Ip6($header) => $expression,
            Layer::Extension($header) => $expression,
            Layer::Tcp($header) => $expression,
            Layer::Udp($header) => $expression,
            Layer::Sctp($header) => $expression,
            Layer::Gre($header) => $expression,
            Layer::Gue($header) => $expression,
            Layer::Icmp($header) => $expression,
            Layer::Payload($header) => $expression,
            Layer::Trailer($header) => $expression,
        }
    };
}

impl Layer {
    const NAMES: &str = "eth, vlan, arp, ip4, ip6, hopopts, dstopts, route, frag, ah, tcp, udp, sctp, gre, gue, icmp, icmp6, \
                         data, hex, pad, trailer";

    fn parse(mut fields: Fields<'_>) -> Result<Self, FrameError> {
        let name = fields.name;
        let layer = match name.text {
            "eth" => Layer::Eth(Eth::parse(&mut fields)?),
            "vlan" => Layer::Vlan(Vlan::parse(&mut fields)?),
            "arp" => Layer::Arp(Arp::parse(&mut fields)?),
            "ip4" => Layer::Ip4(Ip4::parse(&mut fields)?),
            "ip6" => Layer::Ip6(Ip6::parse(&mut fields)?),
            "hopopts" | "dstopts" | "route" | "frag" | "ah" => Layer::Extension(Extension::parse(&mut fields)?),
            "tcp" => Layer::Tcp(Tcp::parse(&mut fields)?),
            "udp" => Layer::Udp(Udp::parse(&mut fields)?),
            "sctp" => Layer::Sctp(Sctp::parse(&mut fields)?),
            "gre" => Layer::Gre(Gre::parse(&mut fields)?),
            "gue" => Layer::Gue(Gue::parse(&mut fields)?),
            "icmp" | "icmp6" => Layer::Icmp(Icmp::parse(&mut fields)?),
            "data" | "hex" => Layer::Payload(Payload::parse(&mut fields)?),
            "pad" | "trailer" => Layer::Trailer(Trailer::parse(&mut fields)?),
            other => {
                let what = format!("there is no layer `{other}`; there are {}", Self::NAMES);
                return Err(fields.error(name.span(), what));
            }
        };
        fields.finish()?;
        Ok(layer)
    }

    fn print(&self) -> String {
        each!(self, header => header.print())
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        each!(self, header => header.emit(around))
    }

    fn simpler(&self) -> Vec<Layer> {
        fn wrapped<T: Header>(header: &T, wrap: fn(T) -> Layer) -> Vec<Layer> {
            header.simpler().into_iter().map(wrap).collect()
        }
        match self {
            Layer::Eth(header) => wrapped(header, Layer::Eth),
            Layer::Vlan(header) => wrapped(header, Layer::Vlan),
            Layer::Arp(header) => wrapped(header, Layer::Arp),
            Layer::Ip4(header) => wrapped(header, Layer::Ip4),
            Layer::Ip6(header) => wrapped(header, Layer::Ip6),
            Layer::Extension(header) => wrapped(header, Layer::Extension),
            Layer::Tcp(header) => wrapped(header, Layer::Tcp),
            Layer::Udp(header) => wrapped(header, Layer::Udp),
            Layer::Sctp(header) => wrapped(header, Layer::Sctp),
            Layer::Gre(header) => wrapped(header, Layer::Gre),
            Layer::Gue(header) => wrapped(header, Layer::Gue),
            Layer::Icmp(header) => wrapped(header, Layer::Icmp),
            Layer::Payload(header) => wrapped(header, Layer::Payload),
            Layer::Trailer(header) => wrapped(header, Layer::Trailer),
        }
    }

    /// Why this layer cannot stand behind those, if it cannot.
    fn misplaced(&self, before: &[Layer]) -> Option<&'static str> {
        let last = before.last();
        let has_ip = before.iter().any(|layer| layer.pseudo().is_some());
        match self {
            _ if matches!(last, Some(Layer::Trailer(_))) => Some("nothing can stand behind `pad` or `trailer`"),
            Layer::Eth(_) if last.is_some() => Some("`eth` can only be the first layer"),
            Layer::Vlan(_) | Layer::Arp(_) if !matches!(last, Some(Layer::Eth(_) | Layer::Vlan(_))) => {
                Some("this layer can only stand behind `eth` or `vlan`")
            }
            Layer::Extension(header) => match last {
                Some(Layer::Ip6(_) | Layer::Extension(_)) => None,
                Some(Layer::Ip4(_)) if header.number() == ip6::AUTHENTICATION => None,
                _ => Some("an extension header can only stand behind `ip6` or another one (`ah` also behind `ip4`)"),
            },
            Layer::Gre(_) if !matches!(last, Some(Layer::Ip4(_) | Layer::Ip6(_) | Layer::Extension(_))) => {
                Some("`gre` can only stand behind an IP header")
            }
            Layer::Gue(_) if !matches!(last, Some(Layer::Udp(_))) => Some("`gue` can only stand behind `udp`"),
            Layer::Tcp(_) | Layer::Udp(_) | Layer::Sctp(_) | Layer::Icmp(_) if !has_ip => Some(NEEDS_IP),
            _ => None,
        }
    }

    /// The addresses for the checksums of what follows, if this is an IP header.
    fn pseudo(&self) -> Option<Pseudo> {
        match self {
            Layer::Ip4(ip) => Some(ip.pseudo()),
            Layer::Ip6(ip) => Some(ip.pseudo()),
            _ => None,
        }
    }
}

/// The ethertype that announces `next`.
fn ether_type_of(next: Option<&Layer>) -> u16 {
    match next {
        Some(Layer::Vlan(vlan)) => vlan.tpid,
        Some(Layer::Arp(_)) => link::ARP,
        Some(Layer::Ip4(_)) => link::IPV4,
        Some(Layer::Ip6(_)) => link::IPV6,
        _ => LOCAL_EXPERIMENT,
    }
}

/// The protocol number that announces `next`.
fn protocol_of(next: Option<&Layer>) -> u8 {
    match next {
        Some(Layer::Ip4(_)) => IPV4_IN_IP,
        Some(Layer::Ip6(_)) => IPV6_IN_IP,
        Some(Layer::Extension(header)) => header.number(),
        Some(Layer::Tcp(_)) => transport::TCP,
        Some(Layer::Udp(_)) => transport::UDP,
        Some(Layer::Sctp(_)) => sctp::SCTP,
        Some(Layer::Gre(_)) => tunnel::GRE,
        Some(Layer::Icmp(icmp)) => icmp.number(),
        None => NO_NEXT_HEADER,
        Some(_) => EXPERIMENT,
    }
}

/// Writes the layers from the inside out, because lengths and checksums are of what is inside. The error names the
/// layer by its index.
fn emit(layers: &[Layer]) -> Result<Vec<u8>, (usize, String)> {
    let (headers, trailer) = match layers.split_last() {
        Some((Layer::Trailer(trailer), headers)) => (headers, trailer.0.as_slice()),
        _ => (layers, &[][..]),
    };
    let mut bytes = Vec::new();
    for (index, layer) in headers.iter().enumerate().rev() {
        bytes = layer.emit(&around(headers, index, &bytes)).map_err(|what| (index, what))?;
    }
    bytes.extend(trailer);
    Ok(bytes)
}

fn around<'a>(headers: &'a [Layer], index: usize, payload: &'a [u8]) -> Around<'a> {
    let ip = headers[..index].iter().rev().find_map(Layer::pseudo);
    Around { next: headers.get(index + 1), payload, ip }
}

fn print(layers: &[Layer]) -> String {
    layers.iter().map(Layer::print).collect::<Vec<_>>().join(" / ")
}

/// Takes away every override that changes nothing. Layers come from the reader with all of them set.
fn simplify(layers: &mut [Layer]) {
    let count = match layers.last() {
        Some(Layer::Trailer(_)) => layers.len() - 1,
        _ => layers.len(),
    };
    let headers = &mut layers[..count];
    let mut payload = Vec::new();
    for index in (0..count).rev() {
        let written = |headers: &[Layer]| headers[index].emit(&around(headers, index, &payload)).ok();
        let Some(wanted) = written(headers) else { return };
        // Each step makes the text shorter, so that this ends.
        loop {
            let given = headers[index].clone();
            let length = given.print().len();
            let better = given.simpler().into_iter().filter(|simpler| simpler.print().len() < length).find(|simpler| {
                headers[index] = simpler.clone();
                written(headers).as_ref() == Some(&wanted)
            });
            let Some(better) = better else {
                headers[index] = given;
                break;
            };
            headers[index] = better;
        }
        payload = wanted;
    }
}

const NEEDS_IP: &str = "this layer needs `ip4` or `ip6` somewhere before it, for its checksum";
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const NO_NEXT_HEADER: u8 = 59;
/// IEEE 802, local experimental ethertype 1: what raw bytes are announced as.
const LOCAL_EXPERIMENT: u16 = 0x88b5;
/// RFC 3692 §2.1: protocol number for experiments.
const EXPERIMENT: u8 = 253;
