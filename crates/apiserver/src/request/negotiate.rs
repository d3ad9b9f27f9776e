//! Which form of which shape the client wants, and in which form it sent its body.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, USER_AGENT};
use machinery::status::ApiError;

use super::Query;

/// A form objects have on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
    /// Behind the feature gate `CBORServingAndStorage`.
    Cbor,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Cbor => "application/cbor",
        }
    }

    fn of(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/json" => Self::Json,
            "application/yaml" => Self::Yaml,
            "application/vnd.kubernetes.protobuf" => Self::Protobuf,
            "application/cbor" => Self::Cbor,
            _ => return None,
        })
    }
}

/// What of an object is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    Object,
    /// `Table` of `meta.k8s.io` in this version.
    Table(MetaVersion),
    /// `PartialObjectMetadata` (or its list) of `meta.k8s.io` in this version.
    Partial(MetaVersion),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    pub encoding: Encoding,
    pub shape: Shape,
    pub pretty: bool,
    pub gzip: bool,
}

impl Output {
    /// Plain JSON, for errors met before negotiation.
    pub const JSON: Self = Self {
        encoding: Encoding::Json,
        shape: Shape::Object,
        pretty: false,
        gzip: false,
    };

    /// `Content-Type` of a whole answer.
    pub fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(self.encoding.media_type())
    }

    /// `Content-Type` of a watch.
    pub fn stream_content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.encoding {
            Encoding::Json | Encoding::Yaml => "application/json",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            // One document is no watch: upstream names what it is, whatever was asked for.
            Encoding::Cbor => "application/cbor-seq",
        })
    }
}

const OBJECT_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAM_TYPES: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const CBOR_TYPE: &str = ", application/cbor";
const CBOR_STREAM_TYPE: &str = ", application/cbor-seq";

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Tables and partial metadata, that is, the answer is an object or a list of objects.
    pub shapes: bool,
    /// A watch: frames, not a document.
    pub stream: bool,
    /// Custom resources have no protobuf form.
    pub protobuf: bool,
    /// The server speaks CBOR.
    pub cbor: bool,
}

/// Reads `Accept`; 406 if nothing in it can be had.
pub fn output(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Output, ApiError> {
    let accept = headers
        .get(ACCEPT)
        .map(|v| String::from_utf8_lossy(v.as_bytes()))
        .unwrap_or_default();
    let (encoding, shape) = if accept.trim().is_empty() {
        (Encoding::Json, Shape::Object)
    } else {
        best_clause(&accept, offer).ok_or_else(|| {
            let (types, more) = if offer.stream {
                (STREAM_TYPES, CBOR_STREAM_TYPE)
            } else {
                (OBJECT_TYPES, CBOR_TYPE)
            };
            let more = if offer.cbor { more } else { "" };
            ApiError::not_acceptable(format!(
                "only the following media types are accepted: {types}{more}"
            ))
        })?
    };
    let pretty = encoding == Encoding::Json && !offer.stream && wants_pretty(headers, query);
    let gzip = takes_gzip(headers);
    Ok(Output {
        encoding,
        shape,
        pretty,
        gzip,
    })
}

/// Whether an answer may be compressed.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")))
    };
    headers.get_all(ACCEPT_ENCODING).iter().any(named)
}

/// Reads `Content-Type`; 415 if it is none we read. No header means JSON. Custom resources have no protobuf form, and
/// not every server speaks CBOR.
pub fn input(headers: &HeaderMap, protobuf: bool, cbor: bool) -> Result<Encoding, ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Encoding::Json);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let media_type = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if media_type.is_empty() {
        return Ok(Encoding::Json);
    }
    Encoding::of(&media_type)
        .filter(|encoding| match encoding {
            Encoding::Protobuf => protobuf,
            Encoding::Cbor => cbor,
            Encoding::Json | Encoding::Yaml => true,
        })
        .ok_or_else(|| {
            let more = if cbor { CBOR_TYPE } else { "" };
            unsupported_media_type(&format!("{OBJECT_TYPES}{more}"))
        })
}

/// 415 naming what is read instead.
pub fn unsupported_media_type(types: &str) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {types}"
    ))
}

fn best_clause(accept: &str, offer: Offer) -> Option<(Encoding, Shape)> {
    let mut best: Option<(f32, (Encoding, Shape))> = None;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut kind, mut version, mut group, mut stream) = (1.0f32, "", "", "", "");
        for parameter in parts {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim_matches('"');
            match key {
                "q" => quality = value.parse().unwrap_or(0.0),
                "as" => kind = value,
                "v" => version = value,
                "g" => group = value,
                "stream" => stream = value,
                _ => {}
            }
        }
        let Some(encoding) = clause_encoding(&media_type, offer, stream) else {
            continue;
        };
        let Some(shape) = clause_shape(kind, group, version, offer) else {
            continue;
        };
        if matches!(shape, Shape::Table(_)) && encoding == Encoding::Protobuf {
            continue;
        }
        if quality > 0.0 && best.is_none_or(|(q, _)| quality > q) {
            best = Some((quality, (encoding, shape)));
        }
    }
    best.map(|(_, choice)| choice)
}

fn clause_encoding(media_type: &str, offer: Offer, stream: &str) -> Option<Encoding> {
    let encoding = match media_type {
        "*/*" | "application/*" => Encoding::Json,
        other => Encoding::of(other)?,
    };
    let known_stream = stream.is_empty() || (offer.stream && stream == "watch");
    let possible = match encoding {
        Encoding::Json => true,
        Encoding::Yaml => !offer.stream,
        Encoding::Protobuf => offer.protobuf,
        Encoding::Cbor => offer.cbor,
    };
    (possible && known_stream).then_some(encoding)
}

fn clause_shape(kind: &str, group: &str, version: &str, offer: Offer) -> Option<Shape> {
    if kind.is_empty() {
        return Some(Shape::Object);
    }
    if !offer.shapes || group != "meta.k8s.io" {
        return None;
    }
    let version = match version {
        "v1" => MetaVersion::V1,
        "v1beta1" => MetaVersion::V1Beta1,
        _ => return None,
    };
    match kind {
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Partial(version)),
        _ => None,
    }
}

/// `?pretty` says so, or a person looks with a browser, curl or wget.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(pretty) = query.optional_flag("pretty") {
        return pretty;
    }
    let agent = headers
        .get(USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|p| agent.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Offer = Offer {
        shapes: true,
        stream: false,
        protobuf: true,
        cbor: false,
    };

    fn accept(text: &'static str, offer: Offer) -> Option<(Encoding, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(text));
        output(&headers, &Query::default(), offer)
            .ok()
            .map(|o| (o.encoding, o.shape))
    }

    #[test]
    fn clauses_in_order_and_by_quality() {
        use Encoding::{Json, Protobuf, Yaml};
        let table = Shape::Table(MetaVersion::V1);
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, OBJECT), Some((Json, table)));
        assert_eq!(
            accept(
                kubectl,
                Offer {
                    shapes: false,
                    ..OBJECT
                }
            ),
            Some((Json, Shape::Object))
        );
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf,application/json", OBJECT),
            Some((Protobuf, Shape::Object))
        );
        assert_eq!(
            accept("application/json;q=0.5, application/yaml", OBJECT),
            Some((Yaml, Shape::Object))
        );
        assert_eq!(accept("*/*", OBJECT), Some((Json, Shape::Object)));
        assert_eq!(accept("text/html", OBJECT), None);
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(
            accept(partial, OBJECT),
            Some((Json, Shape::Partial(MetaVersion::V1)))
        );
        let stream = Offer {
            stream: true,
            ..OBJECT
        };
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf;stream=watch", stream),
            Some((Protobuf, Shape::Object))
        );
        assert_eq!(accept("application/yaml", stream), None);
        assert_eq!(accept("application/cbor", OBJECT), None);
        let with_cbor = Offer { cbor: true, ..OBJECT };
        assert_eq!(
            accept("application/cbor", with_cbor),
            Some((Encoding::Cbor, Shape::Object))
        );
    }
}
