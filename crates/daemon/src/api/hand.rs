//! What operators say by hand: drains, weights, servers out of service.

use super::ask::{self, Done};
use super::extract::Json;
use super::problem::Sort;
use super::routes::Servers;
use super::{Asked, Problem, Shared};
use crate::overrides::{Change, Duty};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(disable))
        .routes(routes!(enable))
        .routes(routes!(weight))
}

/// Which real servers, and until when.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Until {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it.
    #[schema(min_items = 1, max_items = 1000, example = json!(["shop/web1"]))]
    servers: Vec<String>,
    /// A duration, `10m`, or a moment, `2026-12-31T18:00:00Z`; without it: until it is taken back.
    #[serde(default)]
    #[schema(example = "10m")]
    until: Option<String>,
}

/// Which real servers, which weight, and until when.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Weight {
    /// `shop/web1`; `web1` or `10.0.0.11` in all services that have it.
    #[schema(min_items = 1, max_items = 1000, example = json!(["shop/web1"]))]
    servers: Vec<String>,
    /// Null: that of the configuration again.
    #[schema(maximum = 65535, example = 3)]
    weight: Option<u16>,
    /// A duration, `10m`, or a moment, `2026-12-31T18:00:00Z`; without it: until it is taken back.
    #[serde(default)]
    #[schema(example = "10m")]
    until: Option<String>,
}

type Answer = Result<axum::Json<Done>, Problem>;

/// Real servers get no new clients
///
/// As with weight 0 in the configuration: persistent clients stay as long as `drain` says, connections go on.
#[utoipa::path(post, path = "/v1/drain", tag = "change", request_body = Until, responses(
    (status = 200, description = "All of them drain", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn drain(State(shared): State<Arc<Shared>>, Json(said): Json<Until>) -> Answer {
    say(&shared, said.servers, Change::Set(Duty::Drained), said.until).await
}

/// Real servers are drained no longer
#[utoipa::path(post, path = "/v1/undrain", tag = "change", request_body = Servers, responses(
    (status = 200, description = "None of them is", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn undrain(State(shared): State<Arc<Shared>>, Json(said): Json<Servers>) -> Answer {
    say(&shared, said.servers, Change::Unset(Duty::Drained), None).await
}

/// Real servers get no clients at all
///
/// Persistent clients move at once; connections go on.
#[utoipa::path(post, path = "/v1/disable", tag = "change", request_body = Until, responses(
    (status = 200, description = "All of them are out of service", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn disable(State(shared): State<Arc<Shared>>, Json(said): Json<Until>) -> Answer {
    say(&shared, said.servers, Change::Set(Duty::Disabled), said.until).await
}

/// Real servers are in service again
#[utoipa::path(post, path = "/v1/enable", tag = "change", request_body = Servers, responses(
    (status = 200, description = "None of them is disabled", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn enable(State(shared): State<Arc<Shared>>, Json(said): Json<Servers>) -> Answer {
    say(&shared, said.servers, Change::Unset(Duty::Disabled), None).await
}

/// Real servers have another weight than the configuration says
#[utoipa::path(post, path = "/v1/weight", tag = "change", request_body = Weight, responses(
    (status = 200, description = "All of them have", body = Done),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn weight(State(shared): State<Arc<Shared>>, Json(said): Json<Weight>) -> Answer {
    if said.weight.is_none() && said.until.is_some() {
        return Err(Problem::new(Sort::BadRequest, "the configuration's weight has no end").at("/until"));
    }
    say(&shared, said.servers, Change::Weight(said.weight), said.until).await
}

async fn say(shared: &Shared, servers: Vec<String>, change: Change, until: Option<String>) -> Answer {
    let servers = Servers { servers }.checked()?;
    let until = ask::until(until.as_deref())?;
    shared.ask(|reply| Asked::Say { servers, change, until, reply }).await.map(axum::Json)
}
