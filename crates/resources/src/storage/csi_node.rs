//! CSINode.

use crate::At;
use crate::check;
use crate::fields::{int_at, list_at, text, texts};
use crate::pod_spec::validation::volumes::csi_driver_name;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct CsiNode;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::number("Drivers", "Number of drivers on the node."),
    Column::AGE,
];

impl Strategy for CsiNode {
    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("spec.drivers");
        let drivers = list_at(object, &DRIVERS);
        for (index, driver) in drivers.iter().enumerate() {
            let name = text(driver, "name");
            let repeated = drivers[..index].iter().any(|other| text(other, "name") == name);
            driver_errors(driver, repeated, &at.index(index), &mut errors);
        }
        errors
    }

    /// Drivers come and go; of one that stays only what it can hold changes.
    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            driver.remove_path(&["allocatable"]);
            driver
        };
        for before in list_at(old, &DRIVERS) {
            for now in list_at(new, &DRIVERS) {
                if text(now, "name") == text(before, "name") {
                    let (now, before) = (fixed(now), fixed(before));
                    check::immutable(Some(&now), Some(&before), &At::new("spec.drivers"), &mut errors);
                }
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            (list_at(object, &["spec", "drivers"]).len() as i64).into(),
            table::age(object, now),
        ]
    }
}

const DRIVERS: [&str; 2] = ["spec", "drivers"];
const LONGEST_ID: usize = 256;

fn driver_errors(driver: &Value, repeated: bool, at: &At<'_>, errors: &mut ErrorList) {
    let name = text(driver, "name");
    csi_driver_name(name, &at.child("name"), errors);
    let id = text(driver, "nodeID");
    if id.is_empty() {
        errors.push(at.child("nodeID").required(""));
    }
    if id.len() > LONGEST_ID {
        let why = format!("must be {LONGEST_ID} characters or less");
        errors.push(at.child("nodeID").invalid(id, why));
    }
    let count = int_at(driver, &["allocatable", "count"]).unwrap_or(0);
    check::not_negative(count, &at.child("allocatable.count"), errors);
    if repeated {
        errors.push(at.child("name").duplicate(name));
    }
    let mut keys: Vec<&str> = Vec::new();
    for key in texts(driver, "topologyKeys") {
        if key.is_empty() {
            errors.push(at.required(""));
        }
        if keys.contains(&key) {
            errors.push(at.duplicate(key));
        }
        keys.push(key);
        check::qualified(key, at, errors);
    }
}
