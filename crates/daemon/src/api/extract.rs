//! Bodies and parameters of requests, and what is wrong with them.

use super::Problem;
use super::problem::Sort;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use std::time::Duration;

/// A body of JSON that is a `T`.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read(request, MOST_BYTES).await.map(Self)
    }
}

/// The same for one that may have a configuration file in it.
pub(super) struct LargeJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for LargeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read(request, MOST_BYTES_OF_FILES).await.map(Self)
    }
}

async fn read<T: DeserializeOwned>(request: Request, most: usize) -> Result<T, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(Sort::UnsupportedMediaType, "this takes a body of application/json"));
    }
    let bytes = bytes(request.into_body(), most).await?;
    parsed(&bytes)
}

/// Parameters behind the question mark.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => Err(wrong_parameter(&error)),
        }
    }
}

/// axum tells `limit: invalid digit found in string` when it knows the parameter.
fn wrong_parameter(rejection: &axum::extract::rejection::QueryRejection) -> Problem {
    let mut cause: &dyn std::error::Error = rejection;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = rejection.body_text();
    let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
    let problem = Problem::new(Sort::BadRequest, detail.clone());
    match detail.split_once(": ") {
        Some((name, _)) if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            problem.of_parameter(name)
        }
        _ => problem,
    }
}

/// All of a body, if it is not too large and comes in time.
async fn bytes(body: Body, most: usize) -> Result<Vec<u8>, Problem> {
    let Ok(read) = tokio::time::timeout(BODY_PATIENCE, read_to_end(body, most)).await else {
        return Err(Problem::new(Sort::TooSlow, format!("the body took more than {} s", BODY_PATIENCE.as_secs())));
    };
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Problem::new(Sort::TooLarge, format!("the body has more than {most} bytes"))),
        Err(error) => Err(Problem::new(Sort::BadRequest, format!("read the body: {error}"))),
    }
}

/// `None` for one that is too large, of which some more is read all the same: whoever is still sending when the connection
/// is closed may not get to hear why.
async fn read_to_end(mut body: Body, most: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut bytes, mut length) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
        length = length.saturating_add(data.len());
        if length <= most {
            bytes.extend_from_slice(data);
        } else if length > most.saturating_add(MOST_BYTES_IN_VAIN) {
            break;
        }
    }
    Ok((length <= most).then_some(bytes))
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde takes lists for objects, too.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::new(Sort::BadRequest, "the body is a list, not an object").at(""));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        Problem::new(Sort::BadRequest, error.into_inner().to_string()).at(pointer)
    })?;
    reader.end().map_err(|error| Problem::new(Sort::BadRequest, error.to_string()).at(""))?;
    Ok(value)
}

/// RFC 6901 §3.
fn pointer(path: &Path) -> String {
    let token = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    };
    path.iter().map(token).collect()
}

/// Of a body that is no configuration file.
const MOST_BYTES: usize = 64 << 10;
/// Of one that is: ten thousand services take a few.
const MOST_BYTES_OF_FILES: usize = 32 << 20;
/// Of one that is too large, beyond what it may have.
const MOST_BYTES_IN_VAIN: usize = 1 << 20;
/// How long one may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Wanted {
        servers: Vec<String>,
    }

    #[test]
    fn a_fault_of_a_body_is_pointed_at() {
        let at = |text: &str| {
            let problem = parsed::<Wanted>(text.as_bytes()).unwrap_err();
            (problem.status, problem.errors[0].pointer.clone().unwrap())
        };
        assert_eq!(at(r#"{"servers": ["a", 7]}"#), (400, "/servers/1".into()));
        assert_eq!(at(r#"{"servers": {}}"#), (400, "/servers".into()));
        assert_eq!(at(r#"{"server/s": []}"#), (400, "/server~1s".into()));
        assert_eq!(at("{}"), (400, String::new()));
        assert_eq!(at(r#"{"servers": []} x"#), (400, String::new()));
        assert_eq!(at(r#" [["a"]]"#), (400, String::new()));
        assert!(parsed::<Wanted>(br#"{"servers": ["a"]}"#).is_ok());
    }

    #[test]
    fn a_fault_of_a_parameter_is_named() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Page {
            limit: u16,
        }
        let uri = "http://localhost/v1/flows?limit=many".parse().unwrap();
        let problem = wrong_parameter(&Query::<Page>::try_from_uri(&uri).unwrap_err());
        assert_eq!(problem.errors[0].parameter.as_deref(), Some("limit"), "{problem:?}");
    }

    #[test]
    fn json_may_have_a_character_set() {
        let is = |value: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]));
        assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
        assert!(!is("text/plain") && !is("application/jsonp") && !is_json(&HeaderMap::new()));
    }
}
