//! Which devices a container may use, as the list in its OCI configuration.
//!
//! The list has one of two forms: everything (privileged), or nothing but what follows. cgroup v1's files are written by
//! libcontainer from it; for v2 it is read back as rules of our own.

use linux::cgroup::{DeviceAccess, DeviceKind, DeviceRule};
use serde_json::{Value, json};

use super::host::DeviceNode;

/// What every container has in its `/dev`, and the making of nodes, which alone opens nothing; as containerd and runc
/// allow it. Type, major, minor, access.
const ALWAYS: [(&str, Option<u32>, Option<u32>, &str); 12] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(1), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(10), Some(200), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// The list for a container with these devices.
pub(crate) fn rules(devices: &[DeviceNode], privileged: bool) -> Vec<Value> {
    if privileged {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(ALWAYS.iter().map(|(kind, major, minor, access)| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        for (name, number) in [("major", major), ("minor", minor)] {
            if let Some(number) = number {
                rule[name] = json!(number);
            }
        }
        rule
    }));
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "access": device.access,
        })
    }));
    rules
}

/// The devices a container with this configuration may use; nothing stands for all of them.
pub(crate) fn allowed(config: &Value) -> Result<Option<Vec<DeviceRule>>, String> {
    let list = config["linux"]["resources"]["devices"]
        .as_array()
        .ok_or("the configuration has no device rules")?;
    let mut allowed = Some(Vec::new());
    for entry in list {
        let (rule, everything) = rule(entry).map_err(|why| format!("device rule {entry}: {why}"))?;
        match (entry["allow"].as_bool().unwrap_or(false), everything) {
            (true, true) => allowed = None,
            (false, true) => allowed = Some(Vec::new()),
            (true, false) => allowed.iter_mut().for_each(|rules| rules.push(rule)),
            (false, false) => return Err(format!("device rule {entry}: a single device cannot be refused")),
        }
    }
    Ok(allowed)
}

/// An entry as a rule, and whether it is about every device there is.
fn rule(entry: &Value) -> Result<(DeviceRule, bool), String> {
    let kind = match entry["type"].as_str() {
        Some("c" | "u") => Some(DeviceKind::Character),
        Some("b") => Some(DeviceKind::Block),
        None | Some("a") => None,
        Some(other) => return Err(format!("{other:?} is no type")),
    };
    let number = |name: &str| match &entry[name] {
        Value::Null => Ok(None),
        value => value
            .as_u64()
            .and_then(|value| u32::try_from(value).ok())
            .map(Some)
            .ok_or_else(|| format!("{value} is no {name} number")),
    };
    let rule = DeviceRule {
        kind,
        major: number("major")?,
        minor: number("minor")?,
        access: DeviceAccess::parse(entry["access"].as_str().unwrap_or_default())
            .map_err(|error| error.to_string())?,
    };
    Ok((rule, kind.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(devices: &[DeviceNode], privileged: bool) -> Option<Vec<DeviceRule>> {
        let config = json!({"linux": {"resources": {"devices": rules(devices, privileged)}}});
        allowed(&config).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&[], true), None);
        let fuse = DeviceNode {
            path: "/dev/fuse".into(),
            kind: "c",
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rw".into(),
        };
        let rules = read(&[fuse], false).unwrap();
        assert_eq!(rules.len(), ALWAYS.len() + 1);
        let has = |kind, major, minor, access: &str| {
            rules.contains(&DeviceRule {
                kind: Some(kind),
                major,
                minor,
                access: DeviceAccess::parse(access).unwrap(),
            })
        };
        assert!(has(DeviceKind::Character, Some(10), Some(229), "rw"));
        assert!(has(DeviceKind::Block, None, None, "m"));
        assert!(has(DeviceKind::Character, Some(136), None, "rwm"));
    }

    #[test]
    fn a_list_that_says_something_else_is_refused() {
        let refused =
            |devices: Value| allowed(&json!({"linux": {"resources": {"devices": devices}}})).unwrap_err();
        assert!(allowed(&json!({})).is_err());
        assert!(refused(json!([{"allow": false, "type": "c", "access": "r"}])).contains("cannot be refused"));
        assert!(refused(json!([{"allow": true, "type": "x", "access": "r"}])).contains("no type"));
        assert!(
            refused(json!([{"allow": true, "type": "c", "major": -1, "access": "r"}])).contains("no major")
        );
        assert!(refused(json!([{"allow": true, "type": "c", "access": "q"}])).contains("no access"));
    }
}
