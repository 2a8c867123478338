//! The way to the daemon.

use crate::{PlaceOptions, Refused};
use anyhow::{Context, Result};
use marca_daemon::api::client::{Client, ClientError, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;

/// What to say where nobody answers.
pub const NO_DAEMON: &str = "no daemon runs here (start one with `marca run`)";

/// Runs a conversation to its end.
pub fn wait<T>(conversation: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Ok(runtime.block_on(conversation))
}

/// Tells the daemon to do something; a refusal has exit code 2.
pub fn post<T: DeserializeOwned>(place: &PlaceOptions, path: &str, body: &impl Serialize) -> Result<T> {
    let client = Client::new(&place.place());
    wait(client.post(path, body))?.map_err(told)
}

/// What the daemon says; `None` when none runs.
pub fn get<T: DeserializeOwned>(place: &PlaceOptions, path: &str) -> Result<Option<T>> {
    let client = Client::new(&place.place());
    match wait(client.get(path))? {
        Err(ClientError::NoDaemon) => Ok(None),
        answer => answer.map(Some).map_err(told),
    }
}

/// The same, if it says it soon.
pub fn get_within<T: DeserializeOwned>(place: &PlaceOptions, path: &str, patience: Duration) -> Result<Option<T>> {
    let client = Client::new(&place.place());
    match wait(async { tokio::time::timeout(patience, client.get(path)).await.unwrap_or(Err(ClientError::Slow)) })? {
        Err(ClientError::NoDaemon) => Ok(None),
        answer => answer.map(Some).map_err(told),
    }
}

fn told(error: ClientError) -> anyhow::Error {
    if error.is_refusal() { Refused(format!("marca: {error}")).into() } else { error.into() }
}

/// Parameters behind a question mark.
pub fn query(parameters: &impl Serialize) -> Result<String> {
    Ok(serde_urlencoded::to_string(parameters)?)
}

/// Tells the daemon to end something; a refusal has exit code 2.
pub fn delete<T: DeserializeOwned>(place: &PlaceOptions, path: &str) -> Result<T> {
    let client = Client::new(&place.place());
    wait(client.ask(Method::DELETE, path, None))?.map_err(told)
}
