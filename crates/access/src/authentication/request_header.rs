//! Front proxies: a proxy that shows a certificate of its own authority says in headers whose request it is.

use super::{Authenticator, Credentials, Outcome, Rejected};
use async_trait::async_trait;
use http::HeaderMap;
use machinery::clock::Clock;
use machinery::user::UserInfo;
use std::sync::Arc;
use wire::tls::{ClientVerifier, TlsError};

/// Which proxies are believed, and which headers.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// Common names of proxies; any, if there are none.
    pub allowed_names: Vec<String>,
    pub user: Vec<String>,
    pub uid: Vec<String>,
    pub group: Vec<String>,
    pub extra_prefix: Vec<String>,
}

pub struct RequestHeader {
    verifier: ClientVerifier,
    headers: Headers,
    clock: Arc<dyn Clock>,
}

impl RequestHeader {
    /// Trusts proxies with certificates of a PEM bundle's authorities.
    pub fn new(authorities_pem: &str, headers: Headers, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let lower = |names: Vec<String>| names.into_iter().map(|name| name.to_lowercase()).collect();
        Ok(Self {
            verifier: ClientVerifier::new(authorities_pem)?,
            headers: Headers {
                allowed_names: headers.allowed_names,
                user: lower(headers.user),
                uid: lower(headers.uid),
                group: lower(headers.group),
                extra_prefix: lower(headers.extra_prefix),
            },
            clock,
        })
    }
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some(connection) = credentials.connection else {
            return Ok(Outcome::NotMine);
        };
        let Some(leaf) = connection.certificates.first() else {
            return Ok(Outcome::NotMine);
        };
        // Who says nothing in headers is no proxy; its certificate is somebody else's to judge.
        let Some(user) = self.headers.user(credentials.headers) else {
            return Ok(Outcome::NotMine);
        };
        self.verifier
            .verify(&connection.certificates, self.clock.now())
            .map_err(|error| Rejected(format!("verifying the proxy's certificate: {error}")))?;
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| Rejected(format!("reading certificate: {error}")))?;
        let name = certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default();
        let allowed = &self.headers.allowed_names;
        if !allowed.is_empty() && !allowed.iter().any(|known| known == name) {
            return Err(Rejected(format!(
                "x509: subject with cn={name} is not in the allowed list"
            )));
        }
        Ok(Outcome::User(Arc::new(user)))
    }
}

impl Headers {
    /// The user the headers name.
    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let first = |names: &[String]| {
            let values = names.iter().filter_map(|name| headers.get(name.as_str()));
            values.map(text).find(|value| !value.is_empty())
        };
        let mut user = UserInfo {
            name: first(&self.user)?,
            uid: first(&self.uid).unwrap_or_default(),
            ..UserInfo::default()
        };
        for name in &self.group {
            user.groups
                .extend(headers.get_all(name.as_str()).iter().map(text));
        }
        for (name, value) in headers {
            let key = self
                .extra_prefix
                .iter()
                .find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let Some(key) = key {
                user.extra
                    .entry(super::unescape(key))
                    .or_default()
                    .push(text(value));
            }
        }
        super::add_authenticated(&mut user);
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_user_groups_and_extras() {
        let names = Headers {
            user: vec!["x-remote-user".into()],
            uid: vec!["x-remote-uid".into()],
            group: vec!["x-remote-group".into()],
            extra_prefix: vec!["x-remote-extra-".into()],
            ..Headers::default()
        };
        let mut headers = HeaderMap::new();
        assert_eq!(names.user(&headers), None);
        for (name, value) in [
            ("x-remote-user", "alice"),
            ("x-remote-uid", "u"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-example.com%2fscopes", "s"),
        ] {
            headers.append(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            );
        }
        let user = names.user(&headers).expect("named");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("alice", "u"));
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scopes"], ["s"]);
    }
}
