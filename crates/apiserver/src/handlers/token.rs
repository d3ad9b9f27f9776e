//! `serviceaccounts/token`: a token for a service account, bound to what the request names.

use super::Exchange;
use crate::registry::{Resource, stored_error};
use crate::respond;
use access::authentication::service_account::{Bound, TokenClaims};
use http::{Response, StatusCode};
use machinery::field::{Error, Path};
use machinery::gvk::GroupVersionKind;
use machinery::status::{ApiError, Reason};
use machinery::{Map, Value, codec, meta};
use std::sync::Arc;
use wire::body::Body;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// What clients that mount tokens ask for; such tokens live a year, so that old clients keep working.
const MOUNTED: i64 = HOUR + 7;

pub(super) async fn token(
    mut exchange: Exchange,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    let options = exchange.write_options("CreateOptions")?;
    let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let (mut request, _) = exchange.decode_other(&kind, &options).await?;
    let core = Arc::clone(&exchange.core);
    let Some(issuer) = &core.issuer else {
        return Err(ApiError::not_found_path());
    };
    let (namespace, name) = (exchange.info.namespace.clone(), exchange.info.name.clone());
    let entry = core.registry.get(resource, &namespace, &name, false).await?;
    let account = entry.value(resource).map_err(stored_error)?;

    let options_object = exchange.options_object("CreateOptions", &options);
    if let Some(accounts) = core.routes.endpoint("", "v1", "serviceaccounts") {
        let write = exchange.write(&accounts, resource, &options, &options_object, "");
        let kind = ("authentication.k8s.io", "v1", "TokenRequest");
        write
            .admit_other("token", kind, &name, &core.registry.admission, &mut request)
            .await?;
    }

    let seconds = request
        .get_path(&["spec", "expirationSeconds"])
        .and_then(Value::as_i64)
        .unwrap_or(HOUR);
    let at = Path::new("spec").child("expirationSeconds");
    let mut errors = Vec::new();
    if seconds < 600 {
        errors.push(Error::invalid(
            &at,
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > 1 << 32 {
        errors.push(Error::invalid(
            &at,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            "",
            errors,
        ));
    }
    let mut audiences: Vec<String> = request
        .get_path(&["spec", "audiences"])
        .and_then(Value::as_array)
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences = core.audiences.clone();
    }
    let mut claims = TokenClaims {
        namespace: namespace.clone(),
        account: name,
        account_uid: meta::uid(&account).to_owned(),
        id: uuid::Uuid::new_v4().to_string(),
        lifetime: seconds,
        audiences,
        ..TokenClaims::default()
    };
    bind(&exchange, &request, &namespace, &mut claims).await?;
    let lives_long = seconds == MOUNTED && claims.pod.is_some() && claims.audiences == core.audiences;
    if lives_long {
        claims.warn_after = Some(seconds);
        claims.lifetime = YEAR;
    }
    let (token, expires) = issuer.issue(&claims).map_err(ApiError::internal)?;
    let shown = if lives_long {
        expires - YEAR + seconds
    } else {
        expires
    };
    let shown = jiff::Timestamp::from_second(shown).map_err(ApiError::internal)?;
    let mut status = Map::new();
    status.insert("expirationTimestamp", codec::scalar::format_time(shown));
    status.insert("token", token);
    request.set_path(&["spec", "expirationSeconds"], seconds);
    request.set_path(&["spec", "audiences"], claims.audiences);
    request.set_path(&["metadata", "name"], claims.account.as_str());
    request.set_path(&["metadata", "namespace"], namespace);
    let now = codec::scalar::format_time(core.registry.clock.now());
    request.set_path(&["metadata", "creationTimestamp"], now);
    request.set_path(&["status"], status);
    Ok(respond::value(StatusCode::CREATED, &output, &request))
}

async fn bind(
    exchange: &Exchange,
    request: &Value,
    namespace: &str,
    claims: &mut TokenClaims,
) -> Result<(), ApiError> {
    let Some(reference) = request
        .get_path(&["spec", "boundObjectRef"])
        .filter(|r| !r.is_null())
    else {
        return Ok(());
    };
    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (resource, scope) = match kind {
        "Pod" => ("pods", namespace),
        "Secret" => ("secrets", namespace),
        "Node" => ("nodes", ""),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to type {other:?}",
                claims.account
            )));
        }
    };
    let core = &exchange.core;
    let Some(stored) = core.routes.resource("", resource) else {
        return Err(ApiError::internal(format!("no resource {resource}")));
    };
    let entry = core.registry.get(&stored, scope, name, false).await?;
    let object = entry.value(&stored).map_err(stored_error)?;
    let refuse = |why: String| Err(ApiError::conflict(&stored.group_resource, name, why));
    if !uid.is_empty() && uid != meta::uid(&object) {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    let bound = Some(Bound {
        name: name.to_owned(),
        uid: meta::uid(&object).to_owned(),
    });
    match kind {
        "Pod" => {
            let account = object
                .get_str_path(&["spec", "serviceAccountName"])
                .unwrap_or_default();
            if account != claims.account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    claims.account
                )));
            }
            claims.pod = bound;
            let node = object.get_str_path(&["spec", "nodeName"]).unwrap_or_default();
            if !node.is_empty() {
                claims.node = Some(node_of(exchange, node).await?);
            }
        }
        "Secret" => claims.secret = bound,
        _ => claims.node = bound,
    }
    Ok(())
}

/// The pod's node, as the token remembers it; a node that is gone has no UID.
async fn node_of(exchange: &Exchange, name: &str) -> Result<Bound, ApiError> {
    let core = &exchange.core;
    let Some(nodes) = core.routes.resource("", "nodes") else {
        return Ok(Bound {
            name: name.to_owned(),
            uid: String::new(),
        });
    };
    let uid = match core.registry.get(&nodes, "", name, false).await {
        Ok(entry) => meta::uid(&entry.value(&nodes).map_err(stored_error)?).to_owned(),
        Err(error) if error.reason == Reason::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(Bound {
        name: name.to_owned(),
        uid,
    })
}
