//! The root CA publisher: every namespace has the config map `kube-root-ca.crt`, from which pods know whom to trust.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Informer, ObjectKey, Outcome, Selection};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use std::sync::Arc;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

/// Starts the controller; without a CA there is nothing to publish.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let Some(ca) = context.options.root_ca.clone() else {
        return;
    };
    let namespaces = context.informer::<Namespace>();
    let only = Selection::all().with_fields(&format!("metadata.name={NAME}"));
    let maps = context.options.informers.select::<ConfigMap>(only);
    let queue = context.queue::<ObjectKey>("root_ca_cert_publisher");
    let adds = queue.clone();
    namespaces.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let adds = queue.clone();
    maps.subscribe(move |event| {
        let namespace = event.object().metadata.namespace.as_deref().unwrap_or("");
        adds.add(ObjectKey::cluster(namespace));
    });
    let (n, m) = (namespaces.clone(), maps.clone());
    let synced = async move {
        n.synced().await;
        m.synced().await;
    };
    let shell = context.clone();
    let ca: Arc<str> = ca.into();
    context
        .work(&queue, 5, synced, move |key| {
            let (context, namespaces, maps) = (shell.clone(), namespaces.clone(), maps.clone());
            let ca = Arc::clone(&ca);
            async move { reconcile(&context, &namespaces, &maps, &ca, &key).await }
        })
        .await;
}

async fn reconcile(
    context: &Context,
    namespaces: &Informer<Namespace>,
    maps: &Informer<ConfigMap>,
    ca: &str,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let namespace = namespaces.find("", &key.name);
    if namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_some()) {
        return Ok(Outcome::Done);
    }
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &key.name);
    let data = [(KEY.to_owned(), ca.to_owned())].into();
    let annotation = (DESCRIPTION.to_owned(), TEXT.to_owned());
    let written = match maps.find(&key.name, NAME) {
        Some(map) => {
            let described = map
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|a| a.contains_key(DESCRIPTION));
            if map.data.as_ref() == Some(&data) && described {
                return Ok(Outcome::Done);
            }
            let mut map = (*map).clone();
            map.data = Some(data);
            map.metadata
                .annotations
                .get_or_insert_default()
                .extend([annotation]);
            api.replace(NAME, &PostParams::default(), &map).await
        }
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    annotations: Some([annotation].into()),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..ConfigMap::default()
            };
            api.create(&PostParams::default(), &map).await
        }
    };
    match written {
        Ok(_) => Ok(Outcome::Done),
        Err(error)
            if error.is_already_exists() || error.is_namespace_terminating() || error.is_not_found() =>
        {
            Ok(Outcome::Done)
        }
        Err(error) => Err(error),
    }
}
