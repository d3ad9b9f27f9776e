//! A pod's names: hostname, subdomain, FQDN, and its `/etc/hosts`. Pure.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::error::{Error, Result};
use crate::pod::PodExt;

/// The kernel's limit for a host name.
const MOST: usize = 63;
const LONGEST_FQDN: usize = 64;

/// Hostname, and domain when the pod has a subdomain.
pub fn host_and_domain(pod: &Pod, cluster_domain: &str) -> Result<(String, String)> {
    let spec = pod.spec();
    if let Some(name) = &spec.hostname_override {
        return Ok((truncate(pod, name)?, String::new()));
    }
    let named = |what: &str, name: &Option<String>| match name.as_deref() {
        None | Some("") => Ok(None),
        Some(name) if is_label(name) => Ok(Some(name.to_owned())),
        Some(name) => Err(Error::Pod(format!(
            "pod {what} {name:?} is not a valid DNS label"
        ))),
    };
    let host = named("Hostname", &spec.hostname)?.unwrap_or_else(|| pod.name().to_owned());
    let host = truncate(pod, &host)?;
    let domain = named("Subdomain", &spec.subdomain)?
        .map(|sub| format!("{sub}.{}.svc.{cluster_domain}", pod.namespace()))
        .unwrap_or_default();
    Ok((host, domain))
}

/// The name the pod's kernel shows.
pub fn for_kernel(pod: &Pod, cluster_domain: &str) -> Result<String> {
    let (host, domain) = host_and_domain(pod, cluster_domain)?;
    if pod.spec().set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(host);
    }
    let name = format!("{host}.{domain}");
    if name.len() > LONGEST_FQDN {
        return Err(Error::Pod(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({LONGEST_FQDN} \
             characters is the max, {} characters requested)",
            name.len()
        )));
    }
    Ok(name)
}

fn truncate(pod: &Pod, name: &str) -> Result<String> {
    if name.len() <= MOST {
        return Ok(name.to_owned());
    }
    let cut = name[..name.floor_char_boundary(MOST)].trim_end_matches(['-', '.']);
    if cut.is_empty() {
        return Err(Error::Pod(format!(
            "hostname for pod {:?} was invalid: {name:?}",
            pod.name()
        )));
    }
    Ok(cut.to_owned())
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= MOST && !name.starts_with('-') && !name.ends_with('-') && name.chars().all(inner)
}

const MANAGED: &str = "# Kubernetes-managed hosts file.\n";
const MANAGED_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                     fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// `/etc/hosts` of a pod with its own network.
pub fn hosts_file(ips: &[String], host: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = format!("{MANAGED}{LOCAL}");
    for ip in ips {
        if domain.is_empty() {
            text += &format!("{ip}\t{host}\n");
        } else {
            text += &format!("{ip}\t{host}.{domain}\t{host}\n");
        }
    }
    text + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod on the node's network.
pub fn hosts_file_of_node(nodes: &str, aliases: &[HostAlias]) -> String {
    format!("{MANAGED_HOST_NETWORK}{nodes}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines: String = aliases
        .iter()
        .map(|a| {
            format!(
                "{}\t{}\n",
                a.ip,
                a.hostnames.as_deref().unwrap_or_default().join("\t")
            )
        })
        .collect();
    format!("\n# Entries added by HostAliases.\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn names() {
        let long = "a".repeat(70);
        let cases = [
            (json!({"containers": []}), Ok(("web-0", ""))),
            (
                json!({"containers": [], "hostname": "h", "subdomain": "s"}),
                Ok(("h", "s.n.svc.cluster.local")),
            ),
            (
                json!({"containers": [], "hostnameOverride": "a.b", "subdomain": "s"}),
                Ok(("a.b", "")),
            ),
            (
                json!({"containers": [], "hostname": "A_b"}),
                Err("pod Hostname \"A_b\" is not a valid DNS label"),
            ),
            (
                json!({"containers": [], "hostnameOverride": long}),
                Ok((&long[..63], "")),
            ),
        ];
        for (spec, expected) in cases {
            let found = host_and_domain(&pod(spec), "cluster.local");
            let found = found
                .as_ref()
                .map(|(h, d)| (h.as_str(), d.as_str()))
                .map_err(ToString::to_string);
            assert_eq!(found, expected.map_err(str::to_owned));
        }
        let fqdn = pod(json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(
            for_kernel(&fqdn, "cluster.local").unwrap(),
            "web-0.s.n.svc.cluster.local"
        );
        assert!(for_kernel(&fqdn, &"x".repeat(60)).is_err());
    }

    #[test]
    fn hosts() {
        let aliases: Vec<HostAlias> =
            serde_json::from_value(json!([{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}])).unwrap();
        let text = hosts_file(&["10.0.0.9".to_owned()], "h", "d.x", &aliases);
        assert!(text.starts_with(MANAGED));
        assert!(
            text.ends_with("10.0.0.9\th.d.x\th\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"),
            "{text}"
        );
    }
}
