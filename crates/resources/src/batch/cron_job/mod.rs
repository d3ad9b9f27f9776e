//! CronJob.

use super::job;
use crate::fields::{fill, fill_text, list_at, text_at};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct CronJob;

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
