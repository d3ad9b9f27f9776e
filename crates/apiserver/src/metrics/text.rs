//! `/metrics`: everything there is to say, in Prometheus' text form.

use super::{DURATIONS, FINER_THAN_SLI, Histogram, Labels, Metrics, SIZES};
use crate::handlers::Exchange;
use crate::paths::{GIT_VERSION, MAJOR, MINOR};
use crate::respond;
use http::{HeaderValue, Response, StatusCode};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use wire::body::Body;

/// `GET /metrics`.
pub(crate) async fn answer(exchange: &Exchange) -> Response<Body> {
    let core = &exchange.core;
    let mut text = Text::default();
    text.family("kubernetes_build_info", "gauge", "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.");
    text.line(format_args!(
        "kubernetes_build_info{{git_version=\"{GIT_VERSION}\",major=\"{MAJOR}\",minor=\"{MINOR}\"}} 1"
    ));
    text.requests(&core.metrics);
    if let Ok(status) = core.registry.store.status().await {
        text.family(
            "apiserver_storage_size_bytes",
            "gauge",
            "[STABLE] Size of the storage database file physically allocated in bytes.",
        );
        text.line(format_args!(
            "apiserver_storage_size_bytes{{storage_cluster_id=\"etcd-0\"}} {}",
            status.size
        ));
        text.family(
            "etcd_debugging_mvcc_current_revision",
            "gauge",
            "Current revision of store.",
        );
        text.line(format_args!(
            "etcd_debugging_mvcc_current_revision {}",
            status.revision
        ));
    }
    let mut counts: Vec<_> = core
        .routes
        .resources()
        .into_iter()
        .filter_map(|r| Some((r.group_resource.clone(), r.cache.count()?)))
        .collect();
    counts.sort_by(|a, b| (&a.0.group, &a.0.resource).cmp(&(&b.0.group, &b.0.resource)));
    text.family(
        "apiserver_resource_objects",
        "gauge",
        "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
    );
    for (resource, count) in &counts {
        text.line(format_args!(
            "apiserver_resource_objects{{group=\"{}\",resource=\"{}\"}} {count}",
            resource.group, resource.resource
        ));
    }
    text.family("apiserver_storage_objects", "gauge", "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.");
    for (resource, count) in &counts {
        text.line(format_args!(
            "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"
        ));
    }
    let mut text = text.into_string();
    for source in &core.more_metrics {
        source(&mut text);
    }
    let mut response = respond::text(StatusCode::OK, text);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores"),
    );
    response
}

/// Text that grows by families of lines.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        if self.0.write_fmt(arguments).is_err() {
            unreachable!("writing to a string cannot fail");
        }
        self.0.push('\n');
    }

    /// What is known of requests.
    pub(crate) fn requests(&mut self, metrics: &Metrics) {
        let series = metrics.series.lock();
        let mut all: Vec<_> = series.iter().collect();
        all.sort_by_key(|(l, _)| {
            (
                &l.group,
                &l.version,
                &l.resource,
                &l.subresource,
                l.verb,
                l.scope,
                l.dry_run,
            )
        });
        self.family("apiserver_request_total", "counter", "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.");
        for (labels, series) in &all {
            for (code, count) in &series.codes {
                self.line(format_args!(
                    "apiserver_request_total{{{},code=\"{code}\",system_client=\"\"}} {count}",
                    labels.with_dry_run()
                ));
            }
        }
        self.family("apiserver_request_duration_seconds", "histogram", "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.");
        for (labels, series) in &all {
            let labels = labels.with_dry_run();
            self.histogram(
                "apiserver_request_duration_seconds",
                &labels,
                &series.durations,
                &DURATIONS,
                0,
            );
        }
        self.family("apiserver_request_sli_duration_seconds", "histogram", "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.");
        for (labels, series) in all
            .iter()
            .filter(|(l, _)| l.verb != "WATCH" && l.verb != "CONNECT" && !l.dry_run)
        {
            let labels = labels.plain();
            let name = "apiserver_request_sli_duration_seconds";
            self.histogram(name, &labels, &series.durations, &DURATIONS, FINER_THAN_SLI);
        }
        self.family("apiserver_response_sizes", "histogram", "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.");
        for (labels, series) in all.iter().filter(|(l, s)| s.sizes.count > 0 && !l.dry_run) {
            self.histogram(
                "apiserver_response_sizes",
                &labels.plain(),
                &series.sizes,
                &SIZES,
                0,
            );
        }
        self.family("apiserver_longrunning_requests", "gauge", "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.");
        for (labels, series) in all.iter().filter(|(l, _)| matches!(l.verb, "WATCH" | "CONNECT")) {
            self.line(format_args!(
                "apiserver_longrunning_requests{{{}}} {}",
                labels.plain(),
                series.running
            ));
        }
        self.family("apiserver_current_inflight_requests", "gauge", "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.");
        for (kind, count) in [("mutating", &metrics.mutating), ("readOnly", &metrics.read_only)] {
            self.line(format_args!(
                "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {}",
                count.load(Ordering::Relaxed)
            ));
        }
        self.family("apiserver_requested_deprecated_apis", "gauge", "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.");
        let deprecated = |l: &Labels| {
            l.group.is_empty() && matches!(l.resource.as_str(), "componentstatuses" | "endpoints")
        };
        let mut last = "";
        for (labels, _) in all.iter().filter(|(l, _)| deprecated(l)) {
            if labels.resource != last {
                last = &labels.resource;
                self.line(format_args!("apiserver_requested_deprecated_apis{{group=\"\",version=\"v1\",resource=\"{last}\",subresource=\"\",removed_release=\"\"}} 1"));
            }
        }
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &str,
        histogram: &Histogram<N>,
        ends: &[f64; N],
        from: usize,
    ) {
        let mut count: u64 = histogram.buckets[..from].iter().sum();
        for (end, in_bucket) in ends.iter().zip(&histogram.buckets).skip(from) {
            count += in_bucket;
            if *end >= 1e6 {
                self.line(format_args!(
                    "{name}_bucket{{{labels},le=\"1e+{:02}\"}} {count}",
                    end.log10() as u32
                ));
            } else {
                self.line(format_args!("{name}_bucket{{{labels},le=\"{end}\"}} {count}"));
            }
        }
        self.line(format_args!(
            "{name}_bucket{{{labels},le=\"+Inf\"}} {}",
            histogram.count
        ));
        self.line(format_args!("{name}_sum{{{labels}}} {}", histogram.sum));
        self.line(format_args!("{name}_count{{{labels}}} {}", histogram.count));
    }
}

impl Labels {
    fn with_dry_run(&self) -> String {
        let dry_run = if self.dry_run { "All" } else { "" };
        format!("verb={:?},dry_run={dry_run:?},{}", self.verb, self.place())
    }

    fn plain(&self) -> String {
        format!("verb={:?},{}", self.verb, self.place())
    }

    fn place(&self) -> String {
        format!(
            "group={:?},version={:?},resource={:?},subresource={:?},scope={:?},component=\"apiserver\"",
            self.group, self.version, self.resource, self.subresource, self.scope
        )
    }
}
