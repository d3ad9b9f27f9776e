//! Who is known: upstream's flags and AuthenticationConfiguration, made into authenticators in upstream's order.

use crate::reload;
use access::authentication::Authenticator;
use access::authentication::bootstrap::BootstrapTokens;
use access::authentication::jwt::{
    Anonymous, AnonymousAccess, ClaimRule, Configuration, Issuer, IssuerAddress, JsonWebTokens, Mapping,
    Mappings,
};
use access::authentication::request_header::{Headers, RequestHeader};
use access::authentication::token_file::TokenFile;
use access::authentication::webhook::WebhookTokens;
use access::remote::Remote;
use anyhow::{Context, bail};
use clap::Args;
use machinery::clock::Clock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Args)]
pub(crate) struct AuthenticationFlags {
    /// AuthenticationConfiguration: issuers of tokens, and where anonymous requests may go; followed as it changes
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Whether requests without a name are let in, as system:anonymous
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub anonymous_auth: Option<bool>,
    /// CSV file of static tokens: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Accept bootstrap tokens (Secrets of type bootstrap.kubernetes.io/token in kube-system)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub enable_bootstrap_token_auth: bool,
    /// Authorities of client certificates, beside the cluster's own
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Authorities of front proxies' certificates
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; any, without
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers a front proxy names the user in
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers a front proxy gives the user's UID in
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers a front proxy names the user's groups in
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Beginnings of the headers a front proxy gives extras in
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// kubeconfig of a service that knows tokens (TokenReview)
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of TokenReview sent: v1 or v1beta1
    #[arg(long, default_value = "v1beta1", value_name = "VERSION", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long the service's answers are kept
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = super::duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// OpenID issuer
    #[arg(long, value_name = "URL")]
    pub oidc_issuer_url: Option<String>,
    /// Audience of the issuer's tokens
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// Authorities of the issuer's certificate
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    pub oidc_username_claim: String,
    /// What stands in front of names; `-` for nothing
    #[arg(long, default_value = "", value_name = "PREFIX", hide_default_value = true)]
    pub oidc_username_prefix: String,
    /// Claim that is the user's groups
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What stands in front of groups
    #[arg(long, default_value = "", value_name = "PREFIX", hide_default_value = true)]
    pub oidc_groups_prefix: String,
    /// Claims tokens must have, key=value
    #[arg(long, value_name = "CLAIM=VALUE")]
    pub oidc_required_claim: Vec<String>,
}

/// What the flags make.
pub(crate) struct Known {
    /// Asked before client certificates.
    pub first: Vec<Arc<dyn Authenticator>>,
    /// Asked after them and service account tokens.
    pub last: Vec<Arc<dyn Authenticator>>,
    pub anonymous: Arc<AnonymousAccess>,
    /// Further authorities of client certificates.
    pub client_authorities: String,
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) async fn known(
    flags: &AuthenticationFlags,
    own_issuer: &str,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<Known> {
    let mut first: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(path) = &flags.requestheader_client_ca_file {
        let headers = Headers {
            allowed_names: flags.requestheader_allowed_names.clone(),
            user: flags.requestheader_username_headers.clone(),
            uid: flags.requestheader_uid_headers.clone(),
            group: flags.requestheader_group_headers.clone(),
            extra_prefix: flags.requestheader_extra_headers_prefix.clone(),
        };
        first.push(Arc::new(RequestHeader::new(
            &read(path)?,
            headers,
            Arc::clone(clock),
        )?));
    }
    let mut last: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(path) = &flags.token_auth_file {
        let file =
            TokenFile::parse(&read(path)?).with_context(|| format!("cannot use {}", path.display()))?;
        last.push(Arc::new(file));
    }
    if flags.enable_bootstrap_token_auth {
        last.push(Arc::new(BootstrapTokens::default()));
    }
    let own = vec![own_issuer.to_owned()];
    let anonymous = Arc::new(AnonymousAccess::default());
    if let Some(enabled) = flags.anonymous_auth {
        anonymous.replace(whole(enabled));
    }
    if let Some(path) = &flags.authentication_config {
        if flags.oidc_issuer_url.is_some() {
            bail!("--authentication-config and --oidc-issuer-url exclude each other");
        }
        let text = read(path)?;
        let configuration =
            Configuration::parse(&text, &own).with_context(|| format!("cannot use {}", path.display()))?;
        if configuration.anonymous.is_some() && flags.anonymous_auth.is_some() {
            bail!(
                "--anonymous-auth and `anonymous` in {} exclude each other",
                path.display()
            );
        }
        let tokens = Arc::new(JsonWebTokens::new(&configuration.jwt, Arc::clone(clock))?);
        if let Some(setting) = configuration.anonymous {
            anonymous.replace(setting);
        }
        last.push(Arc::clone(&tokens) as Arc<dyn Authenticator>);
        reload::follow(path, text, stop.clone(), move |text| {
            let outcome = Configuration::parse(&text, &own).and_then(|new| tokens.replace(&new.jwt));
            async move { Ok(outcome?) }
        })?;
    } else if let Some(issuer) = oidc(flags)? {
        last.push(Arc::new(JsonWebTokens::new(&[issuer], Arc::clone(clock))?));
    }
    if let Some(path) = &flags.authentication_token_webhook_config_file {
        let remote = Remote::from_kubeconfig(path, Duration::from_secs(30)).await?;
        let version = &flags.authentication_token_webhook_version;
        let keep = flags.authentication_token_webhook_cache_ttl;
        let audiences = vec![own_issuer.to_owned()];
        last.push(Arc::new(WebhookTokens::new(remote, version, audiences, keep)));
    }
    let client_authorities = flags.client_ca_file.as_deref().map(read).transpose()?;
    Ok(Known {
        first,
        last,
        anonymous,
        client_authorities: client_authorities.unwrap_or_default(),
    })
}

fn whole(enabled: bool) -> Anonymous {
    Anonymous {
        enabled,
        conditions: Vec::new(),
    }
}

/// The issuer of upstream's older flags.
fn oidc(flags: &AuthenticationFlags) -> anyhow::Result<Option<Issuer>> {
    let Some(url) = &flags.oidc_issuer_url else {
        return Ok(None);
    };
    let Some(client) = &flags.oidc_client_id else {
        bail!("--oidc-issuer-url needs --oidc-client-id");
    };
    if !url.starts_with("https://") {
        bail!("--oidc-issuer-url {url}: an https URL is needed");
    }
    let prefix = match flags.oidc_username_prefix.as_str() {
        "-" => String::new(),
        // Names of different issuers must not meet, unless they are addresses.
        "" if flags.oidc_username_claim != "email" => format!("{url}#"),
        prefix => prefix.to_owned(),
    };
    let rule = |text: &String| match text.split_once('=') {
        Some((claim, value)) => Ok(ClaimRule {
            claim: claim.to_owned(),
            required_value: value.to_owned(),
            ..ClaimRule::default()
        }),
        None => bail!("--oidc-required-claim {text}: CLAIM=VALUE is needed"),
    };
    Ok(Some(Issuer {
        issuer: IssuerAddress {
            url: url.clone(),
            certificate_authority: flags.oidc_ca_file.as_deref().map(read).transpose()?,
            audiences: vec![client.clone()],
            ..IssuerAddress::default()
        },
        claim_validation_rules: flags
            .oidc_required_claim
            .iter()
            .map(rule)
            .collect::<anyhow::Result<_>>()?,
        claim_mappings: Mappings {
            username: Mapping {
                claim: flags.oidc_username_claim.clone(),
                prefix: Some(prefix),
                ..Mapping::default()
            },
            groups: Mapping {
                claim: flags.oidc_groups_claim.clone().unwrap_or_default(),
                prefix: Some(flags.oidc_groups_prefix.clone()),
                ..Mapping::default()
            },
            ..Mappings::default()
        },
        ..Issuer::default()
    }))
}
