//! Image references: registry, repository, tag, digest. Follows `distribution/reference` as far as a kubelet
//! looks into a name.

/// A parsed reference in its full form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// `docker.io` when none is given.
    pub registry: String,
    pub path: String,
    /// `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl ImageName {
    /// Registry and path: what credentials are matched against.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }
}

/// Reads a reference; an error's text is upstream's.
pub fn parse(text: &str) -> Result<ImageName, String> {
    let invalid = || format!("couldn't parse image name {text:?}: invalid reference format");
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) {
        return Err(invalid());
    }
    let (name, tag) = match rest.rfind(':') {
        Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
        _ => (rest, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err(invalid());
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() =>
        {
            (first, path.to_owned())
        }
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    if path.to_lowercase() != path {
        return Err(format!(
            "couldn't parse image name {text:?}: invalid reference format: repository name ({path}) must be lowercase"
        ));
    }
    if name.is_empty() || !path.split('/').all(is_component) || !is_registry(registry) {
        return Err(invalid());
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageName {
        registry: registry.to_owned(),
        path,
        tag,
        digest: digest.map(str::to_owned),
    })
}

/// The reference with `:latest` where neither tag nor digest stands.
pub fn with_default_tag(text: &str) -> Result<String, String> {
    let name = parse(text)?;
    match (&name.digest, &name.tag) {
        (None, Some(tag)) if !text.ends_with(&format!(":{tag}")) => Ok(format!("{text}:{tag}")),
        _ => Ok(text.to_owned()),
    }
}

fn is_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alphanumeric)
        && part.ends_with(alphanumeric)
        && part
            .chars()
            .all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
        && !part.contains("..")
        && !part.contains("___")
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    !host.is_empty()
        && port.chars().all(|c| c.is_ascii_digit())
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'))
}

fn is_tag(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(first) && text.chars().all(|c| first(c) || matches!(c, '.' | '-'))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '_' | '-'))
            && hex.len() >= 32
            && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let full = format!("r.io:5000/a/b:v1@{digest}");
        let cases = [
            ("nginx", Some("docker.io/library/nginx"), Some("nginx:latest")),
            ("nginx:1.2", Some("docker.io/library/nginx"), Some("nginx:1.2")),
            ("a/b", Some("docker.io/a/b"), Some("a/b:latest")),
            ("localhost/b", Some("localhost/b"), Some("localhost/b:latest")),
            (
                "localhost:5000/b:t",
                Some("localhost:5000/b"),
                Some("localhost:5000/b:t"),
            ),
            (&full, Some("r.io:5000/a/b"), Some(&full)),
            ("", None, None),
            ("Nginx", None, None),
            ("a//b", None, None),
            ("a:b c", None, None),
            ("a@sha256:xyz", None, None),
            ("-a", None, None),
            ("http://a/b", None, None),
        ];
        for (text, repository, tagged) in cases {
            let parsed = parse(text).ok().map(|n| n.repository());
            assert_eq!(parsed.as_deref(), repository, "{text}");
            assert_eq!(with_default_tag(text).ok().as_deref(), tagged, "{text}");
        }
    }
}
