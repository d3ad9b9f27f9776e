//! A definition that is being deleted: first its objects go, then its finalizer.

use super::follow::{gone, write_raw};
use crate::boot::{Always, Maker};
use crate::cache::{Filter, WatchStart};
use crate::registry::delete::DeleteOptions;
use crate::registry::update::Change;
use crate::registry::{Resource, store_error};
use crate::server::Core;
use jiff::Timestamp;
use machinery::status::{ApiError, Reason};
use machinery::{Value, meta};
use resources::apiextensions::custom_resource_definition::CLEANUP_FINALIZER;
use resources::apiextensions::custom_resource_definition::conditions::{Condition, set_condition};
use std::sync::Arc;
use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Until the definition is gone, or needs no cleaning any more.
pub(super) async fn run(core: &Arc<Core>, crds: &Arc<Resource>, name: &str, stored: Option<Arc<Resource>>) {
    let mut wait = FIRST_WAIT;
    loop {
        match attempt(core, crds, name, stored.as_ref()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %error.message, definition = name, "deleting the objects of a definition");
                let message = format!("could not issue all deletes: {}", error.message);
                let failed = Condition {
                    kind: "Terminating",
                    status: "True",
                    reason: "InstanceDeletionFailed",
                    message: &message,
                };
                if let Err(error) = say(core, crds, name, &failed).await {
                    tracing::warn!(error = %error.message, definition = name, "saying what failed");
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn attempt(
    core: &Arc<Core>,
    crds: &Arc<Resource>,
    name: &str,
    stored: Option<&Arc<Resource>>,
) -> Result<(), ApiError> {
    let begun = Condition {
        kind: "Terminating",
        status: "True",
        reason: "InstanceDeletionInProgress",
        message: "CustomResource deletion is in progress",
    };
    say(core, crds, name, &begun).await?;
    let done = match stored {
        Some(stored) => {
            delete_all(core, stored).await?;
            Condition {
                kind: "Terminating",
                status: "False",
                reason: "InstanceDeletionCompleted",
                message: "removed all instances",
            }
        }
        None => Condition {
            kind: "Terminating",
            status: "False",
            reason: "NeverEstablished",
            message: "resource was never established",
        },
    };
    let release = Release {
        condition: done,
        now: core.registry.clock.now(),
    };
    let maker = Maker::new(core);
    let options = Value::object();
    let write = maker.write(crds, "", name, &options);
    match core.registry.update(&write, &release, &Always).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Deletes every object, and waits until those with finalizers are gone too.
async fn delete_all(core: &Arc<Core>, stored: &Arc<Resource>) -> Result<(), ApiError> {
    let registry = &core.registry;
    let maker = Maker::new(core);
    let options = Value::object();
    let write = maker.write(stored, "", "", &options);
    loop {
        let everything = Filter::all("");
        let started = stored
            .watch(&registry.reflector, &everything, WatchStart::State)
            .await?;
        let mut receiver = started.receiver;
        registry
            .delete_collection(&write, &DeleteOptions::default(), &Filter::all(""))
            .await?;
        registry.reflector.fresh().await.map_err(store_error)?;
        while stored.cache.count().is_some_and(|count| count > 0) {
            if receiver.next().await.is_none() {
                break;
            }
        }
        if stored.cache.count() == Some(0) {
            return Ok(());
        }
    }
}

async fn say(
    core: &Core,
    crds: &Arc<Resource>,
    name: &str,
    condition: &Condition<'_>,
) -> Result<(), ApiError> {
    let say = Say {
        condition: *condition,
        now: core.registry.clock.now(),
    };
    write_raw(core, crds, name, &say).await
}

struct Say<'a> {
    condition: Condition<'a>,
    now: Timestamp,
}

impl Change for Say<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let mut crd = live.ok_or_else(gone)?.clone();
        set_condition(&mut crd, &self.condition, self.now);
        Ok(crd)
    }
}

/// Takes the finalizer away, with which the definition goes.
struct Release<'a> {
    condition: Condition<'a>,
    now: Timestamp,
}

impl Change for Release<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let mut crd = live.ok_or_else(gone)?.clone();
        set_condition(&mut crd, &self.condition, self.now);
        let kept: Vec<String> = meta::finalizers(&crd)
            .filter(|finalizer| *finalizer != CLEANUP_FINALIZER)
            .map(str::to_owned)
            .collect();
        meta::set_finalizers(&mut crd, kept.iter().map(String::as_str));
        Ok(crd)
    }
}
