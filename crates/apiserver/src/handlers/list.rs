//! GET of a collection.

use super::Exchange;
use crate::cache::{Filter, PageRequest};
use crate::object::{ListBody, ListMeta};
use crate::registry::Resource;
use crate::request::query::{ListOptions, VersionMatch};
use crate::respond;
use crate::routes::Endpoint;
use http::{Response, StatusCode};
use machinery::continue_token;
use machinery::status::{ApiError, Details};
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn list(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let options = ListOptions::parse(&exchange.query, false)?;
    let filter = Filter::new(resource, &exchange.info.namespace, &exchange.info.name, &options)?;
    let prefix = resource.key_prefix(&filter.namespace);
    let registry = &exchange.core.registry;
    let mut request = PageRequest {
        limit: options.limit,
        ..PageRequest::default()
    };
    let page = if let Some(token) = &options.continue_token {
        if options.resource_version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (revision, after) = continue_token::decode(token, &prefix)?;
        let goes_on = continue_token::encode(-1, after.as_bytes(), &prefix);
        request.after = Some(after.into());
        // A negative revision asks for the rest as it is now.
        request.revision = u64::try_from(revision).ok().filter(|r| *r > 0);
        registry
            .list(resource, &filter, &request)
            .await
            .map_err(|error| continue_expired(error, goes_on))?
    } else {
        match options.version {
            VersionMatch::Latest => registry.list(resource, &filter, &request).await?,
            VersionMatch::Any => registry.list_any(resource, &filter, &request).await?,
            VersionMatch::NotOlderThan(revision) => {
                registry.wait_for(revision).await?;
                registry.list_any(resource, &filter, &request).await?
            }
            VersionMatch::Exact(revision) => {
                registry.wait_for(revision).await?;
                request.revision = Some(revision);
                registry.list(resource, &filter, &request).await?
            }
        }
    };
    let left_out = resource.cache.left_out(&prefix);
    if !left_out.is_empty() {
        exchange.notes.warn(format!(
            "{} {} cannot be read and {} not listed: {}",
            left_out.len(),
            resource.group_resource,
            if left_out.len() == 1 { "is" } else { "are" },
            left_out.join(", ")
        ));
    }
    let meta = ListMeta {
        revision: page.revision,
        continue_token: page
            .next
            .as_ref()
            .map(|last| continue_token::encode(page.revision as i64, last, &prefix)),
        remaining: page.remaining.filter(|_| page.next.is_some()),
    };
    resource.prepare(&page.entries).await?;
    let form = exchange.form(endpoint, &output)?;
    let about = page.entries.iter().map(|e| e.stored.len()).sum();
    let body = ListBody::body(resource, form, page.entries, &meta, output.pretty);
    Ok(respond::body(StatusCode::OK, &output, body, about))
}

fn continue_expired(error: ApiError, goes_on: String) -> ApiError {
    if error.code != 410 {
        return error;
    }
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.with_details(Details {
        continue_token: goes_on,
        ..Details::default()
    })
}
