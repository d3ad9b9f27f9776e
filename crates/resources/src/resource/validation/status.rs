//! The status of a claim: for whom it is, which devices it got, and how those do.

use super::claim::{self, Strictness};
use super::{MOST_CONFIGS, MOST_REQUESTS, device, fits, names};
use crate::At;
use crate::check;
use crate::conditions::conditions;
use crate::fields::{list, list_at, list_mut, present, text, texts};
use crate::pod_spec::validation::node_selector;
use ipnet::IpNet;
use machinery::field::ErrorList;
use machinery::{Value, meta};

const MOST_USERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const LARGEST_DATA: usize = 10 * 1024;
const MOST_ADDRESSES: usize = 16;
const RESULTS: [&str; 4] = ["status", "allocation", "devices", "results"];

/// What tells a device of an allocation apart.
fn identity(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(device, field))
}

fn shown(identity: [&str; 4]) -> String {
    let [driver, pool, device, share] = identity;
    if share.is_empty() {
        format!("{driver}/{pool}/{device}")
    } else {
        format!("{driver}/{pool}/{device}/{share}")
    }
}

/// What drivers said of devices that the claim has no more is forgotten.
pub(in crate::resource) fn keep_allocated(new: &mut Value, old: &Value) {
    let now: Vec<[String; 4]> = list_at(new, &RESULTS)
        .iter()
        .map(|device| identity(device).map(str::to_owned))
        .collect();
    let gone = |device: &Value| {
        let had = list_at(old, &RESULTS)
            .iter()
            .any(|other| identity(other) == identity(device));
        had && !now.iter().any(|other| *other == identity(device))
    };
    let Some(status) = new.get_mut("status") else {
        return;
    };
    let kept: Vec<Value> = list_mut(status, "devices")
        .iter()
        .filter(|device| !gone(device))
        .cloned()
        .collect();
    if kept.len() == list(status, "devices").len() {
        return;
    }
    if kept.is_empty() {
        status.remove_path(&["devices"]);
    } else {
        status.set_path(&["devices"], kept);
    }
}

/// Judges an update of the status.
pub(in crate::resource) fn status_change(new: &Value, old: &Value, errors: &mut ErrorList) {
    let status = new.get("status").unwrap_or(&Value::Null);
    let before = old.get("status").unwrap_or(&Value::Null);
    let at = At::new("status");
    let allocation = present(status, "allocation");
    users(status, &at.child("reservedFor"), errors);
    let here = at.child("devices");
    let devices = list(status, "devices");
    for (index, device) in devices.iter().enumerate() {
        device_status(device, list_at(new, &RESULTS), &here.index(index), errors);
    }
    for (index, device) in devices.iter().enumerate() {
        if devices[..index]
            .iter()
            .any(|other| identity(other) == identity(device))
        {
            errors.push(here.index(index).duplicate(shown(identity(device))));
        }
    }
    let here = at.child("reservedFor");
    let reserved = list(status, "reservedFor");
    if !reserved.is_empty() && allocation.is_none() {
        errors.push(here.forbidden("may not be specified when `allocated` is not set"));
    } else if meta::deletion_timestamp(new).is_some()
        && reserved
            .iter()
            .any(|user| !list(before, "reservedFor").contains(user))
    {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(here.forbidden(why));
    }
    let here = at.child("allocation");
    match (allocation, present(before, "allocation")) {
        (Some(now), Some(before)) => check::immutable(Some(now), Some(before), &here, errors),
        (Some(now), None) => {
            let requests = list_at(new, &["spec", "devices", "requests"]);
            self::allocation(now, requests, &here, errors);
        }
        _ => {}
    }
}

fn users(status: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let users = list(status, "reservedFor");
    if !fits(users.len(), MOST_USERS, at, errors) {
        return;
    }
    for (index, user) in users.iter().enumerate() {
        let at = at.index(index);
        for field in ["resource", "name", "uid"] {
            if text(user, field).is_empty() {
                errors.push(at.child(field).required(""));
            }
        }
    }
    for (index, user) in users.iter().enumerate() {
        let uid = text(user, "uid");
        if users[..index].iter().any(|other| text(other, "uid") == uid) {
            errors.push(at.index(index).duplicate(uid));
        }
    }
}

fn allocation(allocation: &Value, requests: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    let devices = allocation.get("devices").unwrap_or(&Value::Null);
    let here = at.child("devices.results");
    let results = list(devices, "results");
    if fits(results.len(), MOST_REQUESTS, &here, errors) {
        for (index, result) in results.iter().enumerate() {
            let at = here.index(index);
            claim::request_name(text(result, "request"), requests, &at.child("request"), errors);
            place(result, &at, errors);
            device::binding_conditions(result, &at, errors);
            share(result, &at.child("shareID"), errors);
        }
    }
    let here = at.child("devices.config");
    let configs = list(devices, "config");
    if fits(configs.len(), 2 * MOST_CONFIGS, &here, errors) {
        for (index, config) in configs.iter().enumerate() {
            let at = here.index(index);
            let sources = ["FromClaim", "FromClass"];
            check::required_one_of(text(config, "source"), &sources, &at.child("source"), errors);
            let names = at.child("requests");
            for (index, name) in texts(config, "requests").enumerate() {
                claim::request_name(name, requests, &names.index(index), errors);
            }
            claim::configuration(config, Strictness::New, &at, errors);
        }
    }
    if let Some(selector) = present(allocation, "nodeSelector") {
        node_selector(selector, &at.child("nodeSelector"), errors);
    }
}

fn place(device: &Value, at: &At<'_>, errors: &mut ErrorList) {
    names::driver(text(device, "driver"), &at.child("driver"), errors);
    names::pool(text(device, "pool"), &at.child("pool"), errors);
    check::label(text(device, "device"), &at.child("device"), errors);
}

fn share(device: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(id) = present(device, "shareID").and_then(Value::as_str) else {
        return;
    };
    let hyphens = [8, 13, 18, 23];
    let normal = id.len() == 36
        && id.bytes().enumerate().all(|(index, c)| {
            if hyphens.contains(&index) {
                c == b'-'
            } else {
                c.is_ascii_digit() || matches!(c, b'a'..=b'f')
            }
        });
    if !normal {
        let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                   hexadecimal characters";
        errors.push(at.invalid(id, why));
    }
}

fn device_status(device: &Value, allocated: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    place(device, at, errors);
    share(device, &at.child("shareID"), errors);
    if !allocated.iter().any(|other| identity(other) == identity(device)) {
        let why = "must be an allocated device in the claim";
        errors.push(at.invalid(shown(identity(device)), why));
    }
    let here = at.child("conditions");
    let all = list(device, "conditions");
    fits(all.len(), MOST_CONDITIONS, &here, errors);
    conditions(all, &here, errors);
    if let Some(data) = present(device, "data") {
        claim::raw_object(Some(data), Some(LARGEST_DATA), &at.child("data"), errors);
    }
    let Some(network) = present(device, "networkData") else {
        return;
    };
    let at = at.child("networkData");
    for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(network, field).len() > most {
            errors.push(at.child(field).too_long(most as i64));
        }
    }
    let here = at.child("ips");
    let addresses: Vec<&str> = texts(network, "ips").collect();
    if !fits(addresses.len(), MOST_ADDRESSES, &here, errors) {
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        let at = here.index(index);
        if let Some(wrong) = wrong_interface_address(address) {
            errors.push(at.invalid(*address, wrong));
        }
        if addresses[..index].contains(address) {
            errors.push(at.duplicate(*address));
        }
    }
}

/// An address with the size of its network; bits beyond it are the address itself.
fn wrong_interface_address(text: &str) -> Option<String> {
    let Ok(address) = text.parse::<IpNet>() else {
        let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return Some(why.to_owned());
    };
    let canonical = address.to_string();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}
