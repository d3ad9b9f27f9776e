//! Topology aware routing (`service.kubernetes.io/topology-mode: Auto`): every zone gets as many of a Service's endpoints
//! as it has of the nodes' CPUs, its own where possible.
//!
//! Hints that are there stay while the endpoints do and no zone is overloaded: what moves, moves connections.

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// The older name has the last word.
const MODES: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];
/// Nodes that serve the cluster and not its users.
const SET_APART: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];
/// A zone may get so much more than its share.
const OVERLOAD: f64 = 0.2;

/// The share of each zone in the nodes' CPUs; `None` if that cannot be told.
pub(super) type Shares = Option<BTreeMap<String, f64>>;

/// Whether the Service asks for it.
pub(super) fn is_wanted(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|a| MODES.iter().find_map(|name| a.get(*name)));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// The CPUs of a node, in thousandths.
fn cpus(node: &Node) -> i64 {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let cpu = allocatable.and_then(|a| a.get("cpu"));
    cpu.and_then(|c| c.0.parse::<Quantity>().ok())
        .map_or(0, |c| c.milli_value())
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What a node counts for in its zone.
pub(super) fn weight(node: &Node) -> (bool, i64) {
    (is_node_ready(node), cpus(node))
}

pub(super) fn shares(nodes: &[Arc<Node>]) -> Shares {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|l| l.get(name));
        if SET_APART.iter().any(|name| label(name).is_some()) || !is_node_ready(node) {
            continue;
        }
        let zone = label(ZONE).filter(|z| !z.is_empty())?;
        let cpus = Some(cpus(node)).filter(|c| *c > 0)?;
        *sums.entry(zone.clone()).or_default() += cpus;
    }
    let total: i64 = sums.values().sum();
    let share = |(zone, sum)| (zone, sum as f64 / total as f64);
    (sums.len() >= 2).then(|| sums.into_iter().map(share).collect())
}

/// How many endpoints a zone is to have.
#[derive(Debug, Clone, Copy)]
struct Allotment {
    least: usize,
    most: usize,
    wish: f64,
}

fn allot(shares: &Shares, endpoints: usize) -> Result<BTreeMap<&str, Allotment>, String> {
    let Some(shares) = shares else {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
                .into(),
        );
    };
    let numbers = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let mut allotments = BTreeMap::new();
    for (zone, share) in shares {
        let wish = share * endpoints as f64;
        let least = (wish / (1.0 + OVERLOAD)).ceil();
        let allotment = Allotment {
            // A part of a small number.
            least: least as usize,
            most: 0,
            wish: wish.max(least),
        };
        allotments.insert(zone.as_str(), allotment);
    }
    let sum: usize = allotments.values().map(|a| a.least).sum();
    let Some(spare) = endpoints.checked_sub(sum) else {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"
        ));
    };
    allotments.values_mut().for_each(|a| a.most = a.least + spare);
    Ok(allotments)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}

pub(super) fn hinted(endpoint: &Endpoint) -> Option<&str> {
    let zones = endpoint.hints.as_ref()?.for_zones.as_ref()?;
    zones.first().map(|z| z.name.as_str())
}

/// Says for which zone each endpoint is. `before`: the endpoints as they stand. The error says why there are no hints.
pub(super) fn assign(
    endpoints: &mut [&mut Endpoint],
    before: &[&Endpoint],
    shares: &Shares,
) -> Result<(), String> {
    endpoints.iter_mut().for_each(|e| e.hints = None);
    let mut ready: Vec<&mut Endpoint> = endpoints
        .iter_mut()
        .filter(|e| is_ready(e))
        .map(|e| &mut **e)
        .collect();
    let allotments = allot(shares, ready.len())?;
    let zones: Option<Vec<String>> = ready
        .iter()
        .map(|e| e.zone.clone().filter(|z| !z.is_empty()))
        .collect();
    let Some(mut zones) = zones else {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    };
    match kept(&ready, before, &allotments) {
        Some(kept) => zones = kept,
        None => balance(&mut zones, &allotments),
    }
    for (endpoint, zone) in ready.iter_mut().zip(zones) {
        endpoint.hints = Some(EndpointHints {
            for_nodes: None,
            for_zones: Some(vec![ForZone { name: zone }]),
        });
    }
    Ok(())
}

/// The hints that are there, if they are for the same endpoints and no zone has too few or too many.
fn kept(
    ready: &[&mut Endpoint],
    before: &[&Endpoint],
    allotments: &BTreeMap<&str, Allotment>,
) -> Option<Vec<String>> {
    let hints: BTreeMap<&[String], &str> = before
        .iter()
        .filter(|e| is_ready(e))
        .map(|e| Some((e.addresses.as_slice(), hinted(e)?)))
        .collect::<Option<_>>()?;
    let zones = ready
        .iter()
        .map(|e| hints.get(e.addresses.as_slice()).map(|z| (*z).to_owned()));
    let zones: Vec<String> = zones.collect::<Option<_>>()?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    zones
        .iter()
        .for_each(|zone| *counts.entry(zone).or_default() += 1);
    let known = counts.keys().all(|zone| allotments.contains_key(zone));
    let within = allotments.iter().all(|(zone, allotment)| {
        let count = counts.get(zone).copied().unwrap_or(0);
        (allotment.least..=allotment.most).contains(&count)
    });
    (hints.len() == ready.len() && known && within).then_some(zones)
}

/// Moves endpoints from zones that have more than their share to those that have less.
fn balance(zones: &mut [String], allotments: &BTreeMap<&str, Allotment>) {
    let mut surplus: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, allotment) in allotments {
        // Few enough to be counted exactly.
        let count = zones.iter().filter(|z| z == zone).count() as f64;
        surplus.insert(zone, count - allotment.wish);
    }
    loop {
        let most = surplus
            .iter()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .map(|(z, n)| (*z, *n));
        let least = surplus
            .iter()
            .min_by(|a, b| a.1.total_cmp(b.1))
            .map(|(z, n)| (*z, *n));
        let (Some((from, give)), Some((to, take))) = (most, least.map(|(z, n)| (z, -n))) else {
            return;
        };
        if give < 0.5 || take < 0.5 || give < 1.0 && take < 1.0 {
            return;
        }
        let Some(moved) = zones.iter_mut().find(|z| *z == from) else {
            return;
        };
        to.clone_into(moved);
        surplus.insert(from, give - 1.0);
        surplus.insert(to, 1.0 - take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str, cpu: &str) -> Arc<Node> {
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"allocatable": {"cpu": cpu}, "conditions": conditions});
        let meta = json!({"name": name, "labels": {ZONE: zone}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).expect("node"))
    }

    fn endpoint(number: usize, zone: &str) -> Endpoint {
        let conditions = json!({"ready": true});
        let endpoint =
            json!({"addresses": [format!("10.0.0.{number}")], "zone": zone, "conditions": conditions});
        serde_json::from_value(endpoint).expect("endpoint")
    }

    fn spread(counts: &[(&str, usize)]) -> Vec<Endpoint> {
        let zones = counts
            .iter()
            .flat_map(|(zone, count)| std::iter::repeat_n(*zone, *count));
        zones
            .enumerate()
            .map(|(number, zone)| endpoint(number, zone))
            .collect()
    }

    fn given(endpoints: &[Endpoint], zone: &str) -> usize {
        endpoints.iter().filter(|e| hinted(e) == Some(zone)).count()
    }

    fn run(endpoints: &mut [Endpoint], before: &[Endpoint], shares: &Shares) -> Result<(), String> {
        let before: Vec<&Endpoint> = before.iter().collect();
        assign(&mut endpoints.iter_mut().collect::<Vec<_>>(), &before, shares)
    }

    #[test]
    fn zones_get_their_share() {
        let even = shares(&[node("a", "x", "4"), node("b", "y", "4"), node("c", "z", "4")]);
        for (counts, expected) in [
            ([("x", 3), ("y", 3), ("z", 3)], [3, 3, 3]),
            ([("x", 9), ("y", 0), ("z", 0)], [3, 3, 3]),
            ([("x", 4), ("y", 3), ("z", 2)], [3, 3, 3]),
        ] {
            let mut endpoints = spread(&counts);
            run(&mut endpoints, &[], &even).expect("hints");
            assert_eq!(
                ["x", "y", "z"].map(|z| given(&endpoints, z)),
                expected,
                "{counts:?}"
            );
        }
        let uneven = shares(&[node("a", "x", "3"), node("b", "y", "1")]);
        let mut endpoints = spread(&[("x", 4), ("y", 4)]);
        run(&mut endpoints, &[], &uneven).expect("hints");
        assert_eq!(["x", "y"].map(|z| given(&endpoints, z)), [6, 2]);
    }

    #[test]
    fn what_is_there_stays_until_a_zone_is_overloaded() {
        let nodes = shares(&[node("a", "x", "10"), node("b", "y", "10")]);
        let mut first = spread(&[("x", 7), ("y", 5)]);
        run(&mut first, &[], &nodes).expect("hints");
        // The CPUs differ a little now: no reason to move anybody.
        let little = shares(&[node("a", "x", "10"), node("b", "y", "11")]);
        let mut again = spread(&[("x", 7), ("y", 5)]);
        run(&mut again, &first, &little).expect("hints");
        assert_eq!(first, again);
        let much = shares(&[node("a", "x", "10"), node("b", "y", "30")]);
        run(&mut again, &first, &much).expect("hints");
        assert_eq!(["x", "y"].map(|z| given(&again, z)), [3, 9]);
    }

    #[test]
    fn without_what_is_needed_there_are_no_hints() {
        let nodes = || shares(&[node("a", "x", "4"), node("b", "y", "4")]);
        let mut nowhere = spread(&[("x", 2), ("y", 2)]);
        nowhere[0].zone = None;
        for (mut endpoints, shares, expected) in [
            (
                spread(&[("x", 2)]),
                shares(&[node("a", "x", "4")]),
                "Insufficient Node information",
            ),
            (
                spread(&[("x", 2)]),
                shares(&[node("a", "x", "0"), node("b", "y", "1")]),
                "Insufficient Node information",
            ),
            (
                spread(&[("x", 1)]),
                nodes(),
                "Insufficient number of endpoints (1 endpoints, 2 zones)",
            ),
            (
                nowhere,
                nodes(),
                "One or more endpoints do not have a zone specified",
            ),
            (
                spread(&[("x", 3)]),
                shares(&[node("a", "x", "10"), node("b", "y", "1"), node("c", "z", "1")]),
                "Unable to allocate minimum required endpoints",
            ),
        ] {
            let why = run(&mut endpoints, &[], &shares).expect_err(expected);
            assert!(why.starts_with(expected), "{why}");
            assert!(endpoints.iter().all(|e| e.hints.is_none()));
        }
    }
}
