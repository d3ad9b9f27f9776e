//! Metadata of any resource, learned at run time through discovery: for the garbage collector and the
//! namespace controller, which act on kinds nobody compiled in.

use super::reflector::get;
use crate::error::{Error, Result};
use crate::resource::Resource;
use compact_str::{CompactString, ToCompactString as _};
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::APIGroupDiscoveryList;
use serde::Deserialize;

/// A resource as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub resource: Resource,
    pub verbs: Vec<CompactString>,
    /// The version the server prefers for this group.
    pub preferred: bool,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What discovery found, and the groups whose server did not answer.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    pub resources: Vec<Served>,
    /// `group/version` of stale entries; what they serve is unknown, not absent.
    pub stale: Vec<String>,
}

/// An object of which only the metadata was asked for.
#[derive(Debug, Clone, Deserialize)]
pub struct PartialObject {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// A page of such objects.
#[derive(Debug, Clone, Deserialize)]
pub struct PartialList {
    #[serde(default)]
    pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    #[serde(default)]
    pub items: Vec<PartialObject>,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// All resources of all versions, by aggregated discovery; subresources are left out.
pub async fn discover(client: &kube::Client) -> Result<Discovered> {
    let mut found = Discovered::default();
    for root in ["/api", "/apis"] {
        let list: APIGroupDiscoveryList = decode(client, root, AGGREGATED).await?;
        for group in list.items {
            let name = group
                .metadata
                .as_ref()
                .and_then(|m| m.name.clone())
                .unwrap_or_default();
            for (position, version) in group.versions.iter().enumerate() {
                let number = version.version.clone().unwrap_or_default();
                if version.freshness.as_deref() == Some("Stale") {
                    found.stale.push(format!("{name}/{number}"));
                }
                for resource in &version.resources {
                    found.resources.push(Served {
                        resource: Resource {
                            group: name.to_compact_string(),
                            version: number.to_compact_string(),
                            plural: resource.resource.clone().unwrap_or_default().into(),
                            kind: resource
                                .response_kind
                                .as_ref()
                                .and_then(|k| k.kind.clone())
                                .unwrap_or_default()
                                .into(),
                            namespaced: resource.scope.as_deref() == Some("Namespaced"),
                        },
                        verbs: resource.verbs.iter().map(|v| v.to_compact_string()).collect(),
                        preferred: position == 0,
                    });
                }
            }
        }
    }
    Ok(found)
}

/// The metadata of the objects of a collection.
pub async fn list_metadata(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
) -> Result<PartialList> {
    decode(client, &resource.collection_path(namespace), METADATA_LIST).await
}

/// The metadata of one object, `None` when it does not exist.
pub async fn get_metadata(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<PartialObject>> {
    match decode(client, &resource.object_path(namespace, name), METADATA).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes every object of a collection, its dependents in the background.
pub async fn delete_collection(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
) -> Result<(), kube::Error> {
    let options =
        serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    write(
        client,
        http::Method::DELETE,
        &resource.collection_path(namespace),
        JSON,
        &options,
    )
    .await
}

/// Deletes one object with these `DeleteOptions`.
pub async fn delete(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    options: &serde_json::Value,
) -> Result<(), kube::Error> {
    write(
        client,
        http::Method::DELETE,
        &resource.object_path(namespace, name),
        JSON,
        options,
    )
    .await
}

/// A JSON merge patch of one object, whose kind nobody here knows.
pub async fn patch(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    patch: &serde_json::Value,
) -> Result<(), kube::Error> {
    const MERGE: &str = "application/merge-patch+json";
    write(
        client,
        http::Method::PATCH,
        &resource.object_path(namespace, name),
        MERGE,
        patch,
    )
    .await
}

const JSON: &str = "application/json";

async fn write(
    client: &kube::Client,
    method: http::Method,
    path: &str,
    content_type: &str,
    body: &serde_json::Value,
) -> Result<(), kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::ACCEPT, METADATA.to_owned() + ",application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

async fn decode<T: serde::de::DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    accept: &str,
) -> Result<T> {
    let body = get(client, path, accept).await?;
    let bytes = body
        .collect()
        .await
        .map_err(|e| Error::Read {
            path: path.to_owned(),
            source: Box::new(e),
        })?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|source| Error::Decode {
        path: path.to_owned(),
        source,
    })
}
