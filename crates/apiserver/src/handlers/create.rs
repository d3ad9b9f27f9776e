//! POST to a collection.

use super::Exchange;
use crate::registry::Resource;
use crate::routes::Endpoint;
use http::header::USER_AGENT;
use http::{Response, StatusCode};
use machinery::meta;
use machinery::status::ApiError;
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn create(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let encoding = exchange.input(resource.built_in)?;
    let bytes = exchange.body().await?;
    let options = exchange.write_options("CreateOptions")?;
    let object = exchange.decode_object(endpoint, resource, &bytes, encoding, &options)?;
    drop(bytes);
    // A namespace is, for admission and authorization, in itself.
    if endpoint.name == "namespaces" && endpoint.group.is_empty() {
        exchange.info.namespace = meta::name(&object).to_owned();
    }
    let manager = options.manager(exchange.headers().get(USER_AGENT));
    let options_object = exchange.options_object("CreateOptions", &options);
    let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
    let entry = exchange.core.registry.create(&write, object).await?;
    exchange.entry(StatusCode::CREATED, endpoint, resource, &entry, &output)
}
