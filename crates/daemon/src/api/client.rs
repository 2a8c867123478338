//! The other end: asks the daemon of a place. Every question has a connection of its own.

use super::{Event, Problem};
use crate::place::Place;
use http_body_util::{BodyExt, Full};
pub use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon runs here (start one with `marca run`)")]
    NoDaemon,
    #[error("connect to {}: {cause}", socket.display())]
    Connect { socket: PathBuf, cause: io::Error },
    #[error("ask the daemon: {0}")]
    Http(#[from] hyper::Error),
    #[error("the daemon has not answered in {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the daemon answers what this program does not understand: {0}; are they of the same version?")]
    Strange(String),
    /// It has refused, or failed.
    #[error("{0}")]
    Problem(Box<Problem>),
}

impl ClientError {
    /// Whether what was asked is wrong, not that it could not be done.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.status < 500)
    }
}

pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(place: &Place) -> Self {
        Self { socket: place.control_socket() }
    }

    /// # Errors
    /// When nobody listens or may be asked, or what it answers.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None).await
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Strange(error.to_string()))?;
        self.ask(Method::POST, path, Some(body)).await
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            let strange = |error: serde_json::Error| ClientError::Strange(error.to_string());
            if status.is_success() {
                serde_json::from_slice(&bytes).map_err(strange)
            } else {
                Err(ClientError::Problem(Box::new(serde_json::from_slice(&bytes).map_err(strange)?)))
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(ClientError::Slow))
    }

    /// Hears what happens from now on.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn listen(&self) -> Result<Listener, ClientError> {
        let response = self.send(Method::GET, "/v1/events", None).await?;
        if !response.status().is_success() {
            return Err(ClientError::Strange(response.status().to_string()));
        }
        Ok(Listener { body: response.into_body(), text: Vec::new() })
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon,
            _ => ClientError::Connect { socket: self.socket.clone(), cause },
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(|error| ClientError::Strange(error.to_string()))?;
        Ok(sender.send_request(request).await?)
    }
}

/// Hears what happens.
pub struct Listener {
    body: Incoming,
    /// Of the next event, as far as it has come.
    text: Vec<u8>,
}

impl Listener {
    /// The next event, `Some(None)` where some were missed; `None` when the daemon has ended.
    pub async fn next(&mut self) -> Option<Option<Event>> {
        loop {
            while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = decoded(&String::from_utf8_lossy(&event)) {
                    return Some(event);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

/// An event of a stream: `Some(None)` when some were missed, `None` for what is none.
fn decoded(text: &str) -> Option<Option<Event>> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if field("event") == Some("missed") {
        return Some(None);
    }
    serde_json::from_str(field("data")?).ok().map(Some)
}

/// Longer than the daemon's own.
const PATIENCE: Duration = Duration::from_secs(70);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_are_written() {
        let data = r#"{"id":7,"at":"2026-01-01T00:00:00Z","kind":"health","text":"shop/web1 has failed","service":"shop","server":"web1"}"#;
        let event = decoded(&format!("id: 7\nevent: health\ndata: {data}\n\n")).unwrap().unwrap();
        assert_eq!((event.id, event.server.as_deref()), (7, Some("web1")));
        assert_eq!(decoded("event: missed\ndata: 3\n\n"), Some(None));
        assert_eq!(decoded(":\n\n"), None, "the keep-alive");
    }
}
