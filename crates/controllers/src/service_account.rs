//! The ServiceAccount controller: every namespace has the account `default`.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};

const NAME: &str = "default";

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let namespaces = context.informer::<Namespace>();
    let accounts = context.informer::<ServiceAccount>();
    let queue = context.queue::<ObjectKey>("serviceaccount");
    let adds = queue.clone();
    namespaces.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let adds = queue.clone();
    accounts.subscribe(move |event| {
        if let Event::Deleted(account) = event {
            adds.add(ObjectKey::cluster(
                account.metadata.namespace.as_deref().unwrap_or(""),
            ));
        }
    });
    let (n, a) = (namespaces.clone(), accounts.clone());
    let synced = async move {
        n.synced().await;
        a.synced().await;
    };
    let shell = context.clone();
    context
        .work(&queue, 5, synced, move |key| {
            let (context, namespaces, accounts) = (shell.clone(), namespaces.clone(), accounts.clone());
            async move { reconcile(&context, &namespaces, &accounts, &key).await }
        })
        .await;
}

/// Whether things may still be made in a namespace.
pub(crate) fn is_living(namespaces: &Informer<Namespace>, name: &str) -> bool {
    namespaces.find("", name).is_some_and(|namespace| {
        let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
        namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
    })
}

async fn reconcile(
    context: &Context,
    namespaces: &Informer<Namespace>,
    accounts: &Informer<ServiceAccount>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    if !is_living(namespaces, &key.name) || accounts.find(&key.name, NAME).is_some() {
        return Ok(Outcome::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(key.name.to_string()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let api = Api::<ServiceAccount>::namespaced(context.client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        Ok(created) => accounts.written(created),
        Err(error)
            if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {}
        Err(error) => return Err(error),
    }
    Ok(Outcome::Done)
}
