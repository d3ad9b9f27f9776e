//! `PodSecurity`: pods keep the security standard their namespace's labels demand.
//!
//! Pods are refused by the enforced standard; pods and the templates of what makes pods are noted for the audit log and
//! warned of by the other two. When a namespace's enforced standard gets stricter, the client is warned of the pods
//! that violate it already.

mod checks;
mod policy;

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use checks::{Violation, violations};
use machinery::field::aggregate;
use machinery::status::ApiError;
use machinery::{Value, meta};
use policy::{Level, Policy, Standard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

const IGNORED: [&str; 8] = [
    "attach",
    "binding",
    "eviction",
    "exec",
    "log",
    "portforward",
    "proxy",
    "status",
];
/// Pods of a namespace looked at for warnings.
const MOST_PODS: usize = 3000;
const PREFIX: &str = "pod-security.kubernetes.io";

/// What makes pods, and where their template is.
const TEMPLATES: [(&str, &str, &[&str]); 8] = [
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
];

#[derive(Default)]
pub(super) struct PodSecurity {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        if target.group.is_empty() && target.resource == "pods" {
            return !IGNORED.contains(&target.subresource);
        }
        target.is("", "namespaces") || template(target).is_some()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let target = &attributes.target;
        let (Some(object), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        if target.resource == "namespaces" {
            return namespace(attributes, object, &**objects).await;
        }
        let Some(namespace) = objects.get("", "namespaces", "", target.namespace).await? else {
            return Ok(());
        };
        let (policy, errors) = Policy::of(meta::labels(&namespace));
        if errors.is_empty() && policy.is_open() {
            return Ok(());
        }
        if !errors.is_empty() {
            let why = format!("Failed to parse policy: {}", aggregate(&errors));
            attributes.notes.annotate(format!("{PREFIX}/error"), why);
        }
        match template(target) {
            None => {
                if attributes.old.is_some_and(|old| !is_significant(object, old)) {
                    return Ok(());
                }
                let spec = object.get("spec").cloned().unwrap_or_default();
                judge(
                    attributes,
                    object,
                    &policy,
                    &checks::metadata(object),
                    &spec,
                    true,
                )
            }
            Some(path) => {
                let Some(template) = object.get_path(path) else {
                    return Ok(());
                };
                let spec = template.get("spec").cloned().unwrap_or_default();
                judge(
                    attributes,
                    object,
                    &policy,
                    &checks::metadata(template),
                    &spec,
                    false,
                )
            }
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

fn template(target: &Target<'_>) -> Option<&'static [&'static str]> {
    TEMPLATES
        .iter()
        .find(|(group, resource, _)| target.is(group, resource))
        .map(|(.., path)| *path)
}

fn judge(
    attributes: &Attributes<'_>,
    object: &Value,
    policy: &Policy,
    metadata: &Value,
    spec: &Value,
    enforce: bool,
) -> Result<(), ApiError> {
    let details = |standard: Standard| {
        let found = violations(standard, metadata, spec);
        (!found.is_empty()).then(|| describe(&found))
    };
    let refused = if enforce { details(policy.enforce) } else { None };
    if enforce {
        attributes
            .notes
            .annotate(format!("{PREFIX}/enforce-policy"), policy.enforce.to_string());
    }
    if let Some(what) = details(policy.audit) {
        let text = format!("would violate PodSecurity \"{}\": {what}", policy.audit);
        attributes
            .notes
            .annotate(format!("{PREFIX}/audit-violations"), text);
    }
    if let Some(what) = refused {
        let why = format!("violates PodSecurity \"{}\": {what}", policy.enforce);
        return Err(attributes.forbidden(Some(object), why));
    }
    if let Some(what) = details(policy.warn) {
        attributes
            .notes
            .warn(format!("would violate PodSecurity \"{}\": {what}", policy.warn));
    }
    Ok(())
}

fn describe(found: &[Violation]) -> String {
    let parts: Vec<String> = found
        .iter()
        .map(|violation| format!("{} ({})", violation.reason, violation.detail))
        .collect();
    parts.join(", ")
}

/// Only images can be changed to something worse once a pod runs, and ephemeral containers added.
fn is_significant(new: &Value, old: &Value) -> bool {
    fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
        pod.get_path(&["spec", field])
            .and_then(Value::as_array)
            .unwrap_or_default()
    }
    let image = |container: &Value| container.get("image").cloned();
    let changed = ["containers", "initContainers"].iter().any(|field| {
        let (new, old) = (list(new, field), list(old, field));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| image(new) != image(old))
    });
    changed
        || list(new, "ephemeralContainers").iter().any(|container| {
            let before = list(old, "ephemeralContainers")
                .iter()
                .find(|other| other.get("name") == container.get("name"));
            before.is_none_or(|before| image(before) != image(container))
        })
}

async fn namespace(
    attributes: &Attributes<'_>,
    object: &Value,
    objects: &dyn Objects,
) -> Result<(), ApiError> {
    let (policy, errors) = Policy::of(meta::labels(object));
    let before = attributes.old.map(|old| Policy::of(meta::labels(old)));
    let known = before.as_ref().is_some_and(|(_, before)| *before == errors);
    if !errors.is_empty() && !known {
        let target = &attributes.target;
        return Err(ApiError::invalid(target.group, target.kind, target.name, errors));
    }
    let Some((before, _)) = before else { return Ok(()) };
    let (new, old) = (policy.enforce, before.enforce);
    let looser = new.version == old.version && new.level <= old.level;
    if new.level == Level::Privileged || looser {
        return Ok(());
    }
    let pods = objects.list("", "pods", meta::name(object)).await?;
    for warning in pod_warnings(meta::name(object), new, &pods) {
        attributes.notes.warn(warning);
    }
    Ok(())
}

/// What the pods of a namespace violate already: each violation once, with how many pods share it.
fn pod_warnings(namespace: &str, standard: Standard, pods: &[Arc<Value>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for pod in pods {
        // One pod of each controller speaks for the others; they come last.
        let controller = meta::owner_references(pod)
            .iter()
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
            .and_then(|owner| owner.get("uid")?.as_str());
        match controller {
            Some(uid) if !seen.insert(uid) => rest.push(pod),
            _ => first.push(pod),
        }
    }
    first.extend(rest);
    let checked = first.len().min(MOST_PODS);
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in &first[..checked] {
        let spec = pod.get("spec").cloned().unwrap_or_default();
        let wrong = violations(standard, &checks::metadata(pod), &spec);
        if !wrong.is_empty() {
            let reasons: Vec<&str> = wrong.iter().map(|violation| violation.reason.as_str()).collect();
            found.entry(reasons.join(", ")).or_default().push(meta::name(pod));
        }
    }
    let mut warnings = Vec::new();
    if checked < first.len() {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {} existing pods",
            first.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, mut names)| {
            names.sort_unstable();
            match names.len() {
                1 => format!("{}: {reasons}", names[0]),
                2 => format!("{} (and 1 other pod): {reasons}", names[0]),
                many => format!("{} (and {} other pods): {reasons}", names[0], many - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, create, object};
    use super::*;

    fn namespace(labels: &str) -> (&'static str, Value) {
        let text = format!(r#"{{"metadata":{{"name":"ns","labels":{labels}}}}}"#);
        ("namespaces", object(&text))
    }

    #[test]
    fn pods_are_refused_and_templates_are_not() {
        let pod = r#"{"metadata":{"name":"p"},"spec":{"hostPID":true,"containers":[{"name":"a"}]}}"#;
        let check = |labels: &str, target: (&str, &str, &str), text: &str| {
            create(
                &PodSecurity::default(),
                vec![namespace(labels)],
                target,
                &mut object(text),
            )
            .map_err(|error| error.message)
        };
        let enforced = r#"{"pod-security.kubernetes.io/enforce":"baseline"}"#;
        assert_eq!(check("{}", ("", "pods", "ns"), pod), Ok(()));
        assert_eq!(
            check(enforced, ("", "pods", "ns"), pod).unwrap_err(),
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#
        );
        let deployment = format!(r#"{{"spec":{{"template":{pod}}}}}"#);
        assert_eq!(
            check(enforced, ("apps", "deployments", "ns"), &deployment),
            Ok(())
        );
    }

    #[test]
    fn a_namespace_is_told_of_its_pods() {
        let pod = |name: &str, spec: &str| {
            Arc::new(object(&format!(
                r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#
            )))
        };
        let pods = [
            pod("b", r#"{"hostPID":true}"#),
            pod("a", r#"{"hostPID":true}"#),
            pod("c", r#"{"hostIPC":true,"volumes":[{"name":"v","hostPath":{}}]}"#),
            pod("d", "{}"),
        ];
        let baseline = Policy::of(object(r#"{"pod-security.kubernetes.io/enforce":"baseline"}"#).as_object());
        assert_eq!(
            pod_warnings("ns", baseline.0.enforce, &pods),
            [
                r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest""#,
                "a (and 1 other pod): host namespaces",
                "c: host namespaces, hostPath volumes",
            ]
        );
    }

    #[test]
    fn labels_must_be_readable_when_they_are_set() {
        let bad = r#"{"metadata":{"name":"ns","labels":{"pod-security.kubernetes.io/enforce":"x"}}}"#;
        let target = ("", "namespaces", "ns");
        let create = Ask::create(target).of(&PodSecurity::default(), Vec::new(), &mut object(bad));
        assert_eq!(create.unwrap_err().code, 422);
        let update = Ask::update(target, bad).of(&PodSecurity::default(), Vec::new(), &mut object(bad));
        assert!(update.is_ok());
    }
}
