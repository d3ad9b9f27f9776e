//! GET of a collection.

use super::Exchange;
use crate::cache::{Filter, PageRequest};
use crate::object::{ListBody, ListMeta};
use crate::registry::Resource;
use crate::request::query::{ListOptions, VersionMatch};
use crate::respond;
use crate::routes::Endpoint;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use machinery::status::{ApiError, Details};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use wire::body::Body;

/// Where a list goes on: upstream's token.
#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

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
        let (revision, after) = decode_token(token, &prefix)?;
        let goes_on = encode_token(-1, &after, &prefix);
        request.after = Some(after);
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
    let meta = ListMeta {
        revision: page.revision,
        continue_token: page
            .next
            .as_ref()
            .map(|last| encode_token(page.revision as i64, last, &prefix)),
        remaining: page.remaining.filter(|_| page.next.is_some()),
    };
    let form = exchange.form(endpoint, &output)?;
    let about = page.entries.iter().map(|e| e.stored.len()).sum();
    let body = ListBody::body(resource, form, page.entries, &meta, output.pretty);
    Ok(respond::body(StatusCode::OK, &output, body, about))
}

fn encode_token(revision: i64, last: &[u8], prefix: &str) -> String {
    let rest = last.strip_prefix(prefix.as_bytes()).unwrap_or(last);
    let token = ContinueToken {
        v: "meta.k8s.io/v1".to_owned(),
        rv: revision,
        start: format!("{}\0", String::from_utf8_lossy(rest)),
    };
    // A struct of texts and a number always has a JSON form.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(token: &str, prefix: &str) -> Result<(i64, Bytes), ApiError> {
    let bad =
        |why: &str| ApiError::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|e| bad(&format!(": {e}")))?;
    let token: ContinueToken = serde_json::from_slice(&bytes).map_err(|e| bad(&format!(": {e}")))?;
    if token.v != "meta.k8s.io/v1" {
        let why = format!(": server does not recognize this encoded version {}", token.v);
        return Err(bad(&why));
    }
    if token.rv == 0 {
        return Err(bad(
            ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    if token.start.is_empty() {
        return Err(bad(": encoded start key empty (version meta.k8s.io/v1)"));
    }
    // A token must not lead out of what is listed.
    let start = token.start.strip_prefix('/').unwrap_or(&token.start);
    if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad(&format!(": {}", token.start)));
    }
    // The key a page ended with; ours go on after it.
    let last = start.strip_suffix('\0').unwrap_or(start);
    Ok((token.rv, format!("{prefix}{last}").into()))
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
