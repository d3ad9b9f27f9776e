//! How a kind differs from every other kind: upstream's registry strategies as one trait with defaults.
//!
//! The engine calls, in upstream's order:
//!
//! ```text
//! create: default ► prepare_for_create ► validate ► (metadata checked by the engine) ► warnings ► canonicalize
//! update: default ► prepare_for_update ► (metadata checked) ► validate_update ► warnings ► canonicalize
//! update of a subresource: Subresource::prepare ► (metadata checked) ► Subresource::validate
//! ```
//!
//! Objects are [`Value`] trees in the version the resource is stored in, with `apiVersion` and `kind`. A strategy
//! may read them into `k8s-openapi` types (`machinery::typed`) where that is clearer.
//!
//! **Invariant:** strategies are pure: no clock, no store, no lock; what they need is in [`Context`]. Side
//! effects (allocating addresses …) are hooks of the API server.

use compact_str::CompactString;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::user::UserInfo;

/// What a request is about, beside the objects themselves.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub user: &'a UserInfo,
    pub now: Timestamp,
    /// Empty for kinds without one.
    pub namespace: &'a str,
    pub dry_run: bool,
    /// The `apiVersion` the client speaks; rules may be stricter in newer ones.
    pub api_version: &'a str,
    pub kind: &'a KindInfo,
}

/// The fixed facts of a kind, from discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    pub group: CompactString,
    pub kind: CompactString,
    pub resource: CompactString,
    pub namespaced: bool,
    /// There is a `status` subresource, so writes of the object itself leave the status alone.
    pub has_status: bool,
}

/// What happens to dependents when nobody says (upstream's `DefaultGarbageCollectionPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GarbageCollection {
    DeleteDependents,
    OrphanDependents,
    /// The kind takes no part: events, leases of no consequence.
    Unsupported,
}

/// `DeleteOptions` as far as strategies change them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grace {
    pub seconds: Option<i64>,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the object's name, else mostly empty.
    pub format: &'static str,
    pub description: &'static str,
    /// Above 0: only with `-o wide`.
    pub priority: i64,
}

impl Column {
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            kind: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Self {
            kind: "integer",
            ..Self::text(name, description)
        }
    }

    pub const fn flag(name: &'static str, description: &'static str) -> Self {
        Self {
            kind: "boolean",
            ..Self::text(name, description)
        }
    }

    /// Shown with `-o wide` only.
    pub const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    /// As a table says it.
    pub fn definition(&self) -> Value {
        let mut out = machinery::Map::new();
        out.insert("description", self.description);
        out.insert("format", self.format);
        out.insert("name", self.name);
        out.insert("priority", self.priority);
        out.insert("type", self.kind);
        out.into()
    }

    pub const NAME: Self = Self {
        format: "name",
        ..Self::text("Name", "Name must be unique within a namespace.")
    };
    pub const AGE: Self = Self::text("Age", "CreationTimestamp is when this object was created.");
    pub const CREATED_AT: Self = Self {
        kind: "date",
        ..Self::text("Created At", "CreationTimestamp is when this object was created.")
    };
}

/// How a kind behaves. Everything has a default; a kind states only how it differs.
pub trait Strategy: Send + Sync + 'static {
    /// Defaults the tables cannot express. Runs after the tables', on every write.
    fn default(&self, _object: &mut Value) {}

    /// Clears what clients may not set. The default empties the status and starts the generation.
    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        if context.kind.has_status
            && let Some(status) = object.get_mut("status")
        {
            *status = Value::object();
        }
        if self.tracks_generation(context.kind) {
            object.set_path(&["metadata", "generation"], 1);
        }
    }

    fn validate(&self, _context: &Context<'_>, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn warnings_on_create(&self, _context: &Context<'_>, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Brings an accepted object into the form others rely on.
    fn canonicalize(&self, _object: &mut Value) {}

    /// Keeps what an update may not change. The default keeps the status and counts changes of the spec.
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        if context.kind.has_status {
            keep(new, old, "status");
        }
        if self.tracks_generation(context.kind) && self.spec_changed(new, old) {
            bump_generation(new, old);
        }
    }

    /// Judges the update; by default as a new object.
    fn validate_update(&self, context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        self.validate(context, new)
    }

    fn warnings_on_update(&self, _context: &Context<'_>, _new: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether `metadata.generation` counts the changes of this kind.
    fn tracks_generation(&self, kind: &KindInfo) -> bool {
        kind.has_status
            && !matches!(
                kind.kind.as_str(),
                "Namespace"
                    | "Node"
                    | "PersistentVolume"
                    | "PersistentVolumeClaim"
                    | "Service"
                    | "ResourceQuota"
            )
    }

    /// What counts as a change for the generation.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        let spec = |v: &Value| v.get("spec").cloned().unwrap_or_default();
        !spec(new).semantic_eq(&spec(old))
    }

    /// PUT makes the object when there is none.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// PUT without a resource version replaces whatever is there.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// What is wrong with a name (or, with `prefix`, the start of one); empty if nothing is.
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        machinery::names::subdomain_rule(name, prefix)
    }

    /// Fields a field selector may name beside `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where a field stands in what [`Self::select`] returns; `None` if it cannot be selected by.
    fn selectable_field(&self, field: &str) -> Option<usize> {
        self.selectable_fields().iter().position(|known| *known == field)
    }

    /// A field as [`Self::selectable_fields`] names it, from another version's name for it.
    fn canonical_field(&self, field: &str) -> CompactString {
        field.into()
    }

    /// The values of [`Self::selectable_fields`], in that order; absent ones are empty texts.
    fn select(&self, object: &Value) -> Vec<CompactString> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => CompactString::from(if *flag { "true" } else { "false" }),
            Value::Int(number) => compact_str::format_compact!("{number}"),
            _ => CompactString::default(),
        };
        let value = |field: &&str| {
            let path: Vec<&str> = field.split('.').collect();
            object.get_path(&path).map(text).unwrap_or_default()
        };
        self.selectable_fields().iter().map(value).collect()
    }

    /// The columns of a table.
    fn columns(&self) -> &'static [Column] {
        &[Column::NAME, Column::CREATED_AT]
    }

    /// The columns as a table says them.
    fn column_definitions(&self) -> Vec<Value> {
        self.columns().iter().map(Column::definition).collect()
    }

    /// The cells of an object, one for each column.
    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let cell = |path: &[&str]| object.get_path(path).cloned().unwrap_or_default();
        vec![
            cell(&["metadata", "name"]),
            cell(&["metadata", "creationTimestamp"]),
        ]
    }

    /// Whether a delete request marks the object and lets somebody else finish. `Some` also for a grace of zero
    /// seconds; the answer's seconds are what the object gets. `None`: the kind does not know graceful deletion.
    fn graceful_deletion(&self, _context: &Context<'_>, _object: &Value, _grace: &Grace) -> Option<i64> {
        None
    }

    /// The kind knows graceful deletion, so one that is under way can only be shortened.
    fn is_graceful(&self) -> bool {
        false
    }

    /// A last word before an update that leaves no finalizers on an object being deleted removes it.
    fn may_delete_during_update(&self, _new: &Value, _old: &Value) -> bool {
        true
    }

    /// What a kind adds to an object that a delete request finds: a changed object is stored and kept, and
    /// deleted only when its finalizers (in the kind's own sense) are gone. Namespaces.
    fn mark_for_deletion(&self, _context: &Context<'_>, _object: &mut Value) -> Deletion {
        Deletion::Usual
    }

    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::DeleteDependents
    }

    /// The answer to a successful delete is the object, not a `Status`.
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Seconds an object lives after its last write.
    fn time_to_live(&self, _object: &Value) -> Option<u64> {
        None
    }

    /// How a subresource that shares the object's type is written.
    fn subresource(&self, name: &str) -> Option<&dyn Subresource> {
        default_subresource(name).map(|known| known as &dyn Subresource)
    }

    /// Where the `scale` subresource finds its numbers.
    fn scale(&self) -> Option<Scale> {
        Some(Scale::USUAL)
    }

    /// Fields the object's own endpoint resets, in FieldsV1 spelling: nobody owns them there.
    fn reset_fields(&self, kind: &KindInfo) -> &'static [&'static [&'static str]] {
        if kind.has_status { &[&["f:status"]] } else { &[] }
    }

    /// The object in another version of its group: `version` is the new `apiVersion`'s version (the whole
    /// `apiVersion` if another group shares the objects). `None` if all
    /// versions have the same fields.
    fn convert(&self, _object: &Value, _version: &str) -> Option<Value> {
        None
    }
}

/// What a kind says to a delete request beside the usual rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The engine's own rules.
    Usual,
    /// The object was marked and is stored as it is now; it is not removed yet.
    Marked,
    /// Nothing holds the object any more: remove it.
    Now,
}

/// Where the numbers of the `scale` subresource stand: fields joined by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    pub replicas: CompactString,
    pub status_replicas: CompactString,
    /// A label selector object, or a text; empty for none.
    pub selector: CompactString,
}

impl Scale {
    pub const USUAL: Self = Self {
        replicas: CompactString::const_new("spec.replicas"),
        status_replicas: CompactString::const_new("status.replicas"),
        selector: CompactString::const_new("spec.selector"),
    };
}

/// How a subresource of the object's own type is written.
pub trait Subresource: Send + Sync + 'static {
    /// Keeps everything the subresource does not write.
    fn prepare(&self, context: &Context<'_>, new: &mut Value, old: &Value);

    fn validate(&self, _context: &Context<'_>, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn warnings(&self, _context: &Context<'_>, _new: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Fields this endpoint resets, in FieldsV1 spelling.
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[]
    }
}

/// A subresource that writes some parts of the object, and its metadata as far as updates may.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub paths: &'static [&'static [&'static str]],
    pub reset: &'static [&'static [&'static str]],
}

impl Subresource for Parts {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        let mut kept = old.clone();
        if let (Some(kept), Some(metadata)) = (kept.as_object_mut(), new.get("metadata")) {
            kept.insert("metadata", metadata.clone());
        }
        for path in self.paths {
            match new.get_path(path) {
                Some(value) => kept.set_path(path, value.clone()),
                None => {
                    kept.remove_path(path);
                }
            }
        }
        *new = kept;
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        self.reset
    }
}

static STATUS: Parts = Parts {
    paths: &[&["status"]],
    reset: &[&["f:spec"], &["f:metadata", "f:deletionTimestamp"]],
};
static FINALIZE: Parts = Parts {
    paths: &[&["spec", "finalizers"]],
    reset: &[&["f:status"]],
};
static APPROVAL: Parts = Parts {
    paths: &[&["status", "conditions"]],
    reset: &[&["f:spec"]],
};
static EPHEMERAL_CONTAINERS: Parts = Parts {
    paths: &[&["spec", "ephemeralContainers"]],
    reset: &[&["f:status"]],
};
static RESIZE: Parts = Parts {
    paths: &[&["spec", "containers"], &["spec", "initContainers"]],
    reset: &[&["f:status"]],
};

/// The subresources every kind has the same way.
pub fn default_subresource(name: &str) -> Option<&'static dyn Subresource> {
    Some(match name {
        "status" => &STATUS,
        "finalize" => &FINALIZE,
        "approval" => &APPROVAL,
        "ephemeralcontainers" => &EPHEMERAL_CONTAINERS,
        "resize" => &RESIZE,
        _ => return None,
    })
}

/// The strategy of kinds that do not differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct Default;

impl Strategy for Default {
    /// A status that nobody wrote is not there.
    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        if context.kind.has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        if self.tracks_generation(context.kind) {
            object.set_path(&["metadata", "generation"], 1);
        }
    }
}

/// Replaces a top-level field of `new` by that of `old`.
pub fn keep(new: &mut Value, old: &Value, field: &'static str) {
    let map = new.make_object();
    match old.get(field) {
        Some(value) => {
            map.insert(machinery::Key::from_static(field), value.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// Keeps what a status that brings nothing else may not write: labels, annotations, owners, finalizers and the like.
pub fn reset_metadata(new: &mut Value, old: &Value) {
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        match old.get_path(&["metadata", field]) {
            Some(value) => new.set_path(&["metadata", field], value.clone()),
            None => {
                new.remove_path(&["metadata", field]);
            }
        }
    }
}

/// One more than the old object's generation.
pub fn bump_generation(new: &mut Value, old: &Value) {
    let generation = old
        .get_path(&["metadata", "generation"])
        .and_then(Value::as_i64)
        .unwrap_or(0);
    new.set_path(&["metadata", "generation"], generation + 1);
}
