//! OpenAPI documents from the tables, made when first asked for and kept compressed.
//!
//! They hold what kubectl needs: definitions with their kinds, patch and list extensions, and for each resource
//! its paths with what its verbs do. Prose is not in the tables yet.

mod schema;

use crate::filters;
use crate::handlers::Exchange;
use crate::request::Output;
use crate::respond;
use bytes::Bytes;
use hashbrown::HashMap;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{Response, StatusCode};
use machinery::status::ApiError;
use machinery::{Map, Value};
use parking_lot::Mutex;
use sha2::Digest as _;
use wire::body::Body;

/// Documents made so far.
#[derive(Debug, Default)]
pub struct Documents {
    made: Mutex<HashMap<String, Document>>,
}

#[derive(Debug, Clone)]
struct Document {
    json: Bytes,
    tag: String,
}

impl Documents {
    fn get(&self, name: &str, make: impl FnOnce() -> Value) -> Document {
        if let Some(document) = self.made.lock().get(name) {
            return document.clone();
        }
        let json: Bytes = machinery::codec::json::to_vec(&make()).into();
        let tag = hex::encode_upper(sha2::Sha512::digest(&json));
        let document = Document { json, tag };
        self.made.lock().insert(name.to_owned(), document.clone());
        document
    }

    /// What is served has changed.
    pub fn forget(&self) {
        self.made.lock().clear();
    }
}

/// `/openapi/v2`.
pub(crate) fn v2(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let accept = exchange
        .headers()
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let json = accept.is_empty() || accept.split(',').any(|c| c.contains("json") || c.contains("*/*"));
    if !json {
        return Err(ApiError::not_acceptable(
            "only the following media types are accepted: application/json",
        ));
    }
    let document = exchange
        .core
        .documents
        .get("v2", || schema::v2(&exchange.core.routes.table()));
    answer(exchange, &document)
}

/// `/openapi/v3`: where the documents of each group and version are.
pub(crate) fn v3_index(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let table = exchange.core.routes.table();
    let mut paths = Map::new();
    for group in &table.groups {
        for version in &group.versions {
            let name = if group.name.is_empty() {
                format!("api/{}", version.name)
            } else {
                format!("apis/{}/{}", group.name, version.name)
            };
            // The hash only has to change when the document does, which for built-in kinds is never.
            let mut entry = Map::new();
            entry.insert(
                "serverRelativeURL",
                format!(
                    "/openapi/v3/{name}?hash={}",
                    crate::paths::GIT_VERSION.replace('+', "-")
                ),
            );
            paths.insert(name, entry);
        }
    }
    let mut value = Map::new();
    value.insert("paths", paths);
    let mut out = Vec::new();
    machinery::codec::json::encode(&value.into(), &mut out);
    Ok(respond::bytes(StatusCode::OK, &Output::JSON, out.into()))
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`.
pub(crate) fn v3(exchange: &Exchange, name: &str) -> Result<Response<Body>, ApiError> {
    let segments: Vec<&str> = name.split('/').collect();
    let (group, version) = match segments[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        _ => return Ok(filters::unknown_path()),
    };
    let table = exchange.core.routes.table();
    let Some(found) = table
        .group(group)
        .and_then(|g| g.versions.iter().find(|v| v.name == version))
    else {
        return Ok(filters::unknown_path());
    };
    let document = exchange.core.documents.get(name, || schema::v3(group, found));
    answer(exchange, &document)
}

fn answer(exchange: &Exchange, document: &Document) -> Result<Response<Body>, ApiError> {
    let gzip = exchange.output(false, false).is_ok_and(|o| o.gzip);
    let tag = HeaderValue::try_from(format!("\"{}\"", document.tag)).map_err(ApiError::internal)?;
    let mut response = if exchange.headers().get(IF_NONE_MATCH) == Some(&tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(
            StatusCode::OK,
            &Output { gzip, ..Output::JSON },
            document.json.clone(),
        )
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}
