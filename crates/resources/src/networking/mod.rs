//! The group `networking.k8s.io`.

use crate::Entry;

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

pub(crate) use ingress::addresses;

const GROUP: &str = "networking.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (GROUP, "ingressclasses", &ingress_class::IngressClass),
    (GROUP, "ingresses", &ingress::Ingress),
    (GROUP, "ipaddresses", &ip_address::IpAddress),
    (GROUP, "networkpolicies", &network_policy::NetworkPolicy),
    (GROUP, "servicecidrs", &service_cidr::ServiceCidr),
];
