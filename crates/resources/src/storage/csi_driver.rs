//! CSIDriver.

use crate::At;
use crate::check;
use crate::fields::{fill, int, list, present, same, text, texts};
use crate::strategy::{Column, Context, Strategy, bump_generation};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct CsiDriver;

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::flag("AttachRequired", "Volumes are attached before they are mounted."),
    Column::flag("PodInfoOnMount", "The driver is told of the pod."),
    Column::flag("StorageCapacity", "The driver tells of free space."),
    Column::text("TokenRequests", "Audiences the driver gets tokens for."),
    Column::flag("RequiresRepublish", "Volumes are published again and again."),
    Column::text("Modes", "Kinds of volumes the driver has."),
    Column::AGE,
];

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").is_none_or(Value::is_empty) {
            spec.insert("volumeLifecycleModes", vec!["Persistent"]);
        }
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        drop_disabled(object, None);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        drop_disabled(new, Some(old));
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    /// Upstream names one of the fields otherwise than it is.
    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        for (field, shown) in [
            ("attachRequired", "spec.attachedRequired"),
            ("volumeLifecycleModes", "spec.volumeLifecycleModes"),
        ] {
            let value = |object| Value::get_path(object, &["spec", field]);
            check::immutable(value(new), value(old), &At::new(shown), &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let modes = table::join(texts(spec, "volumeLifecycleModes"), ",");
        let requests = list(spec, "tokenRequests");
        let audiences = table::join(requests.iter().map(|request| text(request, "audience")), ",");
        vec![
            table::name(object),
            spec.get("attachRequired")
                .and_then(Value::as_bool)
                .unwrap_or(true)
                .into(),
            table::flag(spec, &["podInfoOnMount"]),
            table::flag(spec, &["storageCapacity"]),
            if requests.is_empty() {
                table::UNSET.into()
            } else {
                audiences.into()
            },
            table::flag(spec, &["requiresRepublish"]),
            table::or(&modes, table::NONE),
            table::age(object, now),
        ]
    }
}

/// The scheduler does not ask for the driver yet: off by default in this version.
fn drop_disabled(driver: &mut Value, old: Option<&Value>) {
    const FIELD: [&str; 2] = ["spec", "preventPodSchedulingIfMissing"];
    if old
        .and_then(|old| old.get_path(&FIELD))
        .is_none_or(Value::is_null)
    {
        driver.remove_path(&FIELD);
    }
}

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec");
    if let Some(policy) = present(spec, "fsGroupPolicy").and_then(Value::as_str) {
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        check::one_of(policy, &policies, &at.child("fsGroupPolicy"), errors);
    }
    let requests = list(spec, "tokenRequests");
    token_requests(requests, &at.child("tokenRequests"), errors);
    for mode in texts(spec, "volumeLifecycleModes") {
        let modes = ["Persistent", "Ephemeral"];
        check::one_of(mode, &modes, &at.child("volumeLifecycleModes"), errors);
    }
    if let Some(period) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|period| *period < 10) {
        let why = "must be greater than or equal to 10 seconds";
        errors.push(
            at.child("nodeAllocatableUpdatePeriodSeconds")
                .invalid(period, why),
        );
    }
    if let Some(value) = present(spec, "serviceAccountTokenInSecrets").filter(|_| requests.is_empty()) {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(
            at.child("serviceAccountTokenInSecrets")
                .invalid(value.clone(), why),
        );
    }
}

fn token_requests(requests: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    for (index, request) in requests.iter().enumerate() {
        let at = at.index(index);
        let audience = text(request, "audience");
        if requests[..index]
            .iter()
            .any(|other| text(other, "audience") == audience)
        {
            errors.push(at.child("audience").duplicate(audience));
            continue;
        }
        let Some(seconds) = int(request, "expirationSeconds") else {
            continue;
        };
        let at = at.child("expirationSeconds");
        if seconds < 600 {
            errors.push(at.invalid(seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            errors.push(at.invalid(seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
}
