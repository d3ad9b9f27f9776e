//! Who decides: `--authorization-mode` or AuthorizationConfiguration.

use crate::reload;
use access::authorization::configured::{Configuration, Configured};
use anyhow::{Context, bail};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Args)]
pub(crate) struct AuthorizationFlags {
    /// AuthorizationConfiguration: the authorizers in order; followed as it changes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub authorization_config: Option<PathBuf>,
    /// Authorizers in order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// kubeconfig of a service that decides (SubjectAccessReview)
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of SubjectAccessReview sent: v1 or v1beta1
    #[arg(long, default_value = "v1beta1", value_name = "VERSION", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    /// How long the service's yes is kept
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = super::duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long the service's no is kept
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = super::duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

pub(crate) async fn authorizer(
    flags: &AuthorizationFlags,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Configured>> {
    let Some(path) = &flags.authorization_config else {
        let usual = || vec!["Node".to_owned(), "RBAC".to_owned()];
        let modes = Some(flags.authorization_mode.clone()).filter(|modes| !modes.is_empty());
        let modes = modes.unwrap_or_else(usual);
        let asks = modes.iter().any(|mode| mode == "Webhook");
        if asks != flags.authorization_webhook_config_file.is_some() {
            bail!("--authorization-mode=Webhook and --authorization-webhook-config-file need each other");
        }
        let webhook = flags.authorization_webhook_config_file.as_deref().map(|path| {
            (
                path,
                flags.authorization_webhook_version.as_str(),
                flags.authorization_webhook_cache_authorized_ttl,
                flags.authorization_webhook_cache_unauthorized_ttl,
            )
        });
        let configuration = Configuration::of_modes(&modes, webhook)?;
        return Ok(Arc::new(Configured::new(&configuration).await?));
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let configuration =
        Configuration::parse(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let configured = Arc::new(Configured::new(&configuration).await?);
    let followed = Arc::clone(&configured);
    reload::follow(path, text, stop.clone(), move |text| {
        let followed = Arc::clone(&followed);
        async move { Ok(followed.replace(&Configuration::parse(&text)?).await?) }
    })?;
    Ok(configured)
}
