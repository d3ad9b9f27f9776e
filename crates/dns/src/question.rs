//! What a name in the cluster's zone asks for. Pure text.
//!
//! ```text
//! [_port._proto.][endpoint.]service.namespace.svc.<zone>
//! a-b-c-d.namespace.pod.<zone>
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name below the zone, its labels in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The zone itself.
    Apex,
    /// `dns-version`: the version of the specification.
    Version,
    /// `ns.dns`: this server.
    NameServer,
    /// `dns`, `svc`, `pod`: nothing but names below.
    Between,
    /// `namespace.svc` or `namespace.pod`.
    Namespace(String),
    Service {
        namespace: String,
        service: String,
        port: Option<PortName>,
        endpoint: Option<String>,
    },
    Pod {
        namespace: String,
        ip: IpAddr,
    },
    /// No such form of name.
    Nonsense,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortName {
    pub(crate) port: String,
    pub(crate) proto: String,
}

/// Reads the labels in front of the zone.
pub(crate) fn parse(labels: &[String]) -> Question {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [] => Question::Apex,
        ["dns-version"] => Question::Version,
        ["ns", "dns"] => Question::NameServer,
        ["dns" | "svc" | "pod"] => Question::Between,
        [namespace, "svc" | "pod"] => Question::Namespace((*namespace).to_owned()),
        [ip, namespace, "pod"] => match dashed_ip(ip) {
            Some(ip) => Question::Pod {
                namespace: (*namespace).to_owned(),
                ip,
            },
            None => Question::Nonsense,
        },
        [front @ .., service, namespace, "svc"] => {
            let (port, endpoint) = match front {
                [] => (None, None),
                [endpoint] => (None, Some(endpoint)),
                [port, proto] => match (port.strip_prefix('_'), proto.strip_prefix('_')) {
                    (Some(port), Some(proto)) => (
                        Some(PortName {
                            port: port.to_owned(),
                            proto: proto.to_owned(),
                        }),
                        None,
                    ),
                    _ => return Question::Nonsense,
                },
                _ => return Question::Nonsense,
            };
            Question::Service {
                namespace: (*namespace).to_owned(),
                service: (*service).to_owned(),
                port,
                endpoint: endpoint.map(|endpoint| (*endpoint).to_owned()),
            }
        }
        _ => Question::Nonsense,
    }
}

/// `10-42-0-7` or `fd00--7`.
fn dashed_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(ip.into());
    }
    text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from)
}

/// The label that stands for an endpoint without a hostname.
pub(crate) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        let service = |front: Option<(&str, &str)>, endpoint: Option<&str>| Question::Service {
            namespace: "ns".into(),
            service: "web".into(),
            port: front.map(|(port, proto)| PortName {
                port: port.into(),
                proto: proto.into(),
            }),
            endpoint: endpoint.map(str::to_owned),
        };
        let pod = |ip: &str| Question::Pod {
            namespace: "ns".into(),
            ip: ip.parse().unwrap(),
        };
        for (name, wanted) in [
            ("", Question::Apex),
            ("dns-version", Question::Version),
            ("ns.dns", Question::NameServer),
            ("svc", Question::Between),
            ("ns.svc", Question::Namespace("ns".into())),
            ("web.ns.svc", service(None, None)),
            ("web-0.web.ns.svc", service(None, Some("web-0"))),
            ("_http._tcp.web.ns.svc", service(Some(("http", "tcp")), None)),
            ("http.tcp.web.ns.svc", Question::Nonsense),
            ("a.b.c.web.ns.svc", Question::Nonsense),
            ("10-42-0-7.ns.pod", pod("10.42.0.7")),
            ("fd00--7.ns.pod", pod("fd00::7")),
            ("web.ns.pod", Question::Nonsense),
            ("web.ns", Question::Nonsense),
        ] {
            let labels: Vec<String> = name
                .split('.')
                .filter(|l| !l.is_empty())
                .map(str::to_owned)
                .collect();
            assert_eq!(parse(&labels), wanted, "{name}");
        }
        assert_eq!(dashed("fd00::7".parse().unwrap()), "fd00--7");
    }
}
