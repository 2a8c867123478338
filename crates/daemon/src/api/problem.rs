//! Errors as RFC 9457 has them, with a pointer to the offending place: into the request, or into the configuration file.

use crate::director::DirectorError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use marca_config::{Diagnostics, Level, MAX_RENDERED};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Why a request was not done; nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem, as a URI: see docs/api.md.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Places in the request that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// Places in the configuration that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Found>,
}

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// A JSON pointer (RFC 6901) into the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pointer: Option<String>,
    /// Or the name of a parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter: Option<String>,
    pub detail: String,
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// `error` or `warning`.
    pub level: String,
    pub message: String,
    pub file: String,
    /// From 1, the column in characters; missing for faults of the file as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub column: Option<usize>,
    /// What is wrong with the text there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub label: Option<String>,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub help: Option<String>,
}

/// The kinds, their statuses and their titles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    TooLarge,
    UnsupportedMediaType,
    UnknownServer,
    FaultyConfiguration,
    Failed,
    NotReady,
}

impl Sort {
    pub const ALL: [Sort; 12] = [
        Sort::BadRequest,
        Sort::Unauthorized,
        Sort::Forbidden,
        Sort::NotFound,
        Sort::MethodNotAllowed,
        Sort::TooSlow,
        Sort::TooLarge,
        Sort::UnsupportedMediaType,
        Sort::UnknownServer,
        Sort::FaultyConfiguration,
        Sort::Failed,
        Sort::NotReady,
    ];

    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// The URI of the kind.
    pub fn uri(self) -> String {
        format!("urn:marca:problem:{}", self.row().1)
    }

    pub fn title(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Sort::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "The request is wrong"),
            Sort::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "Who asks is not known"),
            Sort::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Who asks may not do this"),
            Sort::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Sort::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Not by this method"),
            Sort::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "The request took too long to arrive"),
            Sort::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large"),
            Sort::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is of another type")
            }
            Sort::UnknownServer => (StatusCode::NOT_FOUND, "unknown-server", "No service has this server"),
            Sort::FaultyConfiguration => {
                (StatusCode::UNPROCESSABLE_ENTITY, "faulty-configuration", "The configuration is faulty")
            }
            Sort::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed", "It could not be done"),
            Sort::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "The daemon is not ready"),
        }
    }
}

impl Problem {
    pub fn new(sort: Sort, detail: impl Into<String>) -> Self {
        Self {
            kind: sort.uri(),
            title: sort.title().to_owned(),
            status: sort.status().as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The place in the body is wrong.
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        let detail = self.detail.clone();
        self.errors.push(Fault { pointer: Some(pointer.into()), parameter: None, detail });
        self
    }

    /// The parameter is wrong.
    pub fn of_parameter(mut self, name: impl Into<String>) -> Self {
        let detail = self.detail.clone();
        self.errors.push(Fault { pointer: None, parameter: Some(name.into()), detail });
        self
    }

    pub fn is(&self, sort: Sort) -> bool {
        self.kind == sort.uri()
    }

    /// The daemon ends before it has answered.
    pub fn ends() -> Self {
        Self::new(Sort::NotReady, "the daemon ends")
    }

    /// Faults of a configuration file: the drawing for people, and the places.
    pub fn faulty(faults: &Diagnostics) -> Self {
        let mut problem = Self::new(Sort::FaultyConfiguration, faults.render(false));
        problem.diagnostics = found(faults);
        problem
    }
}

/// Where a file's diagnostics are; of very many the first.
pub fn found(diagnostics: &Diagnostics) -> Vec<Found> {
    let place = |diagnostic: &marca_config::Diagnostic| {
        let label = diagnostic.primary.as_ref();
        let position = label.map(|label| diagnostics.position(label.span.start));
        Found {
            level: match diagnostic.level {
                Level::Error => "error".into(),
                Level::Warning => "warning".into(),
            },
            message: diagnostic.message.clone(),
            file: diagnostics.file().to_owned(),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            label: label.map(|label| label.text.clone()),
            help: diagnostic.help.clone(),
        }
    };
    diagnostics.iter().take(MAX_RENDERED).map(place).collect()
}

impl From<&DirectorError> for Problem {
    fn from(error: &DirectorError) -> Self {
        match error {
            DirectorError::Config(faults) => Self::faulty(faults),
            DirectorError::Plan(error) => Self::new(Sort::FaultyConfiguration, error.to_string()),
            DirectorError::NoServer(_) => Self::new(Sort::UnknownServer, error.to_string()),
            _ => Self::new(Sort::Failed, error.to_string()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 names a way to be known.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// RFC 9457 §6.1.
pub const MEDIA_TYPE: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_file_have_their_places() {
        let faults = marca_config::load("marca.toml", "[router]\noutsid = 'eth0'").unwrap_err();
        let problem = Problem::faulty(&faults);
        assert_eq!(problem.status, 422);
        let place = &problem.diagnostics[1];
        assert_eq!((place.file.as_str(), place.line, place.column), ("marca.toml", Some(2), Some(1)));
        assert!(place.help.as_ref().unwrap().contains("outside"), "{place:?}");
        assert!(problem.detail.contains("marca.toml:2:1"), "{}", problem.detail);
    }

    #[test]
    fn kinds_are_told_apart_by_their_uris() {
        let uris: std::collections::BTreeSet<String> = Sort::ALL.into_iter().map(Sort::uri).collect();
        assert_eq!(uris.len(), Sort::ALL.len());
        assert!(Problem::new(Sort::TooLarge, "x").is(Sort::TooLarge));
    }

    #[test]
    fn what_is_missing_is_left_out() {
        let problem = Problem::new(Sort::BadRequest, "no").at("/servers/0");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["errors"], serde_json::json!([{ "pointer": "/servers/0", "detail": "no" }]));
        assert!(json.get("diagnostics").is_none());
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
