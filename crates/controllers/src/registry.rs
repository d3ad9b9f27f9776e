//! The one list of controllers, and how they are started.

use crate::context::{Context, Options};
use crate::*;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One controller.
pub struct Controller {
    /// As in `--controllers`.
    pub name: &'static str,
    /// The service account it acts as.
    pub identity: &'static str,
    /// What its events say they come from.
    pub component: &'static str,
    pub start: fn(Context) -> BoxFuture<'static, ()>,
}

/// Every controller, by name.
pub static ALL: &[Controller] = &[
    Controller {
        name: "bootstrap-signer-controller",
        identity: "bootstrap-signer",
        component: "bootstrap-signer",
        start: bootstrap_signer::start,
    },
    Controller {
        name: "certificatesigningrequest-approving-controller",
        identity: "certificate-controller",
        component: "certificate-controller",
        start: certificate_request_approving::start,
    },
    Controller {
        name: "certificatesigningrequest-cleaner-controller",
        identity: "certificate-controller",
        component: "certificate-controller",
        start: certificate_request_cleaner::start,
    },
    Controller {
        name: "certificatesigningrequest-signing-controller",
        identity: "certificate-controller",
        component: "certificate-controller",
        start: certificate_request_signing::start,
    },
    Controller {
        name: "clusterrole-aggregation-controller",
        identity: "clusterrole-aggregation-controller",
        component: "clusterrole-aggregation-controller",
        start: cluster_role_aggregation::start,
    },
    Controller {
        name: "cronjob-controller",
        identity: "cronjob-controller",
        component: "cronjob-controller",
        start: cron_job::start,
    },
    Controller {
        name: "daemonset-controller",
        identity: "daemon-set-controller",
        component: "daemonset-controller",
        start: daemon_set::start,
    },
    Controller {
        name: "deployment-controller",
        identity: "deployment-controller",
        component: "deployment-controller",
        start: deployment::start,
    },
    Controller {
        name: "device-taint-eviction-controller",
        identity: "device-taint-eviction-controller",
        component: "device-taint-eviction-controller",
        start: device_taint_eviction::start,
    },
    Controller {
        name: "disruption-controller",
        identity: "disruption-controller",
        component: "controllermanager",
        start: disruption::start,
    },
    Controller {
        name: "endpoints-controller",
        identity: "endpoint-controller",
        component: "endpoint-controller",
        start: endpoints::start,
    },
    Controller {
        name: "endpointslice-controller",
        identity: "endpointslice-controller",
        component: "endpoint-slice-controller",
        start: endpoint_slice::start,
    },
    Controller {
        name: "endpointslice-mirroring-controller",
        identity: "endpointslicemirroring-controller",
        component: "endpoint-slice-mirroring-controller",
        start: endpoint_slice_mirroring::start,
    },
    Controller {
        name: "ephemeral-volume-controller",
        identity: "ephemeral-volume-controller",
        component: "ephemeral_volume",
        start: ephemeral_volume::start,
    },
    Controller {
        name: "garbage-collector-controller",
        identity: "generic-garbage-collector",
        component: "garbage-collector-controller",
        start: garbage_collector::start,
    },
    Controller {
        name: "horizontal-pod-autoscaler-controller",
        identity: "horizontal-pod-autoscaler",
        component: "horizontal-pod-autoscaler",
        start: horizontal_pod_autoscaler::start,
    },
    Controller {
        name: "job-controller",
        identity: "job-controller",
        component: "job-controller",
        start: job::start,
    },
    Controller {
        name: "legacy-serviceaccount-token-cleaner-controller",
        identity: "legacy-service-account-token-cleaner",
        component: "legacy-service-account-token-cleaner",
        start: legacy_service_account_token_cleaner::start,
    },
    Controller {
        name: "namespace-controller",
        identity: "namespace-controller",
        component: "namespace-controller",
        start: namespace::start,
    },
    Controller {
        name: "node-ipam-controller",
        identity: "node-controller",
        component: "cidrAllocator",
        start: node_ipam::start,
    },
    Controller {
        name: "node-lifecycle-controller",
        identity: "node-controller",
        component: "node-controller",
        start: node_lifecycle::start,
    },
    Controller {
        name: "persistentvolume-attach-detach-controller",
        identity: "attachdetach-controller",
        component: "attachdetach-controller",
        start: attach_detach::start,
    },
    Controller {
        name: "persistentvolume-binder-controller",
        identity: "persistent-volume-binder",
        component: "persistentvolume-controller",
        start: persistent_volume_binder::start,
    },
    Controller {
        name: "persistentvolume-expander-controller",
        identity: "expand-controller",
        component: "volume_expand",
        start: persistent_volume_expander::start,
    },
    Controller {
        name: "persistentvolume-protection-controller",
        identity: "pv-protection-controller",
        component: "pv-protection-controller",
        start: persistent_volume_protection::start,
    },
    Controller {
        name: "persistentvolumeclaim-protection-controller",
        identity: "pvc-protection-controller",
        component: "pvc-protection-controller",
        start: persistent_volume_claim_protection::start,
    },
    Controller {
        name: "pod-garbage-collector-controller",
        identity: "pod-garbage-collector",
        component: "pod-garbage-collector-controller",
        start: pod_gc::start,
    },
    Controller {
        name: "replicaset-controller",
        identity: "replicaset-controller",
        component: "replicaset-controller",
        start: replicaset::start,
    },
    Controller {
        name: "replicationcontroller-controller",
        identity: "replication-controller",
        component: "replication-controller",
        start: replication::start,
    },
    Controller {
        name: "resourceclaim-controller",
        identity: "resource-claim-controller",
        component: "resource_claim",
        start: resource_claim::start,
    },
    Controller {
        name: "resourcequota-controller",
        identity: "resourcequota-controller",
        component: "resourcequota-controller",
        start: resource_quota::start,
    },
    Controller {
        name: "root-ca-certificate-publisher-controller",
        identity: "root-ca-cert-publisher",
        component: "root-ca-cert-publisher",
        start: root_ca_publisher::start,
    },
    Controller {
        name: "service-cidr-controller",
        identity: "service-cidrs-controller",
        component: "service-cidrs-controller",
        start: service_cidr::start,
    },
    Controller {
        name: "serviceaccount-controller",
        identity: "service-account-controller",
        component: "service-account-controller",
        start: service_account::start,
    },
    Controller {
        name: "statefulset-controller",
        identity: "statefulset-controller",
        component: "statefulset-controller",
        start: stateful_set::start,
    },
    Controller {
        name: "taint-eviction-controller",
        identity: "node-controller",
        component: "taint-eviction-controller",
        start: taint_eviction::start,
    },
    Controller {
        name: "token-cleaner-controller",
        identity: "token-cleaner",
        component: "token-cleaner",
        start: token_cleaner::start,
    },
    Controller {
        name: "ttl-after-finished-controller",
        identity: "ttl-after-finished-controller",
        component: "ttl-after-finished-controller",
        start: ttl_after_finished::start,
    },
    Controller {
        name: "ttl-controller",
        identity: "ttl-controller",
        component: "ttl-controller",
        start: ttl::start,
    },
    Controller {
        name: "volumeattributesclass-protection-controller",
        identity: "volumeattributesclass-protection-controller",
        component: "volumeattributesclass-protection-controller",
        start: volume_attributes_class_protection::start,
    },
];

/// Runs the controllers that `options` name until `stop`.
pub async fn run(options: Options, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    for controller in ALL.iter().filter(|c| is_enabled(c.name, &options.controllers)) {
        let context = Context::new(&options, controller.identity, controller.component, stop.clone());
        tracing::debug!(controller = controller.name, "starting");
        tasks.spawn((controller.start)(context));
    }
    tasks.close();
    tasks.wait().await;
}

/// A name in `--controllers` that no controller has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not in the list of known controllers")]
pub struct UnknownController(pub String);

/// Whether every entry of `--controllers` means something.
pub fn check_names(list: &[String]) -> Result<(), UnknownController> {
    let unknown = list.iter().find(|entry| {
        let name = entry.strip_prefix('-').unwrap_or(entry);
        name != "*" && !ALL.iter().any(|c| c.name == name)
    });
    unknown.map_or(Ok(()), |name| Err(UnknownController(name.clone())))
}

/// What is named last by its own name counts; `*` stands for all.
fn is_enabled(name: &str, list: &[String]) -> bool {
    let mut all = false;
    for entry in list {
        match entry.strip_prefix('-') {
            Some(off) if off == name => return false,
            None if entry == name => return true,
            None if entry == "*" => all = true,
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_complete() {
        assert!(ALL.is_sorted_by_key(|c| c.name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let shared = [
            "lib",
            "context",
            "owner",
            "pods",
            "registry",
            "int_or_percent",
            "service_pods",
            "history",
            "template_hash",
            "certificate_request",
        ];
        let files = std::fs::read_dir(folder)
            .expect("src")
            .map(|e| e.expect("entry").file_name());
        let controllers = files.filter(|f| !shared.contains(&f.to_string_lossy().trim_end_matches(".rs")));
        assert_eq!(
            controllers.count(),
            ALL.len(),
            "a controller's file is missing from the list"
        );
    }

    #[test]
    fn switches() {
        let check = |list: &[&str], expected: bool| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(is_enabled("a", &list), expected, "{list:?}");
        };
        check(&["*"], true);
        check(&["*", "-a"], false);
        check(&["a"], true);
        check(&["b"], false);
        check(&["-a", "*"], false);
    }

    #[test]
    fn names_are_known() {
        let check = |list: &[&str], expected: Option<&str>| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(check_names(&list).err().map(|e| e.0).as_deref(), expected);
        };
        check(&["*", "-job-controller", "cronjob-controller", "-*"], None);
        check(&["*", "-jobs"], Some("-jobs"));
    }
}
