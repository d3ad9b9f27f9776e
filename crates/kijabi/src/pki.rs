//! The instance's certificates: made at the first start, kept in `<data-dir>/server/tls`, renewed at a start
//! that finds less than a fifth of their life left or a name they do not cover.
//!
//! Users and groups are those upstream's tools give the same parts, so RBAC and the Node authorizer know them.

use crate::instance::write_atomically;
use anyhow::Context;
use jiff::Timestamp;
use std::net::IpAddr;
use std::path::Path;
use wire::certs::{Authority, Identity, Leaf};

/// Everything the parts of one node need to trust each other.
pub(crate) struct Pki {
    pub authority: String,
    /// What certificate requests are signed with.
    pub authority_key: String,
    pub server: Identity,
    pub administrator: Identity,
    /// What the API server shows to kubelets.
    pub kubelet_client: Identity,
    /// Who vouches for what the API server shows to other API servers, and what that is.
    pub front_proxy_authority: String,
    pub front_proxy: Identity,
    /// What the kubelet serves with.
    pub kubelet_server: Identity,
}

/// Whom the certificates are for.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub node_name: String,
    pub node_ip: IpAddr,
    /// The first address of the service range: the `kubernetes` Service.
    pub service_ip: IpAddr,
    pub cluster_domain: String,
    /// Further names and addresses of the API server.
    pub extra: Vec<String>,
}

impl Pki {
    /// Reads what is there and makes what is missing or stale.
    pub(crate) fn load_or_create(dir: &Path, names: &Names, now: Timestamp) -> anyhow::Result<Self> {
        let authority = self::authority(dir, "ca", "kubernetes-ca", now)?;
        let front_proxy = self::authority(dir, "front-proxy-ca", "front-proxy-ca", now)?;
        let leaf = |file: &str, leaf: &Leaf| leaf_identity(dir, file, &authority, leaf, now);
        let node_user = format!("system:node:{}", names.node_name);
        Ok(Self {
            server: leaf("apiserver", &server_leaf(names))?,
            administrator: leaf("admin", &Leaf::client("system:admin", Some("system:masters")))?,
            kubelet_client: leaf(
                "apiserver-kubelet-client",
                &Leaf::client("kube-apiserver-kubelet-client", Some("system:masters")),
            )?,
            kubelet_server: leaf(
                "kubelet",
                &Leaf {
                    organization: Some("system:nodes".to_owned()),
                    ..Leaf::server(
                        node_user,
                        vec![names.node_name.clone()],
                        vec![names.node_ip, IpAddr::from([127, 0, 0, 1])],
                    )
                },
            )?,
            front_proxy: leaf_identity(
                dir,
                "front-proxy-client",
                &front_proxy,
                &Leaf::client(apiserver::aggregation::FRONT_PROXY_NAME, None),
                now,
            )?,
            front_proxy_authority: front_proxy.certificate().to_owned(),
            authority: authority.certificate().to_owned(),
            authority_key: authority.identity().key.clone(),
        })
    }
}

/// An authority: the one that is there, or a new one.
fn authority(dir: &Path, file: &str, name: &str, now: Timestamp) -> anyhow::Result<Authority> {
    match read(dir, file)? {
        Some(identity) => Authority::load(identity).with_context(|| {
            format!(
                "the authority in {} is damaged; restore it, or start with a new --data-dir",
                dir.display()
            )
        }),
        None => {
            let authority = Authority::generate(name, now)?;
            write(dir, file, authority.identity())?;
            Ok(authority)
        }
    }
}

fn server_leaf(names: &Names) -> Leaf {
    let mut dns_names = vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", names.cluster_domain),
        names.node_name.clone(),
    ];
    let mut addresses = vec![
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        names.service_ip,
        names.node_ip,
    ];
    for extra in &names.extra {
        match extra.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(extra.clone()),
        }
    }
    dns_names.dedup();
    addresses.dedup();
    Leaf::server("kube-apiserver", dns_names, addresses)
}

fn leaf_identity(
    dir: &Path,
    file: &str,
    authority: &Authority,
    leaf: &Leaf,
    now: Timestamp,
) -> anyhow::Result<Identity> {
    if let Some(identity) = read(dir, file)?
        && !identity.due_for_renewal(now)
        && identity.covers(&leaf.dns_names, &leaf.addresses)
    {
        return Ok(identity);
    }
    let identity = authority.issue(leaf, now)?;
    write(dir, file, &identity)?;
    Ok(identity)
}

fn read(dir: &Path, name: &str) -> anyhow::Result<Option<Identity>> {
    let part = |extension: &str| {
        let path = dir.join(format!("{name}.{extension}"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    };
    Ok(match (part("crt")?, part("key")?) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        // A crash between the two writes leaves the key alone; a new pair replaces it.
        _ => None,
    })
}

fn write(dir: &Path, name: &str, identity: &Identity) -> anyhow::Result<()> {
    write_atomically(&dir.join(format!("{name}.key")), identity.key.as_bytes(), 0o600)?;
    write_atomically(
        &dir.join(format!("{name}.crt")),
        identity.certificate.as_bytes(),
        0o644,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            node_name: "n1".to_owned(),
            node_ip: IpAddr::from([10, 0, 0, 1]),
            service_ip: IpAddr::from([10, 43, 0, 1]),
            cluster_domain: "cluster.local".to_owned(),
            extra: vec!["api.example".to_owned()],
        }
    }

    #[test]
    fn a_second_start_keeps_the_certificates_unless_a_name_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let first = Pki::load_or_create(dir.path(), &names(), now).unwrap();
        let again = Pki::load_or_create(dir.path(), &names(), now).unwrap();
        assert!(first.server == again.server && first.authority == again.authority);
        let mut moved = names();
        moved.node_ip = IpAddr::from([10, 0, 0, 2]);
        let third = Pki::load_or_create(dir.path(), &moved, now).unwrap();
        assert!(
            third.server != first.server,
            "the new address needs a new certificate"
        );
        assert!(third.authority == first.authority && third.administrator == first.administrator);
    }
}
