//! The field manager of one endpoint: tracks every ordinary write, and carries out server-side apply.
//!
//! ```text
//!  create, update, patch: object ──► FieldManager::update ──► metadata.managedFields
//!  apply: live + configuration ──► FieldManager::apply ──► merged object, or who is in the way
//! ```
//!
//! Follows upstream's chain of managers (last-applied annotation, skipping untracked objects, capping, stripping,
//! structured merge) in one pass. Tracking never fails a write: where upstream would give up, `managedFields`
//! is removed and the write goes on.

use super::atom::Ty;
use super::compare::{self, Comparison, Object, Shape, Side};
use super::conflict::{Conflict, Conflicts};
use super::managed::{self, Entry, ManagedFields, Manager};
use super::set::FieldSet;
use super::{collect, last_applied, merge, prune, validate};
use crate::schema::{TypeId, Types};
use crate::status::{ApiError, Reason};
use crate::{Map, Value};
use compact_str::CompactString;
use jiff::Timestamp;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

/// The manager that is credited with what an untracked object held before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Which fields an endpoint never lets a manager own: those its strategy resets (the status on the main resource,
/// all but the status on `/status`), and those nobody owns.
#[derive(Debug, Clone)]
pub struct ResetFields {
    reset: FieldSet,
    /// What comparing need not look at: `reset` and the parts of metadata that belong to the server.
    skip: FieldSet,
}

/// Parts of the object that are never managed, with what is below them.
const UNMANAGED: [&[&str]; 12] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    // Not recursive: what is below metadata is managed.
    &["f:metadata"],
];

impl ResetFields {
    /// `reset` are paths in FieldsV1's spelling; each stands for all below it.
    pub fn new<'a>(reset: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        let reset = FieldSet::of(reset);
        let mut skip = FieldSet::of(UNMANAGED[..UNMANAGED.len() - 1].iter().copied());
        skip.add(reset.clone());
        Self { reset, skip }
    }
}

impl Default for ResetFields {
    fn default() -> Self {
        Self::new([])
    }
}

/// How other versions of the kind look. Entries name fields in the version their manager used.
pub trait Versions {
    /// The object in `version` and its type there; `Same` if fields have the same names as in the endpoint's
    /// version; `Gone` if the version is no longer served, and then entries in it are dropped.
    fn view(&self, object: &Value, version: &str) -> Result<VersionView, String>;

    /// Back from `version` to the endpoint's own.
    fn back(&self, object: Value, version: &str) -> Result<Value, String>;
}

/// What [`Versions::view`] found.
#[derive(Debug)]
pub enum VersionView {
    Same,
    Gone,
    Converted(TypeId, Value),
}

/// All versions of the kind have the same fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameFields;

impl Versions for SameFields {
    fn view(&self, _: &Value, _: &str) -> Result<VersionView, String> {
        Ok(VersionView::Same)
    }

    fn back(&self, object: Value, _: &str) -> Result<Value, String> {
        Ok(object)
    }
}

/// The field manager of one resource or subresource in one version.
#[derive(Clone, Copy)]
pub struct FieldManager<'t> {
    pub types: &'t Types,
    /// The type of the object.
    pub id: TypeId,
    /// `apps/v1`.
    pub version: &'t str,
    pub kind: &'t str,
    /// Empty for the main resource.
    pub subresource: &'t str,
    /// True for built-in kinds, whose structs upstream always fills; false for custom resources.
    pub built_in: bool,
    pub reset: &'t ResetFields,
    pub versions: &'t dyn Versions,
}

/// Why an apply was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Conflicts(Conflicts),
    /// The client's mistake: 400.
    #[error("{0}")]
    BadRequest(String),
    /// What upstream reports as it is, with code 500 and no reason.
    #[error("{0}")]
    Failed(String),
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Conflicts(conflicts) => Self::apply_conflict(conflicts.causes(), conflicts.message()),
            ApplyError::BadRequest(message) => Self::bad_request(message),
            ApplyError::Failed(message) => Self::new(500, Reason::Unknown, message),
        }
    }
}

/// What an apply made.
#[derive(Debug)]
pub struct Applied {
    /// The object to store, not yet defaulted, in the spelling of the configuration where that changed it.
    pub object: Value,
    /// False if nothing but `managedFields` can differ from the live object.
    pub changed: bool,
}

impl FieldManager<'_> {
    /// Credits `manager` with what `new` changes against `live` (`None` on create) and writes `new`'s
    /// `metadata.managedFields`.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str, now: Timestamp) {
        match self.tracked(live, new, manager, now) {
            Ok(Tracked::Unchanged) => {}
            Ok(Tracked::Encoded(list)) => set_managed(new, list),
            Err(_) => set_managed(new, None),
        }
    }

    fn tracked(
        &self,
        live: Option<&Value>,
        new: &Value,
        manager: &str,
        now: Timestamp,
    ) -> Result<Tracked, String> {
        if metadata(new).is_none() {
            return Ok(Tracked::Unchanged);
        }
        let theirs = managed_of(new);
        let ours = live.and_then(managed_of);
        let reset = self.subresource.is_empty() && managed::is_reset(theirs);
        let absent = |list: Option<&Value>| {
            list.is_none_or(|list| matches!(list, Value::Null)) || managed::is_reset(list)
        };
        if live.is_some() && !reset && absent(theirs) && absent(ours) {
            return Ok(Tracked::Encoded(None)); // nobody asked for tracking this object
        }
        let same_list = !reset && !absent(theirs) && theirs == ours;
        let comparison = self.compare(live, new)?;
        if comparison.is_same() && same_list {
            return Ok(Tracked::Unchanged);
        }
        if comparison.is_same() && !reset && absent(theirs) && live.is_some() {
            return Ok(Tracked::Encoded(ours.cloned()));
        }
        let mut managed = match () {
            () if reset => ManagedFields::default(),
            () if !self.subresource.is_empty() => ManagedFields::decode(ours).unwrap_or_default(),
            () => match ManagedFields::decode(theirs) {
                Ok(managed) if !managed.is_empty() => managed,
                _ => ManagedFields::decode(ours).unwrap_or_default(),
            },
        };
        if managed.is_empty() && live.is_some() {
            return Ok(Tracked::Encoded(None));
        }
        let me = Manager::update(manager, self.version, self.subresource);
        self.credit(&mut managed, me, live, new, comparison, now)?;
        managed.cap_updaters();
        Ok(Tracked::Encoded(managed.encode()))
    }

    /// Takes what changed from everybody and gives it to `me`.
    fn credit(
        &self,
        managed: &mut ManagedFields,
        me: Manager,
        live: Option<&Value>,
        new: &Value,
        mut comparison: Comparison,
        now: Timestamp,
    ) -> Result<(), String> {
        self.release(managed, None, live, new, &comparison, |_, _| {})?;
        strip_metadata(&mut comparison.changed);
        if comparison.changed.is_empty() {
            return Ok(());
        }
        let time = Some(rfc3339(now));
        match managed.get_mut(&me) {
            Some(entry) => {
                entry.fields.add(comparison.changed);
                entry.time = time;
            }
            None => managed.entries.push(Entry {
                version: self.version.into(),
                time,
                fields: comparison.changed,
                manager: me,
            }),
        }
        Ok(())
    }

    /// Takes changed and removed fields from every entry except `keep`'s, and reports what was taken because it
    /// changed.
    fn release(
        &self,
        managed: &mut ManagedFields,
        keep: Option<&Manager>,
        live: Option<&Value>,
        new: &Value,
        comparison: &Comparison,
        mut taken: impl FnMut(&Manager, FieldSet),
    ) -> Result<(), String> {
        let mut others: HashMap<CompactString, InVersion> = HashMap::new();
        for entry in &mut managed.entries {
            if keep.is_some_and(|keep| *keep == entry.manager) {
                continue;
            }
            let comparison = if entry.version == self.version {
                comparison
            } else {
                let found = match others.entry(entry.version.clone()) {
                    Slot::Occupied(found) => found.into_mut(),
                    Slot::Vacant(slot) => slot.insert(self.compare_in(&entry.version, live, new)?),
                };
                match found {
                    InVersion::Same => comparison,
                    InVersion::Compared(found) => found,
                    InVersion::Gone => {
                        entry.fields = FieldSet::new();
                        continue;
                    }
                }
            };
            if entry.fields.intersects(&comparison.changed) {
                taken(&entry.manager, entry.fields.intersection(&comparison.changed));
                entry.fields.subtract(&comparison.changed);
            }
            entry.fields.subtract(&comparison.removed);
        }
        managed.entries.retain(|entry| !entry.fields.is_empty());
        Ok(())
    }

    /// Merges `config` into `live` (`None` creates) in the name of `manager`.
    ///
    /// `config` is the decoded request, neither defaulted nor normalised: what is written is what is owned.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        manager: &str,
        force: bool,
        now: Timestamp,
    ) -> Result<Applied, ApplyError> {
        let mut managed = ManagedFields::decode(live.and_then(managed_of))
            .map_err(|e| ApplyError::Failed(format!("failed to decode managed fields: {e}")))?;
        self.check_kind(config)?;
        if managed.is_empty()
            && let Some(live) = live
        {
            let everything = self.compare(None, live).map_err(|e| {
                ApplyError::Failed(format!("failed to create manager for existing fields: {e}"))
            })?;
            let me = Manager::update(BEFORE_FIRST_APPLY, self.version, self.subresource);
            self.credit(&mut managed, me, None, live, everything, now)
                .map_err(ApplyError::Failed)?;
        }
        if managed_of(config).is_some_and(|list| !matches!(list, Value::Null)) {
            return Err(ApplyError::BadRequest(
                "metadata.managedFields must be nil".to_owned(),
            ));
        }
        let ty = self.ty();
        validate::validate(ty, config).map_err(|e| {
            ApplyError::Failed(format!(
                "failed to create typed patch object ({}): {e}",
                self.subject(config)
            ))
        })?;

        super::reconcile::reconcile(&mut managed, self).map_err(ApplyError::Failed)?;
        let empty = Value::Object(Map::default());
        let merged = merge::merge(ty, live.unwrap_or(&empty), config)
            .map_err(|e| ApplyError::Failed(format!("failed to merge config: {e}")))?;
        let mut owned = collect::collect(ty, config);
        owned.subtract_recursive(&self.reset.reset);

        let me = Manager::apply(manager, self.subresource);
        let last = managed.get(&me).cloned();
        let time = last.as_ref().and_then(|last| last.time.clone());
        managed.entries.retain(|entry| entry.manager != me);
        managed.entries.push(Entry {
            manager: me.clone(),
            version: self.version.into(),
            time,
            fields: owned,
        });
        let merged = match last {
            Some(last) => prune::prune(self, merged, &managed, &last)
                .map_err(|e| ApplyError::Failed(format!("failed to prune fields: {e}")))?,
            None => merged,
        };

        let comparison = self
            .compare_shapes(live, &merged, Shape::Written)
            .map_err(|e| ApplyError::Failed(format!("failed to compare objects: {e}")))?;
        let mut conflicts = Vec::new();
        self.release(
            &mut managed,
            Some(&me),
            live,
            &merged,
            &comparison,
            |manager, fields| {
                conflicts.push(Conflict {
                    manager: manager.clone(),
                    fields,
                });
            },
        )
        .map_err(ApplyError::Failed)?;
        if !force && !conflicts.is_empty() {
            let conflicts = Conflicts::new(conflicts);
            // kubectl takes over from its own client-side apply.
            let rest = match live {
                Some(live) if manager == last_applied::KUBECTL => {
                    last_applied::disallowed(self, live, conflicts)
                }
                _ => conflicts.0,
            };
            if !rest.is_empty() {
                return Err(ApplyError::Conflicts(Conflicts::new(rest)));
            }
        }

        let changed = !live.is_some_and(|live| compare::same(live, &merged));
        if let Some(entry) = managed.get_mut(&me) {
            entry.fields.subtract_recursive(&self.reset.skip);
            strip_metadata(&mut entry.fields);
            if changed {
                entry.time = Some(rfc3339(now));
            }
        }
        let mut object = merged;
        if manager == last_applied::KUBECTL {
            last_applied::refresh(&mut object, config);
        }
        set_managed(&mut object, managed.encode());
        Ok(Applied { object, changed })
    }

    /// The configuration must be of the endpoint's kind and version.
    fn check_kind(&self, config: &Value) -> Result<(), ApplyError> {
        let (version, kind) = (string_at(config, "apiVersion"), string_at(config, "kind"));
        if version == self.version && kind == self.kind {
            return Ok(());
        }
        Err(ApplyError::BadRequest(format!(
            "invalid object type: {}",
            shown_kind(version, kind)
        )))
    }

    /// `namespace/name; apps/v1, Kind=Deployment`.
    fn subject(&self, object: &Value) -> String {
        let part = |key| match metadata(object).and_then(|m| m.get(key)) {
            Some(Value::String(s)) => s.to_string(),
            _ => String::new(),
        };
        format!(
            "{}/{}; {}",
            part("namespace"),
            part("name"),
            shown_kind(self.version, self.kind)
        )
    }

    pub(super) fn ty(&self) -> Ty<'_> {
        Ty::root(self.types, self.id)
    }

    pub(super) fn shape(&self) -> Shape {
        if self.built_in {
            Shape::Typed
        } else {
            Shape::Written
        }
    }

    fn compare(&self, live: Option<&Value>, new: &Value) -> Result<Comparison, String> {
        self.compare_shapes(live, new, self.shape())
    }

    fn compare_shapes(&self, live: Option<&Value>, new: &Value, shape: Shape) -> Result<Comparison, String> {
        self.compare_as(self.ty(), live, new, shape)
    }

    fn compare_as(
        &self,
        ty: Ty<'_>,
        live: Option<&Value>,
        new: &Value,
        shape: Shape,
    ) -> Result<Comparison, String> {
        let old = Object {
            side: live.map_or(Side::Zero, Side::Value),
            shape: self.shape(),
        };
        let new = Object {
            side: Side::Value(new),
            shape,
        };
        compare::compare(ty, old, new, &self.reset.skip)
    }

    /// The comparison in the names of another version.
    fn compare_in(&self, version: &str, live: Option<&Value>, new: &Value) -> Result<InVersion, String> {
        let (id, new) = match self.versions.view(new, version)? {
            VersionView::Same => return Ok(InVersion::Same),
            VersionView::Gone => return Ok(InVersion::Gone),
            VersionView::Converted(id, new) => (id, new),
        };
        let live = match live {
            None => None,
            Some(live) => match self.versions.view(live, version)? {
                VersionView::Converted(_, live) => Some(live),
                VersionView::Same => Some(live.clone()),
                VersionView::Gone => return Ok(InVersion::Gone),
            },
        };
        self.compare_as(Ty::root(self.types, id), live.as_ref(), &new, self.shape())
            .map(InVersion::Compared)
    }
}

enum Tracked {
    Unchanged,
    Encoded(Option<Value>),
}

enum InVersion {
    Same,
    Gone,
    Compared(Comparison),
}

/// `metadata` itself is nobody's.
fn strip_metadata(set: &mut FieldSet) {
    set.subtract(&FieldSet::of([UNMANAGED[UNMANAGED.len() - 1]]));
}

fn rfc3339(now: Timestamp) -> CompactString {
    // Whole seconds, as upstream's Time.
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    compact_str::format_compact!("{seconds}")
}

fn metadata(object: &Value) -> Option<&Map> {
    match object {
        Value::Object(map) => match map.get("metadata") {
            Some(Value::Object(metadata)) => Some(metadata),
            _ => None,
        },
        _ => None,
    }
}

fn managed_of(object: &Value) -> Option<&Value> {
    metadata(object)?.get("managedFields")
}

fn set_managed(object: &mut Value, list: Option<Value>) {
    let Value::Object(map) = object else { return };
    let Some(Value::Object(metadata)) = map.get_mut("metadata") else {
        return;
    };
    match list {
        Some(list) => {
            metadata.insert(crate::Key::from_static("managedFields"), list);
        }
        None => {
            metadata.remove("managedFields");
        }
    }
}

fn string_at<'v>(object: &'v Value, key: &str) -> &'v str {
    match object {
        Value::Object(map) => match map.get(key) {
            Some(Value::String(text)) => text,
            _ => "",
        },
        _ => "",
    }
}

/// `apps/v1, Kind=Deployment`; the core group's version has a leading slash.
fn shown_kind(version: &str, kind: &str) -> String {
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}
