//! `format.dns1123Label().validate(x)` and the other formats with a name.

use super::{
    Effort, Function, function, is_opaque, is_string, no_overload, on_opaque, opaque, str_at, texts,
};
use crate::types::Type;
use crate::value::{Opaque, Val};
use base64::Engine as _;
use machinery::names;
use std::sync::Arc;

const NAME: &str = "kubernetes.NamedFormat";

#[derive(Debug)]
struct NamedFormat(&'static Known);

#[derive(Debug)]
struct Known {
    name: &'static str,
    check: fn(&str) -> Vec<String>,
}

/// A prefix of a name may end where a name may not.
fn prefix(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(rest) => check(&format!("{rest}a")),
        None => check(text),
    }
}

fn when(good: bool, otherwise: &str) -> Vec<String> {
    if good {
        Vec::new()
    } else {
        vec![otherwise.to_owned()]
    }
}

static KNOWN: [Known; 13] = [
    Known {
        name: "dns1123Label",
        check: names::dns1123_label,
    },
    Known {
        name: "dns1123Subdomain",
        check: names::dns1123_subdomain,
    },
    Known {
        name: "dns1035Label",
        check: names::dns1035_label,
    },
    Known {
        name: "qualifiedName",
        check: names::qualified_name,
    },
    Known {
        name: "dns1123LabelPrefix",
        check: |t| prefix(t, names::dns1123_label),
    },
    Known {
        name: "dns1123SubdomainPrefix",
        check: |t| prefix(t, names::dns1123_subdomain),
    },
    Known {
        name: "dns1035LabelPrefix",
        check: |t| prefix(t, names::dns1035_label),
    },
    Known {
        name: "labelValue",
        check: names::label_value,
    },
    Known {
        name: "uri",
        check: |t| when(t.starts_with('/') || t.contains(':'), "invalid URI for request"),
    },
    Known {
        name: "uuid",
        check: |t| {
            let digits = t.bytes().filter(|b| *b != b'-').count();
            let good = digits == 32 && t.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
            when(good, "does not match the UUID format")
        },
    },
    Known {
        name: "byte",
        check: |t| {
            let good = base64::engine::general_purpose::STANDARD.decode(t).is_ok();
            when(good, "invalid base64")
        },
    },
    Known {
        name: "date",
        check: |t| {
            when(
                t.parse::<jiff::civil::Date>().is_ok() && t.len() == 10,
                "invalid date",
            )
        },
    },
    Known {
        name: "datetime",
        check: |t| when(t.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    },
];

type Run = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>;

const fn named(name: &'static str, run: Run) -> Function {
    function(name, false, 0, |_| Some(Type::Opaque(NAME)), run)
}

fn get<'a>(name: &str) -> Result<Val<'a>, String> {
    KNOWN
        .iter()
        .find(|known| known.name == name)
        .map(|known| opaque(NamedFormat(known)))
        .ok_or_else(no_overload)
}

pub(crate) const ALL: &[Function] = &[
    named("format.dns1123Label", |_| get("dns1123Label")),
    named("format.dns1123Subdomain", |_| get("dns1123Subdomain")),
    named("format.dns1035Label", |_| get("dns1035Label")),
    named("format.qualifiedName", |_| get("qualifiedName")),
    named("format.dns1123LabelPrefix", |_| get("dns1123LabelPrefix")),
    named("format.dns1123SubdomainPrefix", |_| get("dns1123SubdomainPrefix")),
    named("format.dns1035LabelPrefix", |_| get("dns1035LabelPrefix")),
    named("format.labelValue", |_| get("labelValue")),
    named("format.uri", |_| get("uri")),
    named("format.uuid", |_| get("uuid")),
    named("format.byte", |_| get("byte")),
    named("format.date", |_| get("date")),
    named("format.datetime", |_| get("datetime")),
    function(
        "format.named",
        false,
        1,
        |t| texts(t, Type::Optional(Arc::new(Type::Opaque(NAME)))),
        |a| Ok(Val::Optional(get(str_at(a, 0)?).ok().map(Arc::new))),
    ),
    function(
        "validate",
        true,
        1,
        |t| {
            (is_opaque(&t[0], NAME) && is_string(&t[1]))
                .then(|| Type::Optional(Arc::new(Type::list(Type::string()))))
        },
        |a| on_opaque("validate", a),
    )
    .costs(Effort::ReadAll),
];

impl Opaque for NamedFormat {
    fn type_name(&self) -> &'static str {
        NAME
    }

    /// None if the text is of the format, otherwise what is wrong with it.
    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        if name != "validate" {
            return None;
        }
        Some(str_at(arguments, 0).map(|text| {
            let wrong = (self.0.check)(text);
            let wrong = (!wrong.is_empty()).then(|| Val::list(wrong.into_iter().map(Val::text).collect()));
            Val::Optional(wrong.map(Arc::new))
        }))
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        self.text() == other.text()
    }

    fn text(&self) -> String {
        self.0.name.to_owned()
    }
}
