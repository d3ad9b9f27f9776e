//! Which devices there are, and who holds them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    pub pod: String,
    pub container: String,
}

/// What a container holds of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub devices: BTreeSet<String>,
    /// The plugin's answer, as it was encoded.
    pub answer: Vec<u8>,
}

/// A device as its plugin describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub healthy: bool,
    /// NUMA nodes it is near to.
    pub nodes: Vec<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub resources: BTreeMap<String, BTreeMap<String, Device>>,
    pub held: BTreeMap<Holder, BTreeMap<String, Held>>,
}

/// What a container may take from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub available: BTreeSet<String>,
    /// Of those, the ones that the pod's init containers are done with.
    pub must_include: BTreeSet<String>,
    pub count: usize,
}

impl Choice {
    /// Without a plugin's wish: what the pod has, then whatever is there.
    pub fn settle(&self) -> BTreeSet<String> {
        let rest = self.available.difference(&self.must_include);
        self.must_include
            .iter()
            .chain(rest)
            .take(self.count)
            .cloned()
            .collect()
    }

    /// Whether a plugin's wish can be followed.
    pub fn allows(&self, wish: &BTreeSet<String>) -> bool {
        wish.len() == self.count
            && wish.is_subset(&self.available)
            && self
                .must_include
                .iter()
                .take(self.count)
                .all(|d| wish.contains(d))
    }
}

impl State {
    /// Devices of a resource, and those of them that are well.
    pub fn counts(&self) -> BTreeMap<String, (i64, i64)> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.resources
            .iter()
            .map(|(name, devices)| {
                let well = devices.values().filter(|d| d.healthy).count();
                (name.clone(), (count(devices.len()), count(well)))
            })
            .collect()
    }

    /// What a container may take, unless it holds what it needs. `reusable`: of its pod's init containers.
    pub fn choice(
        &self,
        holder: &Holder,
        resource: &str,
        count: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<Option<Choice>, String> {
        let held = self.held.get(holder).and_then(|h| h.get(resource));
        if let Some(held) = held {
            return match held.devices.len() == count {
                true => Ok(None),
                false => Err(format!(
                    "pod {:?} container {:?} changed request for resource {resource:?} from {} to {count}",
                    holder.pod,
                    holder.container,
                    held.devices.len()
                )),
            };
        }
        let devices = self
            .resources
            .get(resource)
            .ok_or_else(|| format!("cannot allocate unregistered device {resource}"))?;
        let well: BTreeSet<String> = devices
            .iter()
            .filter(|(_, d)| d.healthy)
            .map(|(id, _)| id.clone())
            .collect();
        if well.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {resource}"
            ));
        }
        let taken = self.taken(resource);
        let must_include: BTreeSet<String> = reusable.intersection(&well).cloned().collect();
        let available: BTreeSet<String> = well
            .into_iter()
            .filter(|id| !taken.contains(id) || must_include.contains(id))
            .collect();
        if available.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                available.len()
            ));
        }
        Ok(Some(Choice {
            available,
            must_include,
            count,
        }))
    }

    /// Devices that somebody holds.
    pub fn taken(&self, resource: &str) -> BTreeSet<String> {
        self.held
            .values()
            .filter_map(|h| h.get(resource))
            .flat_map(|h| h.devices.iter().cloned())
            .collect()
    }

    /// Whether a pod held anything.
    pub fn release(&mut self, pod: &str) -> bool {
        let before = self.held.len();
        self.held.retain(|holder, _| holder.pod != pod);
        self.held.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|i| (*i).to_owned()).collect()
    }

    fn holder(pod: &str, container: &str) -> Holder {
        Holder {
            pod: pod.into(),
            container: container.into(),
        }
    }

    #[test]
    fn devices_are_taken_once() {
        let device = |healthy| Device {
            healthy,
            nodes: vec![],
        };
        let mut state = State::default();
        let devices = [("a", true), ("b", true), ("c", false)];
        state.resources.insert(
            "x/gpu".into(),
            devices
                .map(|(id, healthy)| (id.to_owned(), device(healthy)))
                .into(),
        );
        assert_eq!(state.counts()["x/gpu"], (3, 2));
        let take = |state: &mut State, who: Holder, ids: &[&str]| {
            let held = Held {
                devices: set(ids),
                answer: vec![],
            };
            state.held.entry(who).or_default().insert("x/gpu".into(), held);
        };
        let none = BTreeSet::new();
        let choice = state
            .choice(&holder("p", "init"), "x/gpu", 1, &none)
            .unwrap()
            .unwrap();
        assert_eq!(
            (choice.available.clone(), choice.settle()),
            (set(&["a", "b"]), set(&["a"]))
        );
        assert!(
            choice.allows(&set(&["b"])) && !choice.allows(&set(&["c"])) && !choice.allows(&set(&["a", "b"]))
        );
        take(&mut state, holder("p", "init"), &["b"]);
        let choice = state
            .choice(&holder("p", "main"), "x/gpu", 1, &set(&["b"]))
            .unwrap()
            .unwrap();
        assert_eq!(
            choice.settle(),
            set(&["b"]),
            "what the init container is done with"
        );
        take(&mut state, holder("p", "main"), &["b"]);
        assert_eq!(
            state.choice(&holder("q", "main"), "x/gpu", 2, &none).unwrap_err(),
            "requested number of devices unavailable for x/gpu. Requested: 2, Available: 1"
        );
        assert_eq!(state.choice(&holder("p", "main"), "x/gpu", 1, &none), Ok(None));
        assert!(state.choice(&holder("p", "main"), "x/gpu", 2, &none).is_err());
        assert!(state.release("p") && !state.release("p"));
        assert!(state.choice(&holder("q", "main"), "x/gpu", 2, &none).is_ok());
        assert!(state.choice(&holder("q", "main"), "y/z", 1, &none).is_err());
    }
}
