//! A pod's resolver configuration, by its DNS policy. Pure but for reading the node's file.
//!
//! Follows upstream's `network/dns`: the limits on name servers and search paths, and the events that say what
//! was left out.

use std::path::Path;

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::PodExt;

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_CHARS: usize = 2048;
const LONGEST_DOMAIN: usize = 253;

/// The cluster's side.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub servers: Vec<String>,
    pub domain: String,
}

/// The configuration, and what an event should tell: reason and message.
pub fn for_pod(pod: &Pod, cluster: &Cluster, node: DnsConfig) -> (DnsConfig, Vec<(&'static str, String)>) {
    let mut warnings = Vec::new();
    let policy = pod.spec().dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "None" | "Default" => false,
        "ClusterFirst" => !pod.host_network(),
        _ => true,
    };
    let mut config = node;
    if policy == "None" {
        config = DnsConfig::default();
    } else if wants_cluster && !cluster.servers.is_empty() {
        config.servers = cluster.servers.clone();
        if !cluster.domain.is_empty() {
            let domain = &cluster.domain;
            let mut searches = vec![
                format!("{}.svc.{domain}", pod.namespace()),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            searches.append(&mut config.searches);
            config.searches = unique(searches);
        }
        config.options = vec!["ndots:5".to_owned()];
    } else if wants_cluster {
        let text = format!(
            "pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" \
             policy. Falling back to \"Default\" policy.",
            pod.describe()
        );
        warnings.push(("MissingClusterDNS", text));
    }
    if let Some(more) = &pod.spec().dns_config {
        let all = |mut list: Vec<String>, more: &Option<Vec<String>>| {
            list.extend(more.iter().flatten().cloned());
            unique(list)
        };
        config.servers = all(config.servers, &more.nameservers);
        config.searches = all(config.searches, &more.searches);
        for option in more.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    fit(&mut config, &mut warnings);
    (config, warnings)
}

fn fit(config: &mut DnsConfig, warnings: &mut Vec<(&'static str, String)>) {
    if config.servers.len() > MOST_SERVERS {
        config.servers.truncate(MOST_SERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                config.servers.join(" ")
            ),
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MOST_SEARCHES);
    config.searches.retain(|s| s.len() <= LONGEST_DOMAIN);
    let length = |searches: &[String]| {
        searches
            .iter()
            .map(|s| s.len() + 1)
            .sum::<usize>()
            .saturating_sub(1)
    };
    while length(&config.searches) > MOST_SEARCH_CHARS {
        config.searches.pop();
    }
    if config.searches.len() != before {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                config.searches.join(" ")
            ),
        ));
    }
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut result: Vec<String> = Vec::with_capacity(list.len());
    for item in list {
        if !result.contains(&item) {
            result.push(item);
        }
    }
    result
}

/// The node's own configuration; empty when it has none.
pub fn of_node(path: &Path) -> DnsConfig {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the node has no resolver configuration");
            DnsConfig::default()
        }
    }
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                config.searches = words
                    .filter(|w| *w != ".")
                    .map(|w| w.trim_end_matches('.').to_owned())
                    .collect();
            }
            Some("options") => {
                for option in words {
                    let name = option.split(':').next();
                    config.options.retain(|o| o.split(':').next() != name);
                    config.options.push(option.to_owned());
                }
            }
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn policies() {
        let node = parse("# x\nnameserver 9.9.9.9\nsearch example.com.\noptions ndots:1 edns0\n");
        let cluster = Cluster {
            servers: vec!["10.43.0.10".into()],
            domain: "cluster.local".into(),
        };
        let show = |spec: Value| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": spec})).unwrap();
            let (c, warnings) = for_pod(&pod, &cluster, node.clone());
            format!(
                "{} | {} | {} | {}",
                c.servers.join(" "),
                c.searches.join(" "),
                c.options.join(" "),
                warnings.len()
            )
        };
        let cluster_first =
            "10.43.0.10 | n.svc.cluster.local svc.cluster.local cluster.local example.com | ndots:5 | 0";
        let host = "9.9.9.9 | example.com | ndots:1 edns0 | 0";
        assert_eq!(show(json!({"containers": []})), cluster_first);
        assert_eq!(show(json!({"containers": [], "hostNetwork": true})), host);
        assert_eq!(
            show(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
            cluster_first
        );
        assert_eq!(show(json!({"containers": [], "dnsPolicy": "Default"})), host);
        assert_eq!(
            show(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": ["a", "a"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}})),
            "1.1.1.1 2.2.2.2 3.3.3.3 | a | ndots:2 rotate | 1"
        );
    }
}
