//! Who may do what, as the flags have it: upstream's flags, upstream's files, and what is made when none are given.

mod audit;
mod authentication;
mod authorization;

pub(crate) use audit::auditor;
pub(crate) use authentication::known;
pub(crate) use authorization::authorizer;

use crate::instance::{Instance, write_atomically};
use crate::reload;
use anyhow::Context;
use clap::Args;
use encryption::{Configuration, Sealed};
use std::path::PathBuf;
use std::sync::Arc;
use store::Store;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Args)]
pub(crate) struct AccessFlags {
    /// EncryptionConfiguration of what is stored [default: Secrets, with a key made at the first start, unless the store is shared]
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Follow changes of the EncryptionConfiguration
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub encryption_provider_config_automatic_reload: bool,
    #[command(flatten)]
    pub authentication: authentication::AuthenticationFlags,
    #[command(flatten)]
    pub authorization: authorization::AuthorizationFlags,
    #[command(flatten)]
    pub audit: audit::AuditFlags,
}

/// `30s`, `5m`, `1m30s`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "a duration is needed, such as 30s or 2m".to_owned())?;
    signed
        .try_into()
        .map_err(|_| "a duration is not negative".to_owned())
}

/// A key of one server's own would hide its Secrets from the others of a shared store.
const PLAIN: &str = "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [{identity: {}}]}]}";

/// The store behind the encryption the flags ask for; `shared` with other servers or of this instance alone.
pub(crate) async fn encrypted(
    store: Arc<dyn Store>,
    flags: &AccessFlags,
    (instance, shared): (&Instance, bool),
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Sealed>> {
    if shared && flags.encryption_provider_config.is_none() {
        tracing::warn!(
            "Secrets stand unencrypted in etcd: give all its servers the same --encryption-provider-config"
        );
        let configuration = Configuration::parse(PLAIN)?;
        let stored = apiserver::registry::built_in_stored();
        return Ok(Arc::new(Sealed::new(store, stored, &configuration).await));
    }
    let own = instance.server().join("encryption-config.yaml");
    let path = flags.encryption_provider_config.as_ref().unwrap_or(&own);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && flags.encryption_provider_config.is_none() =>
        {
            let text = Configuration::generate()?;
            write_atomically(path, text.as_bytes(), 0o600)?;
            text
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let configuration =
        Configuration::parse(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let sealed = Sealed::new(store, apiserver::registry::built_in_stored(), &configuration).await;
    let sealed = Arc::new(sealed);
    // The file of our own is nobody's but the administrator's: it is followed without being asked for.
    if flags.encryption_provider_config.is_none() || flags.encryption_provider_config_automatic_reload {
        let followed = Arc::clone(&sealed);
        reload::follow(path, text, stop.clone(), move |text| {
            let followed = Arc::clone(&followed);
            async move {
                followed.replace(&Configuration::parse(&text)?).await;
                Ok(())
            }
        })?;
    }
    Ok(sealed)
}
