//! `ip("10.0.0.1")`, `cidr("10.0.0.0/8")` and their functions.

use super::{Function, function, is_opaque, is_string, no_overload, on_opaque, opaque, str_at, texts};
use crate::types::Type;
use crate::value::{Opaque, Val};
use ipnet::IpNet;
use std::net::IpAddr;

const IP: &str = "net.IP";
const CIDR: &str = "net.CIDR";

#[derive(Debug)]
struct Address(IpAddr);

#[derive(Debug)]
struct Range(IpNet);

fn of_ip(types: &[Type], result: Type) -> Option<Type> {
    is_opaque(&types[0], IP).then_some(result)
}

fn of_cidr(types: &[Type], result: Type) -> Option<Type> {
    is_opaque(&types[0], CIDR).then_some(result)
}

fn with(types: &[Type], name: &str) -> Option<Type> {
    (is_opaque(&types[0], CIDR) && (is_opaque(&types[1], name) || is_string(&types[1]))).then_some(Type::Bool)
}

pub(crate) const ALL: &[Function] = &[
    function(
        "ip",
        false,
        1,
        |t| texts(t, Type::Opaque(IP)),
        |a| address(str_at(a, 0)?).map(|ip| opaque(Address(ip))),
    ),
    function(
        "isIP",
        false,
        1,
        |t| texts(t, Type::Bool),
        |a| Ok(Val::Bool(address(str_at(a, 0)?).is_ok())),
    ),
    function(
        "ip.isCanonical",
        false,
        1,
        |t| texts(t, Type::Bool),
        |a| {
            let text = str_at(a, 0)?;
            Ok(Val::Bool(address(text)?.to_string() == text))
        },
    ),
    function(
        "cidr",
        false,
        1,
        |t| texts(t, Type::Opaque(CIDR)),
        |a| range(str_at(a, 0)?).map(|net| opaque(Range(net))),
    ),
    function(
        "isCIDR",
        false,
        1,
        |t| texts(t, Type::Bool),
        |a| Ok(Val::Bool(range(str_at(a, 0)?).is_ok())),
    ),
    function(
        "family",
        true,
        0,
        |t| of_ip(t, Type::Int),
        |a| on_opaque("family", a),
    ),
    function(
        "isUnspecified",
        true,
        0,
        |t| of_ip(t, Type::Bool),
        |a| on_opaque("isUnspecified", a),
    ),
    function(
        "isLoopback",
        true,
        0,
        |t| of_ip(t, Type::Bool),
        |a| on_opaque("isLoopback", a),
    ),
    function(
        "isLinkLocalMulticast",
        true,
        0,
        |t| of_ip(t, Type::Bool),
        |a| on_opaque("isLinkLocalMulticast", a),
    ),
    function(
        "isLinkLocalUnicast",
        true,
        0,
        |t| of_ip(t, Type::Bool),
        |a| on_opaque("isLinkLocalUnicast", a),
    ),
    function(
        "isGlobalUnicast",
        true,
        0,
        |t| of_ip(t, Type::Bool),
        |a| on_opaque("isGlobalUnicast", a),
    ),
    function(
        "ip",
        true,
        0,
        |t| of_cidr(t, Type::Opaque(IP)),
        |a| on_opaque("ip", a),
    ),
    function(
        "masked",
        true,
        0,
        |t| of_cidr(t, Type::Opaque(CIDR)),
        |a| on_opaque("masked", a),
    ),
    function(
        "prefixLength",
        true,
        0,
        |t| of_cidr(t, Type::Int),
        |a| on_opaque("prefixLength", a),
    ),
    function(
        "containsIP",
        true,
        1,
        |t| with(t, IP),
        |a| on_opaque("containsIP", a),
    ),
    function(
        "containsCIDR",
        true,
        1,
        |t| with(t, CIDR),
        |a| on_opaque("containsCIDR", a),
    ),
];

fn address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {} parse error during conversion from string",
            machinery::field::quote(text)
        )
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err("IPv4-mapped IPv6 address is not allowed".to_owned())
        }
        ip => Ok(ip),
    }
}

fn range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| format!("network address parse error during conversion from string: {text}"))
}

impl Opaque for Address {
    fn type_name(&self) -> &'static str {
        IP
    }

    fn call<'a>(&self, name: &str, _: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let ip = self.0;
        let link_local_multicast = match ip {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        };
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        Some(Ok(match name {
            "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
            "isUnspecified" => Val::Bool(ip.is_unspecified()),
            "isLoopback" => Val::Bool(ip.is_loopback()),
            "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
            "isLinkLocalUnicast" => Val::Bool(link_local),
            "isGlobalUnicast" => Val::Bool(
                !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast),
            ),
            _ => return None,
        }))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        self.text() == other.text()
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl Opaque for Range {
    fn type_name(&self) -> &'static str {
        CIDR
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let text = || match arguments {
            [Val::Opaque(value)] => Ok(value.text()),
            [Val::Text(text)] => Ok(text.to_string()),
            _ => Err(no_overload()),
        };
        Some(match name {
            "ip" => Ok(opaque(Address(self.0.addr()))),
            "masked" => Ok(opaque(Self(self.0.trunc()))),
            "prefixLength" => Ok(Val::Int(self.0.prefix_len().into())),
            "containsIP" => text()
                .and_then(|t| address(&t))
                .map(|ip| Val::Bool(self.0.contains(&ip))),
            "containsCIDR" => text()
                .and_then(|t| range(&t))
                .map(|net| Val::Bool(self.0.contains(&net))),
            _ => return None,
        })
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        self.text() == other.text()
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}
