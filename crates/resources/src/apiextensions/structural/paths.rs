//! Paths to fields of a schema, as rules (`fieldPath`) and selectable fields name them: `.spec.a['b-c']`.

use super::{Additional, Schema};
use machinery::field::Path;

/// How steps may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// With dots, or with names in brackets.
    Any,
    /// With dots alone.
    Dots,
}

/// The field a path leads to, and the path as errors tell it; or why it leads to none.
pub fn resolve<'s>(text: &str, schema: &'s Schema, notation: Notation) -> Result<(Path, &'s Schema), String> {
    let mut tokens = tokens(text).into_iter();
    let mut found = (Path::root(), schema);
    while let Some(token) = tokens.next() {
        let end = || "unexpected end of JSON path".to_owned();
        match token {
            "." => found = step(found, tokens.next().ok_or_else(end)?)?,
            "[" if notation == Notation::Dots => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = tokens.next().ok_or_else(end)?;
                let name = quoted
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''))
                    .ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                found = step(found, &unescaped(name)?)?;
                let close = tokens.next().ok_or_else(end)?;
                if close != "]" {
                    return Err(format!("expected ] but got {close}"));
                }
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(found)
}

fn step<'s>((path, schema): (Path, &'s Schema), name: &str) -> Result<(Path, &'s Schema), String> {
    let none = || "does not refer to a valid field".to_owned();
    if !schema.properties.is_empty() {
        let property = schema.property(name).ok_or_else(none)?;
        return Ok((path.child(name), property));
    }
    match &schema.additional {
        Some(Additional::Schema(others)) => Ok((path.key(name), others)),
        _ => Err(none()),
    }
}

/// Dots and brackets stand alone; what is quoted may hold them.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = if let Some(quoted) = rest.strip_prefix('\'') {
            let mut before = '\'';
            let closing = quoted.char_indices().find(|(_, c)| {
                let closes = *c == '\'' && before != '\\';
                before = *c;
                closes
            });
            closing.map_or(rest.len(), |(at, _)| at + 2)
        } else {
            match rest.find(['.', '[', ']']) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            }
        };
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after;
    }
    tokens
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escaped) = chars.next() else {
            out.push(c);
            break;
        };
        out.push(match escaped {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\'' | '\\' => escaped,
            _ => return Err(format!("invalid string literal: invalid escape char \\{escaped}")),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json::decode_any;

    fn check(path: &str, notation: Notation, want: Result<&str, &str>) {
        let schema = r#"{"type":"object","properties":{"a":{"type":"object","properties":{"b.c":{"type":"string"},"it's":{"type":"string"}}},
            "m":{"type":"object","additionalProperties":{"type":"integer"}}}}"#;
        let schema = Schema::parse(&decode_any(schema.as_bytes()).unwrap().value);
        let got = resolve(path, &schema, notation).map(|(path, _)| path.as_str().to_owned());
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{path}");
    }

    #[test]
    fn paths_lead_to_fields_that_are_there() {
        check(".a", Notation::Dots, Ok("a"));
        check(".a['b.c']", Notation::Any, Ok("a.b.c"));
        check(r".a['it\'s']", Notation::Any, Ok("a.it's"));
        check(".m.any", Notation::Dots, Ok("m[any]"));
        check(".m['x']", Notation::Any, Ok("m[x]"));
        check(".a['b.c']", Notation::Dots, Err("array notation is not allowed"));
        check(".x", Notation::Any, Err("does not refer to a valid field"));
        check(".a.", Notation::Any, Err("unexpected end of JSON path"));
        check("a", Notation::Any, Err("expected [ or . but got: a"));
        check(
            ".a[0]",
            Notation::Any,
            Err("expected single quoted string but got 0"),
        );
    }
}
