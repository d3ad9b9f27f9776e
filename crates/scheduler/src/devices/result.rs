//! What is written into a claim that was allocated.

use super::search::{Candidate, Failure, Picked, Wanted, key};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
    ResourceClaim,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeSet;

/// The allocation of one claim. `chosen`: the alternative of each request.
pub(super) fn allocation(
    claim: &ResourceClaim,
    chosen: &[&Wanted<'_>],
    picked: &[Picked],
    candidates: &[Candidate<'_>],
    node: &str,
) -> Result<AllocationResult, Failure> {
    let results = picked.iter().map(|pick| {
        let candidate = &candidates[pick.candidate];
        let request = &chosen[pick.request].request;
        let share = pick.share.as_ref();
        DeviceRequestAllocationResult {
            admin_access: request.admin.then_some(true),
            binding_conditions: candidate.device.binding_conditions.clone(),
            binding_failure_conditions: candidate.device.binding_failure_conditions.clone(),
            consumed_capacity: share.filter(|s| !s.is_empty()).map(|amounts| {
                let amounts = amounts.iter();
                amounts
                    .map(|(name, amount)| (name.clone(), Quantity(amount.to_string())))
                    .collect()
            }),
            device: candidate.device.name.clone(),
            driver: candidate.slice.spec.driver.clone(),
            pool: candidate.slice.spec.pool.name.clone(),
            request: request.reference(),
            share_id: share.map(|_| machinery::chance::uuid()),
            tolerations: request.tolerations.cloned(),
        }
    });
    let results: Vec<DeviceRequestAllocationResult> = results.collect();
    let config = configuration(claim, chosen);
    Ok(AllocationResult {
        allocation_timestamp: None,
        devices: Some(DeviceAllocationResult {
            config: Some(config).filter(|c| !c.is_empty()),
            results: Some(results).filter(|r| !r.is_empty()),
        }),
        node_selector: reach(claim, picked, candidates, node)?,
    })
}

/// The classes' configurations, each once, then the claim's.
fn configuration(claim: &ResourceClaim, chosen: &[&Wanted<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut out: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    for wanted in chosen {
        let (class, request) = (wanted.request.class, wanted.request.reference());
        if let Some((_, range)) = classes.iter().find(|(name, _)| *name == class) {
            for config in &mut out[range.clone()] {
                config.requests.get_or_insert_default().push(request.clone());
            }
            continue;
        }
        let start = out.len();
        for config in wanted.class.spec.config.iter().flatten() {
            out.push(DeviceAllocationConfiguration {
                opaque: config.opaque.clone(),
                requests: Some(vec![request.clone()]),
                source: "FromClass".to_owned(),
            });
        }
        classes.push((class, start..out.len()));
    }
    let own = claim.spec.devices.iter().flat_map(|d| d.config.iter().flatten());
    for config in own {
        let requests = config.requests.as_deref().unwrap_or(&[]);
        let times = if requests.is_empty() {
            1
        } else {
            chosen.iter().filter(|w| w.request.is_named_by(requests)).count()
        };
        for _ in 0..times {
            out.push(DeviceAllocationConfiguration {
                opaque: config.opaque.clone(),
                requests: config.requests.clone(),
                source: "FromClaim".to_owned(),
            });
        }
    }
    out
}

/// Where the devices can be used; `None` where that is everywhere.
fn reach(
    claim: &ResourceClaim,
    picked: &[Picked],
    candidates: &[Candidate<'_>],
    node: &str,
) -> Result<Option<NodeSelector>, Failure> {
    let mut term = NodeSelectorTerm::default();
    for pick in picked {
        let Candidate { slice, device, .. } = &candidates[pick.candidate];
        let (name, selector) = if slice.spec.per_device_node_selection == Some(true) {
            (&device.node_name, &device.node_selector)
        } else {
            (&slice.spec.node_name, &slice.spec.node_selector)
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            let requirement = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            };
            return Ok(Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_expressions: None,
                    match_fields: Some(vec![requirement]),
                }],
            }));
        }
        match selector.as_ref().map(|s| s.node_selector_terms.as_slice()) {
            None | Some([]) => {}
            Some([one]) => {
                merge(one.match_fields.as_deref(), &mut term.match_fields);
                merge(one.match_expressions.as_deref(), &mut term.match_expressions);
            }
            Some(terms) => {
                return Err(Failure::Question(format!(
                    "create NodeSelector for claim {}: unsupported ResourceSlice.NodeSelector with {} terms",
                    key(claim),
                    terms.len()
                )));
            }
        }
    }
    let any = term.match_fields.is_some() || term.match_expressions.is_some();
    Ok(any.then(|| NodeSelector {
        node_selector_terms: vec![term],
    }))
}

fn merge(from: Option<&[NodeSelectorRequirement]>, to: &mut Option<Vec<NodeSelectorRequirement>>) {
    let values =
        |r: &NodeSelectorRequirement| -> BTreeSet<String> { r.values.iter().flatten().cloned().collect() };
    for requirement in from.unwrap_or(&[]) {
        let known = to.get_or_insert_default();
        let is_there = known.iter().any(|k| {
            k.key == requirement.key && k.operator == requirement.operator && values(k) == values(requirement)
        });
        if !is_there {
            known.push(requirement.clone());
        }
    }
}
