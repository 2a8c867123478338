//! One question and its answer, over the network. What is said and what an answer means is
//! [`marca_proto::health::talk`]'s business; sockets and time are this one's.
//!
//! | module | owns |
//! |---|---|
//! | `stream` | connections, and conversations over them |
//! | `tls` | handshakes, and what a certificate must say |
//! | `http` | requests of both versions |
//! | `datagram` | UDP, DNS and ping |
//! | `script` | programs, which may hang or leave others behind |
//! | [`passage`] | the way of clients' packets, to the VIP |

mod datagram;
mod http;
pub mod passage;
mod script;
mod stream;
mod tls;

use super::targets::Target;
use marca_config::model::{self, Talk};
use marca_proto::health::talk::agent::{Agent, Weight};
use marca_proto::health::talk::dns::Query;
use marca_proto::health::talk::exchange::{Exchange, Expect};
use marca_proto::health::talk::greeting::Greeting;
use nix::errno::Errno;
use passage::{Datagrams, Passage, Way, arrival};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;
use stream::{Bound, Connection};
use tokio::time::Instant;

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the weight that the server says, if it says one.
    Good(Option<Weight>),
    /// In words that follow "failed:".
    Bad(String),
    /// Nothing is known for it: the director itself was not able to ask, or an agent said nothing.
    Unasked(String),
}

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// The server is at fault.
    Theirs(String),
    /// The director is.
    Ours(String),
}

/// Something that was tried, and what the kernel says.
fn fault(doing: &str, error: &io::Error) -> Fault {
    let ours = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL, Errno::EAGAIN]
        .into_iter()
        .chain([Errno::EPERM, Errno::EACCES, Errno::EAFNOSUPPORT]);
    let code = error.raw_os_error();
    if ours.into_iter().any(|errno| code == Some(errno as i32)) {
        return Fault::Ours(format!("{doing}: {}", plain(error)));
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Theirs("connection refused".into()),
        io::ErrorKind::ConnectionReset => Fault::Theirs("connection reset".into()),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Fault::Theirs("no way to the host".into())
        }
        _ => Fault::Theirs(format!("{doing}: {}", plain(error))),
    }
}

/// Without the number.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

fn too_late(timeout: Duration) -> Fault {
    Fault::Theirs(format!("no answer within {timeout:?}"))
}

/// A target, with everything prepared that can be.
#[derive(Debug)]
pub struct Probe {
    address: IpAddr,
    /// On the way of clients' packets to this VIP.
    vip: Option<IpAddr>,
    port: u16,
    timeout: Duration,
    ask: Ask,
}

#[derive(Debug)]
enum Ask {
    Exchange {
        send: Vec<u8>,
        expect: Option<Expect>,
        tls: Option<tls::Wish>,
    },
    Http(Box<http::Request>),
    Smtp,
    Ftp,
    Agent {
        send: Vec<u8>,
    },
    Udp {
        send: Vec<u8>,
        expect: Option<Expect>,
    },
    Dns(Query),
    Ping,
    Script(script::Script),
    /// The configuration lets nothing through that cannot be asked.
    Never(&'static str),
}

impl Probe {
    pub fn new(target: &Target) -> Self {
        let Target { address, through, check } = target;
        let vip = through.map(|through| through.vip);
        let port = check.port.unwrap_or(0);
        let ask = Self::ask(target).unwrap_or_else(Ask::Never);
        Self { address: *address, vip, port, timeout: check.timeout, ask }
    }

    fn ask(target: &Target) -> Result<Ask, &'static str> {
        Ok(match &target.check.talk {
            Talk::Tcp(exchange) => {
                Ask::Exchange { send: exchange.send.clone(), expect: expect(&exchange.expect)?, tls: None }
            }
            Talk::Tls(wanted, exchange) => {
                let tls = tls::Wish::new(wanted, None, tls::Speaks::Anything)?;
                Ask::Exchange { send: exchange.send.clone(), expect: expect(&exchange.expect)?, tls: Some(tls) }
            }
            Talk::Udp(exchange) => Ask::Udp { send: exchange.send.clone(), expect: expect(&exchange.expect)? },
            Talk::Http(wanted) => Ask::Http(Box::new(http::Request::new(wanted, target)?)),
            Talk::Dns(dns) => Ask::Dns(Query::new(&dns.name, dns.record.name()).ok_or("the name cannot be asked for")?),
            Talk::Smtp => Ask::Smtp,
            Talk::Ftp => Ask::Ftp,
            Talk::Ping => Ask::Ping,
            Talk::Script(wanted) => Ask::Script(script::Script::new(wanted, target)),
            Talk::Agent { send } => Ask::Agent { send: send.clone() },
        })
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Asks; ends within the timeout. `passage`: the way there, of one that goes to the VIP.
    pub async fn run(&self, passage: Option<&Passage>) -> Outcome {
        match self.asked(passage).await {
            Ok(weight) => Outcome::Good(weight),
            Err(Fault::Theirs(why)) => Outcome::Bad(why),
            Err(Fault::Ours(why)) => Outcome::Unasked(why),
        }
    }

    async fn asked(&self, passage: Option<&Passage>) -> Result<Option<Weight>, Fault> {
        let deadline = Instant::now() + self.timeout;
        match &self.ask {
            Ask::Exchange { send, expect, tls } => {
                let stream = self.connect(passage, deadline).await?;
                let mut talk = Exchange::new(send, expect.as_ref());
                match tls {
                    Some(wish) => {
                        let mut stream = self.shake_hands(stream, wish, deadline).await?;
                        stream::converse(&mut stream, &mut talk, deadline, self.timeout).await?;
                    }
                    None => {
                        let mut stream = stream;
                        stream::converse(&mut stream, &mut talk, deadline, self.timeout).await?;
                    }
                }
            }
            Ask::Http(request) => {
                let stream = self.connect(passage, deadline).await?;
                let asked = async {
                    match request.tls() {
                        Some(wish) => request.ask(self.shake_hands(stream, wish, deadline).await?).await,
                        None => request.ask(stream).await,
                    }
                };
                tokio::time::timeout_at(deadline, asked).await.map_err(|_| too_late(self.timeout))??;
            }
            Ask::Smtp => self.greet(passage, Greeting::smtp(HELO), deadline).await?,
            Ask::Ftp => self.greet(passage, Greeting::ftp(), deadline).await?,
            Ask::Agent { send } => return self.ask_agent(send, deadline).await,
            Ask::Udp { send, expect } => {
                let mut peer = self.datagrams(passage).await?;
                datagram::exchange(&mut peer, send, expect.as_ref(), deadline, self.timeout).await?;
            }
            Ask::Dns(query) => {
                let mut peer = self.datagrams(passage).await?;
                datagram::query(&mut peer, query, deadline, self.timeout).await?;
            }
            Ask::Ping => {
                let asked = datagram::ping(self.address);
                tokio::time::timeout_at(deadline, asked).await.map_err(|_| too_late(self.timeout))??;
            }
            Ask::Script(script) => return script.run(self.timeout).await,
            Ask::Never(why) => return Err(Fault::Ours((*why).into())),
        }
        Ok(None)
    }

    /// None: by a socket of the kernel's, straight to the real server.
    fn way<'p>(&self, passage: Option<&'p Passage>) -> Result<Option<(&'p Passage, Way)>, Fault> {
        match (self.vip, passage) {
            (None, _) => Ok(None),
            (Some(_), Some(passage)) => Ok(Some((passage, passage.way()?))),
            (Some(vip), None) => Err(Fault::Ours(format!("there is no way to {vip} but by a running director"))),
        }
    }

    async fn connect(&self, passage: Option<&Passage>, deadline: Instant) -> Result<Connection, Fault> {
        let bound = match self.way(passage)? {
            Some((passage, Way::Frames { own, mtu })) => {
                let conversation = passage.begin(own, arrival::TCP, self.port)?;
                let stream = passage::stream::Stream::connect(conversation, mtu, deadline, self.timeout).await?;
                return Ok(Connection::Passage(Box::new(stream)));
            }
            Some((_, Way::Socket { own, interface })) => Bound { own, interface: NonZeroU32::new(interface) },
            None => Bound::default(),
        };
        match tokio::time::timeout_at(deadline, stream::connect(self.peer(), bound)).await {
            Ok(connected) => connected.map(Connection::Socket),
            Err(_) => Err(Fault::Theirs(match self.vip {
                Some(vip) => format!("{} {vip} within {:?}", passage::SILENCE, self.timeout),
                None => format!("no connection within {:?}", self.timeout),
            })),
        }
    }

    async fn datagrams(&self, passage: Option<&Passage>) -> Result<datagram::Peer, Fault> {
        let bound = match self.way(passage)? {
            Some((passage, Way::Frames { own, .. })) => {
                let conversation = passage.begin(own, arrival::UDP, self.port)?;
                return Ok(datagram::Peer::Passage(Datagrams::new(conversation)));
            }
            Some((_, Way::Socket { own, interface })) => Bound { own, interface: NonZeroU32::new(interface) },
            None => Bound::default(),
        };
        datagram::connected(self.peer(), bound).await.map(datagram::Peer::Socket)
    }

    async fn shake_hands(&self, stream: Connection, wish: &tls::Wish, deadline: Instant) -> Result<tls::Stream, Fault> {
        let shaken = tokio::time::timeout_at(deadline, wish.shake_hands(stream, self.address)).await;
        shaken.map_err(|_| Fault::Theirs(format!("no TLS handshake within {:?}", self.timeout)))?
    }

    async fn greet(&self, passage: Option<&Passage>, mut greeting: Greeting, deadline: Instant) -> Result<(), Fault> {
        let mut stream = self.connect(passage, deadline).await?;
        stream::converse(&mut stream, &mut greeting, deadline, self.timeout).await?;
        stream::say_farewell(stream, Greeting::FAREWELL);
        Ok(())
    }

    /// An agent that does not answer says nothing: other checks find out whether the server is alive.
    async fn ask_agent(&self, send: &[u8], deadline: Instant) -> Result<Option<Weight>, Fault> {
        let silent = |fault| match fault {
            Fault::Theirs(why) | Fault::Ours(why) => Fault::Ours(why),
        };
        let mut stream = self.connect(None, deadline).await.map_err(silent)?;
        let mut agent = Agent::new(send);
        match stream::converse(&mut stream, &mut agent, deadline, self.timeout).await {
            Ok(()) => Ok(agent.weight),
            Err(fault) if agent.says_down => Err(fault),
            Err(fault) => Err(silent(fault)),
        }
    }
}

/// What the director calls itself; a name that no server looks up (RFC 2606 §2).
const HELO: &str = "marca.invalid";

fn expect(wanted: &Option<model::Expect>) -> Result<Option<Expect>, &'static str> {
    Ok(match wanted {
        None => None,
        Some(model::Expect::Bytes(bytes)) => Some(Expect::Bytes(bytes.clone())),
        Some(model::Expect::Regex(text)) => {
            let regex = regex::bytes::Regex::new(text).map_err(|_| "the expression does not compile")?;
            Some(Expect::Regex(regex))
        }
    })
}
