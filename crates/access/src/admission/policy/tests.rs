//! Policies over in-memory objects.

use super::*;
use crate::admission::plugins::testing::{Fixed, With, object};
use crate::admission::{Chain, Equivalent, Operation, Plugin, Versions};

const PODS: (&str, &str, &str) = ("", "pods", "ns");
const RULES: &str = r#""matchConstraints":{"resourceRules":[{"operations":["*"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"]}]}"#;

fn stored(kind: &'static str, bindings: &'static str, spec: &str, binding: &str) -> Arc<dyn Objects> {
    let policy = format!(r#"{{"metadata":{{"name":"p"}},"spec":{{{RULES},{spec}}}}}"#);
    let binding = format!(r#"{{"metadata":{{"name":"b"}},"spec":{{"policyName":"p"{binding}}}}}"#);
    let other = |name, text: &str| (name, Arc::new(object(text)));
    Arc::new(Fixed(vec![
        other(kind, &policy),
        other(bindings, &binding),
        other(
            "namespaces",
            r#"{"metadata":{"name":"ns","labels":{"env":"test"}}}"#,
        ),
        other(
            "configmaps",
            r#"{"metadata":{"name":"limits","namespace":"ns"},"data":{"most":"2"}}"#,
        ),
    ]))
}

async fn check(spec: &str, binding: &str, pod: &str) -> (Result<(), (u16, String)>, Vec<String>) {
    let plugin = ValidatingAdmissionPolicy::default();
    plugin.bind(stored(
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        spec,
        binding,
    ));
    let with = With::default();
    let attributes = with.attributes(Operation::Create, PODS, "", "x");
    let said = plugin.validate(&attributes, Some(&object(pod))).await;
    (
        said.map_err(|error| (error.code, error.message)),
        with.notes.take_warnings(),
    )
}

#[tokio::test]
async fn what_must_hold_is_demanded() {
    let deny = r#","validationActions":["Deny"]"#;
    let head = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    let message = |said: (Result<(), (u16, String)>, Vec<String>)| {
        said.0
            .map_err(|(code, text)| (code, text.trim_start_matches(head).to_owned()))
    };
    let spec = r#""validations":[{"expression":"object.spec.count <= 2"}]"#;
    assert_eq!(
        message(check(spec, deny, r#"{"spec":{"count":2}}"#).await),
        Ok(())
    );
    assert_eq!(
        message(check(spec, deny, r#"{"spec":{"count":3}}"#).await),
        Err((422, "failed expression: object.spec.count <= 2".to_owned()))
    );
    let spec = r#""variables":[{"name":"n","expression":"object.spec.count"},{"name":"m","expression":"variables.n * 2"}],
        "validations":[{"expression":"variables.m < 5","messageExpression":"'too many: ' + string(variables.m)","reason":"Forbidden"}]"#;
    assert_eq!(
        message(check(spec, deny, r#"{"spec":{"count":3}}"#).await),
        Err((403, "too many: 6".to_owned()))
    );
    let conditional =
        format!(r#""matchConditions":[{{"name":"c","expression":"request.operation != 'CREATE'"}}],{spec}"#);
    assert_eq!(
        message(check(&conditional, deny, r#"{"spec":{"count":3}}"#).await),
        Ok(())
    );
    let (said, warnings) = check(
        spec,
        r#","validationActions":["Warn"]"#,
        r#"{"spec":{"count":3}}"#,
    )
    .await;
    assert_eq!(said, Ok(()));
    assert_eq!(
        warnings,
        ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too many: 6"]
    );
}

#[tokio::test]
async fn what_fails_is_the_failure_policys() {
    let deny = r#","validationActions":["Deny"]"#;
    for (expression, why) in [
        (
            "object.missing > 1",
            "expression 'object.missing > 1' resulted in error: no such key: missing",
        ),
        (
            "nonsense(",
            "compilation error: compilation failed: ERROR: <input>:1:10",
        ),
        (
            "object.spec",
            "compilation error: must evaluate to bool but got dyn",
        ),
    ] {
        let spec = format!(r#""validations":[{{"expression":"{expression}"}}]"#);
        let (said, _) = check(&spec, deny, r#"{"spec":{}}"#).await;
        assert!(said.unwrap_err().1.contains(why), "{expression}");
        let (said, _) = check(
            &format!(r#""failurePolicy":"Ignore",{spec}"#),
            deny,
            r#"{"spec":{}}"#,
        )
        .await;
        assert_eq!(said, Ok(()), "{expression}");
    }
}

#[tokio::test]
async fn bindings_choose_requests_and_parameters() {
    let spec = r#""paramKind":{"apiVersion":"v1","kind":"ConfigMap"},
        "validations":[{"expression":"object.spec.count <= int(params.data.most)","message":"no"}]"#;
    let bound = |more: &str| format!(r#","validationActions":["Deny"]{more}"#);
    let by_name = bound(r#","paramRef":{"name":"limits","parameterNotFoundAction":"Deny"}"#);
    assert_eq!(check(spec, &by_name, r#"{"spec":{"count":2}}"#).await.0, Ok(()));
    assert!(check(spec, &by_name, r#"{"spec":{"count":3}}"#).await.0.is_err());
    let absent = bound(r#","paramRef":{"name":"absent","parameterNotFoundAction":"Deny"}"#);
    assert!(check(spec, &absent, r#"{"spec":{"count":1}}"#).await.0.is_err());
    let allowed = absent.replace("\"Deny\"}", "\"Allow\"}");
    assert_eq!(check(spec, &allowed, r#"{"spec":{"count":9}}"#).await.0, Ok(()));
    let elsewhere =
        by_name + r#","matchResources":{"namespaceSelector":{"matchLabels":{"env":"production"}}}"#;
    assert_eq!(check(spec, &elsewhere, r#"{"spec":{"count":3}}"#).await.0, Ok(()));
}

/// A kind of one version whose objects merge as JSON does.
struct Plain;

impl Versions for Plain {
    fn equivalents(&self) -> Vec<Equivalent> {
        Vec::new()
    }

    fn view(&self, object: &Value, _: &str, _: &str) -> Result<Value, ApiError> {
        Ok(object.clone())
    }

    fn accept(&self, object: Value, _: &str, _: &str) -> Result<Value, ApiError> {
        Ok(object)
    }

    fn merge(&self, object: &Value, config: &Value, _: &str, _: &str) -> Result<Value, ApiError> {
        let patch = machinery::codec::json::to_vec(config);
        let patch = machinery::patch::Patch::decode(machinery::patch::PatchKind::Merge, &patch, false)?;
        let ty = api::kind(&machinery::gvk::GroupVersionKind::new("", "v1", "Pod")).unwrap();
        Ok(patch.apply(api::types(), ty, object)?)
    }
}

#[tokio::test]
async fn objects_are_changed_as_policies_say() {
    let check = async |spec: &str, pod: &str| {
        let plugin = MutatingAdmissionPolicy::default();
        plugin.bind(stored(
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            spec,
            "",
        ));
        let with = With::default();
        let attributes = Attributes {
            versions: Some(&Plain),
            ..with.attributes(Operation::Create, PODS, "", "x")
        };
        let mut pod = object(pod);
        let chain = Chain::new(vec![Arc::new(plugin) as Arc<dyn Plugin>]);
        let said = chain.admit(&attributes, Some(&mut pod)).await;
        said.map(|()| pod).map_err(|error| error.message)
    };
    let apply = r#""mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":
        "Object{metadata: Object.metadata{labels: {\"a\": object.metadata.name}}}"}}]"#;
    assert_eq!(
        check(apply, r#"{"metadata":{"name":"x","labels":{"b":"c"}}}"#).await,
        Ok(object(r#"{"metadata":{"name":"x","labels":{"a":"x","b":"c"}}}"#))
    );
    let patch = r#""mutations":[{"patchType":"JSONPatch","jsonPatch":{"expression":
        "[JSONPatch{op: \"add\", path: \"/spec\", value: {\"n\": 1}}]"}},
        {"patchType":"JSONPatch","jsonPatch":{"expression":"[JSONPatch{op: \"replace\", path: \"/spec/n\", value: object.spec.n + 1}]"}}]"#;
    assert_eq!(
        check(patch, r#"{"metadata":{}}"#).await,
        Ok(object(r#"{"metadata":{},"spec":{"n":2}}"#))
    );
    for (mutation, why) in [
        (
            "Object{metadata: Object.metadatum{name: \\\"y\\\"}}",
            "type mismatch: unexpected type name \"Object.metadatum\", expected \"Object.metadata\"",
        ),
        (
            "Object{spec: {\\\"a\\\": 1}}.spec",
            "must evaluate to Object but got dyn",
        ),
        (
            "Object{metadata: Object.metadata{labels: {\\\"a\\\": object.missing}}}",
            "no such key: missing",
        ),
    ] {
        let spec = format!(
            r#""mutations":[{{"patchType":"ApplyConfiguration","applyConfiguration":{{"expression":"{mutation}"}}}}]"#
        );
        let said = check(&spec, r#"{"metadata":{"name":"x"}}"#).await.unwrap_err();
        assert!(
            said.starts_with("policy 'p' with binding 'b' denied request: ") && said.contains(why),
            "{said}"
        );
    }
    let tested = r#""mutations":[{"patchType":"JSONPatch","jsonPatch":{"expression":
        "[JSONPatch{op: \"test\", path: \"/metadata/name\", value: \"other\"}, JSONPatch{op: \"add\", path: \"/x\", value: 1}]"}}]"#;
    let pod = r#"{"metadata":{"name":"x"}}"#;
    assert_eq!(
        check(tested, pod).await,
        Ok(object(pod)),
        "a test that fails changes nothing"
    );
}

/// Lets somebody do one thing.
struct Only(&'static str);

#[async_trait::async_trait]
impl Authorizer for Only {
    async fn authorize(
        &self,
        attributes: &crate::authorization::Attributes<'_>,
    ) -> crate::authorization::Decision {
        let asked = format!(
            "{} {} {}/{}",
            attributes.user.name, attributes.verb, attributes.resource, attributes.name
        );
        if asked == self.0 {
            crate::authorization::Decision::Allow
        } else {
            crate::authorization::Decision::NoOpinion("nobody said so".to_owned())
        }
    }
}

#[tokio::test]
async fn expressions_ask_what_users_may_do() {
    let check = async |expression: &str| {
        let plugin = ValidatingAdmissionPolicy::default();
        let spec = format!(r#""validations":[{{"expression":"{expression}"}}]"#);
        plugin.bind(stored(
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            &spec,
            r#","validationActions":["Deny"]"#,
        ));
        plugin.bind_authorizer(Arc::new(Only("system:serviceaccount:ns:sa bless pods/x")));
        let with = With::default();
        let attributes = with.attributes(Operation::Create, PODS, "", "x");
        let said = plugin.validate(&attributes, Some(&object("{}"))).await;
        said.map_err(|error| error.message)
    };
    let blessed = "authorizer.serviceAccount('ns', 'sa').group('').resource('pods').name('x').check('bless')";
    assert_eq!(check(&format!("{blessed}.allowed()")).await, Ok(()));
    assert_eq!(
        check(&format!(
            "!{}.allowed() && authorizer.requestResource.check('bless').reason() == 'nobody said so'",
            blessed.replace("bless", "curse")
        ))
        .await,
        Ok(())
    );
    let dear = format!("{blessed}.allowed() && {blessed}.allowed() && {blessed}.allowed()");
    let said = check(&dear).await.unwrap_err();
    assert!(
        said.contains("operation cancelled: actual cost limit exceeded"),
        "{said}"
    );
    let empty = check("authorizer.path('').check('get').allowed()")
        .await
        .unwrap_err();
    assert!(empty.contains("path must not be empty"), "{empty}");
}
