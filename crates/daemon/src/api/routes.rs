//! The requests.

use super::ask::{Done, Reloaded, Reply, Stopping};
use super::extract::{Json, LargeJson, Parameters};
use super::listen::Origin;
use super::problem::Sort;
use super::{Asked, Event, Problem, Shared, hand, records};
use crate::diff::Diff;
use crate::director::DirectorError;
use crate::explain::{Explained, Question, QuestionError};
use crate::metrics::{Answered, Format};
use crate::status::{Depth, Status};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures_util::{Stream, StreamExt, stream};
use marca_config::model::Access;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, Info, OpenApi, OpenApiBuilder};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What is served, and the document that says so.
fn both() -> (Router<Arc<Shared>>, OpenApi) {
    let mut info = Info::new("marca", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "What operators and programs ask of a running director: see docs/api.md. Errors are problems of RFC 9457."
            .into(),
    );
    let mut token = Http::new(HttpAuthScheme::Bearer);
    token.description = Some("A token of the configuration, over the network; the Unix socket asks for none.".into());
    let components = ComponentsBuilder::new().security_scheme("token", SecurityScheme::Http(token)).build();
    let either = [SecurityRequirement::new("token", [""; 0]), SecurityRequirement::default()];
    let document = OpenApiBuilder::new().info(info).components(Some(components)).security(Some(either)).build();
    OpenApiRouter::with_openapi(document)
        .routes(routes!(openapi))
        .routes(routes!(status))
        .routes(routes!(metrics))
        .routes(routes!(fail))
        .routes(routes!(restore))
        .routes(routes!(reload))
        .routes(routes!(stop))
        .routes(routes!(explain))
        .routes(routes!(diff))
        .merge(hand::router())
        .merge(records::router())
        .routes(routes!(events))
        .split_for_parts()
}

/// The document of the API, as it is served at `/openapi.json`.
pub fn document() -> OpenApi {
    both().1
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let (router, _) = both();
    router
        .fallback(|| async { Problem::new(Sort::NotFound, "nothing is here: /openapi.json says what there is") })
        .method_not_allowed_fallback(|| async {
            Problem::new(Sort::MethodNotAllowed, "this is not asked by this method: /openapi.json says by which")
        })
        .layer(middleware::from_fn(guard))
        .with_state(shared)
}

/// Who may ask, and how long an answer may take.
async fn guard(Extension(origin): Extension<Origin>, request: Request<Body>, next: Next) -> Response {
    let asker = match origin.asker(request.headers()) {
        Ok(asker) => asker,
        Err(problem) => return problem.into_response(),
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads && asker.access < Access::Admin {
        return Problem::new(Sort::Forbidden, "this token only reads").into_response();
    }
    if !reads {
        tracing::debug!("{asker}: {} {}", request.method(), request.uri());
    }
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Sort::NotReady, format!("no answer in {} s", PATIENCE.as_secs())).into_response(),
    }
}

/// Until the answer begins.
const PATIENCE: Duration = Duration::from_secs(60);

impl Shared {
    /// Has the owner answer.
    pub async fn ask<T>(&self, asked: impl FnOnce(Reply<T>) -> Asked) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.owner.send(asked(reply)).await.map_err(|_| Problem::ends())?;
        answer.await.map_err(|_| Problem::ends())?
    }
}

type Answer<T> = Result<axum::Json<T>, Problem>;

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "document", responses(
    (status = 200, description = "The API, as OpenAPI 3.1 describes one", body = serde_json::Value),
))]
async fn openapi() -> axum::Json<OpenApi> {
    axum::Json(document())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StatusParameters {
    /// Only this service.
    #[param(nullable = false)]
    service: Option<String>,
    /// Each of their real servers; else services alone, with the sums.
    #[serde(default = "yes")]
    #[param(required = false, default = true)]
    servers: bool,
}

fn yes() -> bool {
    true
}

/// Services, real servers and counters
#[utoipa::path(get, path = "/v1/status", tag = "read", params(StatusParameters), responses(
    (status = 200, description = "As it is now", body = Status),
    (status = "4XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
))]
async fn status(
    State(shared): State<Arc<Shared>>,
    Parameters(parameters): Parameters<StatusParameters>,
) -> Result<Response, Problem> {
    let bytes = shared.reader.read(move |running| {
        let depth = if parameters.servers { Depth::Servers } else { Depth::Services };
        let status = running.told(parameters.service.as_deref(), depth);
        if let Some(name) = parameters.service
            && status.services.is_empty()
        {
            return Err(Problem::new(Sort::NotFound, format!("there is no service `{name}`")).of_parameter("service"));
        }
        // Here, where it may take its time.
        serde_json::to_vec(&status).map_err(|error| Problem::new(Sort::Failed, error.to_string()))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes.await?).into_response())
}

/// What Prometheus scrapes
///
/// In its text format, or in OpenMetrics for those that accept it.
#[utoipa::path(get, path = "/metrics", tag = "read", responses(
    (status = 200, description = "The metrics, as they are now", content(
        (String = "text/plain; version=0.0.4; charset=utf-8"),
        (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    )),
    (status = "4XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
))]
async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, Problem> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    match shared.scraper.answer(Format::accepted(accept)).await {
        Answered::Text(format, text) => Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response()),
        Answered::Unreadable(why) => Err(Problem::new(Sort::NotReady, why)),
    }
}

/// Which real servers are meant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Servers {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it.
    #[schema(min_items = 1, max_items = 1000, example = json!(["shop/web1"]))]
    pub servers: Vec<String>,
}

impl Servers {
    /// # Errors
    /// When there are none, or too many to be meant.
    pub fn checked(self) -> Result<Vec<String>, Problem> {
        match self.servers.len() {
            1..=1000 => Ok(self.servers),
            0 => Err(Problem::new(Sort::BadRequest, "no server is named").at("/servers")),
            _ => Err(Problem::new(Sort::BadRequest, "more than 1000 servers are named").at("/servers")),
        }
    }
}

/// Real servers have failed
///
/// Their clients move, their connections end as `on_failure` says.
#[utoipa::path(post, path = "/v1/fail", tag = "change", request_body = Servers, responses(
    (status = 200, description = "All of them have", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn fail(State(shared): State<Arc<Shared>>, Json(servers): Json<Servers>) -> Answer<Done> {
    health(&shared, servers, false).await
}

/// Real servers that had failed serve again
#[utoipa::path(post, path = "/v1/restore", tag = "change", request_body = Servers, responses(
    (status = 200, description = "All of them do", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn restore(State(shared): State<Arc<Shared>>, Json(servers): Json<Servers>) -> Answer<Done> {
    health(&shared, servers, true).await
}

async fn health(shared: &Shared, servers: Servers, up: bool) -> Answer<Done> {
    let servers = servers.checked()?;
    shared.ask(|reply| Asked::Health { servers, up, reply }).await.map(axum::Json)
}

/// Reads the daemon's file again
///
/// A faulty one changes nothing.
#[utoipa::path(post, path = "/v1/reload", tag = "change", responses(
    (status = 200, description = "It is in force", body = Reloaded),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn reload(State(shared): State<Arc<Shared>>) -> Answer<Reloaded> {
    shared.ask(|reply| Asked::Reload { reply }).await.map(axum::Json)
}

/// How the daemon ends.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Takes away programs, tables, VIPs and sysctls, too: connections end.
    pub detach: bool,
}

/// Ends the daemon
///
/// It has answered before it ends; packets are forwarded on without it, unless everything that it has set up goes with it.
/// Events say what was taken away, and the stream of events ends with the daemon.
#[utoipa::path(post, path = "/v1/stop", tag = "change", request_body = Stop, responses(
    (status = 202, description = "It ends", body = Stopping),
    (status = "4XX", description = "It goes on", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "It ends already", body = Problem, content_type = "application/problem+json"),
))]
async fn stop(
    State(shared): State<Arc<Shared>>,
    Json(Stop { detach }): Json<Stop>,
) -> Result<(StatusCode, axum::Json<Stopping>), Problem> {
    let stopping = shared.ask(|reply| Asked::Stop { detach, reply }).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(stopping)))
}

/// Where a packet would go, and why
#[utoipa::path(get, path = "/v1/explain", tag = "read", params(Question), responses(
    (status = 200, description = "As the tables are now", body = Explained),
    (status = "4XX", description = "This is no packet", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
))]
async fn explain(State(shared): State<Arc<Shared>>, Parameters(question): Parameters<Question>) -> Answer<Explained> {
    let frame = question.frame().map_err(|error| {
        let parameter = if matches!(error, QuestionError::Flag(_)) { "flags" } else { "to" };
        Problem::new(Sort::BadRequest, error.to_string()).of_parameter(parameter)
    })?;
    let explained = shared.reader.read(move |running| {
        let explained = running.explain(&frame, question.interface.as_deref());
        explained.map_err(|error| Problem::new(Sort::Failed, error.to_string()))
    });
    explained.await.map(axum::Json)
}

/// A configuration to hold against the one in force.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Other {
    /// The name to print in diagnostics.
    file: Option<String>,
    /// Its text; without it the daemon's own file is read.
    text: Option<String>,
}

/// What another configuration would change
#[utoipa::path(post, path = "/v1/diff", tag = "read", request_body = Other, responses(
    (status = 200, description = "Nothing was changed", body = Diff),
    (status = "4XX", description = "It is faulty", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "It was not read", body = Problem, content_type = "application/problem+json"),
))]
async fn diff(State(shared): State<Arc<Shared>>, LargeJson(other): LargeJson<Other>) -> Answer<Diff> {
    let (place, own) = (shared.reader.place().clone(), shared.file.clone());
    let compared = shared.reader.beside(move || {
        let failed = |error: &dyn std::error::Error| Problem::new(Sort::Failed, error.to_string());
        let own = own.display().to_string();
        let text = match other.text {
            Some(text) => text,
            None => std::fs::read_to_string(&own)
                .map_err(|cause| Problem::from(&DirectorError::Read { file: own.clone(), cause }))?,
        };
        let running = place.running().map_err(|error| failed(&error))?;
        let running = running.ok_or_else(|| Problem::new(Sort::NotReady, "no configuration is in force yet"))?;
        Diff::of(&running, other.file.as_deref().unwrap_or(&own), &text).map_err(|error| Problem::from(&error))
    });
    compared.await.map(axum::Json)
}

/// What happens, as it happens
///
/// Server-sent events: `id`, `event` (the kind) and `data`, an Event in JSON. `Last-Event-ID` asks for what was missed, of the
/// last 1024 events of this daemon. Whoever is too slow gets an event `missed` with the number of those that it has lost.
#[utoipa::path(get, path = "/v1/events", tag = "read", responses(
    (status = 200, description = "Until either end has enough", body = Event, content_type = "text/event-stream"),
    (status = "4XX", description = "There are no events", body = Problem, content_type = "application/problem+json"),
))]
async fn events(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (missed, receiver) = shared.events.since(last);
    let missed = stream::iter(missed).map(|event| of(&event));
    let following = stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(event) => Some((of(&event), receiver)),
            Err(RecvError::Lagged(lost)) => {
                Some((sse::Event::default().event("missed").data(lost.to_string()), receiver))
            }
            // The daemon ends.
            Err(RecvError::Closed) => None,
        }
    });
    Ok(Sse::new(missed.chain(following).map(Ok)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn of(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.id.to_string()).event(event.kind.name()).data(data)
}

/// How often a listener is told that nothing happens; one that is gone is noticed by it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
