//! Persistent volume claims: counted and their storage summed, in all and by storage class.

use super::{Amounts, Evaluator, Scope, amounts};
use jiff::Timestamp;
use machinery::quantity::Quantity;
use machinery::{Value, meta};

const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const COUNT: &str = "count/persistentvolumeclaims";

pub(super) struct Claims;

impl Evaluator for Claims {
    fn handles_update(&self, subresource: &str, new: &Value, old: &Value) -> bool {
        match subresource {
            "" => true,
            "status" => allocated(new) != allocated(old) || attribute_classes(new) != attribute_classes(old),
            _ => false,
        }
    }

    fn charges(&self, name: &str) -> bool {
        name == COUNT
            || NAMES.iter().any(|of| {
                name.strip_suffix(of)
                    .is_some_and(|class| class.is_empty() || class.ends_with(BY_CLASS))
            })
    }

    fn in_scope(&self, scope: &Scope<'_>, claim: &Value) -> bool {
        scope.name == "VolumeAttributesClass" && scope.selects(&attribute_classes(claim))
    }

    fn usage(&self, claim: &Value, _: Timestamp) -> Amounts {
        let one = amounts::count(1);
        let mut used = Amounts::from([(COUNT.to_owned(), one), (NAMES[0].to_owned(), one)]);
        let class = class(claim);
        if !class.is_empty() {
            used.insert(format!("{class}{BY_CLASS}{}", NAMES[0]), one);
        }
        let asked = quantity(claim, &["spec", "resources", "requests", "storage"]);
        // An expansion that failed and was taken back keeps what it got.
        let storage = asked.map(|asked| match allocated(claim) {
            Some(allocated) if allocated > asked => allocated,
            _ => asked,
        });
        if let Some(storage) = storage {
            used.insert(NAMES[1].to_owned(), storage);
            if !class.is_empty() {
                used.insert(format!("{class}{BY_CLASS}{}", NAMES[1]), storage);
            }
        }
        used
    }
}

fn quantity(claim: &Value, path: &[&str]) -> Option<Quantity> {
    let amount: Quantity = claim.get_str_path(path)?.parse().ok()?;
    if amount.nano_value() % 1_000_000_000 == 0 {
        return Some(amount);
    }
    Some(Quantity::from_units(amount.value(), amount.format()))
}

fn allocated(claim: &Value) -> Option<Quantity> {
    quantity(claim, &["status", "allocatedResources", "storage"])
}

fn class(claim: &Value) -> &str {
    meta::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim.get_str_path(&["spec", "storageClassName"]))
        .unwrap_or_default()
}

/// The classes the claim has, is to have, or is being changed to.
fn attribute_classes(claim: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = [
        &["spec", "volumeAttributesClassName"][..],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ]
    .iter()
    .filter_map(|path| claim.get_str_path(path))
    .filter(|name| !name.is_empty())
    .collect();
    names.sort_unstable();
    names.dedup();
    names
}
