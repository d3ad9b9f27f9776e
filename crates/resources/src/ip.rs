//! Addresses and networks in their texts, judged as upstream judges them: strictly, since v1.36, also in old fields.

use crate::At;
use ipnet::IpNet;
use machinery::field::ErrorList;
use std::net::{IpAddr, Ipv4Addr};

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_NETWORK: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const ZEROS: &str = "must not have leading 0s";

/// What is wrong with an address in an old field, where its form need not be canonical.
pub fn wrong_address(text: &str) -> Option<&'static str> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Some(MAPPED),
        Ok(_) => None,
        Err(_) if without_zeros(text).is_some() => Some(ZEROS),
        Err(_) => Some(NO_ADDRESS),
    }
}

/// What is wrong with an address in a field that wants it canonical.
pub fn wrong_strict_address(text: &str) -> Option<String> {
    if let Some(wrong) = wrong_address(text) {
        return Some(wrong.to_owned());
    }
    let canonical = text
        .parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .unwrap_or_default();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}

/// What is wrong with a network in an old field, where its form need not be canonical.
pub fn wrong_network(text: &str) -> Option<&'static str> {
    let Some((address, bits)) = text.split_once('/') else {
        return Some(NO_NETWORK);
    };
    let plain_bits = !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit());
    let zeros = without_zeros(address);
    let parsed = zeros.map(IpAddr::V4).or_else(|| address.parse().ok());
    let net = parsed
        .filter(|_| plain_bits)
        .and_then(|ip| IpNet::new(ip, bits.parse().ok()?).ok());
    let Some(net) = net else { return Some(NO_NETWORK) };
    if zeros.is_some() || (bits.len() > 1 && bits.starts_with('0')) {
        return Some("must not have leading 0s in IP or prefix length");
    }
    match net.addr() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("must not have an IPv4-mapped IPv6 address"),
        address if address != net.network() => Some("must not have bits set beyond the prefix length"),
        _ => None,
    }
}

/// What is wrong with a network in a field that wants it canonical.
pub fn wrong_strict_network(text: &str) -> Option<String> {
    if let Some(wrong) = wrong_network(text) {
        return Some(wrong.to_owned());
    }
    let canonical = text
        .parse::<IpNet>()
        .map(|net| net.to_string())
        .unwrap_or_default();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}

/// A warning about an address that is not written as it should be.
pub fn warning(text: &str, at: &At<'_>) -> Option<String> {
    let path = at.path();
    let parsed = text.parse::<IpAddr>();
    let preferred = match parsed {
        Ok(IpAddr::V6(ip)) => ip.to_ipv4_mapped(),
        Ok(IpAddr::V4(_)) => None,
        Err(_) => without_zeros(text),
    };
    if let Some(preferred) = preferred {
        let preferred = preferred.to_string();
        return Some(format!(
            "{path}: non-standard IP address {text:?} is invalid: use {preferred:?}"
        ));
    }
    let canonical = parsed.ok().filter(IpAddr::is_ipv6)?.to_string();
    (canonical != text).then(|| {
        format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

/// Judges an address that traffic is sent to.
pub fn endpoint_address(text: &str, at: &At<'_>, errors: &mut ErrorList) {
    let Ok(address) = text.parse::<IpAddr>() else {
        errors.push(at.invalid(text, "must be a valid IP address"));
        return;
    };
    let (link_local, group) = match address {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.push(at.invalid(text, format!("may not be unspecified ({text})")));
    }
    if address.is_loopback() {
        errors.push(at.invalid(text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        let why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.push(at.invalid(text, why));
    }
    if group {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(at.invalid(text, why));
    }
}

/// The address of a text whose octets have leading zeros, which some read as octal.
fn without_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts
            .next()
            .filter(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))?;
        *octet = part
            .parse::<u32>()
            .ok()
            .and_then(|number| u8::try_from(number).ok())?;
    }
    let padded = text
        .split('.')
        .any(|part| part.len() > 1 && part.starts_with('0'));
    (parts.next().is_none() && padded).then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_judged() {
        for (text, wrong) in [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("FE80::1", None),
            ("010.0.0.1", Some(ZEROS)),
            ("::ffff:1.2.3.4", Some(MAPPED)),
            ("1.2.3", Some(NO_ADDRESS)),
            ("", Some(NO_ADDRESS)),
        ] {
            assert_eq!(wrong_address(text), wrong, "{text}");
        }
        for (text, good) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1/8", false),
            ("10.0.0.0", false),
            ("10.0.0.0/33", false),
            ("::/0", true),
        ] {
            assert_eq!(wrong_network(text).is_none(), good, "{text}");
        }
        assert!(wrong_strict_address("FE80::1").is_some() && wrong_strict_network("FE80::/64").is_some());
    }
}
