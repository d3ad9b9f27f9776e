//! CronJob.

use super::job;
use crate::fields::{fill, fill_text};
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct CronJob;

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
}
