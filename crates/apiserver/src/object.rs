//! Objects between their forms: as stored, as sent, as received.
//!
//! Inside the engine an object is a [`Value`] in its storage version with `apiVersion` and `kind`. Stored, it has
//! no resource version: that is the revision it is stored at.

mod body;
mod list;
mod shape;
mod splice;

pub use body::judge_findings;
pub use body::{DecodeContext, decode_body, decode_options};
pub use list::ListBody;
pub use shape::{ListMeta, partial, status_success, table, table_value};

use crate::registry::Resource;
use crate::request::Encoding;
use crate::request::negotiate::{MetaVersion, Shape};
use bytes::Bytes;
use machinery::schema::{TypeId, Types};
use machinery::{Key, Value, codec, meta};
use splice::Stamped;

/// A form an object is sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    pub encoding: Encoding,
    pub shape: Shape,
    /// Index of the resource's versions.
    pub version: usize,
    /// What of the object a table's rows hold.
    pub include: Include,
}

/// `includeObject` of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Form {
    /// The form kept with every entry.
    pub fn stored_json(resource: &Resource) -> Self {
        Self {
            encoding: Encoding::Json,
            shape: Shape::Object,
            version: resource.stored,
            include: Include::Metadata,
        }
    }

    /// Whether the form says the same whenever it is made; tables show ages.
    pub fn is_lasting(self) -> bool {
        !matches!(self.shape, Shape::Table(_))
    }

    /// Whether an entry keeps the form once it was asked for. Metadata alone is wanted of everything, but rarely twice.
    pub fn is_kept(self) -> bool {
        self.shape == Shape::Object
    }
}

/// A stored object that cannot be read or converted.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("reading a stored {resource}: {detail}")]
    Decode { resource: String, detail: String },
    #[error("encoding a {kind}: {detail}")]
    Encode { kind: String, detail: String },
    #[error("{0}")]
    Conversion(String),
    #[error("a stored {resource} is of {api_version}, which is not known")]
    UnknownVersion { resource: String, api_version: String },
}

/// Reads what the store holds, in the storage version, with its resource version.
pub fn decode_stored(resource: &Resource, bytes: &[u8], revision: u64) -> Result<Value, StoredError> {
    let Some(conversion) = &resource.conversion else {
        return decode_unconverted(resource, bytes, revision);
    };
    let failed = |detail: String| StoredError::Decode {
        resource: resource.group_resource.to_string(),
        detail,
    };
    let mut object = as_written(bytes).map_err(failed)?;
    let own = resource.storage_version();
    if text(&object, "apiVersion") == own.api_version {
        return decode_unconverted(resource, bytes, revision);
    }
    set_resource_version(&mut object, revision);
    let converted = conversion
        .stored(object, revision, &own.api_version)
        .map_err(StoredError::Conversion)?;
    let decoded = codec::json::conform(&converted, &resource.types, own.ty);
    let mut object = decoded.map_err(|error| failed(error.to_string()))?.value;
    machinery::defaults::apply(&resource.types, own.ty, &mut object);
    set_resource_version(&mut object, revision);
    Ok(object)
}

/// A stored custom object with all it holds, in the version it was stored in.
pub(crate) fn as_written(bytes: &[u8]) -> Result<Value, String> {
    if bytes.starts_with(codec::cbor::MAGIC) {
        codec::cbor::decode_any(bytes).map_err(|error| error.to_string())
    } else {
        let decoded = codec::json::decode_any(bytes);
        decoded
            .map(|decoded| decoded.value)
            .map_err(|error| error.to_string())
    }
}

/// What the store holds, but nobody is asked to convert a custom object: its metadata is right, whatever else its fields mean.
pub fn decode_unconverted(resource: &Resource, bytes: &[u8], revision: u64) -> Result<Value, StoredError> {
    let failed = |detail: String| StoredError::Decode {
        resource: resource.group_resource.to_string(),
        detail,
    };
    let mut object = if bytes.starts_with(codec::proto::MAGIC) {
        let envelope = codec::proto::open_envelope(bytes).map_err(|e| failed(e.to_string()))?;
        let ty = stored_type(resource, &envelope.api_version)?;
        let mut object =
            codec::proto::decode(envelope.raw, &resource.types, ty).map_err(|e| failed(e.to_string()))?;
        set_kind(&mut object, &envelope.api_version, &envelope.kind);
        object
    } else if let Some(why) = encryption::unreadable(bytes) {
        return Err(failed(why.into_owned()));
    } else if !resource.built_in {
        // All versions of a custom kind are the same text under another name; each reads it by its own schema.
        let ty = resource.storage_version().ty;
        let decoded = if bytes.starts_with(codec::cbor::MAGIC) {
            codec::cbor::decode(bytes, &resource.types, ty).map_err(|e| failed(e.to_string()))?
        } else {
            codec::json::decode(bytes, &resource.types, ty).map_err(|e| failed(e.to_string()))?
        };
        let mut object = decoded.value;
        machinery::defaults::apply(&resource.types, ty, &mut object);
        object
    } else {
        let (api_version, _) = codec::json::peek_kind(bytes).map_err(|e| failed(e.to_string()))?;
        let ty = stored_type(resource, &api_version)?;
        codec::json::decode(bytes, &resource.types, ty)
            .map_err(|e| failed(e.to_string()))?
            .value
    };
    let storage = resource.storage_version();
    if object.get("apiVersion").and_then(Value::as_str) != Some(&storage.api_version) {
        object = relabelled(resource, object, resource.storage);
    }
    set_resource_version(&mut object, revision);
    Ok(object)
}

/// The bytes the store is to hold, of a custom object in the encoding `custom`. The object's resource version is taken
/// out for the while.
pub fn encode_stored(
    resource: &Resource,
    object: &mut Value,
    custom: Encoding,
) -> Result<Bytes, StoredError> {
    let version = meta::metadata_mut(object).remove("resourceVersion");
    let storage = resource.storage_version();
    let bytes = if resource.built_in {
        seal(object, &resource.types, storage.ty)
    } else {
        let stored = resource.stored_version();
        let write = |object: &Value| match custom {
            Encoding::Cbor => codec::cbor::to_vec(object, None),
            _ => codec::json::to_vec(object),
        };
        match &resource.conversion {
            Some(conversion) if stored.api_version != storage.api_version => conversion
                .now(object.clone(), &stored.api_version)
                .map(|converted| write(&converted))
                .map_err(StoredError::Conversion),
            _ => {
                set_kind(object, &stored.api_version, &stored.kind);
                let bytes = write(object);
                set_kind(object, &storage.api_version, &storage.kind);
                Ok(bytes)
            }
        }
    };
    if let Some(version) = version {
        meta::metadata_mut(object).insert(Key::from_static("resourceVersion"), version);
    }
    bytes.map(Bytes::from)
}

pub fn set_resource_version(object: &mut Value, revision: u64) {
    if revision == 0 {
        meta::metadata_mut(object).remove("resourceVersion");
    } else {
        // Revisions are far from 2^63.
        meta::set_resource_version(object, revision as i64);
    }
}

/// The object in another version of its resource. One that nobody converts now is told as it is.
pub fn convert(resource: &Resource, object: Value, version: usize) -> Value {
    if resource.conversion.is_none() {
        return relabelled(resource, object, version);
    }
    match try_convert(resource, object.clone(), version) {
        Ok(converted) => converted,
        Err(error) => {
            tracing::warn!(%error, "an object is told in another version without being converted");
            relabelled(resource, object, version)
        }
    }
}

/// The object in another version of its resource.
pub fn try_convert(resource: &Resource, object: Value, version: usize) -> Result<Value, StoredError> {
    let to = &resource.versions[version];
    match &resource.conversion {
        Some(conversion) if text(&object, "apiVersion") != to.api_version => conversion
            .now(object, &to.api_version)
            .map_err(StoredError::Conversion),
        _ => Ok(relabelled(resource, object, version)),
    }
}

fn relabelled(resource: &Resource, object: Value, version: usize) -> Value {
    let to = &resource.versions[version];
    if text(&object, "apiVersion") == to.api_version {
        return object;
    }
    let mut object = resource
        .strategy
        .convert(&object, wanted(resource, version))
        .unwrap_or(object);
    set_kind(&mut object, &to.api_version, &to.kind);
    object
}

/// Whether the object's fields have other names in that version.
pub fn converts(resource: &Resource, object: &Value, version: usize) -> bool {
    text(object, "apiVersion") != resource.versions[version].api_version
        && resource
            .strategy
            .convert(object, wanted(resource, version))
            .is_some()
}

/// How strategies know a version: by its name, or with its group if that is not the resource's own.
fn wanted(resource: &Resource, version: usize) -> &str {
    let to = &resource.versions[version];
    let group = to.api_version.split_once('/').map_or("", |(group, _)| group);
    if group == resource.info.group {
        &to.version
    } else {
        &to.api_version
    }
}

/// What is stored, as protobuf in `version`, if it lacks nothing but its resource version.
fn stamped<'a>(resource: &Resource, stored: &'a [u8], revision: u64, version: usize) -> Option<Stamped<'a>> {
    if !resource.built_in || resource.conversion.is_some() || version != resource.storage || revision == 0 {
        return None;
    }
    let envelope = codec::proto::open_envelope(stored).ok()?;
    let wanted = &resource.versions[version];
    let same = envelope.api_version == wanted.api_version && envelope.kind == wanted.kind;
    if !same || !envelope.content_type.is_empty() {
        return None;
    }
    Stamped::new(stored, revision)
}

/// [`stamped`], in its envelope.
pub(crate) fn stamped_envelope(
    resource: &Resource,
    stored: &[u8],
    revision: u64,
    version: usize,
) -> Option<Bytes> {
    stamped(resource, stored, revision, version).map(|stamped| stamped.envelope().into())
}

/// The JSON of an object's metadata alone, from the JSON of the object.
pub(crate) fn metadata_alone(json: &[u8], version: MetaVersion) -> Option<Bytes> {
    let metadata = splice::json_field(json, "metadata")?;
    let api_version = version.api_version();
    let head = format!(r#"{{"apiVersion":"{api_version}","kind":"PartialObjectMetadata","metadata":"#);
    let mut out = Vec::with_capacity(head.len() + metadata.len() + 1);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(metadata);
    out.push(b'}');
    Some(out.into())
}

/// Encodes an object of the storage version.
pub fn encode(resource: &Resource, object: Value, form: Form) -> Result<Bytes, StoredError> {
    let (types, ty) = shape_type(resource, form);
    let object = shaped(resource, object, form, jiff::Timestamp::now());
    encode_value(&object, form.encoding, types, ty, false)
}

/// An object of the storage version in the shape and version of a form.
pub fn shaped(resource: &Resource, object: Value, form: Form, now: jiff::Timestamp) -> Value {
    match form.shape {
        Shape::Object => convert(resource, object, form.version),
        Shape::Partial(version) => partial(object, version),
        Shape::Table(version) => table_value(resource, [(object, form.include)], version, now, None),
    }
}

/// The type of what a form sends. Tables have none: they are only sent as JSON and YAML, which need none.
pub fn shape_type(resource: &Resource, form: Form) -> (&Types, TypeId) {
    let own = resource.versions[form.version].ty;
    match form.shape {
        Shape::Partial(_) => {
            let ty = api::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata");
            (api::types(), ty.unwrap_or(own))
        }
        Shape::Object | Shape::Table(_) => (&resource.types, own),
    }
}

/// Encodes any object that knows its kind.
pub fn encode_value(
    object: &Value,
    encoding: Encoding,
    types: &Types,
    ty: TypeId,
    pretty: bool,
) -> Result<Bytes, StoredError> {
    let mut out = Vec::with_capacity(512);
    match encoding {
        Encoding::Json if pretty => codec::json::encode_pretty(object, &mut out),
        Encoding::Json => codec::json::encode(object, &mut out),
        Encoding::Yaml => codec::yaml::encode(object, &mut out).map_err(|e| StoredError::Encode {
            kind: text(object, "kind").to_owned(),
            detail: e.to_string(),
        })?,
        Encoding::Protobuf => out = seal(object, types, ty)?,
        Encoding::Cbor => out = codec::cbor::to_vec(object, Some(codec::cbor::Typed { types, id: ty })),
    }
    Ok(out.into())
}

/// Encodes a `Status`.
pub fn encode_status(status: &Value, encoding: Encoding, pretty: bool) -> Bytes {
    api::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status")
        .and_then(|ty| encode_value(status, encoding, api::types(), ty, pretty).ok())
        // The table is compiled in; this keeps errors flowing if it were ever renamed.
        .unwrap_or_else(|| codec::json::to_vec(status).into())
}

/// The object in its protobuf envelope.
fn seal(object: &Value, types: &Types, ty: TypeId) -> Result<Vec<u8>, StoredError> {
    let mut out = Vec::with_capacity(512);
    let kind = text(object, "kind");
    let start = codec::proto::begin_envelope(text(object, "apiVersion"), kind, &mut out);
    codec::proto::encode(object, types, ty, &mut out).map_err(|e| StoredError::Encode {
        kind: kind.to_owned(),
        detail: e.to_string(),
    })?;
    codec::proto::end_envelope(start, &mut out);
    Ok(out)
}

/// A bookmark's object: nothing but its version.
pub fn bookmark(resource: &Resource, form: Form, revision: u64, end_of_initial: bool) -> Bytes {
    let version = &resource.versions[form.version];
    let mut object = Value::object();
    set_kind(&mut object, &version.api_version, &version.kind);
    set_resource_version(&mut object, revision);
    object.set_path(&["metadata", "creationTimestamp"], Value::Null);
    if end_of_initial {
        object.set_path(&["metadata", "annotations", "k8s.io/initial-events-end"], "true");
    }
    let (types, ty) = shape_type(resource, form);
    let object = match form.shape {
        Shape::Partial(meta_version) => partial(object, meta_version),
        Shape::Object => object,
        Shape::Table(meta_version) => {
            let mut table = table_value(resource, [], meta_version, jiff::Timestamp::UNIX_EPOCH, None);
            set_resource_version(&mut table, revision);
            table
        }
    };
    encode_value(&object, form.encoding, types, ty, false).unwrap_or_else(|error| {
        tracing::error!(%error, "a bookmark cannot be encoded");
        Bytes::new()
    })
}

/// A length-delimited protobuf field.
pub(crate) fn put_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn set_kind(object: &mut Value, api_version: &str, kind: &str) {
    let map = object.make_object();
    map.insert(Key::from_static("apiVersion"), api_version);
    map.insert(Key::from_static("kind"), kind);
}

pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn stored_type(resource: &Resource, api_version: &str) -> Result<TypeId, StoredError> {
    if let Some(version) = resource.versions.iter().find(|v| v.api_version == api_version) {
        return Ok(version.ty);
    }
    let known = machinery::gvk::GroupVersion::parse(api_version)
        .and_then(|gv| api::kind(&gv.with_kind(&resource.info.kind)))
        .filter(|_| resource.built_in);
    known.ok_or_else(|| StoredError::UnknownVersion {
        resource: resource.group_resource.to_string(),
        api_version: api_version.to_owned(),
    })
}
