//! Image references: `busybox`, `ghcr.io/a/b:tag`, `localhost:5000/x@sha256:…`, normalised as Docker and
//! containerd do, so that one image has one name.

use std::fmt;

use super::ImageError;

/// A reference with nothing left out.
///
/// **Invariant:** at least one of tag and digest is there; `Display` gives the normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub domain: String,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// `sha256:` and 64 hexadecimal digits; nothing else is in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    hex: String,
}

impl Digest {
    pub fn parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:")?;
        let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Digest { hex: hex.to_owned() })
    }

    pub fn of(data: &[u8]) -> Digest {
        let digest = ring::digest::digest(&ring::digest::SHA256, data);
        Digest {
            hex: hex::encode(digest),
        }
    }

    pub(super) fn from_raw(raw: &[u8]) -> Digest {
        Digest {
            hex: hex::encode(raw),
        }
    }

    /// Without `sha256:`; a file name.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Digest::parse(&text).ok_or_else(|| format!("{text:?} is not a sha256 digest"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ImageError> {
        parse(text).ok_or_else(|| ImageError::InvalidReference(text.to_owned()))
    }

    /// `docker.io/library/busybox`: the part before tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The host that answers for the domain.
    pub fn registry(&self) -> &str {
        match self.domain.as_str() {
            "docker.io" => "index.docker.io",
            other => other,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(rest[slash + colon + 1..].to_owned())),
        None => (rest, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain(first) => (first, path.to_owned()),
        _ => ("docker.io", name.to_owned()),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let path = if domain == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path
    };
    let valid = path.len() <= 255
        && path.split('/').all(is_component)
        && tag.as_deref().is_none_or(is_tag)
        && domain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
        && domain.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    // A bare 64-digit name would be taken for an image id.
    let looks_like_id = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    if !valid || looks_like_id {
        return None;
    }
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Some(Reference {
        domain: domain.to_owned(),
        path,
        tag,
        digest,
    })
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// Lower-case words joined by one dot, one or two underscores, or hyphens.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let separators_fit = bytes
        .split(word)
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'));
    word(first) && word(last) && separators_fit
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes
            .first()
            .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_take_their_normal_form() {
        let hex = "a".repeat(64);
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/library/x", "docker.io/library/x:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
        ];
        for (text, normal) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), normal, "{text}");
        }
        let by_digest = format!("x@sha256:{hex}");
        assert_eq!(
            Reference::parse(&by_digest).unwrap().to_string(),
            format!("docker.io/library/{by_digest}")
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let id = "a".repeat(64);
        let bad = [
            "",
            "UPPER",
            "a//b",
            "a:",
            "a:-x",
            "-a",
            "a-",
            "a..b",
            "a@sha256:12",
            "a b",
            "../a",
            &id,
        ];
        for text in bad {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
