//! PUT of an object or a subresource that has its type.

use super::Exchange;
use crate::registry::Resource;
use crate::registry::update::Replace;
use crate::routes::Endpoint;
use http::header::USER_AGENT;
use http::{Response, StatusCode};
use machinery::status::ApiError;
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn update(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let bytes = exchange.body().await?;
    let options = exchange.write_options("UpdateOptions")?;
    let encoding = exchange.input(resource.built_in)?;
    let object = exchange.decode_object(endpoint, resource, &bytes, encoding, &options)?;
    drop(bytes);
    let manager = options.manager(exchange.headers().get(USER_AGENT));
    let options_object = exchange.options_object("UpdateOptions", &options);
    let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
    let updated = exchange
        .core
        .registry
        .update(&write, &Replace(object), &exchange)
        .await?;
    let code = if updated.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    exchange.entry(code, endpoint, resource, &updated.entry, &output)
}
