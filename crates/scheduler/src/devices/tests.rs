//! Allocations of small clusters, case by case.

use super::{Failure, Search, Selectors, Taken};
use client::node_selector::Subject;
use hashbrown::HashMap;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn slice(name: &str, pool: Value, more: Value, devices: Value) -> Arc<ResourceSlice> {
    let mut spec = json!({"driver": "gpu.io", "pool": pool, "devices": devices});
    merge(&mut spec, more);
    let slice = json!({"metadata": {"name": name}, "spec": spec});
    Arc::new(serde_json::from_value(slice).expect("slice"))
}

fn merge(into: &mut Value, more: Value) {
    for (key, value) in more.as_object().expect("fields") {
        into[key] = value.clone();
    }
}

/// Slices of a complete pool `p` on node `a`.
fn on_a(devices: Value) -> Vec<Arc<ResourceSlice>> {
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    vec![slice("s", pool, json!({"nodeName": "a"}), devices)]
}

fn claim(devices: Value) -> Arc<ResourceClaim> {
    let claim =
        json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"}, "spec": {"devices": devices}});
    Arc::new(serde_json::from_value(claim).expect("claim"))
}

fn exactly(name: &str, more: Value) -> Value {
    let mut exact = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
    merge(&mut exact, more);
    json!({"name": name, "exactly": exact})
}

fn search(slices: Vec<Arc<ResourceSlice>>, claims: Vec<Arc<ResourceClaim>>) -> Search {
    let class = json!({"metadata": {"name": "gpu"}, "spec": {
        "selectors": [{"cel": {"expression": "device.driver == 'gpu.io'"}}],
        "config": [{"opaque": {"driver": "gpu.io", "parameters": {"of": "class"}}}]}});
    let class: DeviceClass = serde_json::from_value(class).expect("class");
    Search {
        slices: Arc::new(slices),
        classes: Arc::new(HashMap::from_iter([("gpu".to_owned(), Arc::new(class))])),
        taken: Arc::default(),
        claims,
        selectors: Arc::<Selectors>::default(),
    }
}

fn node<'a>(name: &'a str, labels: &'a BTreeMap<String, String>) -> Subject<'a> {
    Subject {
        name,
        labels: Some(labels),
    }
}

/// `request=device` of everything that was allocated on a node.
fn names(found: &Result<Option<Vec<AllocationResult>>, Failure>) -> Option<Vec<String>> {
    let found = found.as_ref().expect("an answer").as_ref()?;
    let results = found
        .iter()
        .flat_map(|a| a.devices.iter().flat_map(|d| d.results.iter().flatten()));
    Some(results.map(|r| format!("{}={}", r.request, r.device)).collect())
}

fn check(slices: Vec<Arc<ResourceSlice>>, claims: Vec<Arc<ResourceClaim>>, expected: Option<&[&str]>) {
    let found = search(slices, claims).allocate(node("a", &BTreeMap::new()));
    let expected = expected.map(|names| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    assert_eq!(names(&found), expected);
}

fn gpu(name: &str, model: &str, numa: i64) -> Value {
    json!({"name": name, "attributes": {"model": {"string": model}, "numa": {"int": numa}}})
}

fn cel(text: &str) -> Value {
    json!({"selectors": [{"cel": {"expression": text}}]})
}

#[test]
fn the_first_that_suits_is_taken() {
    let two = || on_a(json!([gpu("g0", "small", 0), gpu("g1", "large", 1)]));
    let one = || claim(json!({"requests": [exactly("r", json!({}))]}));
    check(two(), vec![one()], Some(&["r=g0"]));
    let large = exactly("r", cel("device.attributes['gpu.io'].model == 'large'"));
    check(two(), vec![claim(json!({"requests": [large]}))], Some(&["r=g1"]));
    check(two(), vec![one(), one()], Some(&["r=g0", "r=g1"]));
    check(two(), vec![one(), one(), one()], None);
    let none = exactly("r", cel("device.attributes['gpu.io'].model == 'none'"));
    check(two(), vec![claim(json!({"requests": [none]}))], None);
}

#[test]
fn a_choice_that_leads_nowhere_is_taken_back() {
    // What the first request takes first is all that the second could have.
    let devices = json!([gpu("g0", "large", 0), gpu("g1", "small", 0)]);
    let requests = json!([
        exactly("any", json!({})),
        exactly("large", cel("device.attributes['gpu.io'].model == 'large'"))
    ]);
    check(
        on_a(devices),
        vec![claim(json!({"requests": requests}))],
        Some(&["any=g1", "large=g0"]),
    );
}

#[test]
fn constraints_hold_over_requests() {
    let devices = || json!([gpu("g0", "x", 0), gpu("g1", "x", 1), gpu("g2", "y", 1)]);
    let with = |constraint: Value| {
        claim(json!({"requests": [exactly("r", json!({"count": 2}))], "constraints": [constraint]}))
    };
    check(
        on_a(devices()),
        vec![with(json!({"matchAttribute": "gpu.io/numa"}))],
        Some(&["r=g1", "r=g2"]),
    );
    check(
        on_a(devices()),
        vec![with(json!({"distinctAttribute": "gpu.io/model"}))],
        Some(&["r=g0", "r=g2"]),
    );
    check(
        on_a(devices()),
        vec![with(json!({"matchAttribute": "gpu.io/nothing"}))],
        None,
    );
}

#[test]
fn alternatives_in_their_order() {
    let sub = |name: &str, count: i64, model: &str| {
        let mut sub =
            json!({"name": name, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
        merge(
            &mut sub,
            cel(&format!("device.attributes['gpu.io'].model == '{model}'")),
        );
        sub
    };
    let first = json!({"name": "r", "firstAvailable": [sub("big", 1, "large"), sub("many", 2, "small")]});
    let of = || vec![claim(json!({"requests": [first]}))];
    let small = json!([gpu("s0", "small", 0), gpu("s1", "small", 0)]);
    check(on_a(small.clone()), of(), Some(&["r/many=s0", "r/many=s1"]));
    let both = json!([gpu("s0", "small", 0), gpu("s1", "small", 0), gpu("l", "large", 0)]);
    check(on_a(both), of(), Some(&["r/big=l"]));
    check(on_a(json!([gpu("s0", "small", 0)])), of(), None);
}

#[test]
fn all_means_all_and_none_is_not_all() {
    let all = || {
        vec![claim(
            json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]}),
        )]
    };
    let two = || on_a(json!([gpu("g0", "x", 0), gpu("g1", "x", 1)]));
    check(two(), all(), Some(&["r=g0", "r=g1"]));
    check(Vec::new(), all(), None);
    let mut half_taken = search(two(), all());
    let mut taken = Taken::default();
    let of_g1 =
        json!({"devices": {"results": [{"request": "r", "driver": "gpu.io", "pool": "p", "device": "g1"}]}});
    taken.add(&serde_json::from_value(of_g1).expect("allocation"));
    half_taken.taken = Arc::new(taken);
    assert_eq!(names(&half_taken.allocate(node("a", &BTreeMap::new()))), None);
    let incomplete = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let slices = vec![slice(
        "s",
        incomplete,
        json!({"nodeName": "a"}),
        json!([gpu("g0", "x", 0)]),
    )];
    assert_eq!(
        search(slices, all()).allocate(node("a", &BTreeMap::new())),
        Err(Failure::Question(
            "claim d/c, request r: asks for all devices, but resource pool gpu.io/p is currently being updated".into()
        ))
    );
}

#[test]
fn pools_count_when_they_are_complete_and_new() {
    let one = || vec![claim(json!({"requests": [exactly("r", json!({}))]}))];
    let pool = |generation: i64, count: i64| json!({"name": "p", "generation": generation, "resourceSliceCount": count});
    let here = json!({"nodeName": "a"});
    let old = slice("s0", pool(1, 1), here.clone(), json!([gpu("old", "x", 0)]));
    let new = slice("s1", pool(2, 1), here.clone(), json!([gpu("new", "x", 0)]));
    check(vec![old.clone(), new], one(), Some(&["r=new"]));
    let half = slice("s1", pool(2, 2), here.clone(), json!([gpu("new", "x", 0)]));
    check(vec![old, half], one(), None);
    let there = slice(
        "s2",
        pool(1, 1),
        json!({"nodeName": "b"}),
        json!([gpu("g", "x", 0)]),
    );
    check(vec![there], one(), None);
    let twice = on_a(json!([gpu("g", "x", 0), gpu("g", "x", 0)]));
    assert_eq!(
        search(twice, one()).allocate(node("a", &BTreeMap::new())),
        Err(Failure::Node("invalid resource pools were encountered".into()))
    );
}

#[test]
fn taints_keep_away_whom_they_are_not_tolerated_by() {
    let mut tainted = gpu("g0", "x", 0);
    tainted["taints"] = json!([{"key": "broken", "value": "yes", "effect": "NoSchedule"}]);
    let devices = || json!([tainted]);
    check(
        on_a(devices()),
        vec![claim(json!({"requests": [exactly("r", json!({}))]}))],
        None,
    );
    let tolerant = exactly(
        "r",
        json!({"tolerations": [{"key": "broken", "operator": "Exists"}]}),
    );
    check(
        on_a(devices()),
        vec![claim(json!({"requests": [tolerant]}))],
        Some(&["r=g0"]),
    );
}

#[test]
fn partitions_share_counters() {
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": memory}}}]});
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let sets = json!({"nodeName": "a", "sharedCounters": [{"name": "card", "counters": {"memory": {"value": "8Gi"}}}]});
    let slices = || {
        let devices = json!([part("whole", "8Gi"), part("half", "4Gi"), part("other", "4Gi")]);
        vec![
            slice("sets", pool.clone(), sets.clone(), json!([])),
            slice("devices", pool.clone(), json!({"nodeName": "a"}), devices),
        ]
    };
    let with = |count: i64| {
        vec![claim(
            json!({"requests": [exactly("r", json!({"count": count}))]}),
        )]
    };
    check(slices(), with(1), Some(&["r=whole"]));
    check(slices(), with(2), Some(&["r=half", "r=other"]));
    check(slices(), with(3), None);
}

#[test]
fn capacity_is_shared_as_far_as_it_goes() {
    let device = json!({"name": "nic", "allowMultipleAllocations": true, "capacity": {"bandwidth": {"value": "10",
        "requestPolicy": {"default": "1", "validRange": {"min": "2", "step": "2", "max": "8"}}}}});
    let asks = |amount: &str| {
        claim(json!({"requests": [exactly("r", json!({"capacity": {"requests": {"bandwidth": amount}}}))]}))
    };
    let found = |claims| search(on_a(json!([device])), claims).allocate(node("a", &BTreeMap::new()));
    let both = found(vec![asks("3"), asks("5")])
        .expect("an answer")
        .expect("10 are enough for 4 and 6");
    let amounts: Vec<_> = both
        .iter()
        .flat_map(|a| a.devices.iter().flat_map(|d| d.results.iter().flatten()))
        .map(|r| {
            (
                r.consumed_capacity.clone().expect("amounts")["bandwidth"]
                    .0
                    .clone(),
                r.share_id.is_some(),
            )
        })
        .collect();
    assert_eq!(amounts, [("4".to_owned(), true), ("6".to_owned(), true)]);
    assert_eq!(names(&found(vec![asks("6"), asks("6")])), None);
    assert_eq!(names(&found(vec![asks("9")])), None, "more than one may have");
}

#[test]
fn what_is_written_names_its_source_and_reach() {
    let config = json!([{"requests": ["r"], "opaque": {"driver": "gpu.io", "parameters": {"of": "claim"}}}]);
    let wanted = claim(json!({"requests": [exactly("r", json!({}))], "config": config}));
    let found = search(on_a(json!([gpu("g0", "x", 0)])), vec![wanted]).allocate(node("a", &BTreeMap::new()));
    let found = serde_json::to_value(found.expect("an answer").expect("a device")).expect("JSON");
    assert_eq!(
        found,
        json!([{
            "devices": {
                "config": [
                    {"opaque": {"driver": "gpu.io", "parameters": {"of": "class"}}, "requests": ["r"], "source": "FromClass"},
                    {"opaque": {"driver": "gpu.io", "parameters": {"of": "claim"}}, "requests": ["r"], "source": "FromClaim"},
                ],
                "results": [{"device": "g0", "driver": "gpu.io", "pool": "p", "request": "r"}],
            },
            "nodeSelector": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]},
        }])
    );
}

#[test]
fn expressions_that_fail_are_errors() {
    for (text, expected) in [
        (
            "device.attributes['gpu.io'].nothing == 'x'",
            "claim d/c: selector #0: CEL runtime error: no such key: nothing",
        ),
        (
            "device.driver",
            "claim d/c: selector #0: CEL compile error: must evaluate to bool or the unknown type, not string",
        ),
    ] {
        let wanted = claim(json!({"requests": [exactly("r", cel(text))]}));
        let found =
            search(on_a(json!([gpu("g0", "x", 0)])), vec![wanted]).allocate(node("a", &BTreeMap::new()));
        assert_eq!(found, Err(Failure::Question(expected.to_owned())), "{text}");
    }
}
