//! The flow schemas and priority levels of every cluster.

use machinery::{Value, codec, meta};

/// Says that the server keeps the object's spec; who writes `false` keeps it themselves.
pub const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Objects nobody can do without: kept whatever they say.
const MANDATORY: [&str; 2] = ["catch-all", "exempt"];

/// Name, shares, lendable percent, and queues with hand size.
type LevelRow = (&'static str, i64, i64, Option<(i64, i64)>);

const LEVELS: [LevelRow; 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("node-high", 40, 25, Some((64, 6))),
    ("system", 30, 33, Some((64, 6))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
];

const EVERYTHING: &str = r#""resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"namespaces":["*"],"clusterScope":true}],"nonResourceRules":[{"verbs":["*"],"nonResourceURLs":["*"]}]"#;
const PROBES: &str =
    r#""nonResourceRules":[{"verbs":["get"],"nonResourceURLs":["/healthz","/readyz","/livez"]}]"#;
const LEASES: &str = r#""resourceRules":[{"verbs":["get","create","update"],"apiGroups":["coordination.k8s.io"],"resources":["leases"],"namespaces":["*"]}]"#;
const NODES: &str = r#""resourceRules":[{"verbs":["*"],"apiGroups":[""],"resources":["nodes","nodes/status"],"namespaces":["*"],"clusterScope":true},
    {"verbs":["*"],"apiGroups":["coordination.k8s.io"],"resources":["leases"],"namespaces":["*"]}]"#;

const ALL: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];
const CONTROLLERS: &[&str] = &["user:system:kube-controller-manager"];
const SCHEDULER: &[&str] = &["user:system:kube-scheduler"];
const ELECTORS: &[&str] = &[
    "user:system:kube-controller-manager",
    "user:system:kube-scheduler",
    "sa:kube-system",
];

/// Name, level, precedence, distinguisher, subjects, rules.
type SchemaRow = (
    &'static str,
    &'static str,
    i64,
    &'static str,
    &'static [&'static str],
    &'static str,
);

const SCHEMAS: &[SchemaRow] = &[
    ("catch-all", "catch-all", 10_000, "ByUser", ALL, EVERYTHING),
    ("exempt", "exempt", 1, "", &["group:system:masters"], EVERYTHING),
    (
        "global-default",
        "global-default",
        9900,
        "ByUser",
        ALL,
        EVERYTHING,
    ),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        CONTROLLERS,
        EVERYTHING,
    ),
    (
        "kube-scheduler",
        "workload-high",
        800,
        "ByNamespace",
        SCHEDULER,
        EVERYTHING,
    ),
    (
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        &["sa:kube-system"],
        EVERYTHING,
    ),
    ("probes", "exempt", 2, "", ALL, PROBES),
    (
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        &["group:system:serviceaccounts"],
        EVERYTHING,
    ),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        ELECTORS,
        LEASES,
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["group:system:nodes"],
        NODES,
    ),
    (
        "system-nodes",
        "system",
        500,
        "ByUser",
        &["group:system:nodes"],
        EVERYTHING,
    ),
];

/// All of them, levels first.
pub fn objects() -> Vec<Value> {
    let exempt = (
        "exempt",
        r#"{"type":"Exempt","exempt":{"nominalConcurrencyShares":0,"lendablePercent":0}}"#.to_owned(),
    );
    let limited = LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => r#"{"type":"Reject"}"#.to_owned(),
            Some((queues, hand)) => format!(
                r#"{{"type":"Queue","queuing":{{"queues":{queues},"handSize":{hand},"queueLengthLimit":50}}}}"#
            ),
        };
        let spec = format!(
            r#"{{"type":"Limited","limited":{{"nominalConcurrencyShares":{shares},"lendablePercent":{lendable},"limitResponse":{response}}}}}"#
        );
        (*name, spec)
    });
    let levels = std::iter::once(exempt)
        .chain(limited)
        .map(|(name, spec)| object("PriorityLevelConfiguration", name, &spec));
    let schemas = SCHEMAS.iter().map(|(name, level, precedence, by, subjects, rules)| {
        let subjects: Vec<String> = subjects.iter().map(|subject| self::subject(subject)).collect();
        let distinguisher = if by.is_empty() {
            String::new()
        } else {
            format!(r#""distinguisherMethod":{{"type":"{by}"}},"#)
        };
        let spec = format!(
            r#"{{"priorityLevelConfiguration":{{"name":"{level}"}},"matchingPrecedence":{precedence},{distinguisher}"rules":[{{"subjects":[{}],{rules}}}]}}"#,
            subjects.join(",")
        );
        object("FlowSchema", name, &spec)
    });
    levels.chain(schemas).collect()
}

/// What a stored object must become; `None` when it may stay as it is.
pub fn reconcile(stored: &Value, wanted: &Value) -> Option<Value> {
    let mandatory = MANDATORY.contains(&meta::name(wanted));
    if !mandatory && meta::annotation(stored, AUTOUPDATE) != Some("true") {
        return None;
    }
    let spec = wanted.get("spec")?;
    if stored.get("spec").is_some_and(|stored| stored.semantic_eq(spec)) {
        return None;
    }
    let mut merged = stored.clone();
    merged.set_path(&["spec"], spec.clone());
    Some(merged)
}

fn subject(text: &str) -> String {
    match text.split_once(':') {
        Some(("user", name)) => format!(r#"{{"kind":"User","user":{{"name":"{name}"}}}}"#),
        Some(("group", name)) => format!(r#"{{"kind":"Group","group":{{"name":"{name}"}}}}"#),
        Some((_, namespace)) => {
            format!(
                r#"{{"kind":"ServiceAccount","serviceAccount":{{"name":"*","namespace":"{namespace}"}}}}"#
            )
        }
        None => String::new(),
    }
}

/// The tables above are compiled in and read in a test, so what cannot be read is a panic there first.
fn object(kind: &str, name: &str, spec: &str) -> Value {
    let text = format!(
        r#"{{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"{kind}","metadata":{{"name":"{name}","annotations":{{"{AUTOUPDATE}":"true"}}}},"spec":{spec}}}"#
    );
    codec::json::decode_any(text.as_bytes())
        .expect("the table is JSON")
        .value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_finds_its_level() {
        let all = objects();
        assert_eq!(all.len(), 8 + 11);
        let levels: Vec<&str> = all
            .iter()
            .filter(|object| object.get_str_path(&["kind"]) == Some("PriorityLevelConfiguration"))
            .map(meta::name)
            .collect();
        for schema in all
            .iter()
            .filter(|object| object.get_path(&["spec", "rules"]).is_some())
        {
            let level = schema.get_str_path(&["spec", "priorityLevelConfiguration", "name"]);
            assert!(levels.contains(&level.unwrap()), "{}", meta::name(schema));
        }
    }

    #[test]
    fn only_what_is_ours_is_kept() {
        let wanted = objects().pop().unwrap();
        assert_eq!(reconcile(&wanted, &wanted), None);
        let mut stored = wanted.clone();
        stored.set_path(&["spec", "matchingPrecedence"], 7);
        assert!(reconcile(&stored, &wanted).is_some());
        stored.set_path(&["metadata", "annotations", AUTOUPDATE], "false");
        assert_eq!(reconcile(&stored, &wanted), None);
    }
}
