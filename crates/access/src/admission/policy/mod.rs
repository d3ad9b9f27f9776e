//! Admission policies: rules in CEL, bound to requests and parameters by bindings.
//!
//! A policy says what it looks at and what must hold (or is changed); a binding says for which requests and with which
//! parameters. Both are read and their expressions compiled once, when one of them changes.

pub(crate) mod inputs;
mod mutating;
mod validating;

pub(super) use mutating::MutatingAdmissionPolicy;
pub(super) use validating::ValidatingAdmissionPolicy;

use super::Attributes;
use super::matching::{Hit, Matcher, rules, selector};
use crate::Objects;
use crate::authorization::Authorizer;
use arc_swap::ArcSwapOption;
use expressions::Environment;
use expressions::admission::Declared;
use inputs::{Conditions, define};
use machinery::selector::LabelSelector;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

const GROUP: &str = "admissionregistration.k8s.io";

/// What every kind of policy has.
#[derive(Debug)]
struct Policy<B> {
    name: String,
    matcher: Result<Matcher, String>,
    conditions: Conditions,
    ignores_failure: bool,
    params: Option<ParamKind>,
    bindings: Vec<Binding>,
    /// What this kind of policy does.
    body: B,
}

/// What kind parameters are of.
#[derive(Debug)]
struct ParamKind {
    group: String,
    version: String,
    kind: String,
}

#[derive(Debug)]
struct Binding {
    name: String,
    matcher: Option<Result<Matcher, String>>,
    params: Option<ParamRef>,
    /// Of bindings of validating policies: `Deny`, `Warn`, `Audit`.
    actions: Vec<String>,
}

#[derive(Debug)]
struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Result<LabelSelector, String>>,
    /// No parameters: nothing to hold, instead of a refusal.
    allow_missing: bool,
}

/// Reads what a kind of policy does; the environments are with and without the authorizer.
type Read<B> = fn(&Value, &Environment, &Environment) -> B;

/// All policies of a kind, as of a version of them and their bindings.
struct Policies<B> {
    resource: &'static str,
    bindings: &'static str,
    read: Read<B>,
    objects: OnceLock<Arc<dyn Objects>>,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
    known: ArcSwapOption<([u64; 2], Vec<Policy<B>>)>,
}

type Known<B> = Arc<([u64; 2], Vec<Policy<B>>)>;

impl<B> Policies<B> {
    fn new(resource: &'static str, bindings: &'static str, read: Read<B>) -> Self {
        Self {
            resource,
            bindings,
            read,
            objects: OnceLock::new(),
            authorizer: OnceLock::new(),
            known: ArcSwapOption::empty(),
        }
    }

    async fn all(&self, objects: &dyn Objects) -> Result<Known<B>, ApiError> {
        let versions = [self.resource, self.bindings].map(|resource| objects.version(GROUP, resource));
        if let Some(known) = self.known.load_full().filter(|known| known.0 == versions) {
            return Ok(known);
        }
        let policies = objects.list(GROUP, self.resource, "").await?;
        let bindings = objects.list(GROUP, self.bindings, "").await?;
        let mut all: Vec<Policy<B>> = policies
            .iter()
            .map(|policy| self.read_policy(policy, &bindings))
            .filter(|policy| !policy.bindings.is_empty())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let known = Arc::new((versions, all));
        self.known.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    fn read_policy(&self, policy: &Value, bindings: &[Arc<Value>]) -> Policy<B> {
        let spec = |field: &str| policy.get_path(&["spec", field]);
        let text = |path: &[&str]| policy.get_str_path(path).unwrap_or_default();
        let name = meta::name(policy);
        let mut bound: Vec<Binding> = bindings
            .iter()
            .filter(|binding| binding.get_str_path(&["spec", "policyName"]) == Some(name))
            .map(|binding| Binding::read(binding))
            .collect();
        bound.sort_by(|a, b| a.name.cmp(&b.name));
        let params = spec("paramKind").filter(|kind| !kind.is_null()).map(|_| {
            let version = text(&["spec", "paramKind", "apiVersion"]);
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            ParamKind {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: text(&["spec", "paramKind", "kind"]).to_owned(),
            }
        });
        let declared = Declared {
            params: params.is_some(),
            authorizer: true,
        };
        let mut environment = declared.of_policy();
        define(&mut environment, spec("variables"));
        // Messages do not ask what users may do.
        let mut silent = Declared {
            authorizer: false,
            ..declared
        }
        .of_policy();
        silent.share_definitions(&environment);
        Policy {
            name: name.to_owned(),
            matcher: matcher(spec("matchConstraints")),
            conditions: Conditions::read(&environment, spec("matchConditions")),
            ignores_failure: text(&["spec", "failurePolicy"]) == "Ignore",
            params,
            bindings: bound,
            body: (self.read)(policy, &environment, &silent),
        }
    }
}

impl Binding {
    fn read(binding: &Value) -> Self {
        let spec = |field: &str| {
            binding
                .get_path(&["spec", field])
                .filter(|value| !value.is_null())
        };
        let actions = spec("validationActions")
            .and_then(Value::as_array)
            .unwrap_or_default();
        Self {
            name: meta::name(binding).to_owned(),
            matcher: spec("matchResources").map(|resources| matcher(Some(resources))),
            params: spec("paramRef").map(|params| {
                let text = |field: &str| params.get(field).and_then(Value::as_str).unwrap_or_default();
                ParamRef {
                    name: text("name").to_owned(),
                    namespace: text("namespace").to_owned(),
                    selector: params
                        .get("selector")
                        .filter(|selector| !selector.is_null())
                        .map(|given| selector(Some(given)).map_err(|error| error.to_string())),
                    allow_missing: text("parameterNotFoundAction") == "Allow",
                }
            }),
            actions: actions
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        }
    }
}

fn matcher(resources: Option<&Value>) -> Result<Matcher, String> {
    let field = |name: &str| resources.and_then(|resources| resources.get(name));
    let select = |name: &str| selector(field(name)).map_err(|error| error.to_string());
    Ok(Matcher {
        rules: rules(field("resourceRules")),
        exclude: rules(field("excludeResourceRules")),
        namespaces: select("namespaceSelector")?,
        objects: select("objectSelector")?,
        equivalent: field("matchPolicy").and_then(Value::as_str) != Some("Exact"),
    })
}

impl<B> Policy<B> {
    /// The version the object is to be shown in, if the policy speaks of the request.
    async fn hit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<Option<Hit>, ApiError> {
        match &self.matcher {
            Ok(matcher) => matcher.hit(attributes, object, objects).await,
            Err(why) => Err(ApiError::internal(why)),
        }
    }

    /// The resource parameters are of, and whether they are in namespaces.
    fn param_resource(&self, objects: &dyn Objects) -> Result<Option<(String, bool)>, String> {
        let Some(ParamKind { group, version, kind }) = &self.params else {
            return Ok(None);
        };
        let found = objects.resource_of(group, kind);
        found.map(Some).ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")
        })
    }

    /// The parameters a binding is evaluated with, one after the other; `None` stands for none.
    async fn params(
        &self,
        resource: Option<&(String, bool)>,
        binding: &Binding,
        attributes: &Attributes<'_>,
        objects: &dyn Objects,
    ) -> Result<Vec<Option<Arc<Value>>>, String> {
        let (Some(kind), Some((resource, namespaced)), Some(wanted)) =
            (&self.params, resource, &binding.params)
        else {
            return Ok(vec![None]);
        };
        let group = &kind.group;
        let namespace = match (
            *namespaced,
            wanted.namespace.as_str(),
            attributes.target.namespace,
        ) {
            (false, "", _) => "",
            (false, ..) => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned(),
                );
            }
            (true, "", "") => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                        .to_owned(),
                );
            }
            (true, "", namespace) => namespace,
            (true, namespace, _) => namespace,
        };
        let said = |error: ApiError| error.message;
        let found: Vec<Arc<Value>> = match &wanted.selector {
            Some(Err(why)) => return Err(why.clone()),
            Some(Ok(selector)) => {
                let mut all = objects.list(group, resource, namespace).await.map_err(said)?;
                all.retain(|object| selector.matches(meta::labels(object)));
                all
            }
            None => {
                let found = objects.get(group, resource, namespace, &wanted.name).await;
                found.map_err(said)?.into_iter().collect()
            }
        };
        if found.is_empty() && !wanted.allow_missing {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found.into_iter().map(Some).collect())
    }
}

impl Binding {
    async fn matches(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<bool, ApiError> {
        match &self.matcher {
            None => Ok(true),
            Some(Ok(matcher)) => matcher.narrows(attributes, object, objects).await,
            Some(Err(why)) => Err(ApiError::internal(why)),
        }
    }
}

#[cfg(test)]
mod tests;
