//! The sockets of a server, the threads behind them, and their end.

use super::{http, session, tls, udp};
use crate::Error;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What a server is called and where it listens.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Letters, digits, `-` and `.`, because it is in the certificate too.
    pub name: String,
    /// TCP ports that speak HTTP.
    pub http: Vec<u16>,
    /// TCP ports that speak HTTPS, with a certificate made at the start.
    pub https: Vec<u16>,
    /// UDP ports that echo.
    pub udp: Vec<u16>,
    /// TCP ports that echo lines.
    pub echo: Vec<u16>,
    /// The one address to listen on, instead of all of both families.
    pub bind: Option<IpAddr>,
}

/// A running server. Dropped, it closes its ports and all its connections, as the end of a process would.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Arc<TcpListener>>,
}

impl Server {
    /// Returns when all ports are open.
    ///
    /// # Errors
    /// A port could not be opened, or the name is no host name.
    pub fn start(offer: Offer) -> Result<Self, Error> {
        let bad_name = |letter: char| !(letter.is_ascii_alphanumeric() || "-.".contains(letter));
        if offer.name.is_empty() || offer.name.contains(bad_name) {
            let doing = format!("start a server called `{}`", offer.name);
            return Err(Error::new(doing, io::Error::other("a name has letters, digits, `-` and `.`")));
        }
        let shared = Arc::new(Shared {
            name: offer.name.clone(),
            health: AtomicU16::new(200),
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        // From here on, an error drops it, which closes what is open.
        let mut server = Server { shared, listeners: Vec::new() };
        server.listen(&offer, &offer.http, http::serve)?;
        server.listen(&offer, &offer.echo, session::serve)?;
        if !offer.https.is_empty() {
            let config = tls::server_config(&offer.name)?;
            server.listen(&offer, &offer.https, move |stream, client, shared| {
                http::serve(tls::accept(&config, stream)?, client, shared)
            })?;
        }
        for address in offer.addresses(&offer.udp) {
            let socket = udp_socket(address).map_err(|error| Error::new(format!("open udp {address}"), error))?;
            let shared = Arc::clone(&server.shared);
            thread::spawn(move || udp::serve(&socket, &shared));
        }
        Ok(server)
    }

    fn listen(
        &mut self,
        offer: &Offer,
        ports: &[u16],
        serve: impl Fn(TcpStream, SocketAddr, &Shared) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let serve = Arc::new(serve);
        for address in offer.addresses(ports) {
            let listener = tcp_listener(address).map_err(|error| Error::new(format!("open tcp {address}"), error))?;
            let listener = Arc::new(listener);
            self.listeners.push(Arc::clone(&listener));
            let (shared, serve) = (Arc::clone(&self.shared), Arc::clone(&serve));
            thread::spawn(move || accept_all(&listener, &shared, &serve));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes the thread that accepts. It fails only if the socket is not one that listens.
            let _ = socket2::SockRef::from(listener.as_ref()).shutdown(Shutdown::Both);
        }
        for stream in self.shared.connections().values() {
            // The client may have gone first.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Offer {
    fn addresses(&self, ports: &[u16]) -> Vec<SocketAddr> {
        let hosts = match self.bind {
            Some(host) => vec![host],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        ports.iter().flat_map(|port| hosts.iter().map(|host| SocketAddr::new(*host, *port))).collect()
    }
}

/// What all threads of a server know.
#[derive(Debug)]
pub(super) struct Shared {
    pub name: String,
    /// The status of `/healthz`.
    pub health: AtomicU16,
    stopped: AtomicBool,
    /// By the client's address and ours.
    connections: Mutex<HashMap<(SocketAddr, SocketAddr), TcpStream>>,
}

impl Shared {
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<(SocketAddr, SocketAddr), TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept_all<F>(listener: &TcpListener, shared: &Arc<Shared>, serve: &Arc<F>)
where
    F: Fn(TcpStream, SocketAddr, &Shared) -> io::Result<()> + Send + Sync + 'static,
{
    while !shared.is_stopped() {
        let Ok((stream, client)) = listener.accept() else {
            // Out of descriptors, perhaps: give the others time to end.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let (Ok(ours), Ok(kept)) = (stream.local_addr(), stream.try_clone()) else { continue };
        {
            let mut connections = shared.connections();
            if shared.is_stopped() || connections.len() >= CONNECTIONS_MAX {
                continue;
            }
            connections.insert((client, ours), kept);
        }
        let (shared, serve) = (Arc::clone(shared), Arc::clone(serve));
        thread::spawn(move || {
            // The client sees what went wrong, and it is the client that the test looks at.
            let _ = stream.set_nodelay(true).and_then(|()| serve(stream, client, &shared));
            shared.connections().remove(&(client, ours));
        });
    }
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    bind(&socket, address)?;
    Ok(socket.into())
}

/// One socket for each family, so that an IPv4 peer's address is not shown as an IPv6 one.
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A server that is started again takes its ports although old connections linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

const BACKLOG: i32 = 1024;
/// One thread each.
const CONNECTIONS_MAX: usize = 4096;
