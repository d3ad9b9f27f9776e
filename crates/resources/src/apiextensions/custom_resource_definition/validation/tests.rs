//! Definitions that are refused, and the words for it.

use super::*;
use machinery::codec::json::decode_any;

fn read(text: &str) -> Value {
    decode_any(text.as_bytes())
        .unwrap_or_else(|e| panic!("{e}: {text}"))
        .value
}

fn definition(version: &str, more: &str) -> Value {
    read(&format!(
        r#"{{"metadata":{{"name":"foos.example.com"}},"spec":{{"group":"example.com","scope":"Cluster",
            "names":{{"plural":"foos","singular":"foo","kind":"Foo","listKind":"FooList"}},
            "versions":[{{"name":"v1","served":true,"storage":true{version}}}]{more}}},"status":{{"storedVersions":["v1"]}}}}"#
    ))
}

#[track_caller]
fn expect(errors: &ErrorList, want: &[&str]) {
    let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let fits = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.starts_with(want));
    assert!(fits, "got {got:#?}\nwant {want:#?}");
}

/// A schema at the root.
#[track_caller]
fn whole(schema: &str, want: &[&str]) {
    let crd = definition(&format!(r#","schema":{{"openAPIV3Schema":{schema}}}"#), "");
    let prefix = "spec.validation.openAPIV3Schema";
    let want: Vec<String> = want.iter().map(|want| format!("{prefix}{want}")).collect();
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    expect(&validate(&crd), &want);
}

/// A schema of a field.
#[track_caller]
fn field(schema: &str, want: &[&str]) {
    let want: Vec<String> = want.iter().map(|want| format!(".properties[f]{want}")).collect();
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    whole(
        &format!(r#"{{"type":"object","properties":{{"f":{schema}}}}}"#),
        &want,
    );
}

#[test]
fn schemas_are_structural() {
    field(
        r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true}"#,
        &[],
    );
    field(
        r#"{"description":"x"}"#,
        &[".type: Required value: must not be empty for specified object fields"],
    );
    field(
        r#"{"type":"array"}"#,
        &[".items: Required value: must be specified"],
    );
    field(
        r#"{"type":"array","items":{}}"#,
        &[".items.type: Required value: must not be empty for specified array items"],
    );
    field(
        r#"{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]}"#,
        &[],
    );
    field(
        r#"{"x-kubernetes-int-or-string":true,"allOf":[{"anyOf":[{"type":"integer"},{"type":"string"}]},{"type":"string"}]}"#,
        &[".allOf[1].type: Forbidden: must be empty to be structural"],
    );
    whole(
        r#"{"type":"object","anyOf":[{"properties":{"a":{"minimum":1}}}]}"#,
        &[
            ".properties[a]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[a]",
        ],
    );
    field(
        r#"{"type":"object","properties":{"a":{"type":"string"}},"oneOf":[{"required":["a"]}],"not":{"description":"no"}}"#,
        &[".not.description: Forbidden: must be empty to be structural"],
    );
    field(
        r#"{"type":"string","pattern":"("}"#,
        &[".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: "],
    );
    field(
        r#"{"type":"object","x-kubernetes-embedded-resource":true}"#,
        &[".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true"],
    );
    whole(
        r#"{"type":"object","additionalProperties":{"type":"string"}}"#,
        &[".additionalProperties: Forbidden: must not be used at the root"],
    );
    whole(
        r#"{"type":"object","properties":{"metadata":{"type":"object","properties":{"name":{"type":"string"},"labels":{"type":"object"}}}}}"#,
        &[".properties[metadata]: Forbidden: must not specify anything other than name and generateName"],
    );
    whole(
        r#"{"type":"object","properties":{"metadata":{"type":"object","properties":{"name":{"type":"string","maxLength":5}}}}}"#,
        &[],
    );
    whole(
        r#"{"type":"string"}"#,
        &[".type: Invalid value: \"string\": must be object at the root"],
    );
    whole(
        r#"{"type":"object","properties":{"kind":{"type":"integer"}}}"#,
        &[".properties[kind].type: Invalid value: \"integer\": must be string"],
    );
    whole(
        r#"{"type":"object","nullable":true}"#,
        &[".nullable: Forbidden: nullable cannot be true at the root"],
    );
}

#[test]
fn some_of_openapi_is_not_supported() {
    field(
        r#"{"type":"text"}"#,
        &[
            ".type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
    field(
        r##"{"type":"object","$ref":"#/x"}"##,
        &[".$ref: Forbidden: $ref is not supported"],
    );
    field(
        r#"{"type":"array","uniqueItems":true,"items":{"type":"string"}}"#,
        &[".uniqueItems: Forbidden: uniqueItems cannot be set to true"],
    );
    field(
        r#"{"type":"array","items":[{"type":"string"}]}"#,
        &[".items: Forbidden: items must be a schema object and not an array"],
    );
    field(
        r#"{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":{"type":"string"}}"#,
        &[".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
    );
    whole(
        r#"{"type":"object","$schema":"x"}"#,
        &[": Invalid value: \"\": OpenAPIV3Schema 'schema' is not supported"],
    );
}

#[test]
fn lists_and_maps_say_what_they_are() {
    field(
        r#"{"type":"object","x-kubernetes-list-type":"set","x-kubernetes-map-type":"big"}"#,
        &[
            ".x-kubernetes-map-type: Unsupported value: \"big\": supported values: \"atomic\", \"granular\"",
            ".type: Invalid value: \"object\": must be array if x-kubernetes-list-type is specified",
        ],
    );
    field(
        r#"{"type":"array","x-kubernetes-list-type":"set","items":{"type":"object"}}"#,
        &[".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list"],
    );
    field(
        r#"{"type":"array","x-kubernetes-list-map-keys":["a"],"items":{"type":"object"}}"#,
        &[".x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty"],
    );
    field(
        r#"{"type":"array","x-kubernetes-list-type":"map","items":{"type":"object"}}"#,
        &[".x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"],
    );
    field(
        r#"{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["a","b","b"],"items":{"type":"object",
            "nullable":true,"properties":{"b":{"type":"object","default":{}}}}}"#,
        &[
            ".x-kubernetes-list-map-keys: Invalid value: [\"a\",\"b\",\"b\"]: entries must all be names of item properties",
            ".items.properties[b].type: Invalid value: \"object\": must be a scalar type",
            ".items.properties[b].type: Invalid value: \"object\": must be a scalar type",
            ".x-kubernetes-list-map-keys: Invalid value: [\"a\",\"b\",\"b\"]: must not contain duplicate entries",
            ".items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is map",
        ],
    );
    field(
        r#"{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["a"],"items":{"type":"object","properties":{"a":{"type":"string"}}}}"#,
        &[".items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys"],
    );
}

#[test]
fn defaults_fit_their_schemas() {
    field(r#"{"type":"integer","default":3}"#, &[]);
    field(
        r#"{"type":"integer","default":"3"}"#,
        &[".default: Invalid value: \"string\":  in body must be of type integer: \"string\""],
    );
    field(
        r#"{"type":"object","default":{"a":{"b":1}},"properties":{"a":{"type":"object"}}}"#,
        &[".default: Invalid value: {\"a\":{\"b\":1}}: must not have unknown fields"],
    );
    field(
        r#"{"type":"object","default":{"a":9},"properties":{"a":{"type":"integer","maximum":5}}}"#,
        &[".default.a: Invalid value: 9: a in body should be less than or equal to 5"],
    );
    field(
        r#"{"type":"integer","default":3,"x-kubernetes-validations":[{"rule":"self > 5"}]}"#,
        &[".default: Invalid value: 3: failed rule: self > 5"],
    );
    whole(
        r#"{"type":"object","properties":{"metadata":{"type":"object","default":{}}}}"#,
        &[".properties[metadata].default: Forbidden: must not be set in top-level metadata"],
    );
}

#[test]
fn rules_are_sound() {
    field(
        r#"{"type":"object","properties":{"a":{"type":"integer"}},"x-kubernetes-validations":[{"rule":"self.b == 1"}]}"#,
        &[
            r#".x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self.b == 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:5: undefined field 'b'"#,
        ],
    );
    field(
        r#"{"type":"object","properties":{"a":{"x-kubernetes-preserve-unknown-fields":true}},"x-kubernetes-validations":[{"rule":"has(self.a)"}]}"#,
        &[".x-kubernetes-validations[0].rule: Invalid value: "],
    );
    field(
        r#"{"type":"object","properties":{"a":{"type":"integer"}},"x-kubernetes-validations":[
            {"rule":" "},{"rule":"true","message":" "},{"rule":"true\n","message":"a\nb"},{"rule":"true\n&& true"},
            {"rule":"true","messageExpression":" ","reason":"Odd","fieldPath":".b"}]}"#,
        &[
            ".x-kubernetes-validations[0].rule: Required value: rule is not specified",
            ".x-kubernetes-validations[1].message: Invalid value: \" \": must be non-empty if specified",
            ".x-kubernetes-validations[2].message: Invalid value: \"a\\nb\": must not contain line breaks",
            ".x-kubernetes-validations[3].message: Required value: message must be specified if rule contains line breaks",
            ".x-kubernetes-validations[4].messageExpression: Required value: messageExpression must be non-empty if specified",
            ".x-kubernetes-validations[4].reason: Unsupported value: \"Odd\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ".x-kubernetes-validations[4].fieldPath: Invalid value: \".b\": must be a valid path",
        ],
    );
    field(
        r#"{"type":"array","items":{"type":"integer","x-kubernetes-validations":[{"rule":"self == oldSelf"},{"rule":"self > 0","optionalOldSelf":true}]}}"#,
        &[
            ".items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[f]",
            ".items.x-kubernetes-validations[1].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ],
    );
}

#[test]
fn rules_are_cheap() {
    let list = |limit: &str, rule: &str| {
        format!(
            r#"{{"type":"array"{limit},"items":{{"type":"string","maxLength":100}},"x-kubernetes-validations":[{{"rule":"{rule}"}}]}}"#
        )
    };
    field(&list("", "self.size() > 0"), &[]);
    let quadratic = "self.all(a, self.all(b, a.contains(b)))";
    field(&list(r#","maxItems":50"#, quadratic), &[]);
    let crd = |schema: &str| {
        let schema =
            format!(r#","schema":{{"openAPIV3Schema":{{"type":"object","properties":{{"f":{schema}}}}}}}"#);
        validate(&definition(&schema, ""))
    };
    let rule = "spec.validation.openAPIV3Schema.properties[f].x-kubernetes-validations[0].rule: Forbidden: ";
    expect(
        &crd(&list("", quadratic)),
        &[
            &format!("{rule}estimated rule cost exceeds budget by factor of more than 100x"),
            &format!(
                "{rule}contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x",
        ],
    );
    // Keys cost nothing but their number.
    field(
        r#"{"type":"object","maxProperties":8,"additionalProperties":{"type":"string","maxLength":4096},
            "x-kubernetes-validations":[{"rule":"self.all(key, key.matches('^([a-z0-9]+/)?[a-z]+$'))"},{"rule":"self.all(key, key.split('/')[0].size() < 253)"}]}"#,
        &[],
    );
    // What is not limited is limited by the request: nested lists share it, and do not multiply.
    let inner = r#"{"type":"array","items":{"type":"object","required":["a"],"properties":{"a":{"type":"string"}},"x-kubernetes-validations":[{"rule":"self.a != ''"}]}}"#;
    field(&format!(r#"{{"type":"array","items":{inner}}}"#), &[]);
}

#[test]
fn versions_names_columns_and_scale_are_judged() {
    let schema = r#","schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string"}}}}}}"#;
    let with = |version: &str| definition(&format!("{schema}{version}"), "");
    expect(
        &validate(&definition("", "")),
        &["spec.versions[0].schema.openAPIV3Schema: Required value"],
    );
    expect(
        &validate(&with(
            r#","additionalPrinterColumns":[{"name":"","type":"text","format":"x","jsonPath":"a"},{"name":"A","type":"string"}]"#,
        )),
        &[
            "spec.additionalPrinterColumns[0].name: Required value",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            "spec.additionalPrinterColumns[0].format: Invalid value: \"x\": must be one of byte,date,date-time,double,float,int32,int64,password",
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            "spec.additionalPrinterColumns[1].JSONPath: Required value",
        ],
    );
    expect(
        &validate(&with(
            r#","subresources":{"scale":{"specReplicasPath":".status.a","statusReplicasPath":"b","labelSelectorPath":".c"}}"#,
        )),
        &[
            "spec.subresources.scale.specReplicasPath: Invalid value: \".status.a\": should be a json path under .spec",
            "spec.subresources.scale.statusReplicasPath: Invalid value: \"b\": must be a simple json path starting with .",
            "spec.subresources.scale.labelSelectorPath: Invalid value: \".c\": should be a json path under either .spec or .status",
        ],
    );
    expect(
        &validate(&with(
            r#","selectableFields":[{"jsonPath":".spec.a"},{"jsonPath":".spec.a"},{"jsonPath":".spec.b"},{"jsonPath":".spec"}]"#,
        )),
        &[
            "spec.selectableFields[1].jsonPath: Duplicate value: \".spec.a\"",
            "spec.selectableFields[2].jsonPath: Invalid value: \".spec.b\": is an invalid path: does not refer to a valid field",
            "spec.selectableFields[3].jsonPath: Invalid value: \".spec\": must point to a field of type string, boolean or integer.",
        ],
    );
    expect(
        &validate(&with(r#","deprecationWarning":"x""#)),
        &[
            "spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions",
        ],
    );
    expect(
        &validate(&with(
            r#","subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","maxProperties":3}}"#,
        )),
        &[
            "spec.validation.openAPIV3Schema: Invalid value: {\"maxProperties\":3,\"type\":\"object\"}: only [Description Type Format",
        ],
    );
    expect(
        &validate(&definition(schema, r#","preserveUnknownFields":true"#)),
        &["spec.preserveUnknownFields: Invalid value: true: cannot set to true"],
    );
}

#[test]
fn conversion_names_a_webhook() {
    let schema = r#","schema":{"openAPIV3Schema":{"type":"object"}}"#;
    let with = |conversion: &str| definition(schema, &format!(r#","conversion":{conversion}"#));
    expect(&validate(&with(r#"{"strategy":"None"}"#)), &[]);
    expect(
        &validate(&with(r#"{"strategy":"Webhook"}"#)),
        &[
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
        ],
    );
    expect(
        &validate(&with(
            r#"{"strategy":"Webhook","webhook":{"clientConfig":{"url":"http://x"},"conversionReviewVersions":["v9"]}}"#,
        )),
        &[
            "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme",
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
        ],
    );
    expect(
        &validate(&with(
            r#"{"strategy":"None","webhook":{"conversionReviewVersions":["v1"]}}"#,
        )),
        &[
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ],
    );
    let established = |bundle: &str| {
        let mut crd = with(&format!(
            r#"{{"strategy":"Webhook","webhook":{{"clientConfig":{{"url":"https://x"{bundle}}},"conversionReviewVersions":["v1"]}}}}"#
        ));
        let condition = read(r#"[{"type":"Established","status":"True"}]"#);
        crd.set_path(&["status", "conditions"], condition);
        crd
    };
    let (without, wrong) = (established(""), established(r#","caBundle":"bm8=""#));
    expect(
        &validate_update(&wrong, &without),
        &[
            "spec.conversion.webhookClientConfig.caBundle: Invalid value: \"bm8=\": unable to load root certificates: unable to parse bytes as PEM block",
        ],
    );
    expect(&validate_update(&wrong, &wrong), &[]);
    expect(&validate(&wrong), &[]);
}

#[test]
fn an_update_changes_no_names_and_forgets_no_stored_version() {
    let schema = r#","schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"text"}}}}"#;
    let old = definition(schema, "");
    let mut new = old.clone();
    expect(&validate_update(&new, &old), &[]);
    new.set_path(&["spec", "names", "plural"], "bars");
    new.set_path(&["spec", "names", "kind"], "Bar");
    new.set_path(&["status", "storedVersions"], read(r#"["v0","v1"]"#));
    expect(
        &validate_update(&new, &old),
        &[
            "spec.names.plural: Invalid value: \"bars\": field is immutable",
            "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions; v0 was previously a storage version",
        ],
    );
    new.set_path(&["status", "storedVersions"], read("[]"));
    let errors = validate_update(&new, &old);
    expect(
        &errors[1..].to_vec(),
        &["status.storedVersions: Invalid value: []: must have at least one stored version"],
    );
}

#[test]
fn groups_of_the_project_need_its_approval() {
    let schema = r#","schema":{"openAPIV3Schema":{"type":"object"}}"#;
    let mut crd = definition(schema, "");
    crd.set_path(&["spec", "group"], "x.k8s.io");
    crd.set_path(&["metadata", "name"], "foos.x.k8s.io");
    expect(
        &validate(&crd),
        &[
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation",
        ],
    );
    for (said, good) in [
        ("https://github.com/x", true),
        ("unapproved, yet", true),
        ("yes", false),
    ] {
        crd.set_path(&["metadata", "annotations", APPROVAL], said);
        assert_eq!(validate(&crd).is_empty(), good, "{said}");
    }
}
