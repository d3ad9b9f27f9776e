//! Where a registry's images are fetched from: mirrors and their settings, in containerd's `certs.d` form.
//!
//! ```text
//! <hosts dir>/docker.io/hosts.toml     server = "https://registry-1.docker.io"
//!             registry.lan:5000/       [host."https://mirror.lan"]
//!             _default/                  capabilities = ["pull", "resolve"]
//!                                        ca = "mirror.crt"
//! ```
//!
//! The hosts are asked in the file's order, the registry itself last. The directory is read at each pull, so a
//! change needs no restart. A directory without `hosts.toml` may hold the registry's authorities as `*.crt`.
//!
//! **Invariant:** a setting that cannot be honoured (client certificates, headers, a path that is no `/v2`
//! prefix) is an error that names it; it is never passed over.

use std::path::{Path, PathBuf};

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use serde::Deserialize;

use super::{ImageError, Reference};

const FILE: &str = "hosts.toml";
const DEFAULT: &str = "_default";
/// No list of hosts or bundle of authorities is larger.
const MAX_FILE: u64 = 4 << 20;

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Hosts (with port) spoken to in plain HTTP. Those on loopback are anyway.
    pub insecure: Vec<String>,
    /// A directory of `<host>/hosts.toml`, as containerd's `certs.d`.
    pub hosts: Option<PathBuf>,
}

/// One place to fetch a repository from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub(crate) host: String,
    pub(crate) plain: bool,
    /// Before the repository's own name, with a slash at its end; mostly empty.
    pub(crate) prefix: String,
    /// May say what a tag stands for.
    pub(crate) resolves: bool,
    /// May be asked for what is named by digest.
    pub(crate) pulls: bool,
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) skip_verify: bool,
    /// The registry the image is named after, the only one that sees credentials.
    pub(crate) is_server: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostsFile {
    server: Option<String>,
    #[serde(flatten)]
    own: HostSettings,
    host: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostSettings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<toml::Value>,
    skip_verify: bool,
    override_path: bool,
    header: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl Registries {
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        loopback || self.insecure.iter().any(|known| known == registry)
    }

    /// Where to ask for an image, best first.
    pub(crate) fn endpoints(&self, name: &Reference) -> Result<Vec<Endpoint>, ImageError> {
        let server = self.server(name.registry());
        let Some(dir) = self
            .hosts
            .as_deref()
            .and_then(|hosts| directory(hosts, &name.domain))
        else {
            return Ok(vec![server]);
        };
        let path = dir.join(FILE);
        let Some(text) = read(&path)? else {
            let authorities = authorities_in(&dir)?;
            return Ok(vec![Endpoint {
                authorities,
                ..server
            }]);
        };
        let failed = |reason: String| ImageError::Hosts {
            path: path.display().to_string(),
            reason,
        };
        let text = String::from_utf8(text).map_err(|error| failed(error.to_string()))?;
        let file: HostsFile = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let mut endpoints = Vec::new();
        for (url, settings) in file.host {
            let settings: HostSettings = settings.try_into().map_err(|error| failed(error.to_string()))?;
            endpoints.push(self.endpoint(&url, &settings, &dir).map_err(&failed)?);
        }
        let mut last = match &file.server {
            Some(url) => self.endpoint(url, &file.own, &dir).map_err(&failed)?,
            None => {
                let own = self.endpoint(&server.host, &file.own, &dir).map_err(&failed)?;
                Endpoint {
                    plain: server.plain,
                    ..own
                }
            }
        };
        last.is_server = true;
        endpoints.push(last);
        Ok(endpoints)
    }

    fn server(&self, host: &str) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            plain: self.is_plain(host),
            prefix: String::new(),
            resolves: true,
            pulls: true,
            authorities: Vec::new(),
            skip_verify: false,
            is_server: true,
        }
    }

    fn endpoint(&self, url: &str, settings: &HostSettings, dir: &Path) -> Result<Endpoint, String> {
        if settings.client.is_some() {
            return Err(format!("{url}: client certificates are not supported"));
        }
        if !settings.header.is_empty() {
            return Err(format!("{url}: extra headers are not supported"));
        }
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, url),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = match scheme {
            Some("http") => true,
            Some("https") => false,
            None => self.is_plain(host),
            Some(other) => return Err(format!("{url}: unsupported scheme {other:?}")),
        };
        if host.is_empty() {
            return Err(format!("{url}: no host"));
        }
        let path = path.trim_matches('/');
        let prefix = match (path, settings.override_path) {
            ("" | "v2", _) => String::new(),
            (path, true) => match path.strip_prefix("v2/") {
                Some(prefix) => format!("{prefix}/"),
                None => return Err(format!("{url}: a path outside of /v2 is not supported")),
            },
            (_, false) => {
                return Err(format!(
                    "{url}: a path needs override_path = true and to begin with /v2"
                ));
            }
        };
        let may = |what: &str| {
            let listed = settings.capabilities.as_ref().filter(|list| !list.is_empty());
            listed.is_none_or(|list| list.iter().any(|one| one == what))
        };
        let files = match &settings.ca {
            None => Vec::new(),
            Some(OneOrMore::One(file)) => vec![file.clone()],
            Some(OneOrMore::More(files)) => files.clone(),
        };
        let mut authorities = Vec::new();
        for file in files {
            let path = dir.join(file);
            let found = read(&path).map_err(|error| super::describe(&error))?;
            authorities.push(found.ok_or_else(|| format!("{url}: no file {}", path.display()))?);
        }
        Ok(Endpoint {
            host: match host {
                "docker.io" => "index.docker.io".to_owned(),
                host => host.to_owned(),
            },
            plain,
            prefix,
            resolves: may("resolve"),
            pulls: may("pull"),
            authorities,
            skip_verify: settings.skip_verify,
            is_server: false,
        })
    }
}

impl Endpoint {
    pub(crate) fn client_config(&self) -> ClientConfig {
        let certificate = |data: &Vec<u8>| Certificate {
            encoding: CertificateEncoding::Pem,
            data: data.clone(),
        };
        ClientConfig {
            protocol: match self.plain {
                true => ClientProtocol::Http,
                false => ClientProtocol::Https,
            },
            accept_invalid_certificates: self.skip_verify,
            extra_root_certificates: self.authorities.iter().map(certificate).collect(),
            connect_timeout: Some(std::time::Duration::from_secs(30)),
            read_timeout: Some(std::time::Duration::from_secs(60)),
            ..ClientConfig::default()
        }
    }

    /// The name to ask this place for.
    pub(crate) fn reference(&self, name: &Reference) -> oci_client::Reference {
        let repository = format!("{}{}", self.prefix, name.path);
        let registry = name.registry().to_owned();
        let mut reference = match (&name.tag, &name.digest) {
            (_, Some(digest)) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
            (tag, None) => {
                let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
                oci_client::Reference::with_tag(registry, repository, tag)
            }
        };
        if self.host != reference.registry() {
            reference.set_mirror_registry(self.host.clone());
        }
        reference
    }
}

/// The directory that speaks of a host, or of every host without one.
fn directory(hosts: &Path, domain: &str) -> Option<PathBuf> {
    // As containerd: a colon is no letter of a file name everywhere.
    let underscored = domain
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    [Some(domain.to_owned()), underscored, Some(DEFAULT.to_owned())]
        .into_iter()
        .flatten()
        .map(|name| hosts.join(name))
        .find(|dir| dir.is_dir())
}

fn authorities_in(dir: &Path) -> Result<Vec<Vec<u8>>, ImageError> {
    let entries = std::fs::read_dir(dir).map_err(|error| super::io_error("list", dir, error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    files.sort();
    let mut authorities = Vec::new();
    for file in files {
        authorities.extend(read(&file)?);
    }
    Ok(authorities)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    let failed = |error| super::io_error("read", path, error);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(failed(std::io::ErrorKind::FileTooLarge.into())),
        Ok(_) => std::fs::read(path).map(Some).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(name: &str, files: &[(&str, &str)]) -> Result<Vec<Endpoint>, String> {
        let place = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = place.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let registries = Registries {
            insecure: vec!["registry.lan:5000".to_owned()],
            hosts: Some(place.path().to_owned()),
        };
        registries
            .endpoints(&Reference::parse(name).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn plain_http_is_for_loopback_and_the_listed() {
        let registries = Registries {
            insecure: vec!["registry.lan:5000".to_owned()],
            hosts: None,
        };
        for plain in [
            "localhost:5000",
            "127.0.0.1:5000",
            "127.0.0.1",
            "[::1]:5000",
            "registry.lan:5000",
        ] {
            assert!(registries.is_plain(plain), "{plain}");
        }
        for secure in ["index.docker.io", "registry.lan", "localhost.example.com"] {
            assert!(!registries.is_plain(secure), "{secure}");
        }
    }

    #[test]
    fn a_registry_without_a_file_is_asked_itself() {
        let only = endpoints("busybox", &[]).unwrap();
        assert_eq!(only.len(), 1);
        assert_eq!((only[0].host.as_str(), only[0].plain), ("index.docker.io", false));
        assert!(endpoints("registry.lan:5000/a", &[]).unwrap()[0].plain);
        let named = endpoints("quay.io/a", &[("quay.io/ca.crt", "PEM"), ("quay.io/note", "")]).unwrap();
        assert_eq!(named[0].authorities, [b"PEM".to_vec()]);
    }

    #[test]
    fn hosts_come_in_the_order_of_the_file_and_the_registry_last() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.lan"]
              capabilities = ["pull"]
              ca = "z.crt"
            [host."http://a.lan:5000/v2/proxy"]
              override_path = true
              skip_verify = true
        "#;
        let files = [("docker.io/hosts.toml", text), ("docker.io/z.crt", "Z")];
        let list = endpoints("busybox:1", &files).unwrap();
        let hosts: Vec<&str> = list.iter().map(|one| one.host.as_str()).collect();
        assert_eq!(hosts, ["z.lan", "a.lan:5000", "registry-1.docker.io"]);
        assert_eq!((list[0].resolves, list[0].pulls), (false, true));
        assert_eq!(list[0].authorities, [b"Z".to_vec()]);
        assert!(list[1].plain && list[1].skip_verify && !list[1].is_server);
        assert!(list[2].is_server && list[2].resolves && !list[2].plain);
        let name = Reference::parse("busybox:1").unwrap();
        let asked = list[1].reference(&name);
        assert_eq!(
            (asked.resolve_registry(), asked.repository(), asked.tag()),
            ("a.lan:5000", "proxy/library/busybox", Some("1"))
        );
    }

    #[test]
    fn the_default_directory_speaks_for_all_others() {
        let text = "[host.\"https://cache.lan\"]\n";
        let list = endpoints("registry.lan:5000/a:1", &[("_default/hosts.toml", text)]).unwrap();
        assert_eq!(list[0].host, "cache.lan");
        assert_eq!(
            (list[1].host.as_str(), list[1].plain),
            ("registry.lan:5000", true)
        );
        let own = [
            ("_default/hosts.toml", text),
            ("registry.lan_5000_/hosts.toml", ""),
        ];
        assert_eq!(endpoints("registry.lan:5000/a:1", &own).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_honoured_is_said() {
        for (text, word) in [
            ("[host.\"https://a\"]\nclient = \"/x.pem\"", "client certificates"),
            ("[host.\"https://a\".header]\nx = \"y\"", "extra headers"),
            ("[host.\"https://a/mirror\"]", "override_path"),
            (
                "[host.\"https://a/mirror\"]\noverride_path = true",
                "outside of /v2",
            ),
            ("[host.\"ftp://a\"]", "unsupported scheme"),
            ("[host.\"https://a\"]\nca = \"none.crt\"", "no file"),
            ("server = [", "hosts.toml"),
        ] {
            let error = endpoints("quay.io/a", &[("quay.io/hosts.toml", text)]).unwrap_err();
            assert!(
                error.contains(word) && error.contains("hosts.toml"),
                "{text}: {error}"
            );
        }
    }
}
