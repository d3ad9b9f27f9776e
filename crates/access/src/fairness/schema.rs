//! Flow schemas: which requests belong together.

use crate::authorization::Attributes;
use machinery::user::UserInfo;
use machinery::{Value, meta};

pub(super) struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    pub precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rules>,
}

enum Distinguisher {
    None,
    User,
    Namespace,
}

struct Rules {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn list<'a>(of: &'a Value, path: &[&str]) -> &'a [Value] {
    of.get_path(path).and_then(Value::as_array).unwrap_or_default()
}

fn strings(of: &Value, field: &str) -> Vec<String> {
    list(of, &[field])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Schema {
    pub(super) fn read(schema: &Value) -> Self {
        let text = |path: &[&str]| schema.get_str_path(path).unwrap_or_default();
        Self {
            name: meta::name(schema).to_owned(),
            uid: meta::uid(schema).to_owned(),
            level: text(&["spec", "priorityLevelConfiguration", "name"]).to_owned(),
            precedence: schema
                .get_path(&["spec", "matchingPrecedence"])
                .and_then(Value::as_i64)
                .unwrap_or(1000),
            distinguisher: match text(&["spec", "distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(schema, &["spec", "rules"]).iter().map(Rules::read).collect(),
        }
    }

    pub(super) fn matches(&self, a: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rules| rules.match_request(a))
    }

    /// What tells the schema's flows apart.
    pub(super) fn flow<'a>(&self, a: &Attributes<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &a.user.name,
            Distinguisher::Namespace => a.namespace,
        }
    }
}

impl Rules {
    fn read(rules: &Value) -> Self {
        let subjects = list(rules, &["subjects"]).iter().filter_map(|subject| {
            let text = |path: &[&str]| subject.get_str_path(path).unwrap_or_default().to_owned();
            Some(match text(&["kind"]).as_str() {
                "User" => Subject::User(text(&["user", "name"])),
                "Group" => Subject::Group(text(&["group", "name"])),
                "ServiceAccount" => Subject::ServiceAccount {
                    namespace: text(&["serviceAccount", "namespace"]),
                    name: text(&["serviceAccount", "name"]),
                },
                _ => return None,
            })
        });
        let resources = list(rules, &["resourceRules"]).iter().map(|rule| ResourceRule {
            verbs: strings(rule, "verbs"),
            groups: strings(rule, "apiGroups"),
            resources: strings(rule, "resources"),
            namespaces: strings(rule, "namespaces"),
            cluster: rule.get("clusterScope").and_then(Value::as_bool).unwrap_or(false),
        });
        let paths = list(rules, &["nonResourceRules"]).iter().map(|rule| PathRule {
            verbs: strings(rule, "verbs"),
            paths: strings(rule, "nonResourceURLs"),
        });
        Self {
            subjects: subjects.collect(),
            resources: resources.collect(),
            paths: paths.collect(),
        }
    }

    fn match_request(&self, a: &Attributes<'_>) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(a.user)) {
            return false;
        }
        if a.is_resource {
            return self.resources.iter().any(|rule| rule.matches(a));
        }
        self.paths.iter().any(|rule| {
            has(&rule.verbs, a.verb)
                && rule.paths.iter().any(|path| {
                    path == "*"
                        || path == a.path
                        || path
                            .strip_suffix('*')
                            .is_some_and(|prefix| prefix.ends_with('/') && a.path.starts_with(prefix))
                })
        })
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::ServiceAccount { namespace, name } => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(of, account)| of == namespace && (name == "*" || name == account)),
        }
    }
}

impl ResourceRule {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        let scope = if a.namespace.is_empty() {
            self.cluster
        } else {
            has(&self.namespaces, a.namespace)
        };
        let resource = || {
            if a.subresource.is_empty() {
                has(&self.resources, a.resource)
            } else {
                has(&self.resources, &format!("{}/{}", a.resource, a.subresource))
            }
        };
        scope && has(&self.verbs, a.verb) && has(&self.groups, a.group) && resource()
    }
}
