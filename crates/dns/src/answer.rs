//! Answers about the cluster's own names. Pure: a question and the index in, records out.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::index::{Index, service_name};
use crate::question::{PortName, Question, dashed, parse};

/// The zone this server speaks for.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// As in `cluster.local.`
    pub(crate) origin: Name,
    pub(crate) ttl: u32,
    /// Where clients find the server: the address of `ns.dns.<zone>`.
    pub(crate) server: Vec<IpAddr>,
}

/// What is to be said.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Records {
        answers: Vec<Record>,
        additional: Vec<Record>,
    },
    /// The name exists, records of the type asked for do not.
    NoData,
    NoName,
    /// An alias; whoever asked for addresses wants those of the target too.
    Alias(Box<Record>, Name),
}

/// The version of the specification that is followed.
const SPECIFICATION: &str = "1.1.0";
/// Secondary servers would compare it; there are none.
const SERIAL: u32 = 1;

impl Zone {
    pub(crate) fn new(domain: &str, server: Vec<IpAddr>) -> Result<Self, ProtoError> {
        let mut origin = Name::from_ascii(domain)?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Zone {
            origin,
            ttl: 5,
            server,
        })
    }

    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    pub(crate) fn soa(&self) -> Result<Record, ProtoError> {
        let server = self.below(&["ns", "dns"])?;
        let mail = self.below(&["hostmaster"])?;
        let soa = SOA::new(server, mail, SERIAL, 7200, 1800, 86400, self.ttl);
        Ok(self.record(self.origin.clone(), RData::SOA(soa)))
    }

    /// Answers a question about a name in the zone. Owner names are as they were asked for.
    pub(crate) fn answer(
        &self,
        index: &dyn Index,
        name: &Name,
        kind: RecordType,
    ) -> Result<Answer, ProtoError> {
        let depth = usize::from(name.num_labels().saturating_sub(self.origin.num_labels()));
        let labels: Vec<String> = name
            .iter()
            .take(depth)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        match parse(&labels) {
            Question::Apex => self.apex(name, kind),
            Question::Version => Ok(match kind {
                RecordType::TXT | RecordType::ANY => {
                    let text = TXT::new(vec![SPECIFICATION.to_owned()]);
                    only(self.record(name.clone(), RData::TXT(text)))
                }
                _ => Answer::NoData,
            }),
            Question::NameServer => Ok(self.addresses(name, kind, self.server.iter().copied())),
            Question::Between => Ok(Answer::NoData),
            Question::Namespace(namespace) => Ok(if index.namespace_exists(&namespace) {
                Answer::NoData
            } else {
                Answer::NoName
            }),
            Question::Pod { namespace, ip } => Ok(if index.namespace_exists(&namespace) {
                self.addresses(name, kind, [ip])
            } else {
                Answer::NoName
            }),
            Question::Service {
                namespace,
                service,
                port,
                endpoint,
            } => {
                let Some(found) = index.service(&namespace, &service) else {
                    return Ok(Answer::NoName);
                };
                let slices = index.slices(&namespace, &service);
                let base = self.below(&[&service, &namespace, "svc"])?;
                let targets = Targets {
                    zone: self,
                    service: &found,
                    slices: &slices,
                    base,
                };
                targets.answer(name, kind, port.as_ref(), endpoint.as_deref())
            }
            Question::Nonsense => Ok(Answer::NoName),
        }
    }

    /// The names of an address; `None` when it is none of the cluster's.
    pub(crate) fn reverse(
        &self,
        index: &dyn Index,
        name: &Name,
        ip: IpAddr,
    ) -> Result<Option<Answer>, ProtoError> {
        let mut names = Vec::new();
        for service in index.services_at(ip) {
            let meta = &service.metadata;
            if let (Some(service), Some(namespace)) = (&meta.name, &meta.namespace) {
                names.push(self.below(&[service, namespace, "svc"])?);
            }
        }
        if names.is_empty() {
            for slice in index.slices_at(ip) {
                let (Some(service), Some(namespace)) = (service_name(&slice), &slice.metadata.namespace)
                else {
                    continue;
                };
                for endpoint in ready(&slice).filter(|endpoint| address(endpoint) == Some(ip)) {
                    names.push(self.below(&[&label(endpoint, ip), service, namespace, "svc"])?);
                }
            }
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Ok(None);
        }
        let records = names
            .into_iter()
            .map(|to| self.record(name.clone(), RData::PTR(PTR(to))))
            .collect();
        Ok(Some(Answer::Records {
            answers: records,
            additional: Vec::new(),
        }))
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Result<Answer, ProtoError> {
        match kind {
            RecordType::SOA => Ok(only(self.soa()?)),
            RecordType::NS => {
                let server = self.below(&["ns", "dns"])?;
                let mut additional = Vec::new();
                additional.extend(
                    self.server
                        .iter()
                        .map(|ip| self.record(server.clone(), address_data(*ip))),
                );
                let answers = vec![self.record(name.clone(), RData::NS(NS(server)))];
                Ok(Answer::Records { answers, additional })
            }
            _ => Ok(Answer::NoData),
        }
    }

    /// Those of the addresses that are of the type asked for.
    fn addresses(&self, name: &Name, kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        let mut fitting: Vec<IpAddr> = ips
            .into_iter()
            .filter(|ip| match kind {
                RecordType::A => ip.is_ipv4(),
                RecordType::AAAA => ip.is_ipv6(),
                RecordType::ANY => true,
                _ => false,
            })
            .collect();
        fitting.sort_unstable();
        fitting.dedup();
        if fitting.is_empty() {
            return Answer::NoData;
        }
        let answers = fitting
            .into_iter()
            .map(|ip| self.record(name.clone(), address_data(ip)))
            .collect();
        Answer::Records {
            answers,
            additional: Vec::new(),
        }
    }

    fn record(&self, name: Name, data: RData) -> Record {
        Record::from_rdata(name, self.ttl, data)
    }

    fn below(&self, labels: &[&str]) -> Result<Name, ProtoError> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))?.append_domain(&self.origin)
    }
}

/// A Service with what stands behind it.
struct Targets<'a> {
    zone: &'a Zone,
    service: &'a Service,
    slices: &'a [std::sync::Arc<EndpointSlice>],
    /// `service.namespace.svc.<zone>`
    base: Name,
}

/// One port at one address.
struct Target {
    name: Name,
    ip: IpAddr,
    /// `None` for an endpoint of a Service without ports.
    port: Option<u16>,
}

impl Targets<'_> {
    fn answer(
        &self,
        name: &Name,
        kind: RecordType,
        port: Option<&PortName>,
        endpoint: Option<&str>,
    ) -> Result<Answer, ProtoError> {
        let spec = self.service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let target = spec.and_then(|spec| spec.external_name.as_deref()).unwrap_or("");
            return self.alias(name, kind, target, port.is_some() || endpoint.is_some());
        }
        let targets = if self.is_headless() || endpoint.is_some() {
            self.endpoints(port, endpoint)?
        } else {
            self.cluster_ips(port)
        };
        if targets.is_empty() {
            return Ok(Answer::NoName);
        }
        if kind != RecordType::SRV {
            return Ok(self
                .zone
                .addresses(name, kind, targets.into_iter().map(|target| target.ip)));
        }
        Ok(self.srv(name, &targets))
    }

    fn is_headless(&self) -> bool {
        let spec = self.service.spec.as_ref();
        spec.and_then(|spec| spec.cluster_ip.as_deref())
            .is_none_or(|ip| ip.is_empty() || ip == "None")
    }

    fn alias(&self, name: &Name, kind: RecordType, target: &str, parts: bool) -> Result<Answer, ProtoError> {
        if parts || target.is_empty() {
            return Ok(Answer::NoName);
        }
        // An address where a name should be is answered as one.
        if let Ok(ip) = target.parse::<IpAddr>() {
            return Ok(self.zone.addresses(name, kind, [ip]));
        }
        let mut target = Name::from_ascii(target)?;
        target.set_fqdn(true);
        let record = self
            .zone
            .record(name.clone(), RData::CNAME(CNAME(target.clone())));
        Ok(match kind {
            RecordType::A | RecordType::AAAA => Answer::Alias(Box::new(record), target),
            RecordType::CNAME | RecordType::ANY => only(record),
            _ => Answer::NoData,
        })
    }

    fn cluster_ips(&self, wanted: Option<&PortName>) -> Vec<Target> {
        let Some(spec) = &self.service.spec else {
            return Vec::new();
        };
        let listed = spec.cluster_ips.as_ref().filter(|ips| !ips.is_empty());
        let ips: Vec<IpAddr> = match listed {
            Some(ips) => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            None => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
        };
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter(|port| is_wanted(wanted, port.name.as_deref(), port.protocol.as_deref()));
        ports
            .filter_map(|port| u16::try_from(port.port).ok())
            .flat_map(|port| ips.iter().map(move |ip| (port, *ip)))
            .map(|(port, ip)| Target {
                name: self.base.clone(),
                ip,
                port: Some(port),
            })
            .collect()
    }

    fn endpoints(
        &self,
        wanted: Option<&PortName>,
        endpoint: Option<&str>,
    ) -> Result<Vec<Target>, ProtoError> {
        let mut found = Vec::new();
        for slice in self.slices {
            let ports: Vec<Option<u16>> = match slice.ports.as_ref().filter(|ports| !ports.is_empty()) {
                None if wanted.is_none() => vec![None],
                None => Vec::new(),
                Some(ports) => ports
                    .iter()
                    .filter(|port| is_wanted(wanted, port.name.as_deref(), port.protocol.as_deref()))
                    .map(|port| port.port.and_then(|port| u16::try_from(port).ok()))
                    .collect(),
            };
            for candidate in ready(slice) {
                let Some(ip) = address(candidate) else { continue };
                let label = label(candidate, ip);
                if endpoint.is_some_and(|endpoint| endpoint != label) {
                    continue;
                }
                let name = self.base.prepend_label(label.as_bytes())?;
                found.extend(ports.iter().map(|port| Target {
                    name: name.clone(),
                    ip,
                    port: *port,
                }));
            }
        }
        Ok(found)
    }

    fn srv(&self, name: &Name, targets: &[Target]) -> Answer {
        let mut services: Vec<(&Name, u16)> = targets
            .iter()
            .filter_map(|target| Some((&target.name, target.port?)))
            .collect();
        services.sort();
        services.dedup();
        if services.is_empty() {
            return Answer::NoData;
        }
        // Equal shares of a hundred, as clients expect of one priority.
        let weight = (100 / services.len().min(100)) as u16;
        let answers = services
            .iter()
            .map(|(target, port)| SRV::new(0, weight, *port, (*target).clone()))
            .map(|srv| self.zone.record(name.clone(), RData::SRV(srv)))
            .collect();
        let mut hosts: Vec<(&Name, IpAddr)> = targets.iter().map(|t| (&t.name, t.ip)).collect();
        hosts.sort();
        hosts.dedup();
        let additional = hosts
            .into_iter()
            .map(|(host, ip)| self.zone.record(host.clone(), address_data(ip)))
            .collect();
        Answer::Records { answers, additional }
    }
}

fn is_wanted(wanted: Option<&PortName>, name: Option<&str>, proto: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| {
        name.is_some_and(|name| name.eq_ignore_ascii_case(&wanted.port))
            && proto.unwrap_or("TCP").eq_ignore_ascii_case(&wanted.proto)
    })
}

/// Endpoints of a Service that publishes unready ones are marked ready by the slices' controller.
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    slice.endpoints.iter().flatten().filter(is_ready)
}

fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn label(endpoint: &Endpoint, ip: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
        _ => dashed(ip),
    }
}

fn only(record: Record) -> Answer {
    Answer::Records {
        answers: vec![record],
        additional: Vec::new(),
    }
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
