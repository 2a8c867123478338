//! What operators ask of a running daemon: requests come in by a socket in the director's folder, one a connection, and
//! are events to the task that owns the director.

use crate::place::Place;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Stream;
use std::time::Duration;
use std::{fs, net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// These real servers have failed, or serve again: see [`crate::standings::Meant`].
    Health { servers: Vec<String>, up: bool },
}

/// What became of it, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done(String),
    /// Nothing was changed, because the request is wrong.
    Refused(String),
    Failed(String),
}

/// A request, and where its answer goes.
pub struct Asked {
    pub request: Request,
    pub answer: oneshot::Sender<Answer>,
}

/// The daemon's end. It is open while this lives.
pub struct Control(mpsc::Receiver<Asked>);

impl Control {
    /// To be called by whoever has the place's lock, within a runtime.
    ///
    /// # Errors
    /// When the socket cannot be made: its path may have 107 bytes.
    pub fn open(place: &Place) -> io::Result<Self> {
        let path = place.control_socket();
        // Of a daemon that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(listen(listener, sender));
        Ok(Self(receiver))
    }

    /// The next request. One that cannot be read is answered here.
    pub async fn next(&mut self) -> Asked {
        match self.0.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

async fn listen(listener: UnixListener, sender: mpsc::Sender<Asked>) {
    loop {
        tokio::select! {
            stream = listener.accept() => match stream {
                Ok((stream, _)) => _ = tokio::spawn(serve(stream, sender.clone())),
                Err(error) => {
                    tracing::warn!("take a request: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            _ = sender.closed() => return,
        }
    }
}

/// One connection: a request, and its answer.
async fn serve(stream: UnixStream, sender: mpsc::Sender<Asked>) {
    if let Err(error) = tokio::time::timeout(PATIENCE, talk(stream, sender)).await.unwrap_or(Ok(())) {
        tracing::debug!("a request: {error}");
    }
}

async fn talk(mut stream: UnixStream, sender: mpsc::Sender<Asked>) -> io::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(MOST_BYTES).read_to_end(&mut text).await?;
    let answer = match serde_json::from_slice(&text) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let ends = |_| Answer::Failed("the daemon ends".into());
            match sender.send(Asked { request, answer }).await {
                Ok(()) => answered.await.unwrap_or_else(|error| ends(error.to_string())),
                Err(error) => ends(error.to_string()),
            }
        }
        Err(error) => Answer::Refused(format!("this is no request: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await
}

/// Asks the daemon of a place.
///
/// # Errors
/// When there is none, or it does not answer.
pub fn ask(place: &Place, request: &Request) -> io::Result<Answer> {
    let mut stream = Stream::connect(place.control_socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&serde_json::to_vec(request)?)?;
    stream.shutdown(net::Shutdown::Write)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// How long a request may take, on either side.
const PATIENCE: Duration = Duration::from_secs(30);
/// A request's, at the most.
const MOST_BYTES: u64 = 1 << 20;
