//! The audit policy and its backends.

use access::audit::{Auditor, Backend, BatchOptions, Log, LogOptions, Mode, Policy, Webhook};
use access::remote::Remote;
use anyhow::Context;
use clap::Args;
use machinery::clock::Clock;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditFlags {
    /// Policy of what is audited
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File audit events are written to, one JSON object a line; `-` is the standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days old audit logs are kept; 0 for ever
    #[arg(long, default_value_t = 366, value_name = "DAYS")]
    pub audit_log_maxage: u32,
    /// Old audit logs kept; 0 for all
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub audit_log_maxbackup: usize,
    /// Megabytes an audit log grows to
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES")]
    pub audit_log_maxsize: u64,
    /// Compress old audit logs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub audit_log_compress: bool,
    /// When requests wait for the audit log: batch, blocking, blocking-strict
    #[arg(long, default_value = "blocking", value_name = "MODE", value_parser = mode)]
    pub audit_log_mode: Mode,
    /// Events that may wait for the audit log in batch mode
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    pub audit_log_batch_buffer_size: usize,
    /// kubeconfig of a service audit events are sent to
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Events that may wait for the audit webhook
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    pub audit_webhook_batch_buffer_size: usize,
    /// Most events sent to the audit webhook at once
    #[arg(long, default_value_t = 400, value_name = "COUNT")]
    pub audit_webhook_batch_max_size: usize,
    /// Longest wait before events are sent to the audit webhook
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = super::duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether batches to the audit webhook are throttled
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 10.0, value_name = "RATE")]
    pub audit_webhook_batch_throttle_qps: f64,
    /// Batches at once
    #[arg(long, default_value_t = 15, value_name = "COUNT")]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Wait before the second try of a batch
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = super::duration)]
    pub audit_webhook_initial_backoff: Duration,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "batch" => Ok(Mode::Batch),
        "blocking" => Ok(Mode::Blocking),
        "blocking-strict" => Ok(Mode::BlockingStrict),
        _ => Err("batch, blocking or blocking-strict is needed".to_owned()),
    }
}

/// What the flags ask for; nothing without a policy and somewhere to write to.
pub(crate) async fn auditor(
    flags: &AuditFlags,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Arc<Auditor>>> {
    let Some(path) = &flags.audit_policy_file else {
        if flags.audit_log_path.is_some() || flags.audit_webhook_config_file.is_some() {
            tracing::warn!("no audit policy file is given: nothing is audited");
        }
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy = Policy::parse(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    if let Some(path) = &flags.audit_log_path {
        let options = LogOptions {
            path: path.clone(),
            mode: flags.audit_log_mode,
            max_age: flags.audit_log_maxage,
            max_backups: flags.audit_log_maxbackup,
            max_size: flags.audit_log_maxsize,
            compress: flags.audit_log_compress,
            buffer: flags.audit_log_batch_buffer_size,
        };
        let log = Log::open(options, Arc::clone(clock))
            .with_context(|| format!("cannot open {}", path.display()))?;
        backends.push(Arc::new(log));
    }
    if let Some(path) = &flags.audit_webhook_config_file {
        let remote = Remote::from_kubeconfig(path, Duration::from_secs(30)).await?;
        let throttle = (
            flags.audit_webhook_batch_throttle_qps,
            flags.audit_webhook_batch_throttle_burst,
        );
        let options = BatchOptions {
            buffer: flags.audit_webhook_batch_buffer_size,
            max_size: flags.audit_webhook_batch_max_size,
            max_wait: flags.audit_webhook_batch_max_wait,
            throttle: flags.audit_webhook_batch_throttle_enable.then_some(throttle),
            initial_backoff: flags.audit_webhook_initial_backoff,
        };
        backends.push(Arc::new(Webhook::start(remote, options)));
    }
    if backends.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Auditor::new(policy, backends, Arc::clone(clock)))))
}
