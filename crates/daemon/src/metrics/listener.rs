//! `/metrics`: the answers, and the plain listener of `[metrics] listen`.
//!
//! Answers are made one at a time, on a thread beside the director's, and kept for a moment: however many ask, however
//! often, they cost what one reader costs.

use super::{Format, Scrape, Sums};
use crate::live::Live;
use crate::place::Place;
use crate::status::Status;
use crate::watch::Watch;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use marca_config::model::{Detail, Metrics};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

/// Makes answers to scrapes; clones make the same ones.
#[derive(Clone)]
pub struct Scraper {
    reader: Arc<Mutex<Reader>>,
    wanted: watch::Receiver<Metrics>,
}

struct Reader {
    live: Live,
    watch: Watch,
    sums: Option<Sums>,
    last: Option<Look>,
}

struct Look {
    status: Status,
    at: Instant,
    took: Duration,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answered {
    Text(Format, String),
    /// Why there is none: it cannot be read now.
    Unreadable(String),
}

/// So long an answer is as good as a new one.
const FRESH: Duration = Duration::from_millis(200);

impl Scraper {
    /// `wanted` changes with the configuration.
    pub fn new(place: Place, wanted: watch::Receiver<Metrics>) -> Self {
        let (live, watch) = (place.live.clone(), Watch::new(place));
        let reader = Reader { live, watch, sums: None, last: None };
        Self { reader: Arc::new(Mutex::new(reader)), wanted }
    }

    /// Begins to count. What an `adopted` data plane has counted until now is not counted in sums.
    async fn begin(&self, adopted: bool) {
        if let (false, Ok(mut reader)) = (adopted, self.reader.lock()) {
            (reader.sums, reader.last) = (Some(Sums::default()), None);
        }
        let _ = self.answer(Format::Classic).await;
    }

    /// The answer to a scrape.
    pub async fn answer(&self, format: Format) -> Answered {
        let (reader, detail) = (Arc::clone(&self.reader), self.wanted.borrow().detail);
        let answer = spawn_blocking(move || match reader.lock() {
            Ok(mut reader) => reader.answer(format, detail),
            Err(_) => Answered::Unreadable("an earlier scrape has failed".into()),
        });
        answer.await.unwrap_or_else(|error| Answered::Unreadable(error.to_string()))
    }
}

impl Reader {
    fn answer(&mut self, format: Format, detail: Detail) -> Answered {
        if let Err(error) = self.look() {
            return Answered::Unreadable(error);
        }
        let (Some(look), Some(sums)) = (&self.last, &self.sums) else {
            return Answered::Unreadable("nothing has been read yet".into());
        };
        let (status, took, checks) = (&look.status, look.took, &self.live.took());
        Answered::Text(format, Scrape { status, sums, detail, took, checks }.resolved().text(format))
    }

    fn look(&mut self) -> Result<(), String> {
        if self.last.as_ref().is_some_and(|last| last.at.elapsed() < FRESH) {
            return Ok(());
        }
        let began = Instant::now();
        let status = self.watch.status().map_err(|error| error.to_string())?;
        match &mut self.sums {
            Some(sums) => sums.add(&status),
            None => self.sums = Some(Sums::begin(&status)),
        }
        self.last = Some(Look { status, at: Instant::now(), took: began.elapsed() });
        Ok(())
    }
}

/// Serves what the configuration says, where it says it; does not end. An address that cannot be had is tried again: packets are
/// forwarded all the same.
pub async fn serve(scraper: Scraper, adopted: bool) {
    let mut wanted = scraper.wanted.clone();
    scraper.begin(adopted).await;
    loop {
        let listen = wanted.borrow_and_update().listen;
        tokio::select! {
            () = serve_at(&scraper, listen) => {}
            // Another place may not be another one.
            changed = wanted.wait_for(|wanted| wanted.listen != listen) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn serve_at(scraper: &Scraper, listen: Option<SocketAddr>) {
    let Some(address) = listen else { return std::future::pending().await };
    let mut complained = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !complained {
                    tracing::error!("serve metrics on {address}: {error}; it is tried again");
                }
                complained = true;
                sleep(BIND_AGAIN).await;
            }
        }
    };
    tracing::info!("metrics are served on http://{address}/metrics");
    let (permits, mut connections) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), JoinSet::new());
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let scraper = scraper.clone();
                connections.spawn(async move {
                    // A scraper that goes away is none of our business.
                    let _ = timeout(LONGEST, connection(scraper, stream)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("accept a connection for metrics: {error}");
                // Such as too many open files: not at once again.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Prometheus keeps one.
const MOST_CONNECTIONS: usize = 32;
/// How long one may stay, so that nobody takes all of them for good.
const LONGEST: Duration = Duration::from_secs(600);
/// From one request's end to the next one's whole head.
const IDLE: Duration = Duration::from_secs(90);
/// hyper takes no smaller buffer for a request's head.
const MOST_HEAD_BYTES: usize = 8192;

async fn connection(scraper: Scraper, stream: TcpStream) -> Result<(), hyper::Error> {
    let service = service_fn(|request| {
        let scraper = scraper.clone();
        async move { Ok::<_, Infallible>(respond(&scraper, &request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MOST_HEAD_BYTES);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn respond(scraper: &Scraper, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let (code, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            match scraper.answer(Format::accepted(accept)).await {
                Answered::Text(format, text) => (StatusCode::OK, format.content_type(), text),
                Answered::Unreadable(why) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, why + "\n"),
            }
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".into()),
        _ => (StatusCode::NOT_FOUND, PLAIN, "marca: metrics are at /metrics\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
