//! OpenAPI documents from the tables, made when first asked for and kept compressed.
//!
//! They hold what kubectl needs: definitions with their kinds, prose, patch and list extensions, and for each resource
//! its paths with what its verbs do.

mod custom;
mod gnostic;
mod prose;
mod schema;

use crate::filters;
use crate::handlers::Exchange;
use crate::request::{Output, negotiate};
use crate::respond;
use crate::routes::VersionTable;
use bytes::Bytes;
use hashbrown::HashMap;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH,
    LOCATION, VARY,
};
use http::{Response, StatusCode};
use machinery::Map;
use machinery::status::ApiError;
use parking_lot::Mutex;
use sha2::Digest as _;
use std::io::Read as _;
use wire::body::Body;

/// Documents made so far.
#[derive(Debug, Default)]
pub struct Documents {
    made: Mutex<HashMap<String, Document>>,
}

#[derive(Debug, Clone)]
struct Document {
    gzip: Bytes,
    tag: String,
}

impl Documents {
    fn get(&self, name: &str, make: impl FnOnce() -> Vec<u8>) -> Result<Document, ApiError> {
        if let Some(document) = self.made.lock().get(name) {
            return Ok(document.clone());
        }
        let bytes = make();
        let tag = hex::encode_upper(sha2::Sha512::digest(&bytes));
        let gzip = respond::gzip(&bytes).ok_or_else(|| ApiError::internal("compressing a document"))?;
        let document = Document { gzip, tag };
        self.made.lock().insert(name.to_owned(), document.clone());
        Ok(document)
    }

    /// What is served has changed.
    pub fn forget(&self) {
        self.made.lock().clear();
    }
}

/// How long a document at a place that names its content stays good.
const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// The names clients know the version 2 document's protobuf form by.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// `/openapi/v2`.
pub(crate) fn v2(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let accept = exchange
        .headers()
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let documents = &exchange.core.documents;
    let make = || schema::v2(&exchange.core.routes.table());
    for clause in accept.split(',') {
        let kind = clause.split(';').next().unwrap_or_default().trim();
        if V2_PROTOBUF.contains(&kind) {
            let document = documents.get("v2.pb", || gnostic::document(&make()))?;
            return answer(exchange, &document, V2_PROTOBUF[1]);
        }
        if matches!(kind, "" | "*/*" | "application/*" | "application/json") {
            let document = documents.get("v2", || machinery::codec::json::to_vec(&make()))?;
            return answer(exchange, &document, "application/json");
        }
    }
    let types = format!("application/json, {}", V2_PROTOBUF[0]);
    Err(ApiError::not_acceptable(format!(
        "only the following media types are accepted: {types}"
    )))
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
            let mut entry = Map::new();
            entry.insert(
                "serverRelativeURL",
                place(&name, &fingerprint(&group.name, version)),
            );
            paths.insert(name, entry);
        }
    }
    exchange.core.aggregation.add_documents(&mut paths);
    let mut value = Map::new();
    value.insert("paths", paths);
    let mut out = Vec::new();
    machinery::codec::json::encode(&value.into(), &mut out);
    Ok(respond::bytes(StatusCode::OK, &Output::JSON, out.into()))
}

fn place(name: &str, hash: &str) -> String {
    format!("/openapi/v3/{name}?hash={hash}")
}

/// A text that changes when the document does, told without making the document.
fn fingerprint(group: &str, version: &VersionTable) -> String {
    let mut digest = sha2::Sha512::new();
    let mut add = |text: &str| {
        digest.update(text.as_bytes());
        digest.update([0]);
    };
    add(crate::paths::GIT_VERSION);
    add(group);
    add(&version.name);
    for endpoint in &version.endpoints {
        add(&endpoint.name);
        add(&endpoint.kind.kind);
        if let Some(custom) = &endpoint.custom {
            add(&custom.tag);
        }
        endpoint.verbs.iter().for_each(|verb| add(verb));
        for sub in &endpoint.subresources {
            add(&sub.name);
            sub.verbs.iter().for_each(|verb| add(verb));
        }
    }
    hex::encode_upper(digest.finalize())
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
    let hash = fingerprint(group, found);
    let asked = exchange.query.get("hash");
    if asked.is_some_and(|asked| asked != hash) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let place = HeaderValue::try_from(place(name, &hash)).map_err(ApiError::internal)?;
        response.headers_mut().insert(LOCATION, place);
        return Ok(response);
    }
    if !takes_json(exchange) {
        return Err(ApiError::not_acceptable(
            "only the following media types are accepted: application/json",
        ));
    }
    let documents = &exchange.core.documents;
    let document = documents.get(name, || machinery::codec::json::to_vec(&schema::v3(group, found)))?;
    let mut response = answer(exchange, &document, "application/json")?;
    if asked.is_some() {
        // Another document has another place.
        let in_a_year = exchange.core.registry.clock.now() + YEAR;
        let expires = in_a_year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(
            EXPIRES,
            HeaderValue::try_from(expires).map_err(ApiError::internal)?,
        );
    }
    Ok(response)
}

/// Whether the client takes JSON, which is the one form version 3 is served in.
fn takes_json(exchange: &Exchange) -> bool {
    let accept = exchange.headers().get(ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_none_or(|accept| {
        accept.split(',').any(|clause| {
            let kind = clause.split(';').next().unwrap_or_default().trim();
            matches!(kind, "" | "*/*" | "application/*" | "application/json")
        })
    })
}

fn answer(
    exchange: &Exchange,
    document: &Document,
    content_type: &'static str,
) -> Result<Response<Body>, ApiError> {
    let gzip = negotiate::takes_gzip(exchange.headers());
    let tag = HeaderValue::try_from(format!("\"{}\"", document.tag)).map_err(ApiError::internal)?;
    let mut response = if exchange.headers().get(IF_NONE_MATCH) == Some(&tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if gzip {
        let mut response = Response::new(Body::from(document.gzip.clone()));
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&document.gzip[..])
            .read_to_end(&mut plain)
            .map_err(ApiError::internal)?;
        Response::new(Body::from(plain))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    headers.insert(ETAG, tag);
    Ok(response)
}
