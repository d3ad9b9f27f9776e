//! `NodeRestriction`: a node writes only about itself and the pods bound to it.
//!
//! The Node authorizer knows verbs and names; this looks into the objects. Nodes make mirror pods of themselves, write
//! the status of their own pods, keep off labels others rely on, and ask for tokens only of pods that run on them.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::node::node_name;
use crate::authorization::{self, Authorizer, Decision};
use crate::pod_references::References;
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::{Map, Value, meta};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

const LEASES: &str = "kube-node-lease";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels of Kubernetes' own that a kubelet sets.
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const KUBELET_LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

#[derive(Default)]
pub(super) struct NodeRestriction {
    objects: OnceLock<Arc<dyn Objects>>,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
}

/// Why a node may not: in words that become a refusal, or an error as it is.
enum No {
    Forbidden(String),
    Error(Box<ApiError>),
}

impl From<ApiError> for No {
    fn from(error: ApiError) -> Self {
        Self::Error(Box::new(error))
    }
}

fn no<T>(why: impl Into<String>) -> Result<T, No> {
    Err(No::Forbidden(why.into()))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation != Operation::Connect
            && matches!(
                (target.group, target.resource),
                (
                    "",
                    "pods" | "nodes" | "persistentvolumeclaims" | "serviceaccounts"
                ) | ("coordination.k8s.io", "leases")
                    | ("storage.k8s.io", "csinodes")
                    | ("resource.k8s.io", "resourceslices")
                    | (
                        "certificates.k8s.io",
                        "certificatesigningrequests" | "podcertificaterequests"
                    )
            )
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        if !attributes.user.in_group("system:nodes") {
            return Ok(());
        }
        let object = object.as_deref();
        let Some(node) = node_name(attributes.user) else {
            if attributes.user.name.starts_with("system:node:") {
                let why = format!("could not determine node from user {:?}", attributes.user.name);
                return Err(attributes.forbidden(object, why));
            }
            return Ok(());
        };
        match self.judge(node, attributes, object).await {
            Ok(()) => Ok(()),
            Err(No::Forbidden(why)) => Err(attributes.forbidden(object, why)),
            Err(No::Error(error)) => Err(*error),
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.authorizer.get_or_init(|| authorizer);
    }
}

impl NodeRestriction {
    async fn judge(&self, node: &str, a: &Attributes<'_>, object: Option<&Value>) -> Result<(), No> {
        let name = if a.target.name.is_empty() {
            object.map_or("", meta::name)
        } else {
            a.target.name
        };
        match (a.target.resource, a.target.subresource, a.operation) {
            ("pods", "", Operation::Create) => self.mirror_pod(node, object).await,
            ("pods", "", Operation::Delete) => match a.old {
                Some(pod) if pod_node(pod) == node => Ok(()),
                _ => no(format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                )),
            },
            ("pods", "", operation) => no(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.as_str()
            )),
            ("pods", "status", Operation::Update) => pod_status(node, a, object),
            ("pods", "eviction", Operation::Create) => {
                let pod = self.pod(a.target.namespace, name).await?;
                if pod_node(&pod) == node {
                    return Ok(());
                }
                no(format!(
                    "node {node} can only evict pods with spec.nodeName set to itself"
                ))
            }
            ("pods", "status" | "eviction", operation) => {
                no(format!("unexpected operation {:?}", operation.as_str()))
            }
            ("pods", other, _) => no(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("nodes", ..) => own_node(node, name, a, object),
            ("persistentvolumeclaims", "status", Operation::Update) => claim_status(node, a, object),
            ("persistentvolumeclaims", "status", operation) => {
                no(format!("unexpected operation {:?}", operation.as_str()))
            }
            ("persistentvolumeclaims", ..) => no("may only update PVC status"),
            ("serviceaccounts", "token", Operation::Create) => self.token(node, a, object).await,
            ("leases", ..) if a.target.namespace != LEASES => no(format!(
                "can only access leases in the {LEASES:?} system namespace"
            )),
            ("leases", ..) if name != node => {
                no("can only access node lease with the same name as the requesting node")
            }
            ("csinodes", ..) if name != node => {
                no("can only access CSINode with the same name as the requesting node")
            }
            ("resourceslices", _, Operation::Create) if object.is_none_or(|of| pod_node(of) != node) => {
                no("can only create ResourceSlice with the same NodeName as the requesting node")
            }
            ("resourceslices", _, Operation::Delete) if a.old.is_none_or(|of| pod_node(of) != node) => {
                no("can only delete ResourceSlice with the same NodeName as the requesting node")
            }
            ("certificatesigningrequests", _, Operation::Create) => signing_request(node, object),
            ("podcertificaterequests", ..) => no("PodCertificateRequest feature gate is disabled"),
            _ => Ok(()),
        }
    }

    fn objects(&self) -> Result<&dyn Objects, No> {
        match self.objects.get() {
            Some(objects) => Ok(&**objects),
            None => no("not yet ready to handle request"),
        }
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Value>, No> {
        let found = self.objects()?.get("", "pods", namespace, name).await?;
        Ok(found.ok_or_else(|| ApiError::not_found(&GroupResource::new("", "pods"), name))?)
    }

    async fn mirror_pod(&self, node: &str, object: Option<&Value>) -> Result<(), No> {
        let Some(pod) = object else { return Ok(()) };
        if meta::annotation(pod, MIRROR).is_none() {
            return no(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if pod_node(pod) != node {
            return no(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        let owner = match meta::owner_references(pod) {
            [owner] => owner,
            [] => {
                return no(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return no(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let flag = |field: &str| owner.get(field).and_then(Value::as_bool).unwrap_or(false);
        if text("apiVersion") != "v1" || text("kind") != "Node" || text("name") != node {
            return no(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        if !flag("controller") {
            return no(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if flag("blockOwnerDeletion") {
            return no(format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            ));
        }
        let found = self.objects()?.get("", "nodes", "", node).await?;
        let found = found.ok_or_else(|| ApiError::not_found(&GroupResource::new("", "nodes"), node))?;
        if meta::uid(&found) != text("uid") {
            return no(format!(
                "node {node} UID mismatch: expected {} got {}",
                text("uid"),
                meta::uid(&found)
            ));
        }
        match api_reference(pod) {
            Some(what) => no(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    async fn token(&self, node: &str, a: &Attributes<'_>, object: Option<&Value>) -> Result<(), No> {
        let text = |field: &str| {
            object
                .and_then(|request| request.get_str_path(&["spec", "boundObjectRef", field]))
                .unwrap_or_default()
        };
        if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
            return no("node requested token not bound to a pod");
        }
        if text("uid").is_empty() {
            return no("node requested token with a pod binding without a uid");
        }
        let pod = self.pod(a.target.namespace, text("name")).await?;
        if meta::uid(&pod) != text("uid") {
            return no(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have \
                 been deleted and then recreated",
                text("uid")
            ));
        }
        if pod_node(&pod) != node {
            return no("node requested token bound to a pod scheduled on a different node");
        }
        let audiences = object
            .and_then(|request| request.get_path(&["spec", "audiences"]))
            .and_then(Value::as_array)
            .unwrap_or_default();
        let audience = match audiences {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return no("node may only request 0 or 1 audiences"),
        };
        if self.names_audience(&pod, audience).await? {
            return Ok(());
        }
        let user = &a.user.name;
        let asked = authorization::Attributes {
            namespace: a.target.namespace,
            version: "v1",
            name: a.target.name,
            ..authorization::Attributes::resource(
                a.user,
                "request-serviceaccounts-token-audience",
                "",
                audience,
            )
        };
        if let Some(authorizer) = self.authorizer.get()
            && authorizer.authorize(&asked).await == Decision::Allow
        {
            return Ok(());
        }
        no(format!(
            "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this \
             audience"
        ))
    }

    /// Whether a volume of the pod, or the driver of one, has tokens for this audience.
    async fn names_audience(&self, pod: &Value, audience: &str) -> Result<bool, No> {
        let objects = self.objects()?;
        let mut drivers = BTreeSet::new();
        for volume in list(pod, &["spec", "volumes"]) {
            let projected = list(volume, &["projected", "sources"]).iter().any(|source| {
                source.get("serviceAccountToken").is_some_and(|token| {
                    !token.is_null()
                        && token.get("audience").and_then(Value::as_str).unwrap_or_default() == audience
                })
            });
            if projected {
                return Ok(true);
            }
            drivers.extend(volume.get_str_path(&["csi", "driver"]).map(str::to_owned));
        }
        for claim in References::of(pod).claims {
            let claim = objects
                .get("", "persistentvolumeclaims", meta::namespace(pod), &claim)
                .await?;
            let name = claim.and_then(|claim| claim.get_str_path(&["spec", "volumeName"]).map(str::to_owned));
            if let Some(name) = name
                && let Some(volume) = objects.get("", "persistentvolumes", "", &name).await?
            {
                drivers.extend(volume.get_str_path(&["spec", "csi", "driver"]).map(str::to_owned));
            }
        }
        for driver in drivers {
            if let Some(driver) = objects.get("storage.k8s.io", "csidrivers", "", &driver).await?
                && list(&driver, &["spec", "tokenRequests"])
                    .iter()
                    .any(|request| request.get("audience").and_then(Value::as_str) == Some(audience))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn list<'a>(of: &'a Value, path: &[&str]) -> &'a [Value] {
    of.get_path(path).and_then(Value::as_array).unwrap_or_default()
}

fn pod_node(of: &Value) -> &str {
    of.get_str_path(&["spec", "nodeName"]).unwrap_or_default()
}

fn pod_status(node: &str, a: &Attributes<'_>, object: Option<&Value>) -> Result<(), No> {
    let (Some(new), Some(old)) = (object, a.old) else {
        return Ok(());
    };
    if pod_node(old) != node {
        return no(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |of: &Value| meta::labels(of).filter(|labels| !labels.is_empty()).cloned();
    if labels(new) != labels(old) {
        return no(format!("node {node:?} cannot update labels through pod status"));
    }
    let field = |of: &Value, name: &str| {
        of.get_path(&["status", name])
            .filter(|value| !value.is_empty())
            .cloned()
    };
    if field(new, "resourceClaimStatuses") != field(old, "resourceClaimStatuses") {
        return no(format!("node {node:?} cannot update resource claim statues"));
    }
    if field(new, "extendedResourceClaimStatus") != field(old, "extendedResourceClaimStatus") {
        return no(format!(
            "node {node:?} cannot update extended resource claim status"
        ));
    }
    Ok(())
}

fn claim_status(node: &str, a: &Attributes<'_>, object: Option<&Value>) -> Result<(), No> {
    let (Some(new), Some(old)) = (object, a.old) else {
        return Ok(());
    };
    let bare = |of: &Value| {
        let mut of = of.clone();
        for field in ["resourceVersion", "managedFields"] {
            of.remove_path(&["metadata", field]);
        }
        for field in [
            "capacity",
            "conditions",
            "allocatedResourceStatuses",
            "allocatedResources",
        ] {
            of.remove_path(&["status", field]);
        }
        of
    };
    if bare(new).semantic_eq(&bare(old)) {
        return Ok(());
    }
    no(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn own_node(node: &str, name: &str, a: &Attributes<'_>, object: Option<&Value>) -> Result<(), No> {
    if name != node {
        return no(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = object else { return Ok(()) };
    let source = |of: &Value| {
        of.get_path(&["spec", "configSource"])
            .filter(|source| !source.is_null())
            .cloned()
    };
    if a.operation == Operation::Create {
        if source(new).is_some() {
            return no(format!(
                "node {node:?} is not allowed to create pods with a non-nil configSource"
            ));
        }
        let wrong = forbidden_labels(meta::labels(new), None);
        if !wrong.is_empty() {
            return no(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                wrong.join(", ")
            ));
        }
    }
    let Some(old) = a.old.filter(|_| a.operation == Operation::Update) else {
        return Ok(());
    };
    if source(new).is_some() && source(new) != source(old) {
        return no(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    if list(new, &["spec", "taints"]) != list(old, &["spec", "taints"]) {
        return no(format!("node {node:?} is not allowed to modify taints"));
    }
    if meta::owner_references(new) != meta::owner_references(old) {
        return no(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let wrong = forbidden_labels(meta::labels(new), meta::labels(old));
    if wrong.is_empty() {
        Ok(())
    } else {
        no(format!("is not allowed to modify labels: {}", wrong.join(", ")))
    }
}

/// Labels that are changed and are not a node's to change.
fn forbidden_labels(new: Option<&Map>, old: Option<&Map>) -> Vec<String> {
    let keys: BTreeSet<&str> = new
        .into_iter()
        .chain(old)
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    keys.into_iter()
        .filter(|key| new.and_then(|map| map.get(key)) != old.and_then(|map| map.get(key)))
        .filter(|key| {
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            let within = |parent: &str| {
                namespace
                    .strip_suffix(parent)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            within("node-restriction.kubernetes.io")
                || ((within("kubernetes.io") || within("k8s.io"))
                    && !KUBELET_LABELS.contains(key)
                    && !KUBELET_LABEL_NAMESPACES.iter().any(|parent| within(parent)))
        })
        .map(str::to_owned)
        .collect()
}

/// What of the API a pod refers to; a static pod must do without.
fn api_reference(pod: &Value) -> Option<&'static str> {
    let references = References::of(pod);
    if !references.service_account.is_empty() {
        return Some("serviceaccounts");
    }
    for volume in list(pod, &["spec", "volumes"]) {
        let has = |source: &str| volume.get(source).is_some_and(|source| !source.is_null());
        let by_volume = [
            ("configMap", "configmaps (via configmap volumes)"),
            ("secret", "secrets (via secret volumes)"),
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            ("azureFile", "secrets (via azureFile volumes)"),
        ];
        if let Some((_, what)) = by_volume.iter().find(|(source, _)| has(source)) {
            return Some(what);
        }
        for source in list(volume, &["projected", "sources"]) {
            let by_source = [
                ("configMap", "configmaps (via projected volumes)"),
                ("secret", "secrets (via projected volumes)"),
                ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
                ("clusterTrustBundle", "clustertrustbundles"),
                ("podCertificate", "podcertificates"),
            ];
            let found = by_source
                .iter()
                .find(|(field, _)| source.get(field).is_some_and(|value| !value.is_null()));
            if let Some((_, what)) = found {
                return Some(what);
            }
        }
    }
    if !references.secrets.is_empty() {
        return Some("secrets");
    }
    if !references.config_maps.is_empty() {
        return Some("configmaps");
    }
    (!list(pod, &["spec", "resourceClaims"]).is_empty()).then_some("resourceclaims")
}

fn signing_request(node: &str, object: Option<&Value>) -> Result<(), No> {
    let text = |field: &str| {
        object
            .and_then(|request| request.get_str_path(&["spec", field]))
            .unwrap_or_default()
    };
    if !matches!(
        text("signerName"),
        "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet"
    ) {
        return Ok(());
    }
    match super::signers::parse_request(text("request")) {
        Err(why) => no(format!("unable to parse csr: {why}")),
        Ok(subject) if subject.common_name == format!("system:node:{node}") => Ok(()),
        Ok(_) => no(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, object};
    use super::*;
    use machinery::user::UserInfo;

    fn check(
        operation: Operation,
        target: (&str, &str, &str),
        subresource: &str,
        old: Option<&str>,
        new: &str,
    ) -> Result<(), String> {
        let stored = vec![
            (
                "pods",
                object(
                    r#"{"metadata":{"name":"p","namespace":"ns","uid":"u"},"spec":{"nodeName":"a",
                    "volumes":[{"projected":{"sources":[{"serviceAccountToken":{"audience":"vault"}}]}},
                               {"projected":{"sources":[{"serviceAccountToken":{}}]}}]}}"#,
                ),
            ),
            (
                "pods",
                object(r#"{"metadata":{"name":"q","namespace":"ns","uid":"v"},"spec":{"nodeName":"b"}}"#),
            ),
            ("nodes", object(r#"{"metadata":{"name":"a","uid":"n"}}"#)),
        ];
        let ask = Ask {
            operation,
            subresource,
            user: UserInfo::authenticated("system:node:a", &["system:nodes"]),
            old: old.map(object),
            ..Ask::create(target)
        };
        ask.of(&NodeRestriction::default(), stored, &mut object(new))
            .map_err(|error| error.message)
    }

    #[test]
    fn nodes_write_about_themselves() {
        use Operation::{Create, Delete, Update};
        let pods = ("", "pods", "ns");
        let own = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"a"}}"#;
        let other = r#"{"metadata":{"name":"q"},"spec":{"nodeName":"b"}}"#;
        assert_eq!(check(Delete, pods, "", Some(own), "{}"), Ok(()));
        assert!(check(Delete, pods, "", Some(other), "{}").is_err());
        assert_eq!(check(Update, pods, "status", Some(own), own), Ok(()));
        assert!(check(Update, pods, "status", Some(other), other).is_err());
        let labelled = r#"{"metadata":{"name":"p","labels":{"a":"b"}},"spec":{"nodeName":"a"}}"#;
        assert!(check(Update, pods, "status", Some(own), labelled).is_err());
        assert!(check(Update, pods, "", Some(own), own).is_err());
        assert_eq!(
            check(Create, pods, "eviction", None, r#"{"metadata":{"name":"p"}}"#),
            Ok(())
        );
        assert!(check(Create, pods, "eviction", None, r#"{"metadata":{"name":"q"}}"#).is_err());
        assert!(check(Create, pods, "binding", None, r#"{"metadata":{"name":"p"}}"#).is_err());
        assert!(
            check(Create, pods, "", None, own)
                .unwrap_err()
                .contains("mirror pods")
        );
        let mirror = |more: &str| {
            format!(
                r#"{{"metadata":{{"name":"m","annotations":{{"{MIRROR}":"x"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Node","name":"a","uid":"n","controller":true}}]}},"spec":{{"nodeName":"a"{more}}}}}"#
            )
        };
        assert_eq!(check(Create, pods, "", None, &mirror("")), Ok(()));
        let secret = mirror(r#","volumes":[{"name":"v","secret":{"secretName":"s"}}]"#);
        assert!(
            check(Create, pods, "", None, &secret)
                .unwrap_err()
                .ends_with("secrets (via secret volumes)")
        );
        let nodes = ("", "nodes", "");
        let node = |name: &str, labels: &str| {
            format!(r#"{{"metadata":{{"name":"{name}","labels":{labels}}},"spec":{{}}}}"#)
        };
        assert_eq!(check(Create, nodes, "", None, &node("a", "{}")), Ok(()));
        assert!(check(Create, nodes, "", None, &node("b", "{}")).is_err());
        for (label, allowed) in [
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/own", true),
            ("example.com/role", true),
            ("node-role.kubernetes.io/master", false),
            ("x.node-restriction.kubernetes.io/y", false),
            ("k8s.io/z", false),
        ] {
            let new = node("a", &format!(r#"{{"{label}":"x"}}"#));
            let said = check(Update, nodes, "", Some(&node("a", "{}")), &new);
            assert_eq!(said.is_ok(), allowed, "{label}");
        }
        let tainted = r#"{"metadata":{"name":"a"},"spec":{"taints":[{"key":"k"}]}}"#;
        assert!(check(Update, nodes, "", Some(&node("a", "{}")), tainted).is_err());
        let leases = ("coordination.k8s.io", "leases", LEASES);
        assert_eq!(
            check(Create, leases, "", None, r#"{"metadata":{"name":"a"}}"#),
            Ok(())
        );
        assert!(check(Create, leases, "", None, r#"{"metadata":{"name":"b"}}"#).is_err());
    }

    #[test]
    fn tokens_are_of_the_nodes_own_pods() {
        let request = |pod: &str, uid: &str, audiences: &str| {
            format!(
                r#"{{"metadata":{{"name":"sa"}},"spec":{{"audiences":{audiences},"boundObjectRef":{{"apiVersion":"v1","kind":"Pod","name":"{pod}","uid":"{uid}"}}}}}}"#
            )
        };
        let check = |text: &str| {
            check(
                Operation::Create,
                ("", "serviceaccounts", "ns"),
                "token",
                None,
                text,
            )
        };
        assert_eq!(check(&request("p", "u", "[]")), Ok(()));
        assert_eq!(check(&request("p", "u", r#"["vault"]"#)), Ok(()));
        assert!(
            check(&request("p", "u", r#"["other"]"#))
                .unwrap_err()
                .contains("not authorized")
        );
        assert!(check(&request("p", "w", "[]")).is_err());
        assert!(
            check(&request("q", "v", "[]"))
                .unwrap_err()
                .contains("different node")
        );
        assert!(
            check(r#"{"spec":{}}"#)
                .unwrap_err()
                .contains("not bound to a pod")
        );
    }
}
