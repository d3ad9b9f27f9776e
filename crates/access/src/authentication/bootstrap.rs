//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept in Secrets of kube-system, for nodes that join.

use super::{Authenticator, Credentials, Outcome, Rejected};
use crate::Objects;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Value;
use machinery::user::UserInfo;
use std::sync::{Arc, OnceLock};

const NAMESPACE: &str = "kube-system";
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// Knows the bearers of bootstrap tokens.
#[derive(Default)]
pub struct BootstrapTokens {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    fn bind(&self, objects: Arc<dyn Objects>) {
        // Bound once, when the server starts.
        self.objects.get_or_init(|| objects);
    }

    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some((id, secret)) = credentials.bearer_token().and_then(parts) else {
            return Ok(Outcome::NotMine);
        };
        let Some(objects) = self.objects.get() else {
            return Ok(Outcome::NotMine);
        };
        let name = format!("bootstrap-token-{id}");
        let stored = objects.get("", "secrets", NAMESPACE, &name).await;
        let stored = stored.map_err(|error| Rejected(error.message))?;
        let user = stored.and_then(|stored| judge(&stored, id, secret, objects.now()));
        Ok(user.map_or(Outcome::NotMine, |user| Outcome::User(Arc::new(user))))
    }
}

/// The id and the secret, if the text has their form.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user a Secret makes of its token's bearer; `None` if it is not this token's, or it is not valid.
fn judge(stored: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    if stored.get("type").and_then(Value::as_str) != Some("bootstrap.kubernetes.io/token") {
        return None;
    }
    if stored.get_str_path(&["metadata", "deletionTimestamp"]).is_some() {
        return None;
    }
    let data = |key: &str| {
        let text = stored
            .get("data")
            .and_then(|data| data.get(key))
            .and_then(Value::as_str)?;
        String::from_utf8(STANDARD.decode(text).ok()?).ok()
    };
    // Digests, so that the time it takes tells nothing.
    if super::digest(&data("token-secret")?) != super::digest(secret) || data("token-id")? != id {
        return None;
    }
    if let Some(expiration) = data("expiration").filter(|text| !text.is_empty()) {
        let expires: jiff::Timestamp = expiration.parse().ok()?;
        if now >= expires {
            return None;
        }
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups")
        .unwrap_or_default()
        .split(',')
        .filter(|group| !group.is_empty())
    {
        if !is_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.push("system:authenticated".to_owned());
    Some(UserInfo {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..UserInfo::default()
    })
}

fn is_group(group: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    group.strip_prefix(GROUP_PREFIX).is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(changes: &[(&str, Option<&str>)]) -> Value {
        let mut secret = Value::object();
        secret.set_path(&["type"], "bootstrap.kubernetes.io/token");
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default"),
        ];
        for (key, value) in usual {
            let value = match changes.iter().find(|(changed, _)| *changed == key) {
                None => value,
                Some((_, Some(value))) => value,
                Some((_, None)) => continue,
            };
            secret.set_path(&["data", key], STANDARD.encode(value));
        }
        secret
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let check = |changes: &[(&str, Option<&str>)], expected: Option<&[&str]>| {
            let now = "2029-12-31T00:00:00Z".parse().expect("time");
            let user = judge(&token(changes), "abcdef", "0123456789abcdef", now);
            let groups = user.map(|user| user.groups);
            let expected = expected.map(|groups| groups.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
            assert_eq!(groups, expected, "{changes:?}");
        };
        let all = [
            "system:bootstrappers",
            "system:bootstrappers:kubeadm:default",
            "system:authenticated",
        ];
        check(&[], Some(&all));
        check(
            &[("auth-extra-groups", None)],
            Some(&["system:bootstrappers", "system:authenticated"]),
        );
        check(&[("expiration", None)], Some(&all));
        check(&[("expiration", Some("2029-01-01T00:00:00Z"))], None);
        check(&[("expiration", Some("tomorrow"))], None);
        check(&[("token-secret", Some("0123456789abcdeg"))], None);
        check(&[("token-id", Some("abcdeg"))], None);
        check(&[("usage-bootstrap-authentication", None)], None);
        check(&[("auth-extra-groups", Some("system:masters"))], None);
    }

    #[test]
    fn only_texts_of_the_form_are_looked_up() {
        assert_eq!(
            parts("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for text in [
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcde",
            "abcdef",
            "../../x.0123456789abcdef",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
