//! Counts and times of requests, under upstream's names.
//!
//! A series is found by what the request is (verb, resource, scope …) under one short lock a request; nothing is
//! formatted before somebody asks for `/metrics`.

mod text;

pub(crate) use text::answer;

use crate::request::{Query, RequestInfo, Verb};
use compact_str::CompactString;
use hashbrown::{Equivalent, HashMap};
use http::{Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use tokio::time::Instant;
use wire::body::{Body, BoxError};

/// Upper ends of the duration buckets, in seconds.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// The service level's buckets leave these out.
const FINER_THAN_SLI: usize = 2;
/// Upper ends of the size buckets, in bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// More series than any cluster's clients make; what comes then is not counted.
const SERIES_MOST: usize = 4096;

/// What a request is, for its series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    verb: &'static str,
    scope: &'static str,
    dry_run: bool,
    group: CompactString,
    version: CompactString,
    resource: CompactString,
    subresource: CompactString,
}

/// [`Labels`] that are not kept.
#[derive(Hash)]
struct Borrowed<'a> {
    verb: &'static str,
    scope: &'static str,
    dry_run: bool,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
}

impl Equivalent<Labels> for Borrowed<'_> {
    fn equivalent(&self, key: &Labels) -> bool {
        self.verb == key.verb
            && self.scope == key.scope
            && self.dry_run == key.dry_run
            && key.group == self.group
            && key.version == self.version
            && key.resource == self.resource
            && key.subresource == self.subresource
    }
}

impl Borrowed<'_> {
    fn keep(&self) -> Labels {
        Labels {
            verb: self.verb,
            scope: self.scope,
            dry_run: self.dry_run,
            group: self.group.into(),
            version: self.version.into(),
            resource: self.resource.into(),
            subresource: self.subresource.into(),
        }
    }
}

#[derive(Debug)]
struct Histogram<const N: usize> {
    /// Not cumulative; what is beyond the last end only counts in `count`.
    buckets: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn new() -> Self {
        Self {
            buckets: [0; N],
            count: 0,
            sum: 0.0,
        }
    }

    fn observe(&mut self, value: f64, ends: &[f64; N]) {
        self.count += 1;
        self.sum += value;
        if let Some(bucket) = self.buckets.get_mut(ends.partition_point(|end| *end < value)) {
            *bucket += 1;
        }
    }
}

#[derive(Debug)]
struct Series {
    codes: Vec<(u16, u64)>,
    durations: Histogram<{ DURATIONS.len() }>,
    sizes: Histogram<{ SIZES.len() }>,
    /// Long-running requests that run.
    running: i64,
}

/// The counts of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: Mutex<HashMap<Labels, Series>>,
    mutating: AtomicI64,
    read_only: AtomicI64,
}

/// A request that is being answered; counted when it is dropped.
pub(crate) struct Running {
    metrics: Arc<Metrics>,
    labels: Option<Labels>,
    mutating: bool,
    long: bool,
    start: Instant,
    /// 0 while there is no answer: a request that its client gave up is not counted.
    code: u16,
    size: Option<u64>,
}

impl Metrics {
    /// A request begins.
    pub(crate) fn begin(
        self: &Arc<Self>,
        info: &RequestInfo,
        query: &Query,
        method: &Method,
        apply: bool,
    ) -> Running {
        let long = info.is_long_running();
        let mutating = !matches!(info.verb, Verb::Get | Verb::List | Verb::Watch) && *method != Method::GET;
        if !long {
            self.inflight(mutating).fetch_add(1, Ordering::Relaxed);
        }
        let borrowed = labels(info, query, method, apply);
        let mut series = self.series.lock();
        let full = series.len() >= SERIES_MOST;
        let key = match series.get_key_value_mut(&borrowed) {
            Some((key, found)) => {
                found.running += i64::from(long);
                Some(key.clone())
            }
            None if !full => {
                let key = borrowed.keep();
                series.insert(
                    key.clone(),
                    Series {
                        codes: Vec::new(),
                        durations: Histogram::new(),
                        sizes: Histogram::new(),
                        running: i64::from(long),
                    },
                );
                Some(key)
            }
            None => None,
        };
        drop(series);
        Running {
            metrics: Arc::clone(self),
            labels: key,
            mutating,
            long,
            start: Instant::now(),
            code: 0,
            size: None,
        }
    }

    fn inflight(&self, mutating: bool) -> &AtomicI64 {
        if mutating { &self.mutating } else { &self.read_only }
    }
}

impl Running {
    /// The answer is there. What takes long is counted when its body has ended.
    pub(crate) fn end(mut self, response: Response<Body>) -> Response<Body> {
        self.code = response.status().as_u16();
        if self.long && response.status().is_success() {
            return response.map(|body| Body::stream(Counted { body, _running: self }));
        }
        self.size = response.body().size_hint().exact();
        response
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.long {
            self.metrics
                .inflight(self.mutating)
                .fetch_sub(1, Ordering::Relaxed);
        }
        let Some(labels) = &self.labels else { return };
        let taken = self.start.elapsed();
        let mut all = self.metrics.series.lock();
        let Some(series) = all.get_mut(labels) else { return };
        series.running -= i64::from(self.long);
        if self.code == 0 {
            return;
        }
        match series.codes.iter_mut().find(|(code, _)| *code == self.code) {
            Some((_, count)) => *count += 1,
            None => series.codes.push((self.code, 1)),
        }
        series.durations.observe(taken.as_secs_f64(), &DURATIONS);
        if let Some(size) = self.size {
            series.sizes.observe(size as f64, &SIZES);
        }
    }
}

struct Counted {
    body: Body,
    _running: Running,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How upstream labels a request.
fn labels<'a>(info: &'a RequestInfo, query: &Query, method: &Method, apply: bool) -> Borrowed<'a> {
    let connects = matches!(
        info.subresource.as_str(),
        "attach" | "exec" | "portforward" | "proxy"
    );
    let verb = match info.verb {
        _ if info.is_resource && connects => "CONNECT",
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch if apply => "APPLY",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Other(_) => match *method {
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            Method::POST => "POST",
            Method::PUT => "PUT",
            _ => "other",
        },
    };
    let scope = if !info.is_resource {
        ""
    } else if !info.name.is_empty() || info.verb == Verb::Create {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    };
    let health = ["/healthz", "/livez", "/readyz"];
    let subresource = match health.iter().find(|h| info.path.starts_with(**h)) {
        Some(path) if !info.is_resource => path,
        _ => info.subresource.as_str(),
    };
    Borrowed {
        verb,
        scope,
        dry_run: query.raw("dryRun").is_some(),
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource,
    }
}

#[cfg(test)]
mod tests {
    use super::text::Text;
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_are() {
        let metrics = Arc::new(Metrics::default());
        let ask = |method: Method, target: &str, code: u16| {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let query = Query::parse(query);
            let info = RequestInfo::parse(&method, path, &query).expect("a path");
            let running = metrics.begin(&info, &query, &method, false);
            let mut response = Response::new(Body::from("12345"));
            *response.status_mut() = code.try_into().expect("a code");
            running.end(response)
        };
        ask(Method::GET, "/api/v1/namespaces/a/pods/p", 200);
        ask(Method::GET, "/api/v1/namespaces/a/pods/q", 404);
        ask(Method::POST, "/api/v1/namespaces/a/pods?dryRun=All", 201);
        ask(Method::GET, "/readyz", 200);
        let watch = ask(Method::GET, "/api/v1/pods?watch=1", 200);
        let mut text = Text::default();
        text.requests(&metrics);
        let text = text.into_string();
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        let pod = r#"group="",version="v1",resource="pods",subresource="""#;
        has(&format!(
            r#"apiserver_request_total{{verb="GET",dry_run="",{pod},scope="resource",component="apiserver",code="404",system_client=""}} 1"#
        ));
        has(&format!(
            r#"apiserver_request_total{{verb="POST",dry_run="All",{pod},scope="resource",component="apiserver",code="201",system_client=""}} 1"#
        ));
        has(&format!(
            r#"apiserver_request_duration_seconds_bucket{{verb="GET",dry_run="",{pod},scope="resource",component="apiserver",le="+Inf"}} 2"#
        ));
        has(&format!(
            r#"apiserver_response_sizes_bucket{{verb="GET",{pod},scope="resource",component="apiserver",le="1000"}} 2"#
        ));
        has(&format!(
            r#"apiserver_longrunning_requests{{verb="WATCH",{pod},scope="cluster",component="apiserver"}} 1"#
        ));
        has(r#"apiserver_current_inflight_requests{request_kind="mutating"} 0"#);
        drop(watch);
        let mut text = Text::default();
        text.requests(&metrics);
        assert!(
            text.into_string()
                .contains(r#"apiserver_request_total{verb="WATCH""#)
        );
    }
}
