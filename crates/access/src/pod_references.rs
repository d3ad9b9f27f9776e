//! What a pod names that its node must then be able to read.

use machinery::{Value, meta};
use std::collections::BTreeSet;

/// Names, all in the pod's own namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub service_account: String,
    pub secrets: BTreeSet<String>,
    pub config_maps: BTreeSet<String>,
    pub claims: BTreeSet<String>,
    pub resource_claims: BTreeSet<String>,
}

/// Where a volume source names a secret.
const VOLUME_SECRETS: [&[&str]; 10] = [
    &["secret", "secretName"],
    &["azureFile", "secretName"],
    &["cephfs", "secretRef", "name"],
    &["cinder", "secretRef", "name"],
    &["csi", "nodePublishSecretRef", "name"],
    &["flexVolume", "secretRef", "name"],
    &["iscsi", "secretRef", "name"],
    &["rbd", "secretRef", "name"],
    &["scaleIO", "secretRef", "name"],
    &["storageos", "secretRef", "name"],
];

impl References {
    pub(crate) fn of(pod: &Value) -> Self {
        let mut found = Self {
            service_account: pod
                .get_str_path(&["spec", "serviceAccountName"])
                .unwrap_or_default()
                .to_owned(),
            ..Self::default()
        };
        for secret in list(pod, &["spec", "imagePullSecrets"]) {
            add(&mut found.secrets, secret, &["name"]);
        }
        for field in ["initContainers", "containers", "ephemeralContainers"] {
            for container in list(pod, &["spec", field]) {
                found.container(container);
            }
        }
        for volume in list(pod, &["spec", "volumes"]) {
            found.volume(pod, volume);
        }
        for claim in list(pod, &["spec", "resourceClaims"]) {
            add(&mut found.resource_claims, claim, &["resourceClaimName"]);
        }
        for claim in list(pod, &["status", "resourceClaimStatuses"]) {
            add(&mut found.resource_claims, claim, &["resourceClaimName"]);
        }
        add(
            &mut found.resource_claims,
            pod,
            &["status", "extendedResourceClaimStatus", "resourceClaimName"],
        );
        found
    }

    fn container(&mut self, container: &Value) {
        for source in list(container, &["envFrom"]) {
            add(&mut self.secrets, source, &["secretRef", "name"]);
            add(&mut self.config_maps, source, &["configMapRef", "name"]);
        }
        for variable in list(container, &["env"]) {
            add(
                &mut self.secrets,
                variable,
                &["valueFrom", "secretKeyRef", "name"],
            );
            add(
                &mut self.config_maps,
                variable,
                &["valueFrom", "configMapKeyRef", "name"],
            );
        }
    }

    fn volume(&mut self, pod: &Value, volume: &Value) {
        for path in VOLUME_SECRETS {
            add(&mut self.secrets, volume, path);
        }
        add(&mut self.config_maps, volume, &["configMap", "name"]);
        add(&mut self.claims, volume, &["persistentVolumeClaim", "claimName"]);
        if volume.get("ephemeral").is_some_and(|source| !source.is_null()) {
            let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
            self.claims.insert(format!("{}-{name}", meta::name(pod)));
        }
        for source in list(volume, &["projected", "sources"]) {
            add(&mut self.secrets, source, &["secret", "name"]);
            add(&mut self.config_maps, source, &["configMap", "name"]);
        }
    }
}

/// The secrets a persistent volume's driver needs on the node, with their namespaces.
pub(crate) fn volume_secrets(volume: &Value) -> Vec<(String, String)> {
    const REFERENCES: [&[&str]; 11] = [
        &["azureFile"],
        &["cephfs", "secretRef"],
        &["cinder", "secretRef"],
        &["csi", "nodeExpandSecretRef"],
        &["csi", "nodePublishSecretRef"],
        &["csi", "nodeStageSecretRef"],
        &["flexVolume", "secretRef"],
        &["iscsi", "secretRef"],
        &["rbd", "secretRef"],
        &["scaleIO", "secretRef"],
        &["storageos", "secretRef"],
    ];
    let claim = volume
        .get_str_path(&["spec", "claimRef", "namespace"])
        .unwrap_or_default();
    let references = REFERENCES.iter().filter_map(|path| {
        let reference = volume.get("spec")?.get_path(path)?;
        let text = |fields: [&str; 2]| {
            fields
                .iter()
                .filter_map(|field| reference.get(field)?.as_str())
                .find(|text| !text.is_empty())
        };
        let name = text(["name", "secretName"])?;
        let namespace = text(["namespace", "secretNamespace"]).unwrap_or(claim);
        Some((namespace.to_owned(), name.to_owned()))
    });
    references.collect()
}

fn list<'a>(of: &'a Value, path: &[&str]) -> &'a [Value] {
    of.get_path(path).and_then(Value::as_array).unwrap_or_default()
}

fn add(to: &mut BTreeSet<String>, of: &Value, path: &[&str]) {
    if let Some(name) = of.get_str_path(path).filter(|name| !name.is_empty()) {
        to.insert(name.to_owned());
    }
}
