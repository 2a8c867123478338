//! Sockets, who may ask, how long a connection may take.

use super::Shared;
use super::routes;
use crate::linux::peer;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Group, chown, geteuid};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
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

/// What somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// What changes nothing.
    #[expect(dead_code, reason = "tokens will have it")]
    Read,
    Admin,
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

/// Serves requests until the sender of `closed` is dropped.
pub(super) async fn listen(listener: Listener, shared: Arc<Shared>, mut closed: watch::Receiver<()>) {
    let router = routes::router(shared);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let listener = match UnixListener::from_std(listener.0) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("listen for requests: {error}"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closed.changed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("take a request: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // Further ones wait at the socket.
        let Ok(turn) = Arc::clone(&connections).acquire_owned().await else { return };
        let asker = match peer::credentials(&stream).map(|peer| who(&peer)) {
            Ok(Some(asker)) => asker,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!("who asks: {error}");
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            let _turn = turn;
            serve(stream, router, asker).await;
        });
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

/// One connection, which may have several requests.
async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, router: Router, asker: Asker) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(asker.clone());
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_PATIENCE));
    let stream = pin!(stream);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).max_buf_size(MOST_HEADER_BYTES);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
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
