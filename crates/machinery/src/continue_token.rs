//! Upstream's token that says where a list goes on: a revision and the key the last page ended with.
//!
//! **Invariant:** a token that is read never leads out of the prefix that is listed.

use crate::status::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

const VERSION: &str = "meta.k8s.io/v1";

/// The token's JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// The token of a page at `revision` that ended with the key `last`. A negative revision goes on with what there is now.
pub fn encode(revision: i64, last: &[u8], prefix: &str) -> String {
    let rest = last.strip_prefix(prefix.as_bytes()).unwrap_or(last);
    let token = Token {
        v: VERSION.to_owned(),
        rv: revision,
        start: format!("{}\0", String::from_utf8_lossy(rest)),
    };
    // A struct of texts and a number always has a JSON form.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// The revision and the key the page before ended with.
pub fn decode(token: &str, prefix: &str) -> Result<(i64, String), ApiError> {
    let bad =
        |why: &str| ApiError::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|e| bad(&format!(": {e}")))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(&format!(": {e}")))?;
    if token.v != VERSION {
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
    let start = token.start.strip_prefix('/').unwrap_or(&token.start);
    if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad(&format!(": {}", token.start)));
    }
    // The key a page ended with; ours go on after it.
    let last = start.strip_suffix('\0').unwrap_or(start);
    Ok((token.rv, format!("{prefix}{last}")))
}
