//! Connections and persistence: listed, ended.

use super::extract::Parameters;
use super::problem::Sort;
use super::{Problem, Shared};
use crate::linux::data_plane::since_boot;
use crate::standings::Meant;
use crate::status::Running;
use axum::extract::State;
use ipnet::IpNet;
use marca_config::model::Protocol;
use marca_tables::classifier;
use marca_tables::records::{self, Ended, Filter, Piece};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(flows, end)).routes(routes!(persist, unpin))
}

/// Which connections or clients are meant; nothing given: all.
#[derive(Debug, Default, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Clients of this address or prefix.
    #[param(nullable = false, example = "198.51.100.0/24")]
    client: Option<String>,
    /// Only of this service.
    #[param(nullable = false)]
    service: Option<String>,
    /// Only of this real server: `shop/web1`, or `web1` or its address in all services.
    #[param(nullable = false)]
    server: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Clients of this address or prefix.
    #[param(nullable = false, example = "198.51.100.0/24")]
    client: Option<String>,
    /// Only of this service.
    #[param(nullable = false)]
    service: Option<String>,
    /// Only of this real server: `shop/web1`, or `web1` or its address in all services.
    #[param(nullable = false)]
    server: Option<String>,
    /// As many at the most.
    #[serde(default = "usual")]
    #[param(required = false, minimum = 1, maximum = 10000, default = 100)]
    limit: u16,
    /// `next` of the page before.
    #[serde(default)]
    #[param(required = false, minimum = 0)]
    after: u64,
}

fn usual() -> u16 {
    100
}

impl Page {
    fn which(&self) -> Which {
        Which { client: self.client.clone(), service: self.service.clone(), server: self.server.clone() }
    }

    fn piece(&self) -> Result<Piece, Problem> {
        if i64::try_from(self.after).is_err() {
            return Err(Problem::new(Sort::BadRequest, "there is no such page").of_parameter("after"));
        }
        match self.limit {
            1..=10_000 => Ok(Piece { from: self.after, looks: LOOKS, most: self.limit.into() }),
            _ => Err(Problem::new(Sort::BadRequest, "a page has from 1 to 10000 entries").of_parameter("limit")),
        }
    }
}

/// Records that one request looks at. A page may have fewer entries than it could, or none, and a next one.
const LOOKS: u64 = 1 << 22;

/// Connections, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flows {
    pub flows: Vec<FlowStatus>,
    /// `after` of the next page; null: this was the last one.
    pub next: Option<u64>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowStatus {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// As the client sees it.
    #[schema(value_type = String)]
    pub vip: SocketAddr,
    pub service: String,
    pub server: String,
    pub server_port: u16,
    /// `half-open`, `established`, `closing` or `reset`.
    pub state: String,
    /// Since a packet looked its record up; with a table scheduler most packets need not.
    pub idle_seconds: u64,
}

/// What has become of connections that were to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowsEnded {
    pub ended: u64,
    /// Those that go on: clients' connections straight to a real server, past the VIP.
    pub past_vip: u64,
}

/// Clients that stay with a real server, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Persist {
    pub clients: Vec<ClientStatus>,
    /// `after` of the next page; null: this was the last one.
    pub next: Option<u64>,
}

/// A client, or several that the service takes for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientStatus {
    /// As the service's netmask leaves it.
    #[schema(value_type = String)]
    pub client: IpAddr,
    pub service: String,
    pub server: String,
    /// Unless it comes again; 0: no longer than its connections last. Null: it has not proved to be there yet.
    pub seconds_left: Option<u64>,
}

/// How many clients are free to go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unpinned {
    pub unpinned: u64,
}

/// Connections
///
/// Read while packets go on: a list is of no single moment.
#[utoipa::path(get, path = "/v1/flows", tag = "read", params(Page), responses(
    (status = 200, description = "A page of them", body = Flows),
    (status = "4XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
))]
async fn flows(
    State(shared): State<Arc<Shared>>,
    Parameters(page): Parameters<Page>,
) -> Result<axum::Json<Flows>, Problem> {
    let piece = page.piece()?;
    let listed = shared.reader.read(move |running| list(running, &page.which(), piece));
    listed.await.map(axum::Json)
}

fn list(running: &Running, which: &Which, piece: Piece) -> Result<Flows, Problem> {
    let names = Names::of(running);
    let filter = which.filter(running, &names)?;
    let (found, next) = records::flows(&running.maps.memory, now(running)?, piece, &filter);
    let flow = |flow: records::Flow| FlowStatus {
        protocol: protocol(flow.protocol),
        client: flow.client,
        vip: flow.vip,
        service: names.service(flow.service),
        server: names.real(flow.real),
        server_port: flow.server_port,
        state: flow.state.name().into(),
        idle_seconds: running.clock().duration(flow.idle).as_secs(),
    };
    Ok(Flows { flows: found.into_iter().map(flow).collect(), next })
}

impl Running {
    /// Connections with a real server, `shop/web1`: a page, as the API has them.
    ///
    /// # Errors
    /// When no service has it.
    pub fn flows_of(&self, server: &str, after: u64) -> Result<Flows, Problem> {
        let which = Which { server: Some(server.to_owned()), ..Which::default() };
        list(self, &which, Piece { from: after, looks: LOOKS, most: 10_000 })
    }
}

/// Ends connections
///
/// Their records go: the next segment of each is one of no connection, which the director's kernel resets, and the next
/// datagram is the first of another flow. At least one of the parameters must say which.
#[utoipa::path(delete, path = "/v1/flows", tag = "change", params(Which), responses(
    (status = 200, description = "They have ended", body = FlowsEnded),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Some may have ended", body = Problem, content_type = "application/problem+json"),
))]
async fn end(
    State(shared): State<Arc<Shared>>,
    Parameters(which): Parameters<Which>,
) -> Result<axum::Json<FlowsEnded>, Problem> {
    if which.client.is_none() && which.service.is_none() && which.server.is_none() {
        let detail = "say which connections are to end: by client, service or server";
        return Err(Problem::new(Sort::BadRequest, detail).of_parameter("client"));
    }
    let ended = shared.reader.read(move |running| {
        let filter = which.filter(running, &Names::of(running))?;
        let (memory, now) = (&running.maps.memory, now(running)?);
        let (mut done, mut from) = (FlowsEnded { ended: 0, past_vip: 0 }, Some(0));
        while let Some(place) = from {
            let piece = Piece { from: place, looks: LOOKS, most: 10_000 };
            let (found, next) = records::flows(memory, now, piece, &filter);
            for flow in found {
                match records::end(memory, now, &flow) {
                    Ended::Yes => done.ended += 1,
                    Ended::PastVip => done.past_vip += 1,
                    Ended::Before => {}
                }
            }
            from = next;
        }
        Ok(done)
    });
    ended.await.map(axum::Json)
}

/// Clients that stay with a real server
#[utoipa::path(get, path = "/v1/persist", tag = "read", params(Page), responses(
    (status = 200, description = "A page of them", body = Persist),
    (status = "4XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was read", body = Problem, content_type = "application/problem+json"),
))]
async fn persist(
    State(shared): State<Arc<Shared>>,
    Parameters(page): Parameters<Page>,
) -> Result<axum::Json<Persist>, Problem> {
    let piece = page.piece()?;
    let listed = shared.reader.read(move |running| {
        let names = Names::of(running);
        let filter = page.which().filter(running, &names)?;
        let (found, next) = records::templates(&running.maps.memory, now(running)?, piece, &filter);
        let client = |template: records::Template| ClientStatus {
            client: template.client,
            service: names.service(template.service),
            server: names.real(template.real),
            seconds_left: template.left.map(|ticks| running.clock().duration(ticks).as_secs()),
        };
        Ok(Persist { clients: found.into_iter().map(client).collect(), next })
    });
    listed.await.map(axum::Json)
}

#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct One {
    /// The client's address.
    #[param(value_type = String, example = "198.51.100.7")]
    client: IpAddr,
    /// Only in this service.
    #[param(nullable = false)]
    service: Option<String>,
}

/// Lets a client go elsewhere
///
/// Its connections go on; its next one is scheduled as a new client's.
#[utoipa::path(delete, path = "/v1/persist", tag = "change", params(One), responses(
    (status = 200, description = "It is free", body = Unpinned),
    (status = "4XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
async fn unpin(
    State(shared): State<Arc<Shared>>,
    Parameters(one): Parameters<One>,
) -> Result<axum::Json<Unpinned>, Problem> {
    let unpinned = shared.reader.read(move |running| {
        let which = Which { service: one.service, ..Which::default() };
        let services = which.filter(running, &Names::of(running))?.services;
        let all = running.plan.services.iter().filter_map(|s| running.state.ids.service(&s.name, s.family));
        let services = services.unwrap_or_else(|| all.collect());
        let memory = &running.maps.memory;
        let unpinned = services.into_iter().filter(|&service| records::unpin(memory, service, one.client)).count();
        Ok(Unpinned { unpinned: unpinned as u64 })
    });
    unpinned.await.map(axum::Json)
}

impl Which {
    fn filter(&self, running: &Running, names: &Names) -> Result<Filter, Problem> {
        let Self { client, service, server } = self;
        let client = match client {
            Some(text) => Some(network(text).ok_or_else(|| {
                Problem::new(Sort::BadRequest, format!("`{text}` is neither an address nor a prefix"))
                    .of_parameter("client")
            })?),
            None => None,
        };
        let services = match service {
            Some(name) => {
                let numbers = running.plan.services.iter().filter(|service| service.name == *name);
                let numbers = numbers.flat_map(|service| running.state.ids.numbers(service));
                let numbers: HashSet<u32> = numbers.collect();
                if numbers.is_empty() {
                    let detail = format!("there is no service `{name}`");
                    return Err(Problem::new(Sort::NotFound, detail).of_parameter("service"));
                }
                Some(numbers)
            }
            None => None,
        };
        let reals = match server {
            Some(name) => {
                let numbers = names.meant(running, &Meant::of(name));
                if numbers.is_empty() {
                    let detail = format!("no service has a real server `{name}`");
                    return Err(Problem::new(Sort::NotFound, detail).of_parameter("server"));
                }
                Some(numbers)
            }
            None => None,
        };
        Ok(Filter { client, services, reals })
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What people call numbers.
struct Names<'a> {
    services: HashMap<u32, &'a str>,
    reals: HashMap<u32, &'a str>,
    /// Real servers that have left.
    left: HashMap<u32, String>,
}

impl<'a> Names<'a> {
    fn of(running: &'a Running) -> Self {
        let ids = &running.state.ids;
        let (mut services, mut reals) = (HashMap::new(), HashMap::new());
        for service in &running.plan.services {
            services.extend(ids.numbers(service).map(|number| (number, service.name.as_str())));
            let named = service
                .reals
                .iter()
                .filter_map(|real| Some((ids.real(&service.name, service.family, real.address)?, real.name.as_str())));
            reals.extend(named);
        }
        let left = ids.leaving().map(|(key, number)| {
            let name = running.standings.removed(key).map(|removed| removed.name.clone());
            (number, name.unwrap_or_else(|| key.rsplit('/').next().unwrap_or(key).to_owned()))
        });
        Self { services, reals, left: left.collect() }
    }

    fn service(&self, number: u32) -> String {
        self.services.get(&number).map_or_else(|| format!("number {number}"), |name| (*name).to_owned())
    }

    fn real(&self, number: u32) -> String {
        let left = || self.left.get(&number).cloned();
        self.reals
            .get(&number)
            .map(|name| (*name).to_owned())
            .or_else(left)
            .unwrap_or_else(|| format!("number {number}"))
    }

    /// Of real servers in the plan, and of those that have left.
    fn meant(&self, running: &Running, meant: &Meant) -> HashSet<u32> {
        let ids = &running.state.ids;
        let all =
            running.plan.services.iter().flat_map(|service| service.reals.iter().map(move |real| (service, real)));
        let those = all.filter(|(service, real)| meant.is(service, real));
        let mut numbers: HashSet<u32> =
            those.filter_map(|(service, real)| ids.real(&service.name, service.family, real.address)).collect();
        let wanted = meant.to_string();
        for (key, number) in ids.leaving() {
            let service = key.split('/').next().unwrap_or_default();
            let address =
                running.maps.memory.reals.get(number).map(|r| classifier::ip(r.family, &r.address).to_string());
            let names = [self.left.get(&number).cloned(), address];
            if names.iter().flatten().any(|name| *name == wanted || format!("{service}/{name}") == wanted) {
                numbers.insert(number);
            }
        }
        numbers
    }
}

fn protocol(number: u8) -> String {
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number);
    known.map_or_else(|| number.to_string(), |protocol| protocol.name().into())
}

/// Ticks.
fn now(running: &Running) -> Result<u32, Problem> {
    let boot = since_boot().map_err(|error| Problem::new(Sort::Failed, error.to_string()))?;
    Ok(running.clock().at(boot))
}
