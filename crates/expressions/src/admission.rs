//! What expressions of admission know: the variables of webhooks' conditions and of policies, and what an expression
//! must evaluate to.
//!
//! Upstream's declarations, as of `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy` v1. Objects and parameters
//! are of any type; the request and the namespace are declared.

use crate::compile::{Environment, Program};
use crate::functions::authorizer;
use crate::types::{ObjectType, Type};
use std::sync::{Arc, LazyLock};

/// The most one expression may cost.
pub const PER_CALL: u64 = 1_000_000;
/// The most all expressions of a policy may cost together, for one binding and one parameter.
pub const BUDGET: u64 = 10_000_000;
/// The same for conditions.
pub const BUDGET_OF_CONDITIONS: u64 = BUDGET / 4;

/// The values an expression is evaluated with, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    Object,
    OldObject,
    Request,
    Namespace,
    Params,
    Authorizer,
    RequestResource,
}

/// The name of the thing whose fields a policy's own expressions are.
const DEFINITIONS: &str = "variables";

/// Which variables there are beside those of every request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Declared {
    pub params: bool,
    pub authorizer: bool,
}

impl Declared {
    /// What conditions of webhooks know.
    pub const WEBHOOK: Self = Self {
        params: false,
        authorizer: true,
    };

    pub fn environment(self) -> Environment {
        // A variable that is not declared has its place, under a name no expression can spell.
        let if_declared = |declared: bool, name: &'static str| if declared { name } else { "" };
        Environment::new()
            .with("object", Type::Dyn)
            .with("oldObject", Type::Dyn)
            .with("request", request())
            .with("namespaceObject", namespace())
            .with(if_declared(self.params, "params"), Type::Dyn)
            .with(
                if_declared(self.authorizer, "authorizer"),
                Type::Opaque(authorizer::AUTHORIZER),
            )
            .with(
                if_declared(self.authorizer, "authorizer.requestResource"),
                Type::Opaque(authorizer::RESOURCE),
            )
    }

    /// The same, with a policy's own variables.
    pub fn of_policy(self) -> Environment {
        self.environment().with_definitions(DEFINITIONS)
    }
}

/// What an expression has to evaluate to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Anything,
    Flag,
    Text,
    TextOrNull,
    /// What an object is to be like.
    Object,
    /// A list of operations.
    Patch,
}

/// Compiles an expression that must evaluate to something. Errors are upstream's, and fit to be told of a field.
pub fn compile(environment: &Environment, text: &str, wanted: Wanted) -> Result<Program, String> {
    let program = environment
        .compile(text)
        .map_err(|error| format!("compilation failed: {error}"))?;
    let is = program.result();
    let fits = match wanted {
        Wanted::Anything => true,
        Wanted::Flag => matches!(is, Type::Bool),
        Wanted::Text => matches!(is, Type::String(_)),
        Wanted::TextOrNull => matches!(is, Type::String(_) | Type::Null),
        Wanted::Object => matches!(is, Type::Object(object) if object.name == "Object"),
        Wanted::Patch => {
            matches!(is, Type::List(item, _) if matches!(&**item, Type::Object(object) if object.name == "JSONPatch"))
        }
    };
    let expected = match wanted {
        _ if fits => return Ok(program),
        Wanted::Anything => return Ok(program),
        Wanted::Flag => "bool",
        Wanted::Text => "string",
        Wanted::TextOrNull => return Err(format!("must evaluate to one of [string null_type] but got {is}")),
        Wanted::Object => "Object",
        Wanted::Patch => "list(JSONPatch)",
    };
    Err(format!("must evaluate to {expected} but got {is}"))
}

/// The type of `request`.
pub fn request() -> Type {
    static TYPE: LazyLock<Type> = LazyLock::new(|| {
        let kind = texts("kubernetes.GroupVersionKind", &["group", "version", "kind"]);
        let resource = texts(
            "kubernetes.GroupVersionResource",
            &["group", "version", "resource"],
        );
        let list = || Type::list(Type::string());
        let user = ObjectType::built_in(
            "kubernetes.UserInfo",
            [
                ("username".into(), Type::string()),
                ("uid".into(), Type::string()),
                ("groups".into(), list()),
                ("extra".into(), Type::map(list())),
            ],
        );
        Type::object(ObjectType::built_in(
            "kubernetes.AdmissionRequest",
            [
                ("kind".into(), kind.clone()),
                ("resource".into(), resource.clone()),
                ("subResource".into(), Type::string()),
                ("requestKind".into(), kind),
                ("requestResource".into(), resource),
                ("requestSubResource".into(), Type::string()),
                ("name".into(), Type::string()),
                ("namespace".into(), Type::string()),
                ("operation".into(), Type::string()),
                ("userInfo".into(), Type::object(user)),
                ("dryRun".into(), Type::Bool),
                ("options".into(), Type::Dyn),
            ],
        ))
    });
    TYPE.clone()
}

/// The type of `namespaceObject`: what of a namespace expressions may look at.
pub fn namespace() -> Type {
    static TYPE: LazyLock<Type> = LazyLock::new(|| {
        let list = || Type::list(Type::string());
        let spec = ObjectType::built_in("kubernetes.NamespaceSpec", [("finalizers".into(), list())]);
        let condition = ObjectType::built_in(
            "kubernetes.NamespaceCondition",
            [
                ("status".into(), Type::string()),
                ("type".into(), Type::string()),
                ("lastTransitionTime".into(), Type::Timestamp),
                ("message".into(), Type::string()),
                ("reason".into(), Type::string()),
            ],
        );
        let status = ObjectType::built_in(
            "kubernetes.NamespaceStatus",
            [
                ("conditions".into(), Type::list(Type::object(condition))),
                ("phase".into(), Type::string()),
            ],
        );
        let metadata = ObjectType::built_in(
            "kubernetes.NamespaceMetadata",
            [
                ("name".into(), Type::string()),
                ("generateName".into(), Type::string()),
                ("namespace".into(), Type::string()),
                ("labels".into(), Type::map(Type::string())),
                ("annotations".into(), Type::map(Type::string())),
                ("UID".into(), Type::string()),
                ("creationTimestamp".into(), Type::Timestamp),
                ("deletionGracePeriodSeconds".into(), Type::Int),
                ("deletionTimestamp".into(), Type::Timestamp),
                ("generation".into(), Type::Int),
                ("resourceVersion".into(), Type::string()),
                ("finalizers".into(), list()),
            ],
        );
        Type::object(ObjectType::built_in(
            "kubernetes.Namespace",
            [
                ("metadata".into(), Type::object(metadata)),
                ("spec".into(), Type::object(spec)),
                ("status".into(), Type::object(status)),
            ],
        ))
    });
    TYPE.clone()
}

fn texts(name: &'static str, fields: &[&'static str]) -> Type {
    let fields = fields.iter().map(|field| ((*field).into(), Type::string()));
    Type::Object(Arc::new(ObjectType::built_in(name, fields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;

    #[test]
    fn variables_are_spelt_as_documented() {
        let environment = Environment::new()
            .with("request", request())
            .with("namespaceObject", namespace());
        for text in [
            "request.namespace == 'kube-system'",
            "namespaceObject.metadata.namespace == ''",
            "request.userInfo.groups.exists(group, group == 'a')",
        ] {
            let compiled = environment.compile(text);
            assert!(compiled.is_ok(), "{text}: {:?}", compiled.err());
        }
        assert!(environment.compile("request.__namespace__ == ''").is_err());
    }
}
