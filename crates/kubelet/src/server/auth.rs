//! Who asks, and whether they may: client certificates, and a short list of users.
//!
//! Asking the API server (SubjectAccessReview) about others comes with fine-grained authorization.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Request, StatusCode};
use jiff::Timestamp;
use machinery::user::UserInfo;
use wire::body::Body;
use wire::server::Connection;
use wire::tls::ClientVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;

const MASTERS: &str = "system:masters";

pub struct Guard {
    verifier: ClientVerifier,
    allowed: BTreeSet<String>,
}

impl Guard {
    pub fn new(verifier: ClientVerifier, allowed: impl IntoIterator<Item = String>) -> Self {
        Self {
            verifier,
            allowed: allowed.into_iter().collect(),
        }
    }

    /// The answer that refuses, if the request is refused.
    pub fn check(&self, request: &Request<Body>, now: Timestamp) -> Result<(), Refusal> {
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let connection = request
            .extensions()
            .get::<Arc<Connection>>()
            .ok_or_else(unauthorized)?;
        // One verification a connection; a certificate that runs out meanwhile is judged with the next one.
        let known = connection
            .memo
            .get_or_init(|| Box::new(self.user(connection, now)));
        let user = known
            .downcast_ref::<Option<UserInfo>>()
            .and_then(Option::as_ref)
            .ok_or_else(unauthorized)?;
        if self.allowed.contains(&user.name) || user.in_group(MASTERS) {
            return Ok(());
        }
        let verb = match request.method().as_str() {
            "GET" | "HEAD" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            _ => "delete",
        };
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[proxy])\n",
                user.name
            ),
        ))
    }

    fn user(&self, connection: &Connection, now: Timestamp) -> Option<UserInfo> {
        if let Err(error) = self.verifier.verify(&connection.certificates, now) {
            tracing::debug!(peer = %connection.peer, error, "a client's certificate is not accepted");
            return None;
        }
        user_of(connection.certificates.first()?)
    }
}

/// Common name and organizations.
fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    Some(UserInfo::authenticated(name, &groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use wire::certs::{Authority, Leaf};

    #[test]
    fn only_the_api_server_and_masters() {
        let now = Timestamp::now();
        let ours = Authority::generate("ours", now).unwrap();
        let theirs = Authority::generate("theirs", now).unwrap();
        let guard = Guard::new(
            ClientVerifier::new(ours.certificate()).unwrap(),
            ["api".to_owned()],
        );
        let request = |certificates: Vec<_>| {
            let address = "127.0.0.1:1".parse().unwrap();
            let connection = Connection {
                peer: address,
                local: address,
                certificates,
                memo: OnceLock::new(),
            };
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(Arc::new(connection));
            request
        };
        let issue = |authority: &Authority, user: &str, group: Option<&str>| {
            authority
                .issue(&Leaf::client(user, group), now)
                .unwrap()
                .chain()
                .unwrap()
        };
        let cases = [
            (vec![], Some(401)),
            (issue(&ours, "api", None), None),
            (issue(&ours, "other", Some(MASTERS)), None),
            (issue(&ours, "other", Some("system:nodes")), Some(403)),
            (issue(&theirs, "api", Some(MASTERS)), Some(401)),
        ];
        for (chain, expected) in cases {
            let found = guard.check(&request(chain), now).err().map(|r| r.code.as_u16());
            assert_eq!(found, expected);
        }
    }
}
