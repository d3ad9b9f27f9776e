//! Who asks, and whether they may.
//!
//! A client certificate of the cluster's authority, or a token that the API server knows, says who. The API server's
//! own user and `system:masters` may everything; of others the API server is asked, for the part of the node that the
//! path is about (fine-grained where upstream is), and for `proxy`, which is all of it.

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
use super::review::Reviews;

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
    pub async fn check(
        &self,
        request: &Request<Body>,
        now: Timestamp,
        reviews: &Reviews,
    ) -> Result<(), Refusal> {
        let user = match self.certified(request, now) {
            Some(user) => Some(user),
            None => match token(request) {
                Some(token) => reviews.user_of(token).await,
                None => None,
            },
        };
        let user = user.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
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
        let parts = parts(request.uri().path());
        if reviews.may(&user, verb, parts).await {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                user.name,
                parts.join(" ")
            ),
        ))
    }

    /// By the connection's certificate: verified once; one that runs out meanwhile is judged with the next connection.
    fn certified(&self, request: &Request<Body>, now: Timestamp) -> Option<UserInfo> {
        let connection = request.extensions().get::<Arc<Connection>>()?;
        let known = connection
            .memo
            .get_or_init(|| Box::new(self.user(connection, now)));
        known.downcast_ref::<Option<UserInfo>>()?.clone()
    }

    fn user(&self, connection: &Connection, now: Timestamp) -> Option<UserInfo> {
        if let Err(error) = self.verifier.verify(&connection.certificates, now) {
            tracing::debug!(peer = %connection.peer, error, "a client's certificate is not accepted");
            return None;
        }
        user_of(connection.certificates.first()?)
    }
}

fn token(request: &Request<Body>) -> Option<&str> {
    let header = request
        .headers()
        .get(http::header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The parts of a node that a path is about; leave for one of them is enough.
fn parts(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "configz" => &["configz", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
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
    use std::convert::Infallible;
    use std::sync::OnceLock;

    use http_body_util::BodyExt;
    use machinery::clock::SystemClock;
    use serde_json::{Value, json};
    use wire::certs::{Authority, Leaf};

    /// An API server that knows one token, and lets one user see figures.
    fn reviews() -> Reviews {
        let service = tower::service_fn(|request: Request<client::Body>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let spec = review["spec"].clone();
            review["status"] = match review["kind"].as_str().unwrap() {
                "TokenReview" => {
                    json!({"authenticated": spec["token"] == "good", "user": {"username": "scraper"}})
                }
                _ => {
                    let what = &spec["resourceAttributes"];
                    json!({"allowed": spec["user"] == "scraper" && what["verb"] == "get" && what["name"] == "n"
                                      && ["metrics", "pods"].contains(&what["subresource"].as_str().unwrap())})
                }
            };
            let mut answer = http::Response::new(Body::from(review.to_string()));
            *answer.status_mut() = StatusCode::CREATED;
            Ok::<_, Infallible>(answer)
        });
        let user = UserInfo::authenticated("system:node:n", &["system:nodes"]);
        let client = client::in_process(client::api_service(service), user);
        Reviews::new(client, Arc::new(SystemClock), "n")
    }

    #[tokio::test]
    async fn who_may_what() {
        let now = Timestamp::now();
        let ours = Authority::generate("ours", now).unwrap();
        let theirs = Authority::generate("theirs", now).unwrap();
        let guard = Guard::new(
            ClientVerifier::new(ours.certificate()).unwrap(),
            ["api".to_owned()],
        );
        let reviews = reviews();
        let request = |certificates: Vec<_>, token: &str, path: &str| {
            let address = "127.0.0.1:1".parse().unwrap();
            let connection = Connection {
                peer: address,
                local: address,
                certificates,
                memo: OnceLock::new(),
            };
            let mut request = Request::get(path)
                .header("authorization", format!("Bearer {token}"))
                .body(Body::empty())
                .unwrap();
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
            (vec![], "", "/exec/a/b/c", Some(401)),
            (vec![], "bad", "/metrics", Some(401)),
            (vec![], "good", "/metrics", None),
            (vec![], "good", "/metrics/cadvisor", None),
            (vec![], "good", "/pods", None),
            (vec![], "good", "/stats/summary", Some(403)),
            (vec![], "good", "/exec/a/b/c", Some(403)),
            (issue(&ours, "api", None), "", "/exec/a/b/c", None),
            (issue(&ours, "other", Some(MASTERS)), "", "/run/a/b/c", None),
            (
                issue(&ours, "other", Some("system:nodes")),
                "",
                "/pods",
                Some(403),
            ),
            (issue(&theirs, "api", Some(MASTERS)), "", "/pods", Some(401)),
        ];
        for (chain, token, path, expected) in cases {
            let found = guard.check(&request(chain, token, path), now, &reviews).await;
            assert_eq!(found.err().map(|r| r.code.as_u16()), expected, "{token} {path}");
        }
    }
}
