//! The names an instance gives to what it makes in the kernel.

use linux::nftables::{Family, Table};

/// Derives every name from the instance's id.
///
/// **Invariant:** the id is six lower-case hexadecimal digits, so that the longest link name just fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance id {0:?} is not six hexadecimal digits")]
pub struct BadInstanceId(pub String);

impl Names {
    pub fn new(id: &str) -> Result<Self, BadInstanceId> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() != 6 || !id.bytes().all(digit) {
            return Err(BadInstanceId(id.to_owned()));
        }
        Ok(Names { id: id.to_owned() })
    }

    /// What the name of each of the instance's links begins with.
    pub fn link_prefix(&self) -> String {
        format!("kj{}", self.id)
    }

    pub fn bridge(&self) -> String {
        format!("kj{}br", self.id)
    }

    /// The host's end of a pod's pair; `attempt` picks another name when two sandboxes fall on one.
    pub fn veth(&self, sandbox: &str, attempt: u32) -> String {
        // Seven hexadecimal digits are what fits. The bridge's name has other letters at that place.
        let hash = fnv1a(sandbox.as_bytes()).wrapping_add(u64::from(attempt)) & 0x0fff_ffff;
        format!("kj{}{hash:07x}", self.id)
    }

    pub fn proxy_table(&self, family: Family) -> Table {
        Table::new(family, format!("kijabi-{}", self.id))
    }

    pub fn pod_table(&self, family: Family) -> Table {
        Table::new(family, format!("kijabi-{}-pods", self.id))
    }

    /// Whether a table was made by this instance.
    pub fn owns_table(&self, table: &Table) -> bool {
        let rest = table
            .name
            .strip_prefix("kijabi-")
            .and_then(|rest| rest.strip_prefix(self.id.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_told_apart() {
        let names = Names::new("0a1b2c").unwrap();
        let veth = names.veth("1f0e", 0);
        assert_eq!(veth.len(), 15);
        assert!(veth.starts_with(&names.link_prefix()) && names.bridge().starts_with(&names.link_prefix()));
        assert_ne!(veth, names.veth("1f0e", 1));
        assert_ne!(veth, names.veth("1f0f", 0));
        assert!(names.owns_table(&names.pod_table(Family::Ip)));
        assert!(names.owns_table(&names.proxy_table(Family::Ip6)));
        assert!(!names.owns_table(&Table::new(Family::Ip, "kijabi-0a1b2cd")));
        for bad in ["", "0a1b2", "0a1b2c3", "0A1B2C", "../../"] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }
}
