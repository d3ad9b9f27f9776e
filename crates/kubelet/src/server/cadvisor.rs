//! `/metrics/cadvisor`: what containers and pods use, under the names dashboards know from cAdvisor.
//!
//! Only what the runtime tells is shown; a container of its own stands for the pod where upstream shows the pause
//! container's group (`container=""`).

use http::Response;
use wire::body::Body;

use super::Server;
use super::metrics::Text;
use super::stats::{self, PodUsage, Usage};

/// One row's labels and figures.
struct Row<'a> {
    container: &'a str,
    pod: &'a PodUsage,
    usage: &'a Usage,
}

type Figure = fn(&Usage) -> Option<f64>;

const FAMILIES: [(&str, &str, &str, Figure); 4] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |u| u.cpu_nanos.map(|n| n as f64 / 1e9),
    ),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| {
        u.memory_rss.map(|n| n as f64)
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |u| u.memory_usage.map(|n| n as f64),
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        |u| u.memory_working_set.map(|n| n as f64),
    ),
];

pub(super) async fn answer(server: &Server) -> Response<Body> {
    let pods = match stats::pods(server).await {
        Ok(pods) => pods,
        Err(error) => {
            return super::text(http::StatusCode::INTERNAL_SERVER_ERROR, error.full());
        }
    };
    let mut text = Text::default();
    let machine = &server.node.machine;
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            machine.memory,
        ),
    ] {
        text.family(name, "gauge", help);
        text.line(format_args!("{name} {value}"));
    }
    let rows: Vec<Row<'_>> = pods
        .iter()
        .flat_map(|pod| {
            let own = Row {
                container: "",
                pod,
                usage: &pod.usage,
            };
            let containers = pod.containers.iter().map(move |(name, usage)| Row {
                container: name,
                pod,
                usage,
            });
            std::iter::once(own).chain(containers)
        })
        .collect();
    for (name, kind, help, figure) in FAMILIES {
        text.family(name, kind, help);
        for row in &rows {
            let Some(value) = figure(row.usage) else { continue };
            let cpu = match kind {
                "counter" => "cpu=\"total\",",
                _ => "",
            };
            text.line(format_args!(
                "{name}{{container={:?},{cpu}namespace={:?},pod={:?}}} {value} {}",
                row.container,
                row.pod.namespace,
                row.pod.name,
                row.usage.time / 1_000_000
            ));
        }
    }
    network(&mut text, &pods);
    text.answer()
}

fn network(text: &mut Text, pods: &[PodUsage]) {
    for (name, help, index) in [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            0,
        ),
        (
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            1,
        ),
    ] {
        text.family(name, "counter", help);
        for pod in pods {
            let Some((time, interface, bytes)) = pod.traffic() else {
                continue;
            };
            text.line(format_args!(
                "{name}{{container=\"\",interface={interface:?},namespace={:?},pod={:?}}} {} {}",
                pod.namespace,
                pod.name,
                bytes[index],
                time / 1_000_000
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_units() {
        let usage = Usage {
            cpu_nanos: Some(1_500_000_000),
            memory_working_set: Some(4096),
            ..Usage::default()
        };
        let shown: Vec<(&str, Option<f64>)> = FAMILIES
            .iter()
            .map(|(name, _, _, figure)| (*name, figure(&usage)))
            .collect();
        assert_eq!(
            shown,
            [
                ("container_cpu_usage_seconds_total", Some(1.5)),
                ("container_memory_rss", None),
                ("container_memory_usage_bytes", None),
                ("container_memory_working_set_bytes", Some(4096.0)),
            ]
        );
    }
}
