//! `/healthz`, `/livez`, `/readyz`: all checks, some, or one by its name, as upstream words them.
//!
//! **Invariant:** a check is named after upstream's only if what upstream's asks is asked here.

use crate::handlers::Exchange;
use crate::server::Core;
use crate::{filters, respond};
use http::{Response, StatusCode};
use machinery::field::quote;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wire::body::Body;

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// That there is an answer at all.
    Answering,
    Store,
    /// That what every cluster has is made, and what the engine reads is read.
    Started,
    NotStopping,
    /// The plugins that keep keys; there is no such check without any.
    Kms,
}

/// The checks by name, and whether only readiness asks.
const CHECKS: [(&str, Check, bool); 27] = [
    ("ping", Check::Answering, false),
    ("log", Check::Answering, false),
    ("etcd", Check::Store, false),
    ("etcd-readiness", Check::Store, true),
    ("informer-sync", Check::Started, true),
    (
        "poststarthook/start-apiserver-admission-initializer",
        Check::Started,
        false,
    ),
    (
        "poststarthook/generic-apiserver-start-informers",
        Check::Started,
        false,
    ),
    (
        "poststarthook/priority-and-fairness-config-consumer",
        Check::Started,
        false,
    ),
    (
        "poststarthook/priority-and-fairness-filter",
        Check::Started,
        false,
    ),
    (
        "poststarthook/start-apiextensions-informers",
        Check::Started,
        false,
    ),
    (
        "poststarthook/start-apiextensions-controllers",
        Check::Started,
        false,
    ),
    ("poststarthook/crd-informer-synced", Check::Started, false),
    (
        "poststarthook/start-system-namespaces-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/start-service-ip-repair-controllers",
        Check::Started,
        false,
    ),
    ("poststarthook/rbac/bootstrap-roles", Check::Started, false),
    (
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        Check::Started,
        false,
    ),
    (
        "poststarthook/priority-and-fairness-config-producer",
        Check::Started,
        false,
    ),
    ("poststarthook/bootstrap-controller", Check::Started, false),
    (
        "poststarthook/start-kubernetes-service-cidr-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/apiservice-status-local-available-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/apiservice-status-remote-available-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/apiservice-registration-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/apiservice-discovery-controller",
        Check::Started,
        false,
    ),
    (
        "poststarthook/kube-apiserver-autoregistration",
        Check::Started,
        false,
    ),
    ("autoregister-completion", Check::Started, false),
    ("kms-providers", Check::Kms, false),
    ("shutdown", Check::NotStopping, true),
];

/// Answers `/<which>` or `/<which>/<check>`.
pub(crate) async fn answer(exchange: &Exchange, which: &str, one: &[&str]) -> Response<Body> {
    let core = &exchange.core;
    let encryption = core.registry.encryption.as_ref();
    let kms = encryption.is_some_and(|encryption| encryption.uses_kms());
    let checks = CHECKS
        .iter()
        .filter(|(_, check, only_ready)| (!only_ready || which == "readyz") && (*check != Check::Kms || kms));
    if !one.is_empty() {
        let wanted = one.join("/");
        return match checks.into_iter().find(|(name, _, _)| *name == wanted) {
            None => filters::unknown_path(),
            Some((_, check, _)) => match run(core, *check).await {
                Ok(()) => respond::text(StatusCode::OK, "ok"),
                Err(why) => respond::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {why}\n"),
                ),
            },
        };
    }
    let mut excluded: Vec<&str> = exchange.query.all("exclude").collect();
    excluded.sort_unstable();
    excluded.dedup();
    let (mut out, mut good) = (String::new(), true);
    for (name, check, _) in checks {
        if let Some(at) = excluded.iter().position(|e| e == name) {
            excluded.remove(at);
            out.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match run(core, *check).await {
            Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::warn!(check = name, why, "a health check failed");
                good = false;
                out.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !excluded.is_empty() {
        let unknown: Vec<String> = excluded.iter().map(|name| quote(name)).collect();
        out.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(",")
        ));
    }
    if !good {
        out.push_str(&format!("{which} check failed\n"));
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, out);
    }
    if exchange.query.raw("verbose").is_none() {
        return respond::text(StatusCode::OK, "ok");
    }
    out.push_str(&format!("{which} check passed\n"));
    respond::text(StatusCode::OK, out)
}

async fn run(core: &Core, check: Check) -> Result<(), &'static str> {
    let ask = |good: bool, why: &'static str| if good { Ok(()) } else { Err(why) };
    match check {
        Check::Answering => Ok(()),
        Check::Started => ask(core.ready.load(Ordering::Acquire), "not finished"),
        Check::NotStopping => ask(!core.shutdown.is_cancelled(), "process is shutting down"),
        Check::Kms => {
            let encryption = core.registry.encryption.as_ref();
            let failed = encryption.and_then(|encryption| encryption.health().err());
            if let Some(why) = &failed {
                tracing::warn!(why, "KMS plugins");
            }
            ask(failed.is_none(), "a KMS plugin is not well")
        }
        Check::Store => match tokio::time::timeout(PATIENCE, core.registry.store.status()).await {
            Ok(status) => ask(status.is_ok(), "etcd failed"),
            Err(_) => Err("etcd failed: context deadline exceeded"),
        },
    }
}
