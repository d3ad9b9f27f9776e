//! `url("https://…")` and its parts.

use super::{Function, function, is_opaque, on_opaque, opaque, str_at, texts};
use crate::types::Type;
use crate::value::{Opaque, Val};
use std::sync::Arc;

const NAME: &str = "kubernetes.URL";

#[derive(Debug)]
struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

fn part(types: &[Type]) -> Option<Type> {
    is_opaque(&types[0], NAME).then(Type::string)
}

pub(crate) const ALL: &[Function] = &[
    function(
        "url",
        false,
        1,
        |t| texts(t, Type::Opaque(NAME)),
        |a| {
            let text = str_at(a, 0)?;
            parse(text).map(opaque).ok_or_else(|| {
                format!(
                    "URL parse error during conversion from string: parse {}: invalid URI for request",
                    machinery::field::quote(text)
                )
            })
        },
    ),
    function(
        "isURL",
        false,
        1,
        |t| texts(t, Type::Bool),
        |a| Ok(Val::Bool(parse(str_at(a, 0)?).is_some())),
    ),
    function("getScheme", true, 0, part, |a| on_opaque("getScheme", a)),
    function("getHost", true, 0, part, |a| on_opaque("getHost", a)),
    function("getHostname", true, 0, part, |a| on_opaque("getHostname", a)),
    function("getPort", true, 0, part, |a| on_opaque("getPort", a)),
    function("getEscapedPath", true, 0, part, |a| {
        on_opaque("getEscapedPath", a)
    }),
    function(
        "getQuery",
        true,
        0,
        |t| is_opaque(&t[0], NAME).then(|| Type::map(Type::list(Type::string()))),
        |a| on_opaque("getQuery", a),
    ),
];

/// An absolute URL, or a path from the root.
fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    let (before, query) = text.split_once('?').unwrap_or((text, ""));
    if before.starts_with('/') {
        return Some(Url {
            text: text.to_owned(),
            scheme: String::new(),
            host: String::new(),
            path: escape(before),
            query: query.to_owned(),
        });
    }
    let (scheme, rest) = before.split_once(':')?;
    let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let rest = rest.strip_prefix("//").filter(|_| good)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = host.rsplit_once(':').map_or("", |(before, port)| {
        if before.starts_with('[') && !before.ends_with(']') {
            ""
        } else {
            port
        }
    });
    if !port.bytes().all(|b| b.is_ascii_digit()) || authority.contains(' ') {
        return None;
    }
    Some(Url {
        text: text.to_owned(),
        scheme: scheme.to_lowercase(),
        host: host.to_owned(),
        path: escape(path),
        query: query.to_owned(),
    })
}

/// What a path may not hold, percent-encoded.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let coded = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match (bytes[at], coded.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', None) => {
                out.push(b' ');
                at += 1;
            }
            (byte, None) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Url {
    /// Host and port.
    fn parts(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (host, after) = rest.split_once(']').unwrap_or((rest, ""));
            return (host, after.strip_prefix(':').unwrap_or(""));
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }
}

impl Opaque for Url {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn call<'a>(&self, name: &str, _: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        Some(Ok(match name {
            "getScheme" => Val::text(self.scheme.clone()),
            "getHost" => Val::text(self.host.clone()),
            "getHostname" => Val::text(self.parts().0.to_owned()),
            "getPort" => Val::text(self.parts().1.to_owned()),
            "getEscapedPath" => Val::text(self.path.clone()),
            "getQuery" => {
                let mut map: Vec<(String, Vec<Val<'a>>)> = Vec::new();
                for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let (key, value) = (unescape(key), Val::text(unescape(value)));
                    match map.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, values)) => values.push(value),
                        None => map.push((key, vec![value])),
                    }
                }
                let entries = map
                    .into_iter()
                    .map(|(key, values)| (Val::text(key), Val::list(values)));
                Val::Map(Arc::new(entries.collect()))
            }
            _ => return None,
        }))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        self.text == other.text()
    }

    fn text(&self) -> String {
        self.text.clone()
    }
}
