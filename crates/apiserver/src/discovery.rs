//! What is served, told to clients: the old documents one by one, and all at once (aggregated, v2).

use crate::filters;
use crate::handlers::Exchange;
use crate::request::Output;
use crate::respond;
use crate::routes::{Endpoint, GroupTable, VersionTable};
use base64::Engine as _;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use machinery::status::ApiError;
use machinery::{Map, Value};
use sha2::Digest as _;
use wire::body::Body;

const AGGREGATED: &str = "apidiscovery.k8s.io";

/// `/api`.
pub(crate) fn core(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let table = exchange.core.routes.table();
    if let Some(version) = wants_aggregated(exchange) {
        let groups: Vec<&GroupTable> = table
            .groups
            .iter()
            .filter(|g| g.name.is_empty())
            .map(AsRef::as_ref)
            .collect();
        return aggregated(exchange, &groups, version);
    }
    let mut value = Value::object();
    crate::object::set_kind(&mut value, "v1", "APIVersions");
    value.set_path(&["versions"], vec!["v1"]);
    let host = exchange
        .headers()
        .get(http::header::HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let mut server = Map::new();
    server.insert("clientCIDR", "0.0.0.0/0");
    server.insert("serverAddress", host);
    value.set_path(&["serverAddressByClientCIDRs"], vec![Value::from(server)]);
    answer(exchange, &value)
}

/// `/apis`.
pub(crate) fn groups(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let table = exchange.core.routes.table();
    let named: Vec<&GroupTable> = table
        .groups
        .iter()
        .filter(|g| !g.name.is_empty())
        .map(AsRef::as_ref)
        .collect();
    if let Some(version) = wants_aggregated(exchange) {
        return aggregated(exchange, &named, version);
    }
    let mut value = Value::object();
    crate::object::set_kind(&mut value, "v1", "APIGroupList");
    let mut groups: Vec<Value> = named.iter().map(|g| group_value(g).into()).collect();
    exchange.core.aggregation.add_groups(&mut groups);
    value.set_path(&["groups"], groups);
    answer(exchange, &value)
}

/// `/apis/<group>`.
pub(crate) fn group(exchange: &Exchange, name: &str) -> Result<Response<Body>, ApiError> {
    let table = exchange.core.routes.table();
    let own = table.group(name).filter(|_| !name.is_empty());
    let mut groups: Vec<Value> = own.iter().map(|g| group_value(g).into()).collect();
    exchange.core.aggregation.add_groups(&mut groups);
    let found = groups
        .into_iter()
        .find(|g| g.get_str_path(&["name"]) == Some(name));
    let Some(mut value) = found else {
        return Ok(filters::unknown_path());
    };
    crate::object::set_kind(&mut value, "v1", "APIGroup");
    answer(exchange, &value)
}

/// `/api/<version>`, `/apis/<group>/<version>`.
pub(crate) fn resources(exchange: &Exchange, group: &str, version: &str) -> Result<Response<Body>, ApiError> {
    let table = exchange.core.routes.table();
    let found = table
        .group(group)
        .and_then(|g| g.versions.iter().find(|v| v.name == version));
    let Some(version) = found else {
        return Ok(filters::unknown_path());
    };
    let mut value = Value::object();
    crate::object::set_kind(&mut value, "v1", "APIResourceList");
    value.set_path(&["groupVersion"], group_version(group, &version.name));
    let mut list: Vec<Value> = Vec::new();
    for endpoint in &version.endpoints {
        if !endpoint.verbs.is_empty() {
            list.push(resource_value(endpoint));
        }
        for sub in &endpoint.subresources {
            let mut map = Map::new();
            if (sub.kind.group.as_str(), sub.kind.version.as_str()) != (group, version.name.as_str()) {
                map.insert("group", sub.kind.group.as_str());
                map.insert("version", sub.kind.version.as_str());
            }
            map.insert("kind", sub.kind.kind.as_str());
            map.insert("name", format!("{}/{}", endpoint.name, sub.name));
            map.insert("namespaced", endpoint.namespaced);
            map.insert("singularName", "");
            map.insert("verbs", texts(&sub.verbs));
            list.push(map.into());
        }
    }
    value.set_path(&["resources"], list);
    answer(exchange, &value)
}

fn answer(exchange: &Exchange, value: &Value) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    Ok(respond::value(StatusCode::OK, &output, value))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn texts(list: &[compact_str::CompactString]) -> Vec<Value> {
    list.iter().map(|t| Value::from(t.as_str())).collect()
}

fn group_value(group: &GroupTable) -> Map {
    let version = |v: &VersionTable| -> Value {
        let mut map = Map::new();
        map.insert("groupVersion", group_version(&group.name, &v.name));
        map.insert("version", v.name.as_str());
        map.into()
    };
    let mut map = Map::new();
    map.insert("name", group.name.as_str());
    map.insert("versions", group.versions.iter().map(version).collect::<Vec<_>>());
    if let Some(first) = group.versions.first() {
        map.insert("preferredVersion", version(first));
    }
    map
}

fn resource_value(endpoint: &Endpoint) -> Value {
    let mut map = Map::new();
    if !endpoint.categories.is_empty() {
        map.insert("categories", texts(&endpoint.categories));
    }
    map.insert("kind", endpoint.kind.kind.as_str());
    map.insert("name", endpoint.name.as_str());
    map.insert("namespaced", endpoint.namespaced);
    if !endpoint.short_names.is_empty() {
        map.insert("shortNames", texts(&endpoint.short_names));
    }
    map.insert("singularName", endpoint.singular.as_str());
    if !endpoint.storage_version_hash.is_empty() {
        map.insert("storageVersionHash", endpoint.storage_version_hash.as_str());
    }
    map.insert("verbs", texts(&endpoint.verbs));
    map.into()
}

/// The version of aggregated discovery the client asks for, if it asks for it before anything else we have.
fn wants_aggregated(exchange: &Exchange) -> Option<&'static str> {
    let accept = exchange.headers().get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json")) {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        let has = |p: &str| parameters.contains(&p);
        if has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") {
            if has("v=v2") {
                return Some("v2");
            }
            if has("v=v2beta1") {
                return Some("v2beta1");
            }
        } else if !parameters.iter().any(|p| p.starts_with("as=")) {
            return None;
        }
    }
    None
}

fn aggregated(
    exchange: &Exchange,
    groups: &[&GroupTable],
    version: &str,
) -> Result<Response<Body>, ApiError> {
    let mut value = Value::object();
    crate::object::set_kind(
        &mut value,
        &format!("{AGGREGATED}/{version}"),
        "APIGroupDiscoveryList",
    );
    value.set_path(&["metadata"], Map::new());
    let mut items: Vec<Value> = groups.iter().map(|g| group_discovery(g)).collect();
    // The legacy group has a document of its own.
    if !groups.iter().any(|g| g.name.is_empty()) {
        exchange.core.aggregation.add_discovery(&mut items);
    }
    value.set_path(&["items"], items);
    let mut bytes = Vec::with_capacity(64 * 1024);
    machinery::codec::json::encode(&value, &mut bytes);
    let digest = sha2::Sha512::digest(&bytes);
    let tag = format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(digest));
    let tag = HeaderValue::try_from(tag).map_err(ApiError::internal)?;
    let known = exchange.headers().get(IF_NONE_MATCH) == Some(&tag);
    let output = Output {
        gzip: exchange.output(false, false).is_ok_and(|o| o.gzip),
        ..Output::JSON
    };
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::document(StatusCode::OK, &output, bytes.into())
    };
    let content_type = format!("application/json;g={AGGREGATED};v={version};as=APIGroupDiscoveryList");
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::try_from(content_type).map_err(ApiError::internal)?,
    );
    response.headers_mut().insert(ETAG, tag);
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn group_discovery(group: &GroupTable) -> Value {
    let mut map = Map::new();
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name", group.name.as_str());
    }
    metadata.insert("creationTimestamp", Value::Null);
    map.insert("metadata", metadata);
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let mut map = Map::new();
            map.insert("freshness", "Current");
            map.insert("version", version.name.as_str());
            map.insert(
                "resources",
                version
                    .endpoints
                    .iter()
                    .map(|e| resource_discovery(e))
                    .collect::<Vec<Value>>(),
            );
            map.into()
        })
        .collect();
    map.insert("versions", versions);
    map.into()
}

fn resource_discovery(endpoint: &Endpoint) -> Value {
    let own = (endpoint.group.as_str(), endpoint.version.as_str());
    // A kind of the resource's own group and version is named alone.
    let response_kind = |kind: &machinery::gvk::GroupVersionKind| -> Map {
        let foreign = (kind.group.as_str(), kind.version.as_str()) != own;
        let mut map = Map::new();
        map.insert("group", if foreign { kind.group.as_str() } else { "" });
        map.insert("kind", kind.kind.as_str());
        map.insert("version", if foreign { kind.version.as_str() } else { "" });
        map
    };
    let mut map = Map::new();
    map.insert("resource", endpoint.name.as_str());
    map.insert("responseKind", response_kind(&endpoint.kind));
    map.insert(
        "scope",
        if endpoint.namespaced {
            "Namespaced"
        } else {
            "Cluster"
        },
    );
    map.insert("singularResource", endpoint.singular.as_str());
    map.insert("verbs", texts(&endpoint.verbs));
    if !endpoint.short_names.is_empty() {
        map.insert("shortNames", texts(&endpoint.short_names));
    }
    if !endpoint.categories.is_empty() {
        map.insert("categories", texts(&endpoint.categories));
    }
    if !endpoint.subresources.is_empty() {
        let subs: Vec<Value> = endpoint
            .subresources
            .iter()
            .map(|sub| {
                let mut map = Map::new();
                map.insert("responseKind", response_kind(&sub.kind));
                map.insert("subresource", sub.name.as_str());
                map.insert("verbs", texts(&sub.verbs));
                map.into()
            })
            .collect();
        map.insert("subresources", subs);
    }
    map.into()
}
