//! The tag an image reference names, which decides the default pull policy.

/// The tag of a reference as upstream sees it: `latest` when neither tag nor digest is given; `None` when there is
/// only a digest, or when the reference cannot be read.
pub fn tag(reference: &str) -> Option<&str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match name[last..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    if !readable(path) || tag.is_some_and(|tag| !readable_tag(tag)) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

/// The default pull policy of an image.
pub fn pull_policy(reference: &str) -> &'static str {
    if tag(reference) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// Repository names are lower case; a host in front of them need not be.
fn readable(path: &str) -> bool {
    let repository = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" || has_upper(host) => rest,
        _ => path,
    };
    !repository.is_empty()
        && repository.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c))
        })
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|c| c.is_ascii_uppercase())
}

fn readable_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_pulled_always() {
        for (reference, always) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("localhost:5000/nginx", true),
            ("localhost:5000/nginx:2", false),
            ("r.example/a/b@sha256:00", false),
            ("r.example/a/b:latest@sha256:00", true),
            ("Nginx", false),
            ("", false),
        ] {
            assert_eq!(pull_policy(reference) == "Always", always, "{reference}");
        }
    }
}
