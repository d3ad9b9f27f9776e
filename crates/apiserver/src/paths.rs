//! Paths that are no resource: discovery, documents, health, version, metrics.

use crate::handlers::Exchange;
use crate::request::Verb;
use crate::{discovery, filters, health, metrics, openapi, respond};
use http::{Response, StatusCode};
use machinery::status::ApiError;
use machinery::{Map, Value};
use wire::body::Body;

/// The version this server is compatible with, and says it is.
pub(crate) const MAJOR: &str = "1";
pub(crate) const MINOR: &str = "36";
pub(crate) const GIT_VERSION: &str = "v1.36.2+kijabi";

const ROOT_PATHS: [&str; 14] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
    "/apis/",
];

pub(crate) async fn answer(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    if !matches!(exchange.info.verb, Verb::Get | Verb::Other("head")) {
        return Err(ApiError::method_not_allowed());
    }
    let path = exchange.info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments[..] {
        [] | [""] => root(&exchange),
        ["api"] => discovery::core(&exchange),
        ["api", version] => discovery::resources(&exchange, "", version),
        ["apis"] => discovery::groups(&exchange),
        ["apis", group] => discovery::group(&exchange, group),
        ["apis", group, version] => discovery::resources(&exchange, group, version),
        ["version"] => version(&exchange),
        [which @ ("healthz" | "livez" | "readyz"), ref one @ ..] => {
            Ok(health::answer(&exchange, which, one).await)
        }
        ["metrics"] => Ok(metrics::answer(&exchange).await),
        ["openapi", "v2"] => openapi::v2(&exchange),
        ["openapi", "v3"] => openapi::v3_index(&exchange),
        ["openapi", "v3", ..] => openapi::v3(&exchange, &segments[2..].join("/")),
        [".well-known", "openid-configuration"] => openid_configuration(&exchange),
        ["openid", "v1", "jwks"] => openid_keys(&exchange),
        _ => Ok(filters::unknown_path()),
    }
}

fn root(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let mut paths: Vec<String> = ROOT_PATHS
        .iter()
        .filter(|p| !p.ends_with('/'))
        .map(|p| (*p).to_owned())
        .collect();
    for group in exchange
        .core
        .routes
        .table()
        .groups
        .iter()
        .filter(|g| !g.name.is_empty())
    {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(
            group
                .versions
                .iter()
                .map(|v| format!("/apis/{}/{}", group.name, v.name)),
        );
    }
    paths.sort();
    let mut value = Value::object();
    value.set_path(&["paths"], paths);
    json(exchange, &value)
}

fn version(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let mut value = Map::new();
    for (key, text) in [
        ("major", MAJOR),
        ("minor", MINOR),
        ("emulationMajor", MAJOR),
        ("emulationMinor", MINOR),
        ("minCompatibilityMajor", MAJOR),
        ("minCompatibilityMinor", "35"),
        ("gitVersion", GIT_VERSION),
        ("gitCommit", ""),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
        ("goVersion", "go0"),
        ("compiler", "rustc"),
    ] {
        value.insert(key, text);
    }
    value.insert("platform", format!("linux/{arch}"));
    json(exchange, &Value::Object(value))
}

/// Plain JSON, also where the client would rather have protobuf: these documents have no kind.
fn json(exchange: &Exchange, value: &Value) -> Result<Response<Body>, ApiError> {
    let output = exchange
        .output(false, false)
        .unwrap_or(crate::request::Output::JSON);
    let output = crate::request::Output {
        encoding: crate::request::Encoding::Json,
        pretty: true,
        ..output
    };
    let mut out = Vec::new();
    machinery::codec::json::encode_pretty(value, &mut out);
    Ok(respond::bytes(StatusCode::OK, &output, out.into()))
}

fn openid_configuration(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let Some(issuer) = &exchange.core.issuer else {
        return Ok(filters::unknown_path());
    };
    let mut value = Map::new();
    value.insert("issuer", issuer.url());
    value.insert("jwks_uri", format!("{}/openid/v1/jwks", issuer.url()));
    value.insert("response_types_supported", vec!["id_token"]);
    value.insert("subject_types_supported", vec!["public"]);
    value.insert(
        "id_token_signing_alg_values_supported",
        vec![issuer.public_key().algorithm_name()],
    );
    json(exchange, &value.into())
}

fn openid_keys(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let Some(issuer) = &exchange.core.issuer else {
        return Ok(filters::unknown_path());
    };
    let text = serde_json::json!({"keys": [issuer.public_key().jwk()]}).to_string();
    let value = machinery::codec::json::decode_any(text.as_bytes())
        .map_err(ApiError::internal)?
        .value;
    json(exchange, &value)
}
