//! LeaseCandidate: who would hold a lease, and in which version.

use crate::At;
use crate::check;
use crate::fields::{text, text_at};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};

pub(crate) struct LeaseCandidate;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("LeaseName", "The lease it is for."),
    Column::text("BinaryVersion", "The version it is of."),
    Column::text("EmulationVersion", "The version it behaves as."),
    Column::AGE,
];

impl Strategy for LeaseCandidate {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn check_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        names::config_map_key(name)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        let lease = |object: &Value| Value::from(text_at(object, &["spec", "leaseName"]));
        let at = At::new("spec.leaseName");
        check::immutable(Some(&lease(new)), Some(&lease(old)), &at, &mut errors);
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.leaseName"]
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["spec", "leaseName"]),
            table::word(object, &["spec", "binaryVersion"]),
            table::word(object, &["spec", "emulationVersion"]),
            table::age(object, now),
        ]
    }
}

/// The numbers of `1.2.3`, with whatever may follow them.
fn version(text: &str) -> Option<[u64; 3]> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.').map(|part| {
        let plain = part == "0" || !part.starts_with('0');
        part.parse()
            .ok()
            .filter(|_| plain && part.bytes().all(|c| c.is_ascii_digit()))
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    const NO_VERSION: &str = "must be a valid semantic version";
    let at = At::new("spec");
    if text(spec, "leaseName").is_empty() {
        errors.push(at.child("leaseName").required(""));
    }
    let (emulation, binary) = (text(spec, "emulationVersion"), text(spec, "binaryVersion"));
    let emulated = version(emulation);
    if !emulation.is_empty() && emulated.is_none() {
        errors.push(at.child("emulationVersion").invalid(emulation, NO_VERSION));
    }
    let here = at.child("binaryVersion");
    if binary.is_empty() {
        errors.push(here.required(""));
    } else if version(binary).is_none() {
        errors.push(here.invalid(binary, NO_VERSION));
    }
    let zero = [0; 3];
    if !binary.is_empty()
        && !emulation.is_empty()
        && version(binary).unwrap_or(zero) < emulated.unwrap_or(zero)
    {
        let why = "must be greater than or equal to `emulationVersion`";
        errors.push(here.invalid(binary, why));
    }
    let strategy = text(spec, "strategy");
    if strategy.is_empty() {
        errors.push(at.child("strategy").required(""));
        return;
    }
    if strategy == "OldestEmulationVersion" && emulated.unwrap_or(zero) == zero {
        let why = "must be specified when `strategy` is 'OldestEmulationVersion'";
        errors.push(at.child("emulationVersion").required(why));
    }
    super::lease::strategy(strategy, &at.child("strategy.strategy"), errors);
}
