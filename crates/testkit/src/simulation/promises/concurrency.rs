//! A CronJob that forbids or replaces never has two jobs at work.

use super::super::facts::{controller, holds, is_leaving};
use super::super::world::{Change, World};
use super::Promise;
use machinery::{Value, meta};

#[derive(Debug)]
pub(super) struct Concurrency;

fn at_work(job: &Value) -> bool {
    !is_leaving(job) && !holds(job, "Complete") && !holds(job, "Failed")
}

impl Promise for Concurrency {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        if change.resource != "jobs" || change.old.is_some() {
            return None;
        }
        let (_, uid) = controller(change.new?)?;
        let cron = world.by_uid("cronjobs", uid)?;
        let policy = cron.get_str_path(&["spec", "concurrencyPolicy"])?;
        if policy == "Allow" {
            return None;
        }
        let of_cron = |job: &&Value| controller(job).is_some_and(|(_, u)| u == uid) && at_work(job);
        let jobs: Vec<&str> = world.all("jobs").filter(of_cron).map(meta::name).collect();
        let name = meta::name(cron);
        (jobs.len() > 1).then(|| format!("cron job {name} ({policy}) has {} at work", jobs.join(" and ")))
    }
}
