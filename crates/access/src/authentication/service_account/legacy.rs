//! Tokens kept in Secrets (`kubernetes.io/service-account-token`): they have no end but that of Secret and account.
//!
//! When one is used, its Secret is labelled with the day, as upstream does, so that those nobody uses can be found.

use super::{Rejected, ServiceAccounts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::user::UserInfo;
use machinery::{Value, meta};
use serde_json::Value as Json;

/// Who all these tokens say issued them.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The account a token's verified claims name, if the Secret still holds this very token.
pub(super) async fn user(
    accounts: &ServiceAccounts,
    claims: &Json,
    token: &str,
) -> Result<UserInfo, Rejected> {
    let text = |key: &str| {
        let value = claims[format!("kubernetes.io/serviceaccount/{key}")].as_str();
        value.unwrap_or_default().to_owned()
    };
    let (namespace, account) = (text("namespace"), text("service-account.name"));
    let (secret_name, account_uid) = (text("secret.name"), text("service-account.uid"));
    if claims["sub"].as_str() != Some(&format!("system:serviceaccount:{namespace}:{account}")) {
        return Err(Rejected("sub claim is invalid".to_owned()));
    }
    if secret_name.is_empty() {
        return Err(Rejected(
            "secret name is empty in service account token".to_owned(),
        ));
    }
    let objects = accounts
        .objects
        .get()
        .ok_or_else(|| Rejected("not ready to verify tokens".to_owned()))?;
    let secret = objects.get("", "secrets", &namespace, &secret_name).await;
    let secret = secret
        .map_err(|error| Rejected(error.message))?
        .filter(|secret| meta::deletion_timestamp(secret).is_none())
        .ok_or_else(|| Rejected("service account token has been invalidated".to_owned()))?;
    let stored = secret
        .get("data")
        .and_then(|data| data.get("token"))
        .and_then(Value::as_str);
    if stored.and_then(|text| STANDARD.decode(text).ok()).as_deref() != Some(token.as_bytes()) {
        return Err(Rejected(
            "service account token does not match server's copy".to_owned(),
        ));
    }
    accounts
        .check_alive(
            "serviceaccounts",
            &namespace,
            &account,
            &account_uid,
            "ServiceAccount UID",
        )
        .await?;
    let label = |key: &str| {
        let labels = meta::metadata(&secret).and_then(|metadata| metadata.get("labels"));
        labels.and_then(|labels| labels.get(key)).and_then(Value::as_str)
    };
    if label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        return Err(Rejected(
            "the token in secret has been marked as invalid".to_owned(),
        ));
    }
    let today = objects.now().strftime("%Y-%m-%d").to_string();
    if label(LAST_USED) != Some(&today) {
        let mut marked = Value::clone(&secret);
        marked.set_path(&["metadata", "labels", LAST_USED], today);
        // Book-keeping: whoever else writes the Secret just now will not have used the token for the last time.
        if let Err(error) = objects.replace("", "secrets", marked).await {
            tracing::debug!(%error, "a used token could not be marked");
        }
    }
    let user = UserInfo::service_account(&namespace, &account);
    Ok(UserInfo {
        uid: account_uid,
        ..user
    })
}
