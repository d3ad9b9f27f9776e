//! The objects every cluster has: made at start when they are missing, as upstream's controllers in the API
//! server do.

use crate::aggregation::FrontProxy;
use crate::registry::{Registry, Resource, Write};
use crate::server::{Advertise, Core};
use access::admission::Notes;
use machinery::status::{ApiError, Reason};
use machinery::user::UserInfo;
use machinery::{Value, codec};
use std::sync::Arc;

const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// Makes what is missing.
pub(crate) async fn run(core: &Core, advertise: Option<&Advertise>) -> Result<(), ApiError> {
    let maker = Maker::new(core);
    for name in NAMESPACES {
        maker
            .make(
                "",
                "namespaces",
                "",
                &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#),
            )
            .await?;
    }
    for (name, value, what) in [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}"}},"value":{value},"description":"{what}","preemptionPolicy":"PreemptLowerPriority"}}"#
        );
        maker
            .make("scheduling.k8s.io", "priorityclasses", "", &text)
            .await?;
    }
    // Independent of each other: they share the store's commits.
    let policy = access::authorization::bootstrap::objects();
    futures::future::try_join_all(policy.iter().map(|object| maker.policy(object))).await?;
    let flows = access::fairness::bootstrap::objects();
    futures::future::try_join_all(flows.iter().map(|object| maker.flow(object))).await?;
    if let Some(advertise) = advertise {
        maker.kubernetes_service(advertise).await?;
    }
    if let Some(front_proxy) = core.aggregation.front_proxy() {
        maker.authentication_of_extensions(front_proxy).await?;
    }
    Ok(())
}

/// Makes objects as the server itself.
pub(crate) struct Maker<'a> {
    core: &'a Core,
    user: UserInfo,
    notes: Notes,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self {
            core,
            user: UserInfo::authenticated("system:apiserver", &["system:masters"]),
            notes: Notes::default(),
        }
    }

    /// Creates an object unless it is there.
    pub(crate) async fn make(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        text: &str,
    ) -> Result<(), ApiError> {
        let Some(resource) = self.core.routes.resource(group, resource) else {
            return Ok(());
        };
        let object = self.object(&resource, text)?;
        let name = machinery::meta::name(&object).to_owned();
        let registry: &Registry = &self.core.registry;
        if registry.stored(&resource.key(namespace, &name)).await?.is_some() {
            return Ok(());
        }
        let options = Value::object();
        match registry
            .create(&self.write(&resource, namespace, &name, &options), object)
            .await
        {
            // Another server of the same store was faster.
            Err(error) if error.reason != Reason::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a role or binding of the bootstrap policy, or adds to the stored one what it lacks.
    async fn policy(&self, wanted: &Value) -> Result<(), ApiError> {
        use access::authorization::bootstrap;
        let resource = match wanted.get("kind").and_then(Value::as_str) {
            Some("ClusterRole") => "clusterroles",
            Some("ClusterRoleBinding") => "clusterrolebindings",
            Some("Role") => "roles",
            _ => "rolebindings",
        };
        let group = "rbac.authorization.k8s.io";
        self.keep(group, resource, wanted, bootstrap::reconcile).await
    }

    /// Makes a flow schema or priority level of every cluster, or brings the stored one up to date.
    async fn flow(&self, wanted: &Value) -> Result<(), ApiError> {
        use access::fairness::{GROUP, bootstrap};
        let resource = match wanted.get("kind").and_then(Value::as_str) {
            Some("FlowSchema") => "flowschemas",
            _ => "prioritylevelconfigurations",
        };
        self.keep(GROUP, resource, wanted, bootstrap::reconcile).await
    }

    /// Makes an object, or what `reconcile` says of the stored one.
    async fn keep(
        &self,
        group: &str,
        resource: &str,
        wanted: &Value,
        reconcile: impl Fn(&Value, &Value) -> Option<Value>,
    ) -> Result<(), ApiError> {
        let (namespace, name) = (machinery::meta::namespace(wanted), machinery::meta::name(wanted));
        let Some(served) = self.core.routes.resource(group, resource) else {
            return Ok(());
        };
        let stored = match self.core.registry.stored(&served.key(namespace, name)).await? {
            Some(kv) => {
                let revision = kv.mod_revision as u64;
                let object = crate::object::decode_stored(&served, &kv.value, revision);
                Some(object.map_err(crate::registry::stored_error)?)
            }
            None => None,
        };
        let text = |object: &Value| String::from_utf8_lossy(&codec::json::to_vec(object)).into_owned();
        match stored {
            None => self.make(group, resource, namespace, &text(wanted)).await,
            Some(stored) => match reconcile(&stored, wanted) {
                Some(merged) => self.put(group, resource, namespace, &text(&merged)).await,
                None => Ok(()),
            },
        }
    }

    /// Puts an object into the shape given, made or changed.
    async fn put(&self, group: &str, resource: &str, namespace: &str, text: &str) -> Result<(), ApiError> {
        let Some(resource) = self.core.routes.resource(group, resource) else {
            return Ok(());
        };
        let object = self.object(&resource, text)?;
        let name = machinery::meta::name(&object).to_owned();
        let options = Value::object();
        let write = self.write(&resource, namespace, &name, &options);
        let key = resource.key(namespace, &name);
        if self.core.registry.stored(&key).await?.is_none() {
            return self.make(group, &resource.info.resource, namespace, text).await;
        }
        self.core
            .registry
            .update(&write, &crate::registry::update::Replace(object), &Always)
            .await?;
        Ok(())
    }

    fn object(&self, resource: &Resource, text: &str) -> Result<Value, ApiError> {
        let storage = resource.storage_version();
        let decoded =
            codec::json::decode(text.as_bytes(), &resource.types, storage.ty).map_err(ApiError::internal)?;
        let mut object = decoded.value;
        crate::object::set_kind(&mut object, &storage.api_version, &storage.kind);
        machinery::defaults::apply(&resource.types, storage.ty, &mut object);
        resource.strategy.default(&mut object);
        Ok(object)
    }

    pub(crate) fn write<'w>(
        &'w self,
        resource: &'w Arc<Resource>,
        namespace: &'w str,
        name: &'w str,
        options: &'w Value,
    ) -> Write<'w> {
        Write {
            resource,
            version: resource.storage,
            subresource: "",
            namespace,
            name,
            user: &self.user,
            dry_run: false,
            manager: "kube-apiserver",
            options,
            notes: &self.notes,
        }
    }

    /// How other API servers can know who asks them: by certificates of clients, and by our word.
    async fn authentication_of_extensions(&self, front_proxy: &FrontProxy) -> Result<(), ApiError> {
        let data: machinery::Map = [
            ("client-ca-file", front_proxy.client_authority.as_str()),
            ("requestheader-client-ca-file", &front_proxy.authority),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ]
        .into_iter()
        .map(|(key, text)| (key, Value::from(text)))
        .collect();
        let mut wanted = Value::object();
        wanted.set_path(&["metadata", "name"], "extension-apiserver-authentication");
        wanted.set_path(&["metadata", "namespace"], "kube-system");
        wanted.set_path(&["data"], data);
        self.keep("", "configmaps", &wanted, |stored, wanted| {
            let data = wanted.get("data")?;
            (stored.get("data") != Some(data)).then(|| {
                let mut merged = stored.clone();
                merged.set_path(&["data"], data.clone());
                merged
            })
        })
        .await
    }

    /// The Service pods reach this server by, and where it leads.
    async fn kubernetes_service(&self, advertise: &Advertise) -> Result<(), ApiError> {
        let (ip, port) = (advertise.address.ip(), advertise.address.port());
        let service_ip = advertise.service_address;
        let family = if service_ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let labels = r#""labels":{"component":"apiserver","provider":"kubernetes"}"#;
        let service = format!(
            r#"{{"metadata":{{"name":"kubernetes","namespace":"default",{labels}}},
            "spec":{{"clusterIP":"{service_ip}","clusterIPs":["{service_ip}"],"ipFamilies":["{family}"],
            "ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster","sessionAffinity":"None","type":"ClusterIP",
            "ports":[{{"name":"https","port":443,"protocol":"TCP","targetPort":{port}}}]}}}}"#
        );
        self.make("", "services", "default", &service).await?;
        // Nothing can be an endpoint on a loopback address, by the API's own rules; then there is none.
        if ip.is_loopback() || ip.is_unspecified() {
            return Ok(());
        }
        let endpoints = format!(
            r#"{{"metadata":{{"name":"kubernetes","namespace":"default",
            "labels":{{"endpointslice.kubernetes.io/skip-mirror":"true"}}}},
            "subsets":[{{"addresses":[{{"ip":"{ip}"}}],"ports":[{{"name":"https","port":{port},"protocol":"TCP"}}]}}]}}"#
        );
        self.put("", "endpoints", "default", &endpoints).await?;
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = format!(
            r#"{{"metadata":{{"name":"kubernetes","namespace":"default","labels":{{"kubernetes.io/service-name":"kubernetes"}}}},
            "addressType":"{family}","endpoints":[{{"addresses":["{ip}"],"conditions":{{"ready":true}}}}],
            "ports":[{{"name":"https","port":{port},"protocol":"TCP"}}]}}"#
        );
        self.put("discovery.k8s.io", "endpointslices", "default", &slice)
            .await
    }
}

/// The server itself may create what it updates.
pub(crate) struct Always;

#[async_trait::async_trait]
impl crate::registry::update::MayCreate for Always {
    async fn may_create(&self) -> Result<(), ApiError> {
        Ok(())
    }
}
