//! A TCP connection to a port of the VIP, by smoltcp: one interface with one socket for each, driven by whoever reads and
//! writes. Bytes in and out for it are IP packets of a `Conversation`.
//!
//! The checksums of what comes are not looked at: of packets that stay on this host (virtual machines, containers) nobody
//! has made any, and of others the network card has looked at them.

use super::arrival::{Arrival, Complaint};
use super::{Conversation, HOPS, random};
use crate::checkers::probe::Fault;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, timeout_at};

/// A connection. It ends by a reset, as those of all checks.
pub struct Stream {
    conversation: Conversation,
    device: Queue,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    timer: Pin<Box<Sleep>>,
    began: Instant,
    /// Heard before there was a connection.
    complaint: Option<Complaint>,
}

impl Stream {
    /// Connects. `mtu` is what its packets may have.
    pub(in crate::checkers::probe) async fn connect(
        conversation: Conversation,
        mtu: u32,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let mut stream = Self::new(conversation, mtu)?;
        match timeout_at(deadline, poll_fn(|context| stream.poll_connected(context))).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(stream.conversation.silent(timeout)),
        }
    }

    fn new(conversation: Conversation, mtu: u32) -> Result<Self, Fault> {
        let key = conversation.key;
        let mtu = usize::try_from(mtu).unwrap_or(LARGEST_MTU).clamp(LEAST_MTU, LARGEST_MTU);
        let mut device = Queue { incoming: VecDeque::new(), outgoing: Vec::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let began = Instant::now();
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let own = IpAddress::from(key.own);
        // Everybody is next door: the way is not this one's business.
        interface.update_ip_addrs(|addresses| {
            // The first always has room.
            let _ = addresses.push(IpCidr::new(own, 0));
        });
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
        socket.set_hop_limit(Some(HOPS));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let vip = (IpAddress::from(key.vip), key.port);
        let connected = socket.connect(interface.context(), vip, (own, key.own_port));
        connected.map_err(|error| Fault::Ours(format!("connect: {error}")))?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let timer = Box::pin(tokio::time::sleep_until(began));
        Ok(Self { conversation, device, interface, sockets, handle, timer, began, complaint: None })
    }

    fn poll_connected(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.turn(context);
        match (self.socket().state(), self.complaint) {
            (State::Established | State::CloseWait, _) => Poll::Ready(Ok(())),
            (State::SynSent, Some(complaint)) => Poll::Ready(Err(self.conversation.complained(complaint))),
            (State::SynSent | State::SynReceived, _) => Poll::Pending,
            _ => Poll::Ready(Err(Fault::Theirs("connection refused".into()))),
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes what has come, sends what is to be sent, and has the task woken when there is more to do.
    fn turn(&mut self, context: &mut Context<'_>) {
        for _ in 0..MOST_TURNS {
            while let Poll::Ready(arrival) = self.conversation.poll_heard(context) {
                match arrival {
                    Arrival::Packet(packet) => self.device.incoming.push_back(packet),
                    Arrival::Complaint(complaint) => self.complaint = Some(complaint),
                }
            }
            self.emit();
            let Some(delay) = self.interface.poll_delay(self.now(), &self.sockets) else { return };
            self.timer.as_mut().reset(Instant::now() + delay.into());
            if self.timer.as_mut().poll(context).is_pending() {
                return;
            }
        }
        context.waker().wake_by_ref();
    }

    fn emit(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        for packet in self.device.outgoing.drain(..) {
            // What was not sent is sent again when its time is over.
            self.conversation.send(&packet);
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::ZERO + self.began.elapsed().into()
    }

    /// Says something that is not waited for; the end of the connection comes behind it.
    pub fn say_farewell(&mut self, farewell: &[u8]) {
        if self.socket().send_slice(farewell).is_ok() {
            self.emit();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.socket().state() != State::SynSent {
            self.socket().abort();
        }
        self.emit();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.turn(context);
        let socket = self.socket();
        match socket.recv_slice(buffer.initialize_unfilled()) {
            Ok(0) if buffer.remaining() > 0 => Poll::Pending,
            Ok(read) => {
                buffer.advance(read);
                // The window may be open again.
                self.turn(context);
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => Poll::Ready(Err(reset())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turn(context);
        match self.socket().send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => Poll::Pending,
            Ok(sent) => {
                self.turn(context);
                Poll::Ready(Ok(sent))
            }
            Err(_) => Poll::Ready(Err(reset())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.turn(context);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().close();
        self.turn(context);
        Poll::Ready(Ok(()))
    }
}

/// As the kernel says it.
fn reset() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

/// smoltcp's idea of a network card: IP packets from and for the conversation.
struct Queue {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

impl smoltcp::phy::Device for Queue {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::ignored();
        (checksum.ipv4, checksum.tcp) = (Checksum::Tx, Checksum::Tx);
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ip, self.mtu);
        capabilities.checksum = checksum;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl smoltcp::phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, put: F) -> R {
        let mut packet = vec![0; len];
        let done = put(&mut packet);
        self.0.push(packet);
        done
    }
}

/// Of an answer that is under way; the first 64 KiB are looked at.
const RECEIVE_BYTES: usize = 16 * 1024;
const SEND_BYTES: usize = 4 * 1024;
/// Before others have theirs.
const MOST_TURNS: usize = 16;
/// What every host takes (RFC 1122 §3.3.3), and Ethernet.
const LEAST_MTU: usize = 576;
const LARGEST_MTU: usize = 1500;
