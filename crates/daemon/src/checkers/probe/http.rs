//! Requests of both versions, one for each connection.

use super::super::targets::Target;
use super::tls::{Speaks, Wish};
use super::{Fault, fault};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use marca_config::model::{Http, HttpVersion};
use marca_proto::health::talk::exchange::Expect;
use marca_proto::health::talk::http::{Body, bad_status};
use std::error::Error as _;
use std::net::IpAddr;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// A request, and what response is good.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    /// With the host in it for version 2.
    uri: Uri,
    host: String,
    version: HttpVersion,
    status: Vec<(u16, u16)>,
    expect: Option<Expect>,
    tls: Option<Wish>,
}

impl Request {
    pub fn new(wanted: &Http, target: &Target) -> Result<Self, &'static str> {
        let usual = if wanted.tls.is_some() { 443 } else { 80 };
        let port = target.check.port.filter(|port| *port != usual);
        // What a client would ask for.
        let address = match target.through.map_or(target.address, |through| through.vip) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let own = port.map_or_else(|| address.clone(), |port| format!("{address}:{port}"));
        let host = wanted.host.clone().unwrap_or(own);
        let scheme = if wanted.tls.is_some() { "https" } else { "http" };
        let uri = match wanted.version {
            HttpVersion::One => wanted.path.clone(),
            HttpVersion::Two => format!("{scheme}://{host}{}", wanted.path),
        };
        let speaks = match wanted.version {
            HttpVersion::One => Speaks::Http1,
            HttpVersion::Two => Speaks::Http2,
        };
        let tls = wanted.tls.as_ref().map(|tls| Wish::new(tls, wanted.host.as_deref(), speaks)).transpose()?;
        Ok(Self {
            method: Method::from_bytes(wanted.method.as_bytes()).map_err(|_| "there is no such method")?,
            uri: uri.parse().map_err(|_| "the path cannot be asked for")?,
            host,
            version: wanted.version,
            status: wanted.status.clone(),
            expect: super::expect(&wanted.expect)?,
            tls,
        })
    }

    pub fn tls(&self) -> Option<&Wish> {
        self.tls.as_ref()
    }

    fn message(&self) -> Result<hyper::Request<Empty<Bytes>>, Fault> {
        let message = hyper::Request::builder().method(&self.method).uri(&self.uri).header(USER_AGENT, AGENT);
        let message = match self.version {
            HttpVersion::One => message.header(HOST, &self.host).header(CONNECTION, "close"),
            HttpVersion::Two => message,
        };
        message.body(Empty::new()).map_err(|error| Fault::Ours(error.to_string()))
    }

    /// Over a connection that is there.
    pub async fn ask<S>(&self, stream: S) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let message = self.message()?;
        match self.version {
            HttpVersion::One => {
                let (mut sender, connection) = http1::handshake(io).await.map_err(|e| bad(&e))?;
                let asked = async { self.judge(sender.send_request(message).await.map_err(|e| bad(&e))?).await };
                beside(asked, connection).await
            }
            HttpVersion::Two => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(|e| bad(&e))?;
                let asked = async { self.judge(sender.send_request(message).await.map_err(|e| bad(&e))?).await };
                beside(asked, connection).await
            }
        }
    }

    async fn judge(&self, response: Response<Incoming>) -> Result<(), Fault> {
        if let Some(why) = bad_status(response.status().as_u16(), &self.status) {
            return Err(Fault::Theirs(why));
        }
        let Some(expect) = &self.expect else { return Ok(()) };
        let mut body = Body::new(expect);
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| bad(&error))?;
            if frame.data_ref().is_some_and(|data| body.receive(data)) {
                break;
            }
        }
        body.bad().map_or(Ok(()), |why| Err(Fault::Theirs(why)))
    }
}

/// A request is answered while its connection is driven. What that ends with, the request knows, too.
async fn beside<T>(asked: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut asked, mut connection) = (pin!(asked), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut asked => return answer,
        _ = &mut connection => {}
    }
    asked.await
}

/// The deepest cause says most.
fn bad(error: &hyper::Error) -> Fault {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>().filter(|io| io.raw_os_error().is_some()) {
            return fault("HTTP", io);
        }
        source = cause.source();
    }
    if error.is_parse() {
        return Fault::Theirs("the answer is no HTTP".into());
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Fault::Theirs("the connection was closed without a response".into());
    }
    Fault::Theirs(format!("HTTP: {error}"))
}

const AGENT: &str = concat!("marca/", env!("CARGO_PKG_VERSION"));
