//! `ServiceAccount`: every pod runs as a service account that exists, with its token mounted unless pod or account say
//! no, and with the account's image pull secrets.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::{Map, Value, meta};
use std::sync::{Arc, OnceLock};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// An hour, and the seven seconds by which upstream tells its own tokens from others.
const TOKEN_SECONDS: i64 = 3607;

#[derive(Default)]
pub(super) struct ServiceAccount {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("", "pods")
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(pod), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        let target = &attributes.target;
        let forbidden = |why: String| ApiError::forbidden(&GroupResource::new("", "pods"), target.name, why);
        if meta::annotation(pod, MIRROR_ANNOTATION).is_some() {
            return mirror_pod(pod).map_err(|why| forbidden(why.to_owned()));
        }
        let name = match pod.get_str_path(&["spec", "serviceAccountName"]) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => {
                pod.set_path(&["spec", "serviceAccountName"], "default");
                "default".to_owned()
            }
        };
        let Some(account) = objects
            .get("", "serviceaccounts", target.namespace, &name)
            .await?
        else {
            return Err(forbidden(format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                target.namespace
            )));
        };
        if wants_token(pod, &account) {
            mount_token(pod);
        }
        if pod
            .get_path(&["spec", "imagePullSecrets"])
            .is_none_or(Value::is_empty)
            && let Some(secrets) = account
                .get("imagePullSecrets")
                .filter(|secrets| !secrets.is_empty())
        {
            pod.set_path(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        match object {
            Some(pod)
                if meta::annotation(pod, MIRROR_ANNOTATION).is_none()
                    && pod
                        .get_str_path(&["spec", "serviceAccountName"])
                        .is_none_or(str::is_empty) =>
            {
                Err(ApiError::forbidden(
                    &GroupResource::new("", "pods"),
                    attributes.target.name,
                    format!(
                        "no service account specified for pod {}/{}",
                        attributes.target.namespace,
                        meta::name(pod)
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

/// A static pod's mirror cannot use what only the API hands out.
fn mirror_pod(pod: &Value) -> Result<(), &'static str> {
    if pod
        .get_str_path(&["spec", "serviceAccountName"])
        .is_some_and(|name| !name.is_empty())
    {
        return Err("a mirror pod may not reference service accounts");
    }
    let token = |volume: &Value| {
        let sources = volume
            .get_path(&["projected", "sources"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        sources
            .iter()
            .any(|source| source.get("serviceAccountToken").is_some())
    };
    if list(pod, "volumes").iter().any(token) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod.get_path(&["spec", field])
        .and_then(Value::as_array)
        .unwrap_or_default()
}

/// The pod's word counts before the account's; silence is yes.
fn wants_token(pod: &Value, account: &Value) -> bool {
    pod.get_path(&["spec", "automountServiceAccountToken"])
        .or_else(|| account.get("automountServiceAccountToken"))
        .and_then(Value::as_bool)
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let volume = list(pod, "volumes")
        .iter()
        .filter_map(|volume| volume.get("name")?.as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map_or_else(
            || format!("{VOLUME_PREFIX}{}", machinery::chance::suffix()),
            str::to_owned,
        );
    let mount: Map = [
        ("mountPath", Value::from(MOUNT_PATH)),
        ("name", Value::from(volume.as_str())),
        ("readOnly", Value::from(true)),
    ]
    .into_iter()
    .collect();
    let mut used = false;
    for field in ["initContainers", "containers"] {
        let containers = pod.get_path_mut(&["spec", field]).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container.make_object().entry_or_null("volumeMounts");
            if !matches!(mounts, Value::Array(_)) {
                *mounts = Value::Array(Vec::new());
            }
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            let at = |mount: &Value| mount.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH);
            if !mounts.iter().any(at) {
                mounts.push(Value::Object(mount.clone()));
                used = true;
            }
        }
    }
    let there = |v: &Value| v.get("name").and_then(Value::as_str) == Some(volume.as_str());
    if used && !list(pod, "volumes").iter().any(there) {
        let volumes = pod.make_object().object_entry("spec").entry_or_null("volumes");
        if !matches!(volumes, Value::Array(_)) {
            *volumes = Value::Array(Vec::new());
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&volume));
        }
    }
}

/// The token, the cluster's certificate authority and the namespace, in one projected volume.
fn token_volume(name: &str) -> Value {
    fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
        Value::Object(fields.into_iter().collect())
    }
    let token = map([(
        "serviceAccountToken",
        map([
            ("expirationSeconds", TOKEN_SECONDS.into()),
            ("path", "token".into()),
        ]),
    )]);
    let authority = map([(
        "configMap",
        map([
            (
                "items",
                Value::Array(vec![map([("key", "ca.crt".into()), ("path", "ca.crt".into())])]),
            ),
            ("name", "kube-root-ca.crt".into()),
        ]),
    )]);
    let field = map([
        ("apiVersion", "v1".into()),
        ("fieldPath", "metadata.namespace".into()),
    ]);
    let namespace = map([(
        "downwardAPI",
        map([(
            "items",
            Value::Array(vec![map([("fieldRef", field), ("path", "namespace".into())])]),
        )]),
    )]);
    map([
        ("name", name.into()),
        (
            "projected",
            map([
                ("defaultMode", 0o644.into()),
                ("sources", Value::Array(vec![token, authority, namespace])),
            ]),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    fn admitted(account: &str, pod: &str) -> Result<Value, String> {
        let mut pod = object(pod);
        let stored = vec![("serviceaccounts", object(account))];
        create(&ServiceAccount::default(), stored, ("", "pods", "ns"), &mut pod).map_err(|e| e.message)?;
        Ok(pod)
    }

    const ACCOUNT: &str =
        r#"{"metadata":{"name":"default","namespace":"ns"},"imagePullSecrets":[{"name":"s"}]}"#;

    #[test]
    fn a_pod_gets_account_token_and_pull_secrets() {
        let pod = admitted(ACCOUNT, r#"{"spec":{"containers":[{"name":"c"}]}}"#).unwrap();
        assert_eq!(pod.get_str_path(&["spec", "serviceAccountName"]), Some("default"));
        assert!(pod.get_path(&["spec", "imagePullSecrets"]).is_some());
        let volume = list(&pod, "volumes")[0].get("name").unwrap().clone();
        let mount = &list(&pod, "containers")[0]
            .get("volumeMounts")
            .unwrap()
            .as_array()
            .unwrap()[0];
        assert_eq!(mount.get("name"), Some(&volume));
    }

    #[test]
    fn a_pod_or_account_may_do_without_a_token() {
        let pod = admitted(
            ACCOUNT,
            r#"{"spec":{"automountServiceAccountToken":false,"containers":[{"name":"c"}]}}"#,
        )
        .unwrap();
        assert!(list(&pod, "volumes").is_empty());
        let account =
            r#"{"metadata":{"name":"default","namespace":"ns"},"automountServiceAccountToken":false}"#;
        assert!(
            list(
                &admitted(account, r#"{"spec":{"containers":[{}]}}"#).unwrap(),
                "volumes"
            )
            .is_empty()
        );
    }

    #[test]
    fn an_unknown_account_is_refused() {
        let message = admitted(
            ACCOUNT,
            r#"{"metadata":{"name":"p"},"spec":{"serviceAccountName":"x"}}"#,
        )
        .unwrap_err();
        assert_eq!(
            message,
            r#"pods "p" is forbidden: error looking up service account ns/x: serviceaccount "x" not found"#
        );
    }
}
