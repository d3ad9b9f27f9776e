//! Lists as bodies: items are the entries' own bytes, gathered into chunks as they are sent.

use super::shape::ListMeta;
use super::splice::{Stamped, varint_length};
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
/// What ends an envelope: the encoding and content type, which are empty for protobuf and written all the same.
const ENVELOPE_END: &[u8] = &[0x1a, 0, 0x22, 0];
/// A list of up to so many entries is made at once, so that its length is known.
const SMALL: usize = 64;

/// A list of entries in one form.
pub struct ListBody {
    items: Items,
    head: Vec<u8>,
    tail: &'static [u8],
    first: bool,
}

/// What is still to be sent.
enum Items {
    /// Entries, whose JSON is theirs.
    Json {
        resource: Arc<Resource>,
        form: Form,
        entries: std::vec::IntoIter<Arc<Entry>>,
    },
    /// Objects whose lengths are known, because the list begins with its own.
    Protobuf(std::vec::IntoIter<Message>),
}

/// A listed object's message.
enum Message {
    /// Made of what is stored as it is sent.
    Stamped(Arc<Entry>),
    /// Encoded before, in an envelope.
    Enveloped(Bytes),
}

impl Items {
    fn len(&self) -> usize {
        match self {
            Self::Json { entries, .. } => entries.len(),
            Self::Protobuf(items) => items.len(),
        }
    }
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
        let mut body = match form.encoding {
            Encoding::Cbor => return cbor(resource, form, &entries, meta).into(),
            Encoding::Protobuf => Self::protobuf(resource, form, entries, meta),
            Encoding::Json | Encoding::Yaml => Self::json(resource, form, entries, meta),
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

    fn json(resource: &Arc<Resource>, form: Form, entries: Vec<Arc<Entry>>, meta: &ListMeta) -> Self {
        let version = &resource.versions[form.version];
        let mut head = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":"#,
            version.kind, version.api_version
        )
        .into_bytes();
        codec::json::encode(&meta.to_value(), &mut head);
        head.extend_from_slice(br#","items":["#);
        Self {
            items: Items::Json {
                resource: Arc::clone(resource),
                form,
                entries: entries.into_iter(),
            },
            head,
            tail: b"]}\n",
            first: true,
        }
    }

    /// `List { metadata = 1, items = 2 }` in its envelope.
    fn protobuf(resource: &Resource, form: Form, entries: Vec<Arc<Entry>>, meta: &ListMeta) -> Self {
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
        let mut raw = Vec::with_capacity(list_meta.len() + 8);
        put_field(&mut raw, 1, &list_meta);
        let mut length = raw.len();
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let stamped = super::stamped(resource, &entry.stored, entry.revision, form.version);
            let raw_length = stamped.map(|stamped| stamped.raw_length());
            let (item, raw_length) = match raw_length {
                Some(raw_length) => (Message::Stamped(entry), raw_length),
                None => {
                    let Some(bytes) = encoded(resource, form, &entry) else {
                        continue;
                    };
                    let Some(raw) = raw_of(&bytes) else { continue };
                    let raw_length = raw.len();
                    (Message::Enveloped(bytes), raw_length)
                }
            };
            length += 1 + varint_length(raw_length) + raw_length;
            items.push(item);
        }
        let version = &resource.versions[form.version];
        let mut head = Vec::with_capacity(raw.len() + 96);
        // The envelope's end, which holds nothing of the list, is the tail.
        codec::proto::begin_envelope(&version.api_version, &format!("{}List", version.kind), &mut head);
        put_varint(&mut head, length as u64);
        head.extend_from_slice(&raw);
        Self {
            items: Items::Protobuf(items.into_iter()),
            head,
            tail: ENVELOPE_END,
            first: true,
        }
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut out = std::mem::take(&mut self.head);
        if out.is_empty() && self.tail.is_empty() {
            return None;
        }
        if self.items.len() > SMALL {
            // The last item of a chunk goes over its end.
            out.reserve(CHUNK + CHUNK / 8);
        }
        while out.len() < CHUNK {
            if !self.item(&mut out) {
                out.extend_from_slice(self.tail);
                self.tail = b"";
                break;
            }
        }
        Some(out)
    }

    /// Appends an item; false when none is left.
    fn item(&mut self, out: &mut Vec<u8>) -> bool {
        match &mut self.items {
            Items::Json {
                resource,
                form,
                entries,
            } => {
                let Some(entry) = entries.next() else { return false };
                match entry.encoded(resource, *form) {
                    Ok(bytes) => {
                        if !std::mem::take(&mut self.first) {
                            out.push(b',');
                        }
                        out.extend_from_slice(&bytes);
                    }
                    Err(error) => tracing::error!(%error, "a listed object cannot be encoded"),
                }
            }
            Items::Protobuf(items) => {
                let Some(item) = items.next() else { return false };
                match &item {
                    Message::Stamped(entry) => {
                        if let Some(stamped) = Stamped::new(&entry.stored, entry.revision) {
                            stamped.put_as(2, out);
                        }
                    }
                    Message::Enveloped(bytes) => {
                        if let Some(raw) = raw_of(bytes) {
                            put_field(out, 2, raw);
                        }
                    }
                }
            }
        }
        true
    }
}

/// An enveloped object's message.
fn raw_of(item: &Bytes) -> Option<&[u8]> {
    codec::proto::open_envelope(item)
        .ok()
        .map(|envelope| envelope.raw)
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

/// `{kind, items, metadata, apiVersion}`, in the order of deterministic encoding.
fn cbor(resource: &Resource, form: Form, entries: &[Arc<Entry>], meta: &ListMeta) -> Bytes {
    use codec::cbor::{MAGIC, begin_array, begin_map, encode, encode_text};
    let items: Vec<Bytes> = entries
        .iter()
        .filter_map(|entry| encoded(resource, form, entry))
        .collect();
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

/// An entry in a form; what cannot be encoded is left out of lists.
fn encoded(resource: &Resource, form: Form, entry: &Entry) -> Option<Bytes> {
    match entry.encoded(resource, form) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "a listed object cannot be encoded");
            None
        }
    }
}
