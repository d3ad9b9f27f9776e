//! Method and path to verb, group, version, resource, subresource, namespace and name.
//!
//! Follows upstream's `RequestInfoFactory`, including its oddities: `watch/` and `proxy/` as path prefixes,
//! `namespaces/x` being both a scope and an object, and a list narrowed to `metadata.name=x` carrying that
//! name for authorization.

use super::Query;
use http::Method;
use machinery::selector::FieldSelector;

/// What is asked of a resource, or (`lower-case method`) of a path that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// `OPTIONS`, `HEAD` on a path that is no resource, and such.
    Other(&'static str),
}

impl Verb {
    /// The verb as authorization and audit know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other(name) => name,
        }
    }
}

/// A request's target. For paths that are no resource only `path` and `verb` say something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    pub verb: Verb,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// Segments after the subresource, as in `pods/x/proxy/a/b`.
    pub rest: Vec<String>,
}

/// Why a path cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to determine kind and namespace from url, {0}")]
pub struct BadPath(pub String);

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request's target. `path` is already percent-decoded.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Result<Self, BadPath> {
        let mut info = Self {
            is_resource: false,
            path: path.to_owned(),
            verb: plain_verb(method),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            rest: Vec::new(),
        };
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = if trimmed.is_empty() {
            Vec::new()
        } else {
            trimmed.split('/').collect()
        };
        let mut parts = match parts.split_first() {
            Some((&"api", rest)) if rest.len() >= 2 => rest,
            Some((&"apis", rest)) if rest.len() >= 3 => {
                info.group = rest[0].to_owned();
                &rest[1..]
            }
            _ => return Ok(info),
        };
        info.is_resource = true;
        info.version = parts[0].to_owned();
        parts = &parts[1..];

        let mut may_have_subresource = true;
        if parts[0] == "watch" || parts[0] == "proxy" {
            if parts.len() < 2 {
                return Err(BadPath(path.to_owned()));
            }
            info.verb = if parts[0] == "watch" {
                Verb::Watch
            } else {
                Verb::Other("proxy")
            };
            may_have_subresource = false;
            parts = &parts[1..];
        } else {
            info.verb = match *method {
                Method::POST => Verb::Create,
                Method::GET | Method::HEAD => Verb::Get,
                Method::PUT => Verb::Update,
                Method::PATCH => Verb::Patch,
                Method::DELETE => Verb::Delete,
                _ => Verb::Other(""),
            };
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            info.name = (*name).to_owned();
        }
        if may_have_subresource && let Some(subresource) = parts.get(2) {
            info.subresource = (*subresource).to_owned();
            info.rest = parts[3..].iter().map(|s| (*s).to_owned()).collect();
        }
        info.refine_collection(query);
        Ok(info)
    }

    /// `group/version`, or `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether the answer may take arbitrarily long: no request timeout applies.
    pub fn is_long_running(&self) -> bool {
        self.verb == Verb::Watch
            || self.verb == Verb::Other("proxy")
            || matches!(
                self.subresource.as_str(),
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
    }

    fn refine_collection(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb {
            Verb::Delete => self.verb = Verb::DeleteCollection,
            Verb::Get => {
                self.verb = if query.flag("watch") {
                    Verb::Watch
                } else {
                    Verb::List
                };
                if let Some(selector) = query.get("fieldSelector")
                    && let Ok(selector) = FieldSelector::parse(selector)
                    && let Some(name) = selector.exact("metadata.name")
                    && machinery::names::path_segment(name, false).is_empty()
                {
                    self.name = name.to_owned();
                }
            }
            _ => {}
        }
    }
}

fn plain_verb(method: &Method) -> Verb {
    match *method {
        Method::GET => Verb::Get,
        Method::POST => Verb::Other("post"),
        Method::PUT => Verb::Other("put"),
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        Method::HEAD => Verb::Other("head"),
        Method::OPTIONS => Verb::Other("options"),
        _ => Verb::Other(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `method path[?query]` → `verb group/version resource/subresource namespace name`.
    fn check(request: &str, expect: &str) {
        let (method, target) = request.split_once(' ').expect("method");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info =
            RequestInfo::parse(&method.parse().expect("method"), path, &Query::parse(query)).expect("path");
        let got = format!(
            "{} {}/{} {}/{} {} {}",
            info.verb.as_str(),
            info.group,
            info.version,
            info.resource,
            info.subresource,
            info.namespace,
            info.name
        );
        assert_eq!(got, expect, "{request}");
    }

    #[test]
    fn paths() {
        check("GET /api/v1/namespaces", "list /v1 namespaces/  ");
        check("GET /api/v1/namespaces/a", "get /v1 namespaces/ a a");
        check(
            "PUT /api/v1/namespaces/a/finalize",
            "update /v1 namespaces/finalize a a",
        );
        check(
            "PATCH /api/v1/namespaces/a/status",
            "patch /v1 namespaces/status a a",
        );
        check("GET /api/v1/namespaces/a/pods", "list /v1 pods/ a ");
        check("GET /api/v1/namespaces/a/pods?watch=1", "watch /v1 pods/ a ");
        check("GET /api/v1/namespaces/a/pods?watch=false", "list /v1 pods/ a ");
        check("GET /api/v1/watch/namespaces/a/pods/b", "watch /v1 pods/ a b");
        check(
            "GET /api/v1/pods?fieldSelector=metadata.name%3Dx",
            "list /v1 pods/  x",
        );
        check("GET /api/v1/namespaces/a/pods/b/log", "get /v1 pods/log a b");
        check(
            "POST /api/v1/namespaces/a/pods/b/exec?command=ls",
            "create /v1 pods/exec a b",
        );
        check(
            "GET /api/v1/nodes/n/proxy/stats/summary",
            "get /v1 nodes/proxy  n",
        );
        check(
            "DELETE /apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 deployments/ a ",
        );
        check("GET /apis/apps/v1", "get / /  ");
        check("POST /healthz", "post / /  ");
    }
}
