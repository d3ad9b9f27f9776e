//! Job.

mod defaults;
mod indexes;
mod policies;
mod status;
mod validation;

use crate::KindInfo;
use crate::fields::{int, int_at, same, text_at};
use crate::pod_spec;
use crate::strategy::{
    Column, Context, GarbageCollection, Strategy, Subresource, bump_generation, default_subresource, keep,
};
use crate::table;
use crate::warnings;
use compact_str::{CompactString, format_compact};
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) use defaults::job_spec;
pub(crate) use validation::template_spec;

pub(crate) struct Job;

pub(crate) const JOB_NAME: &str = "batch.kubernetes.io/job-name";
pub(crate) const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// The labels' names before they had a prefix; pods carry both.
pub(crate) const LEGACY_JOB_NAME: &str = "job-name";
pub(crate) const LEGACY_CONTROLLER_UID: &str = "controller-uid";

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::text("Status", "How the job stands."),
    Column::text("Completions", "Pods that succeeded of those that must."),
    Column::text("Duration", "Time it took, or has taken."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        defaults::job(object);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        if object.get_path(&["spec", "manualSelector"]) != Some(&Value::Bool(true)) {
            generate_selector(object);
        }
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &pod_spec::TEMPLATE);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &pod_spec::TEMPLATE);
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::job(object, true, &mut errors);
        errors
    }

    /// Jobs made before the labels had a prefix need not have those.
    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let labels = old.get_path(&["spec", "template", "metadata", "labels"]);
        let had = |label| labels.is_some_and(|labels| labels.get(label).is_some());
        validation::job(new, had(JOB_NAME) && had(CONTROLLER_UID), &mut errors);
        validation::change(new, old, &mut errors);
        errors
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        let mut warnings: Vec<String> = warnings::hostname(object).into_iter().collect();
        if let Some(spec) = object.get("spec") {
            warnings.extend(spec_warning(spec, "spec"));
        }
        warnings.extend(pod_spec::template_warnings(object, None, &["spec", "template"]));
        warnings
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        pod_spec::template_warnings(new, Some(old), &["spec", "template"])
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&status::Status)
        } else {
            default_subresource(name)
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let succeeded = int_at(object, &["status", "succeeded"]).unwrap_or(0);
        vec![format_compact!("{succeeded}")]
    }

    /// Jobs were once made without knowing of the pods' owners, so these stay unless told otherwise.
    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::OrphanDependents
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |path: &[&str]| int_at(object, path);
        let succeeded = count(&["status", "succeeded"]).unwrap_or(0);
        let completions = match (
            count(&["spec", "completions"]),
            count(&["spec", "parallelism"]).unwrap_or(0),
        ) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let [names, images] = table::template_containers(object);
        vec![
            table::name(object),
            status(object).into(),
            completions.into(),
            duration(object, now).into(),
            table::age(object, now),
            names,
            images,
            table::selector(object.get_path(&["spec", "selector"])),
        ]
    }
}

/// So many indexes may not all be named in a status.
pub(crate) fn spec_warning(spec: &Value, at: &str) -> Option<String> {
    let count = |field| int(spec, field).unwrap_or(0);
    let large =
        validation::is_indexed(spec) && count("completions") > 100_000 && count("parallelism") > 10_000;
    large.then(|| {
        format!(
            "{at}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        )
    })
}

/// Makes the pods of this job, and of no other, carry labels that its selector finds.
fn generate_selector(job: &mut Value) {
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let labels = spec
        .object_entry("template")
        .object_entry("metadata")
        .object_entry("labels");
    for (label, value) in [
        (LEGACY_JOB_NAME, &name),
        (JOB_NAME, &name),
        (LEGACY_CONTROLLER_UID, &uid),
        (CONTROLLER_UID, &uid),
    ] {
        // A label of the client's own is judged later.
        if !labels.contains_key(label) {
            labels.insert(label, value.as_str());
        }
    }
    let selected = spec.object_entry("selector").object_entry("matchLabels");
    if !selected.contains_key(CONTROLLER_UID) {
        selected.insert(CONTROLLER_UID, uid);
    }
}

fn status(job: &Value) -> &'static str {
    let is = |kind| table::condition(job, kind) == Some(true);
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if meta::deletion_timestamp(job).is_some() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|kind| is(kind))
            .unwrap_or("Running")
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let time = |field| text_at(job, &["status", field]).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), None) => table::human(now.duration_since(start)),
        (Some(start), Some(end)) => table::human(end.duration_since(start)),
    }
}
