//! DELETE of an object or a collection.

use super::Exchange;
use crate::cache::Filter;
use crate::object::{self, ListBody, ListMeta};
use crate::registry::Resource;
use crate::registry::delete::{DeleteOptions, Deleted};
use crate::request::query::{ListOptions, WriteOptions};
use crate::respond;
use crate::routes::Endpoint;
use http::{Response, StatusCode};
use machinery::status::ApiError;
use machinery::{Map, Value};
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn delete(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let options_object = options(&mut exchange).await?;
    let options = DeleteOptions::from_value(&options_object)?;
    let write_options = plain(&options);
    let write = exchange.write(endpoint, resource, &write_options, &options_object, "");
    let deleted = exchange.core.registry.delete(&write, &options).await?;
    let (entry, code) = match &deleted {
        Deleted::Gone(entry) => (entry, StatusCode::OK),
        // Upstream says 202 only when it is told that dependents are orphaned the old way.
        Deleted::Marked(entry) => (
            entry,
            if options.orphan_dependents == Some(false) {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            },
        ),
    };
    let gone = matches!(deleted, Deleted::Gone(_));
    if gone && !resource.strategy.returns_deleted_object() {
        let object = entry.value(resource).map_err(crate::registry::stored_error)?;
        let mut details = Map::new();
        details.insert("name", entry.meta.name.as_str());
        if !resource.info.group.is_empty() {
            details.insert("group", resource.info.group.as_str());
        }
        // Upstream's field kind holds the resource.
        details.insert("kind", resource.info.resource.as_str());
        details.insert("uid", machinery::meta::uid(&object));
        return Ok(respond::value(
            code,
            &output,
            &object::status_success(200, Some(details)),
        ));
    }
    exchange.entry(code, endpoint, resource, entry, &output)
}

pub(super) async fn collection(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let list = ListOptions::parse(&exchange.query, false)?;
    let filter = Filter::new(resource, &exchange.info.namespace, "", &list)?;
    let options_object = options(&mut exchange).await?;
    let options = DeleteOptions::from_value(&options_object)?;
    let write_options = plain(&options);
    let write = exchange.write(endpoint, resource, &write_options, &options_object, "");
    let (entries, revision) = exchange
        .core
        .registry
        .delete_collection(&write, &options, &filter)
        .await?;
    let form = exchange.form(endpoint, &output)?;
    let meta = ListMeta {
        revision,
        ..ListMeta::default()
    };
    let about = entries.iter().map(|e| e.stored.len()).sum();
    let body = ListBody::body(resource, form, entries, &meta, output.pretty);
    Ok(respond::body(StatusCode::OK, &output, body, about))
}

/// The options of the body, or else of the query.
async fn options(exchange: &mut Exchange) -> Result<Value, ApiError> {
    let bytes = exchange.body().await?;
    let mut options = if bytes.is_empty() {
        let mut options = Map::new();
        if let Some(seconds) = exchange.query.number("gracePeriodSeconds")? {
            options.insert("gracePeriodSeconds", seconds);
        }
        if let Some(orphan) = exchange.query.optional_flag("orphanDependents") {
            options.insert("orphanDependents", orphan);
        }
        if let Some(policy) = exchange.query.get("propagationPolicy") {
            options.insert("propagationPolicy", policy);
        }
        let dry_run: Vec<Value> = exchange.query.all("dryRun").map(Value::from).collect();
        if !dry_run.is_empty() {
            options.insert("dryRun", dry_run);
        }
        Value::Object(options)
    } else {
        object::decode_options(&bytes, exchange.input(true)?)?
    };
    object::set_kind(&mut options, "meta.k8s.io/v1", "DeleteOptions");
    Ok(options)
}

fn plain(options: &DeleteOptions) -> WriteOptions {
    WriteOptions {
        dry_run: options.dry_run,
        field_manager: String::new(),
        field_validation: crate::request::query::FieldValidation::Ignore,
        force: None,
    }
}
