//! Watches.

use super::Exchange;
use crate::cache::{Filter, Start, WatchStart, WatchStream, error_frame};
use crate::registry::{Resource, store_error};
use crate::request::query::ListOptions;
use crate::routes::Endpoint;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use machinery::status::{ApiError, Reason};
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use wire::body::Body;

/// A watch that names no time ends after this long, or up to twice that.
const MIN_TIMEOUT: u64 = 1800;

pub(super) async fn watch(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, true)?;
    let options = ListOptions::parse(&exchange.query, true)?;
    let filter = Filter::new(resource, &exchange.info.namespace, &exchange.info.name, &options)?;
    let form = exchange.form(endpoint, &output)?;
    let registry = &exchange.core.registry;
    let reflector = &registry.reflector;

    let with_initial = options.send_initial_events == Some(true);
    let asked = options.resource_version.unwrap_or(0);
    let start = match options.send_initial_events {
        Some(true) => {
            if options.resource_version.is_none() {
                reflector.fresh().await.map_err(store_error)?;
            } else if asked > 0 {
                registry.wait_for(asked).await?;
            }
            WatchStart::State
        }
        // From now on, without what there is.
        Some(false) if asked == 0 => WatchStart::After(reflector.fresh().await.map_err(store_error)?),
        _ if asked == 0 => {
            if options.resource_version.is_none() {
                reflector.fresh().await.map_err(store_error)?;
            }
            WatchStart::State
        }
        _ => WatchStart::After(asked),
    };
    // Read before the start, which so includes everything up to here.
    let reached = reflector.revision();
    // What is there is converted before it is judged; what comes is judged by the stream.
    let (converts, first) = if filter.reads_converted(resource) {
        (true, filter.unconverted())
    } else {
        (false, filter.clone())
    };
    let body = match resource.watch(reflector, &first, start).await {
        Ok(mut started) => {
            resource.prepare(&started.initial).await?;
            if converts {
                started.initial = filter.converted(resource, started.initial)?;
            }
            let seconds = options.timeout_seconds.filter(|s| *s > 0);
            let timeout = seconds
                .unwrap_or_else(|| MIN_TIMEOUT + machinery::chance::rng().random_range(0..MIN_TIMEOUT));
            let after = match start {
                WatchStart::After(revision) => revision,
                WatchStart::State => started.revision.max(reached),
            };
            let start = Start {
                receiver: started.receiver,
                initial: started.initial,
                backlog: started.backlog,
                after,
                end_initial: (with_initial && options.bookmarks).then_some(started.revision.max(reached)),
                bookmarks: options.bookmarks,
                timeout: Duration::from_secs(timeout),
            };
            Body::stream(WatchStream::new(
                Arc::clone(resource),
                Arc::clone(reflector),
                filter,
                form,
                start,
            ))
        }
        Err(error) if error.reason == Reason::Expired => Body::from(error_frame(form, &error)),
        Err(error) => return Err(error),
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, output.stream_content_type());
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}
