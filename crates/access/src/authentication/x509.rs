//! Client certificates: the common name is the user, the organizations are its groups.
//!
//! The verdict is kept on the connection, so that a certificate is verified once per connection and not once
//! per request; it is dropped when the certificate has expired or the authorities changed.

use super::{Authenticator, Credentials, Outcome, Rejected};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use machinery::clock::Clock;
use machinery::user::UserInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::tls::{ClientVerifier, TlsError};

/// Authenticates client certificates against a set of authorities.
pub struct X509 {
    verifier: ArcSwap<ClientVerifier>,
    /// Counts changes of the authorities.
    generation: AtomicU64,
    clock: Arc<dyn Clock>,
}

struct Memo {
    generation: u64,
    not_after: i64,
    user: Arc<UserInfo>,
}

impl X509 {
    /// Trusts the authorities of a PEM bundle.
    pub fn new(authorities_pem: &str, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        Ok(Self {
            verifier: ArcSwap::from_pointee(ClientVerifier::new(authorities_pem)?),
            generation: AtomicU64::new(0),
            clock,
        })
    }

    /// Trusts other authorities from now on, also on open connections.
    pub fn replace_authorities(&self, authorities_pem: &str) -> Result<(), TlsError> {
        self.verifier
            .store(Arc::new(ClientVerifier::new(authorities_pem)?));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some(connection) = credentials.connection else {
            return Ok(Outcome::NotMine);
        };
        let Some(leaf) = connection.certificates.first() else {
            return Ok(Outcome::NotMine);
        };
        let now = self.clock.now();
        let generation = self.generation.load(Ordering::Acquire);
        let known = connection.memo.get().and_then(|m| m.downcast_ref::<Memo>());
        if let Some(memo) = known
            && memo.generation == generation
            && now.as_second() <= memo.not_after
        {
            return Ok(Outcome::User(Arc::clone(&memo.user)));
        }
        self.verifier
            .load()
            .verify(&connection.certificates, now)
            .map_err(|e| Rejected(format!("verifying certificate: {e}")))?;
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|e| Rejected(format!("reading certificate: {e}")))?;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
        let Some(name) = certificate
            .subject()
            .iter_common_name()
            .find_map(text)
            .filter(|n| !n.is_empty())
        else {
            return Ok(Outcome::NotMine);
        };
        let mut groups: Vec<String> = certificate
            .subject()
            .iter_organization()
            .filter_map(text)
            .collect();
        groups.push("system:authenticated".to_owned());
        let user = Arc::new(UserInfo {
            name,
            groups,
            ..UserInfo::default()
        });
        let not_after = certificate.validity().not_after.timestamp();
        // A memo that lost the race, or an outdated one, leaves this request verified and unremembered.
        connection.memo.get_or_init(|| {
            Box::new(Memo {
                generation,
                not_after,
                user: Arc::clone(&user),
            })
        });
        Ok(Outcome::User(user))
    }
}
