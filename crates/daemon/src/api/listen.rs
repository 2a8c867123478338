//! Sockets, who may ask, how long a connection may take.

use super::network::{Endpoints, Secrets};
use super::problem::Sort;
use super::{LAST_PATIENCE, Problem, Shared, routes};
use crate::linux::peer;
use axum::Router;
use axum::http::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use marca_config::model::Access;
use nix::unistd::{Group, chown, geteuid};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use std::{fmt, fs, io};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// The socket in the director's folder, before it is listened on.
pub(super) struct Listener(std::os::unix::net::UnixListener);

impl Listener {
    pub fn bind(path: &Path) -> io::Result<Self> {
        // Of a daemon that was killed.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let mode = match Group::from_name(GROUP)? {
            Some(group) => {
                chown(path, None, Some(group.gid))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(Self(listener))
    }
}

/// Who asks, for the log.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub access: Access,
    pub name: String,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Where a request comes from.
#[derive(Clone)]
pub(super) enum Origin {
    /// The socket in the director's folder.
    Local(Asker),
    /// The network; each request says who asks.
    Remote(SocketAddr, Arc<RwLock<Option<Secrets>>>),
}

impl Origin {
    /// Who asks by a request with these headers.
    pub fn asker(&self, headers: &HeaderMap) -> Result<Asker, Problem> {
        match self {
            Origin::Local(asker) => Ok(asker.clone()),
            Origin::Remote(from, secrets) => match &*secrets.read().unwrap_or_else(PoisonError::into_inner) {
                Some(secrets) => secrets.asker(headers, *from),
                None => Err(Problem::new(Sort::Unauthorized, "nobody may ask by the network any more")),
            },
        }
    }
}

/// Serves requests until the sender of endpoints is dropped; then those that are there to their end, if that is near.
pub(super) async fn listen(listener: Listener, shared: Arc<Shared>, mut endpoints: UnboundedReceiver<Endpoints>) {
    let router = routes::router(shared);
    let listener = match UnixListener::from_std(listener.0) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("listen for requests: {error}"),
    };
    // Every connection has a receiver.
    let (ending, ends) = watch::channel(false);
    let local = tokio::spawn(take_local(listener, router.clone(), ends.clone()));
    let secrets: Arc<RwLock<Option<Secrets>>> = Arc::default();
    // Of all endpoints together, so that the network cannot take the socket's.
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut taking: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    while let Some(next) = endpoints.recv().await {
        taking.retain(|address, taking| {
            let stays = next.addresses.contains(address);
            if !stays {
                taking.abort();
            }
            stays
        });
        *secrets.write().unwrap_or_else(PoisonError::into_inner) = next.secrets;
        for (address, listener) in next.listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (secrets, connections) = (Arc::clone(&secrets), Arc::clone(&connections));
                    let task = tokio::spawn(take_remote(listener, router.clone(), secrets, connections, ends.clone()));
                    taking.insert(address, task.abort_handle());
                }
                Err(error) => tracing::error!("take requests at {address}: {error}"),
            }
        }
    }
    local.abort();
    taking.values().for_each(AbortHandle::abort);
    drop(ends);
    ending.send_replace(true);
    let _ = tokio::time::timeout(LAST_PATIENCE, ending.closed()).await;
}

async fn take_local(listener: UnixListener, router: Router, ends: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Further ones wait at the socket.
        let Ok(turn) = Arc::clone(&connections).acquire_owned().await else { return };
        let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
        match peer::credentials(&stream).map(|peer| who(&peer)) {
            Ok(Some(asker)) => {
                let (router, ends) = (router.clone(), ends.clone());
                tokio::spawn(async move {
                    let _turn = turn;
                    serve(stream, router, Origin::Local(asker), ends).await;
                });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("who asks: {error}"),
        }
    }
}

async fn take_remote(
    listener: TcpListener,
    router: Router,
    secrets: Arc<RwLock<Option<Secrets>>>,
    connections: Arc<Semaphore>,
    ends: watch::Receiver<bool>,
) {
    loop {
        let Ok(turn) = Arc::clone(&connections).acquire_owned().await else { return };
        let Some((stream, from)) = accepted(listener.accept().await).await else { continue };
        let acceptor = secrets.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|s| s.acceptor.clone());
        let Some(acceptor) = acceptor else { continue };
        let (router, secrets, ends) = (router.clone(), Arc::clone(&secrets), ends.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match tokio::time::timeout(HEADER_PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, router, Origin::Remote(from, secrets), ends).await,
                Ok(Err(error)) => tracing::debug!("{from}: {error}"),
                Err(_) => tracing::debug!("{from}: no TLS in {} s", HEADER_PATIENCE.as_secs()),
            }
        });
    }
}

/// What has come, if anything has; without descriptors left there is no hurry to try again.
async fn accepted<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!("take a request: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        }
    }
}

/// Root, whoever the daemon runs as, and the group. The socket's permissions say the same; this holds if somebody has
/// changed them.
fn who(peer: &peer::Credentials) -> Option<Asker> {
    let is_member = || {
        let group = Group::from_name(GROUP).ok().flatten()?;
        Some(peer.gid == group.gid.as_raw() || peer.groups.contains(&group.gid.as_raw()))
    };
    let may = peer.uid == 0 || peer.uid == geteuid().as_raw() || is_member().unwrap_or(false);
    let name = format!("user {}, process {}", peer.uid, peer.pid);
    if !may {
        tracing::warn!("{name} may not ask: it is neither root nor of the group {GROUP}");
    }
    may.then_some(Asker { access: Access::Admin, name })
}

/// One connection, which may have several requests; the one under way is its last when the daemon ends.
async fn serve<S>(stream: S, router: Router, origin: Origin, mut ends: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(origin.clone());
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_PATIENCE));
    let stream = pin!(stream);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).max_buf_size(MOST_HEADER_BYTES);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ends = async move { ends.wait_for(|ends| *ends).await.is_ok() };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        _ = ends => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("a request: {error}");
    }
}

/// Whose members may ask, if there is one.
const GROUP: &str = "marca";
/// At one time.
const CONNECTIONS: usize = 128;
/// How long a request's head may take, and a connection may lie idle.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing of an answer may be taken.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Of a request's head; a longer one is answered with 431.
const MOST_HEADER_BYTES: usize = 16 << 10;
