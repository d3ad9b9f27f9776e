//! The group `batch`.

use crate::Entry;

mod cron_job;
mod job;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    ("batch", "cronjobs", &cron_job::CronJob),
    ("batch", "jobs", &job::Job),
];
