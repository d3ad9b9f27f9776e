//! CronJob.

mod schedule;

use super::job;
use crate::At;
use crate::check;
use crate::fields::{fill, fill_text, flag, int, list_at, present, same, text, text_at};
use crate::pod_spec;
use crate::strategy::{Column, Context, Strategy, bump_generation, keep};
use crate::table;
use crate::warnings;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct CronJob;

const TEMPLATE: [&str; 5] = ["spec", "jobTemplate", "spec", "template", "spec"];
const LONGEST_NAME: usize = 52;

const COLUMNS: [Column; 10] = [
    Column::NAME,
    Column::text("Schedule", "When jobs are made."),
    Column::text("Timezone", "Where the schedule is meant."),
    Column::flag("Suspend", "Whether no jobs are made."),
    Column::number("Active", "Jobs that run."),
    Column::text("Last Schedule", "When a job was made last."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_path_mut(&["spec", "jobTemplate", "spec"]) {
            job::job_spec(spec);
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill_text(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &TEMPLATE);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &TEMPLATE);
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), None, &mut errors);
        // Jobs are named after the CronJob, with eleven characters more.
        let name = meta::name(object);
        if name.len() > LONGEST_NAME {
            let why = format!("must be no more than {LONGEST_NAME} characters");
            errors.push(At::new("metadata.name").invalid(name, why));
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(
            new.get("spec").unwrap_or(&Value::Null),
            old.get("spec"),
            &mut errors,
        );
        errors
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        let mut warnings: Vec<String> = warnings::hostname(object).into_iter().collect();
        if let Some(spec) = object.get_path(&["spec", "jobTemplate", "spec"]) {
            warnings.extend(job::spec_warning(spec, "spec.jobTemplate.spec"));
        }
        warnings.extend(pod_spec::template_warnings(object, None, &TEMPLATE[..4]));
        warnings
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        let mut warnings = pod_spec::template_warnings(new, Some(old), &TEMPLATE[..4]);
        if !text_at(new, &["spec", "schedule"]).contains("TZ") {
            return warnings;
        }
        warnings.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let last = text_at(object, &["status", "lastScheduleTime"]);
        let template = |path: &[&str]| {
            object
                .get_path(&["spec", "jobTemplate", "spec"])
                .and_then(|s| s.get_path(path))
        };
        let suspend = match object.get_path(&["spec", "suspend"]).and_then(Value::as_bool) {
            None => table::UNSET,
            Some(true) => "True",
            Some(false) => "False",
        };
        let [names, images] = table::containers(template(&["template", "spec"]));
        vec![
            table::name(object),
            table::word(object, &["spec", "schedule"]),
            table::or(text_at(object, &["spec", "timeZone"]), table::NONE),
            suspend.into(),
            (list_at(object, &["status", "active"]).len() as i64).into(),
            if last.is_empty() {
                table::NONE.into()
            } else {
                table::since(last, now).into()
            },
            table::age(object, now),
            names,
            images,
            table::selector(template(&["selector"])),
        ]
    }
}

fn spec_errors(spec: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let at = At::new("spec");
    schedule_errors(spec, old, &at.child("schedule"), errors);
    check::not_negative(
        int(spec, "startingDeadlineSeconds").unwrap_or(0),
        &at.child("startingDeadlineSeconds"),
        errors,
    );
    if let Some(zone) = zone_of(spec)
        && old.is_none_or(|old| zone_of(old) != Some(zone))
    {
        schedule::time_zone(zone, &at.child("timeZone"), errors);
    }
    check::required_one_of(
        text(spec, "concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
        &at.child("concurrencyPolicy"),
        errors,
    );
    let template = spec.get_path(&["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    let here = at.child("jobTemplate.spec");
    job::template_spec(template, &here, errors);
    if let Some(selector) = present(template, "selector") {
        errors.push(
            here.child("selector")
                .invalid(selector.clone(), "`selector` will be auto-generated"),
        );
    }
    if flag(template, "manualSelector") {
        errors.push(
            here.child("manualSelector")
                .not_supported(true, &["nil", "false"]),
        );
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::not_negative(int(spec, field).unwrap_or(0), &at.child(field), errors);
    }
}

fn zone_of(spec: &Value) -> Option<&str> {
    present(spec, "timeZone").and_then(Value::as_str)
}

fn schedule_errors(spec: &Value, old: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if let Err(why) = schedule::parse(schedule) {
        errors.push(at.invalid(schedule, why));
    }
    if !schedule.contains("TZ") {
        return;
    }
    // Time zones in schedules were never meant to work; those that have them keep them.
    let had = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
    if !had {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(at.invalid(schedule, why));
    } else if zone_of(spec).is_some() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(at.invalid(schedule, why));
    }
}
