//! Who makes a request. Authenticators are asked in order; the first that knows the caller decides.
//!
//! **Invariant:** an authenticator that sees no credentials of its kind says so ([`Outcome::NotMine`]) and the
//! next is asked; credentials of its kind that are wrong are an error, which is remembered while the others
//! are asked, and is a 401 if none knows the caller.

pub mod bootstrap;
pub mod jwt;
pub mod request_header;
pub mod service_account;
pub mod token_file;
pub mod webhook;
pub mod x509;

use crate::Objects;
use async_trait::async_trait;
use http::HeaderMap;
use machinery::user::UserInfo;
use std::sync::Arc;
use wire::server::Connection;

/// What there is to judge a caller by.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    pub headers: &'a HeaderMap,
    /// The TLS connection; `None` in process.
    pub connection: Option<&'a Connection>,
}

impl<'a> Credentials<'a> {
    /// The token of an `Authorization: Bearer` header.
    pub fn bearer_token(&self) -> Option<&'a str> {
        let value = self
            .headers
            .get(http::header::AUTHORIZATION)?
            .to_str()
            .ok()?
            .trim();
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// What an authenticator found.
#[derive(Debug, Clone)]
pub enum Outcome {
    NotMine,
    User(Arc<UserInfo>),
}

/// Credentials were shown and are wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// One way to know a caller.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected>;

    /// Called once, when the server starts.
    fn bind(&self, _objects: Arc<dyn Objects>) {}
}

/// What a token is remembered by.
fn digest(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref());
    out
}

/// Everybody who is known is in this group, whoever knows him.
fn add_authenticated(user: &mut UserInfo) {
    if !user.in_group("system:authenticated") && !user.in_group("system:unauthenticated") {
        user.groups.push("system:authenticated".to_owned());
    }
}

/// A header's name with its `%2f` read.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Several authenticators, asked in order.
pub struct Union(Vec<Arc<dyn Authenticator>>);

impl Union {
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(authenticators)
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let mut rejected = None;
        for authenticator in &self.0 {
            match authenticator.authenticate(credentials).await {
                Ok(Outcome::NotMine) => {}
                Ok(user) => return Ok(user),
                Err(why) => rejected = rejected.or(Some(why)),
            }
        }
        rejected.map_or(Ok(Outcome::NotMine), Err)
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        for authenticator in &self.0 {
            authenticator.bind(Arc::clone(&objects));
        }
    }
}
