//! One resource of the API, named by data, for callers that learn kinds at run time.

use compact_str::{CompactString, ToCompactString as _};

/// Group, version and plural of a resource with what is needed to address it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: CompactString,
    pub version: CompactString,
    pub plural: CompactString,
    pub kind: CompactString,
    pub namespaced: bool,
}

impl Resource {
    /// The resource of a compiled-in type.
    pub fn of<K: kube::Resource<DynamicType = ()>>(namespaced: bool) -> Self {
        Self {
            group: K::group(&()).to_compact_string(),
            version: K::version(&()).to_compact_string(),
            plural: K::plural(&()).to_compact_string(),
            kind: K::kind(&()).to_compact_string(),
            namespaced,
        }
    }

    /// `group/version`, or `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection; of all namespaces when `namespace` is `None` or the kind has none.
    pub fn collection_path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        match namespace.filter(|_| self.namespaced) {
            Some(ns) => format!("{root}/{}/namespaces/{ns}/{}", self.api_version(), self.plural),
            None => format!("{root}/{}/{}", self.api_version(), self.plural),
        }
    }

    /// The path of one object.
    pub fn object_path(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{name}", self.collection_path(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_group_and_scope() {
        let pods = Resource::of::<k8s_openapi::api::core::v1::Pod>(true);
        assert_eq!(pods.collection_path(None), "/api/v1/pods");
        assert_eq!(pods.object_path(Some("a"), "b"), "/api/v1/namespaces/a/pods/b");
        let nodes = Resource::of::<k8s_openapi::api::core::v1::Node>(false);
        assert_eq!(nodes.object_path(Some("ignored"), "n"), "/api/v1/nodes/n");
        let sets = Resource::of::<k8s_openapi::api::apps::v1::ReplicaSet>(true);
        assert_eq!(
            sets.collection_path(Some("x")),
            "/apis/apps/v1/namespaces/x/replicasets"
        );
    }
}
