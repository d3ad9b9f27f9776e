//! What is answered and not stored: reviews of tokens and of rights, and the old `bindings` and component statuses.

use super::{Exchange, binding};
use crate::request::Verb;
use crate::respond;
use crate::routes::Endpoint;
use access::authentication::{Authenticator as _, Credentials, Outcome};
use access::authorization::rbac::PolicyRule;
use access::authorization::{Attributes, Decision, Rules};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use machinery::field::{Error, Path};
use machinery::status::ApiError;
use machinery::user::UserInfo;
use machinery::{Map, Value, codec};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn answer(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    if endpoint.name == "componentstatuses" {
        return component_statuses(&exchange, &output);
    }
    if endpoint.name == "bindings" {
        let Some(pods) = exchange.core.routes.endpoint("", "v1", "pods") else {
            return Err(ApiError::not_found_path());
        };
        let Some(stored) = pods.resource.clone() else {
            return Err(ApiError::not_found_path());
        };
        return binding::binding(exchange, &pods, &stored).await;
    }
    let options = exchange.write_options("CreateOptions")?;
    let (mut review, _) = exchange.decode_other(&endpoint.kind, &options).await?;
    let status = match endpoint.name.as_str() {
        "tokenreviews" => token_review(&exchange, &review).await,
        "selfsubjectreviews" => {
            let now = codec::scalar::format_time(exchange.core.registry.clock.now());
            review.set_path(&["metadata", "creationTimestamp"], now);
            let mut status = Map::new();
            status.insert("userInfo", user_value(&exchange.user));
            status
        }
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let user = reviewed_user(&review)?;
            if endpoint.name == "localsubjectaccessreviews" {
                check_namespace(&exchange, &review)?;
            }
            access_review(&exchange, &review, &user).await?
        }
        "selfsubjectaccessreviews" => access_review(&exchange, &review, &exchange.user).await?,
        "selfsubjectrulesreviews" => rules_review(&exchange, &review).await?,
        _ => return Err(ApiError::not_found_path()),
    };
    review.set_path(&["status"], status);
    Ok(respond::value(StatusCode::CREATED, &output, &review))
}

fn component_statuses(
    exchange: &Exchange,
    output: &crate::request::Output,
) -> Result<Response<Body>, ApiError> {
    if exchange.info.verb == Verb::Get {
        return Err(ApiError::not_found(
            &super::core_resource("componentstatuses"),
            &exchange.info.name,
        ));
    }
    let mut list = Value::object();
    crate::object::set_kind(&mut list, "v1", "ComponentStatusList");
    list.set_path(&["metadata"], Map::new());
    list.set_path(&["items"], Value::Array(Vec::new()));
    Ok(respond::value(StatusCode::OK, output, &list))
}

async fn token_review(exchange: &Exchange, review: &Value) -> Map {
    let token = review.get_str_path(&["spec", "token"]).unwrap_or_default();
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        headers.insert(http::header::AUTHORIZATION, value);
    }
    let asked: Vec<String> = strings(review.get_path(&["spec", "audiences"]));
    let mut status = Map::new();
    let core = &exchange.core;
    let audiences = if asked.is_empty() {
        core.audiences.clone()
    } else {
        asked
    };
    // Service account tokens are judged for the audiences asked; other tokens are for this server.
    if let Some(accounts) = &core.service_accounts {
        match accounts.review(token, &audiences).await {
            Ok(Some((user, matched))) => {
                status.insert("authenticated", true);
                status.insert("user", user_value(&user));
                status.insert("audiences", matched);
                return status;
            }
            Ok(None) => {}
            Err(error) => {
                status.insert("error", error.to_string());
                return status;
            }
        }
    }
    let credentials = Credentials {
        headers: &headers,
        connection: None,
    };
    match core.authenticator.authenticate(&credentials).await {
        Ok(Outcome::User(user)) if audiences.iter().any(|a| core.audiences.contains(a)) => {
            status.insert("authenticated", true);
            status.insert("user", user_value(&user));
        }
        Ok(_) => {}
        Err(error) => {
            status.insert("error", error.to_string());
        }
    }
    status
}

async fn access_review(exchange: &Exchange, review: &Value, user: &UserInfo) -> Result<Map, ApiError> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let resource = spec.get("resourceAttributes").filter(|a| !a.is_null());
    let path = spec.get("nonResourceAttributes").filter(|a| !a.is_null());
    let at = Path::new("spec");
    let wrong = |detail: &str| {
        let errors = vec![Error::invalid(
            &at.child("resourceAttributes"),
            resource.cloned().unwrap_or_default(),
            detail,
        )];
        ApiError::invalid("authorization.k8s.io", object_kind(review), "", errors)
    };
    let selectors = match resource {
        Some(resource) => selectors(resource, object_kind(review))?,
        None => Selectors::default(),
    };
    let attributes = match (resource, path) {
        (Some(_), Some(_)) => {
            return Err(wrong(
                "cannot be specified in combination with nonResourceAttributes",
            ));
        }
        (None, None) => {
            return Err(wrong(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
        (Some(r), None) => {
            let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or_default();
            Attributes {
                namespace: text("namespace"),
                version: text("version"),
                subresource: text("subresource"),
                name: text("name"),
                label_selector: selectors.labels.as_deref(),
                field_selector: selectors.fields.as_deref(),
                ..Attributes::resource(user, text("verb"), text("group"), text("resource"))
            }
        }
        (None, Some(p)) => {
            let text = |key: &str| p.get(key).and_then(Value::as_str).unwrap_or_default();
            Attributes::path(user, text("verb"), text("path"))
        }
    };
    let decision = exchange.core.authorizer.authorize(&attributes).await;
    let mut status = Map::new();
    status.insert("allowed", decision == Decision::Allow);
    match decision {
        Decision::Allow => {
            let reason = exchange.core.authorizer.allowed_by(&attributes).await;
            put_reason(&mut status, reason);
        }
        Decision::Deny(reason) => {
            status.insert("denied", true);
            put_reason(&mut status, reason);
        }
        Decision::NoOpinion(reason) => put_reason(&mut status, reason),
    }
    Ok(status)
}

/// The selectors a review asks with, as requests carry them.
#[derive(Default)]
struct Selectors {
    labels: Option<String>,
    fields: Option<String>,
}

fn selectors(resource: &Value, kind: &str) -> Result<Selectors, ApiError> {
    let of = |name: &'static str| -> Result<Option<String>, ApiError> {
        let Some(selector) = resource.get(name).filter(|selector| !selector.is_null()) else {
            return Ok(None);
        };
        let raw = selector
            .get("rawSelector")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let requirements = selector
            .get("requirements")
            .and_then(Value::as_array)
            .unwrap_or_default();
        let at = Path::new("spec").child("resourceAttributes").child(name);
        let wrong = match (raw.is_empty(), requirements.is_empty()) {
            (false, false) => Some(Error::invalid(
                &at.child("rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            )),
            (true, true) => Some(Error::required(
                &at.child("requirements"),
                "when rawSelector is not specified",
            )),
            _ => None,
        };
        if let Some(error) = wrong {
            return Err(ApiError::invalid("authorization.k8s.io", kind, "", vec![error]));
        }
        if !raw.is_empty() {
            return Ok(Some(raw.to_owned()));
        }
        let texts: Vec<String> = requirements
            .iter()
            .filter_map(|r| requirement(r, name == "fieldSelector"))
            .collect();
        Ok((!texts.is_empty()).then(|| texts.join(",")))
    };
    Ok(Selectors {
        labels: of("labelSelector")?,
        fields: of("fieldSelector")?,
    })
}

/// A requirement as a selector's text; one that cannot be said narrows nothing.
fn requirement(requirement: &Value, field: bool) -> Option<String> {
    let key = requirement.get("key").and_then(Value::as_str)?;
    let values = strings(requirement.get("values"));
    let operator = requirement.get("operator").and_then(Value::as_str)?;
    match (operator, field, &values[..]) {
        ("In", true, [value]) => Some(format!("{key}={value}")),
        ("NotIn", true, [value]) => Some(format!("{key}!={value}")),
        (_, true, _) => None,
        ("In", _, values) => Some(format!("{key} in ({})", values.join(","))),
        ("NotIn", _, values) => Some(format!("{key} notin ({})", values.join(","))),
        ("Exists", _, _) => Some(key.to_owned()),
        ("DoesNotExist", _, _) => Some(format!("!{key}")),
        _ => None,
    }
}

fn put_reason(status: &mut Map, reason: String) {
    if !reason.is_empty() {
        status.insert("reason", reason);
    }
}

async fn rules_review(exchange: &Exchange, review: &Value) -> Result<Map, ApiError> {
    let namespace = review.get_str_path(&["spec", "namespace"]).unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let mut rules = Rules::default();
    exchange
        .core
        .authorizer
        .rules(&exchange.user, namespace, &mut rules)
        .await;
    let mut status = Map::new();
    status.insert("incomplete", rules.incomplete);
    if !rules.evaluation_error.is_empty() {
        status.insert("evaluationError", rules.evaluation_error);
    }
    status.insert(
        "resourceRules",
        rules.resource.iter().map(rule_value).collect::<Vec<Value>>(),
    );
    status.insert(
        "nonResourceRules",
        rules.non_resource.iter().map(rule_value).collect::<Vec<Value>>(),
    );
    Ok(status)
}

fn rule_value(rule: &PolicyRule) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, list: &[String]| {
        if !list.is_empty() {
            map.insert(key, list.to_vec());
        }
    };
    put("verbs", &rule.verbs);
    put("apiGroups", &rule.api_groups);
    put("resources", &rule.resources);
    put("resourceNames", &rule.resource_names);
    put("nonResourceURLs", &rule.non_resource_urls);
    map.into()
}

fn reviewed_user(review: &Value) -> Result<UserInfo, ApiError> {
    let text = |key: &str| review.get_str_path(&["spec", key]).unwrap_or_default().to_owned();
    let groups = strings(review.get_path(&["spec", "groups"]));
    let name = text("user");
    if name.is_empty() && groups.is_empty() {
        let at = Path::new("spec").child("user");
        let errors = vec![Error::invalid(
            &at,
            "",
            "at least one of user or group must be specified",
        )];
        return Err(ApiError::invalid(
            "authorization.k8s.io",
            object_kind(review),
            "",
            errors,
        ));
    }
    let extra = review.get_path(&["spec", "extra"]).and_then(Value::as_object);
    let extra: BTreeMap<String, Vec<String>> = extra
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_string(), strings(Some(values))))
        .collect();
    Ok(UserInfo {
        name,
        uid: text("uid"),
        groups,
        extra,
    })
}

fn check_namespace(exchange: &Exchange, review: &Value) -> Result<(), ApiError> {
    let given = review
        .get_str_path(&["spec", "resourceAttributes", "namespace"])
        .unwrap_or_default();
    if given == exchange.info.namespace {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "spec.resourceAttributes.namespace must match namespace: {given}"
    )))
}

fn object_kind(review: &Value) -> &str {
    crate::object::text(review, "kind")
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn user_value(user: &UserInfo) -> Value {
    let mut map = Map::new();
    map.insert("username", user.name.as_str());
    if !user.uid.is_empty() {
        map.insert("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        map.insert("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra: Map = user
            .extra
            .iter()
            .map(|(key, values)| (key.as_str(), Value::from(values.clone())))
            .collect();
        map.insert("extra", extra);
    }
    map.into()
}
