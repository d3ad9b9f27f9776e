//! Warnings about a Service: what has no effect, or will have none.

use crate::At;
use crate::fields::{list, text, texts};
use crate::ip;
use machinery::{Value, meta};

pub(super) fn warnings(service: &Value) -> Vec<String> {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let mut out = Vec::new();
    if meta::annotation(service, "service.kubernetes.io/topology-aware-hints").is_some() {
        out.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let mut warn = |text: &str| out.push(text.to_owned());
    let headless = text(spec, "type") == "ClusterIP" && text(spec, "clusterIP") == "None";
    let external = !list(spec, "externalIPs").is_empty();
    let named = text(spec, "type") == "ExternalName";
    if headless {
        if !text(spec, "loadBalancerIP").is_empty() {
            warn("spec.loadBalancerIP is ignored for headless services");
        }
        if external {
            warn("spec.externalIPs is ignored for headless services");
        }
        if text(spec, "sessionAffinity") != "None" {
            warn("spec.SessionAffinity is ignored for headless services");
        }
    } else if external && !named {
        warn("spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    }
    if named && external {
        warn("spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    }
    if !named && !text(spec, "externalName").is_empty() {
        warn("spec.externalName is ignored when spec.type is not \"ExternalName\"");
    }
    let at = At::new("spec");
    for field in ["clusterIPs", "externalIPs"] {
        let at = at.child(field);
        for (index, address) in texts(spec, field)
            .enumerate()
            .filter(|(_, address)| *address != "None")
        {
            out.extend(ip::warning(address, &at.index(index)));
        }
    }
    let address = text(spec, "loadBalancerIP");
    if !address.is_empty() {
        out.extend(ip::warning(address, &at.child("loadBalancerIP")));
    }
    out
}
