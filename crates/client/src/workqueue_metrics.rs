//! What queues tell about themselves, under upstream's names: `workqueue_*`, one series a queue.

use crate::workqueue::Metrics;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// Upper ends of the buckets of both histograms, in seconds: ten, each ten times the one before.
const ENDS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// The queues of a process.
#[derive(Default)]
pub struct WorkqueueMetrics(Mutex<BTreeMap<&'static str, Series>>);

#[derive(Default)]
struct Series {
    depth: usize,
    adds: u64,
    retries: u64,
    waited: Histogram,
    worked: Histogram,
    /// When the work that is not done began, and how much of it began then.
    running: BTreeMap<Instant, usize>,
}

#[derive(Default)]
struct Histogram {
    /// Not cumulative; what is beyond the last end only counts in `count`.
    buckets: [u64; ENDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        if let Some(bucket) = self.buckets.get_mut(ENDS.partition_point(|end| *end < seconds)) {
            *bucket += 1;
        }
    }
}

impl WorkqueueMetrics {
    fn with(&self, queue: &'static str, change: impl FnOnce(&mut Series)) {
        change(self.0.lock().entry(queue).or_default());
    }

    /// Makes a queue known before anything happens to it, as upstream's are from their start.
    pub fn register(&self, queue: &'static str) {
        self.with(queue, |_| {});
    }

    /// Everything, in Prometheus' text form.
    pub fn write(&self, out: &mut String) {
        let all = self.0.lock();
        let now = Instant::now();
        let gauge = |out: &mut String, name: &str, kind: &str, help: &str, of: &dyn Fn(&Series) -> String| {
            family(out, name, kind, help);
            for (queue, series) in all.iter() {
                line(
                    out,
                    format_args!("workqueue_{name}{{name=\"{queue}\"}} {}", of(series)),
                );
            }
        };
        gauge(
            out,
            "adds_total",
            "counter",
            "Total number of adds handled by workqueue",
            &|s| s.adds.to_string(),
        );
        gauge(out, "depth", "gauge", "Current depth of workqueue", &|s| {
            s.depth.to_string()
        });
        gauge(
            out,
            "longest_running_processor_seconds",
            "gauge",
            "How many seconds has the longest running processor for workqueue been running.",
            &|s| {
                let longest = s
                    .running
                    .keys()
                    .next()
                    .map_or(Duration::ZERO, |start| now - *start);
                longest.as_secs_f64().to_string()
            },
        );
        histogram(
            out,
            &all,
            "queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
            |s| &s.waited,
        );
        gauge(
            out,
            "retries_total",
            "counter",
            "Total number of retries handled by workqueue",
            &|s| s.retries.to_string(),
        );
        gauge(
            out,
            "unfinished_work_seconds",
            "gauge",
            "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
            &|s| {
                let seconds = s
                    .running
                    .iter()
                    .map(|(start, n)| (now - *start).as_secs_f64() * *n as f64);
                seconds.sum::<f64>().abs().to_string()
            },
        );
        histogram(
            out,
            &all,
            "work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
            |s| &s.worked,
        );
    }
}

impl Metrics for WorkqueueMetrics {
    fn added(&self, queue: &'static str, depth: usize) {
        self.with(queue, |s| {
            s.adds += 1;
            s.depth = depth;
        });
    }

    fn started(&self, queue: &'static str, waited: Duration, depth: usize) {
        let now = Instant::now();
        self.with(queue, |s| {
            s.depth = depth;
            s.waited.observe(waited);
            *s.running.entry(now).or_default() += 1;
        });
    }

    fn finished(&self, queue: &'static str, worked: Duration) {
        let now = Instant::now();
        self.with(queue, |s| {
            s.worked.observe(worked);
            // The start as it was noted is not handed back; it is the last one not after the work's.
            let start = now.checked_sub(worked).unwrap_or(now);
            let noted = s
                .running
                .range(..=start)
                .next_back()
                .or_else(|| s.running.iter().next());
            if let Some(noted) = noted.map(|(at, _)| *at)
                && let Some(count) = s.running.get_mut(&noted)
            {
                *count -= 1;
                if *count == 0 {
                    s.running.remove(&noted);
                }
            }
        });
    }

    fn retried(&self, queue: &'static str) {
        self.with(queue, |s| s.retries += 1);
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP workqueue_{name} [BETA] {help}"));
    line(out, format_args!("# TYPE workqueue_{name} {kind}"));
}

fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    if out.write_fmt(arguments).is_err() {
        unreachable!("writing to a string cannot fail");
    }
    out.push('\n');
}

fn histogram(
    out: &mut String,
    all: &BTreeMap<&'static str, Series>,
    name: &str,
    help: &str,
    of: impl Fn(&Series) -> &Histogram,
) {
    family(out, name, "histogram", help);
    for (queue, series) in all {
        let histogram = of(series);
        let mut below = 0;
        for (end, count) in ENDS.iter().zip(histogram.buckets) {
            below += count;
            line(
                out,
                format_args!("workqueue_{name}_bucket{{name=\"{queue}\",le=\"{end:e}\"}} {below}"),
            );
        }
        let count = histogram.count;
        line(
            out,
            format_args!("workqueue_{name}_bucket{{name=\"{queue}\",le=\"+Inf\"}} {count}"),
        );
        line(
            out,
            format_args!("workqueue_{name}_sum{{name=\"{queue}\"}} {}", histogram.sum),
        );
        line(
            out,
            format_args!("workqueue_{name}_count{{name=\"{queue}\"}} {count}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Queue;
    use std::sync::Arc;

    fn value(metrics: &WorkqueueMetrics, series: &str) -> f64 {
        let mut text = String::new();
        metrics.write(&mut text);
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .parse()
            .expect("a number")
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_tells_what_happens_to_it() {
        let metrics = Arc::new(WorkqueueMetrics::default());
        let queue = Queue::with_metrics("q", Arc::clone(&metrics) as Arc<dyn Metrics>);
        let is = |name: &str, expected: f64| {
            let found = value(&metrics, &format!("workqueue_{name}{{name=\"q\"}}"));
            assert!((found - expected).abs() < 1e-9, "{name}: {found}");
        };
        queue.add("a");
        queue.add("a");
        queue.add_after("b", Duration::from_secs(5));
        is("adds_total", 1.0);
        is("depth", 1.0);
        tokio::time::advance(Duration::from_secs(2)).await;
        let a = queue.next().await;
        is("depth", 0.0);
        is("queue_duration_seconds_sum", 2.0);
        tokio::time::advance(Duration::from_secs(3)).await;
        is("unfinished_work_seconds", 3.0);
        is("longest_running_processor_seconds", 3.0);
        metrics.finished("q", Duration::from_secs(3));
        queue.done(&a);
        is("unfinished_work_seconds", 0.0);
        is("work_duration_seconds_count", 1.0);
        assert_eq!(queue.next().await, "b");
        is("adds_total", 2.0);
        queue.add_rate_limited("c");
        is("retries_total", 1.0);
    }

    #[test]
    fn buckets_are_cumulative() {
        let metrics = WorkqueueMetrics::default();
        metrics.register("q");
        metrics.finished("q", Duration::from_micros(5));
        metrics.finished("q", Duration::from_secs(100));
        let bucket = |end: &str| {
            value(
                &metrics,
                &format!("workqueue_work_duration_seconds_bucket{{name=\"q\",le=\"{end}\"}}"),
            )
        };
        assert_eq!(
            (bucket("1e-6"), bucket("1e-5"), bucket("1e1"), bucket("+Inf")),
            (0.0, 1.0, 1.0, 2.0)
        );
    }
}
