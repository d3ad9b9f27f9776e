//! Lists as bodies: items are the entries' own bytes, gathered into chunks as they are sent.

use super::shape::ListMeta;
use super::{Form, partial, put_field, put_varint, table};
use crate::cache::Entry;
use crate::registry::Resource;
use crate::request::Encoding;
use crate::request::negotiate::Shape;
use crate::respond;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use machinery::{Value, codec};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wire::body::{Body, BoxError};

/// Bytes gathered before they are sent.
const CHUNK: usize = 128 * 1024;
/// A list of up to so many entries is made at once, so that its length is known.
const SMALL: usize = 64;

/// A list of entries in one form.
pub struct ListBody {
    resource: Arc<Resource>,
    form: Form,
    entries: std::vec::IntoIter<Arc<Entry>>,
    head: Vec<u8>,
    tail: &'static [u8],
    first: bool,
}

impl ListBody {
    /// The body of a list.
    pub fn body(
        resource: &Arc<Resource>,
        form: Form,
        entries: Vec<Arc<Entry>>,
        meta: &ListMeta,
        pretty: bool,
    ) -> Body {
        let streams = form.encoding != Encoding::Yaml
            && form.shape == Shape::Object
            && !(pretty && form.encoding == Encoding::Json);
        if !streams {
            return whole(resource, form, &entries, meta, pretty).into();
        }
        let small = entries.len() <= SMALL;
        let version = &resource.versions[form.version];
        match form.encoding {
            Encoding::Protobuf => return protobuf(resource, form, &entries, meta).into(),
            Encoding::Cbor => return cbor(resource, form, &entries, meta).into(),
            Encoding::Json | Encoding::Yaml => {}
        }
        let mut head = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":"#,
            version.kind, version.api_version
        )
        .into_bytes();
        codec::json::encode(&meta.to_value(), &mut head);
        head.extend_from_slice(br#","items":["#);
        let mut body = Self {
            resource: Arc::clone(resource),
            form,
            entries: entries.into_iter(),
            head,
            tail: b"]}\n",
            first: true,
        };
        if small {
            let mut out = Vec::new();
            while let Some(chunk) = body.chunk() {
                if out.is_empty() {
                    out = chunk;
                } else {
                    out.extend_from_slice(&chunk);
                }
            }
            return out.into();
        }
        Body::stream(body)
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut out = std::mem::take(&mut self.head);
        if out.is_empty() && self.tail.is_empty() {
            return None;
        }
        while out.len() < CHUNK {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(self.tail);
                self.tail = b"";
                return Some(out);
            };
            match entry.encoded(&self.resource, self.form) {
                Ok(bytes) => {
                    if !std::mem::take(&mut self.first) {
                        out.push(b',');
                    }
                    out.reserve(bytes.len() + 1);
                    out.extend_from_slice(&bytes);
                }
                Err(error) => tracing::error!(%error, "a listed object cannot be encoded"),
            }
        }
        Some(out)
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.get_mut().chunk().map(|chunk| Ok(Frame::data(chunk.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A list made in one piece: tables, metadata alone, YAML, pretty JSON.
fn whole(resource: &Resource, form: Form, entries: &[Arc<Entry>], meta: &ListMeta, pretty: bool) -> Bytes {
    let values = entries.iter().filter_map(|entry| match entry.value(resource) {
        Ok(value) => Some(super::convert(
            resource,
            value,
            if form.shape == Shape::Object {
                form.version
            } else {
                resource.storage
            },
        )),
        Err(error) => {
            tracing::error!(%error, "a listed object cannot be read");
            None
        }
    });
    let version = &resource.versions[form.version];
    let mut list = Value::object();
    let list_type = match form.shape {
        Shape::Table(meta_version) => {
            let rows = values.map(|v| (v, form.include));
            list = table(resource, rows, meta_version, jiff::Timestamp::now(), meta);
            version.ty
        }
        Shape::Partial(meta_version) => {
            super::set_kind(&mut list, meta_version.api_version(), "PartialObjectMetadataList");
            list.set_path(&["metadata"], meta.to_value());
            let version = &version.api_version;
            let items: Vec<Value> = values
                .map(|mut v| {
                    super::set_kind(&mut v, version, "");
                    partial(v, meta_version)
                })
                .collect();
            list.set_path(&["items"], Value::Array(items));
            let ty = api::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList");
            ty.unwrap_or(resource.versions[form.version].ty)
        }
        Shape::Object => {
            super::set_kind(&mut list, &version.api_version, &format!("{}List", version.kind));
            list.set_path(&["metadata"], meta.to_value());
            list.set_path(&["items"], Value::Array(values.collect()));
            version.ty
        }
    };
    let types = if matches!(form.shape, Shape::Partial(_)) {
        api::types()
    } else {
        &resource.types
    };
    match super::encode_value(&list, form.encoding, types, list_type, pretty) {
        Ok(bytes) => respond::end_line(form.encoding, pretty, bytes),
        Err(error) => {
            tracing::error!(%error, "a list cannot be encoded");
            Bytes::new()
        }
    }
}

/// `List { metadata = 1, items = 2 }` in its envelope.
fn protobuf(resource: &Resource, form: Form, entries: &[Arc<Entry>], meta: &ListMeta) -> Bytes {
    let mut list_meta = Vec::new();
    put_field(&mut list_meta, 1, b"");
    put_field(&mut list_meta, 2, meta.revision.to_string().as_bytes());
    put_field(
        &mut list_meta,
        3,
        meta.continue_token.as_deref().unwrap_or_default().as_bytes(),
    );
    if let Some(remaining) = meta.remaining {
        put_varint(&mut list_meta, 4 << 3);
        put_varint(&mut list_meta, remaining);
    }
    let items = encoded(resource, form, entries);
    let mut raw = Vec::with_capacity(items.iter().map(|i| i.len() + 8).sum::<usize>() + list_meta.len() + 64);
    put_field(&mut raw, 1, &list_meta);
    for item in &items {
        if let Ok(envelope) = codec::proto::open_envelope(item) {
            put_field(&mut raw, 2, envelope.raw);
        }
    }
    let version = &resource.versions[form.version];
    let mut out = Vec::with_capacity(raw.len() + 64);
    let start =
        codec::proto::begin_envelope(&version.api_version, &format!("{}List", version.kind), &mut out);
    out.extend_from_slice(&raw);
    codec::proto::end_envelope(start, &mut out);
    out.into()
}

/// `{kind, items, metadata, apiVersion}`, in the order of deterministic encoding.
fn cbor(resource: &Resource, form: Form, entries: &[Arc<Entry>], meta: &ListMeta) -> Bytes {
    use codec::cbor::{MAGIC, begin_array, begin_map, encode, encode_text};
    let items = encoded(resource, form, entries);
    let version = &resource.versions[form.version];
    let mut out = Vec::with_capacity(items.iter().map(Bytes::len).sum::<usize>() + 256);
    out.extend_from_slice(MAGIC);
    begin_map(4, &mut out);
    encode_text("kind", &mut out);
    encode_text(&format!("{}List", version.kind), &mut out);
    encode_text("items", &mut out);
    begin_array(items.len(), &mut out);
    for item in &items {
        out.extend_from_slice(item.strip_prefix(MAGIC).unwrap_or(item));
    }
    encode_text("metadata", &mut out);
    encode(&meta.to_value(), None, &mut out);
    encode_text("apiVersion", &mut out);
    encode_text(&version.api_version, &mut out);
    out.into()
}

/// The entries in a form; what cannot be encoded is left out.
fn encoded(resource: &Resource, form: Form, entries: &[Arc<Entry>]) -> Vec<Bytes> {
    let encoded = |entry: &Arc<Entry>| match entry.encoded(resource, form) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "a listed object cannot be encoded");
            None
        }
    };
    entries.iter().filter_map(encoded).collect()
}
