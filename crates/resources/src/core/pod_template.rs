//! PodTemplate.

use crate::At;
use crate::fields::{entries, same};
use crate::pod_spec;
use crate::pod_spec::validation;
use crate::strategy::{Column, Context, Strategy, bump_generation};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct PodTemplate;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Containers", "Names of the template's containers."),
    Column::text("Images", "Images of the template's containers."),
    Column::text("Pod Labels", "Labels of the template."),
];

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_mut("template"));
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &["template", "spec"]);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        pod_spec::drop_disabled(new, Some(old), &["template", "spec"]);
        if !same(new, old, &["template"]) {
            bump_generation(new, old);
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        pod_spec::template_warnings(object, None, &["template"])
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        pod_spec::template_warnings(new, Some(old), &["template"])
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let [names, images] = table::containers(object.get_path(&["template", "spec"]));
        let labels = object
            .get_path(&["template", "metadata"])
            .map(|m| entries(m, "labels"))
            .unwrap_or_default();
        vec![table::name(object), names, images, table::labels(labels)]
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(template) = object.get("template") {
            validation::pod_template(template, &At::new("template"), &mut errors);
        }
        errors
    }
}
