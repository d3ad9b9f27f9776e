//! Texts: CEL's functions, the strings extension, and regular expressions.

use super::{
    Effort, Function, function, int_at, is_int, is_list, is_string, no_overload, str_at, texts, time,
};
use crate::types::Type;
use crate::value::Val;
use base64::Engine as _;
use regex::Regex;

type Run = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>;

const fn test(name: &'static str, run: Run) -> Function {
    function(name, true, 1, |t| texts(t, Type::Bool), run)
}

const fn change(name: &'static str, run: Run) -> Function {
    function(name, true, 0, |t| texts(t, t[0].clone()), run).costs(Effort::ReadFirst)
}

pub(crate) const ALL: &[Function] = &[
    test("contains", |a| {
        Ok(Val::Bool(str_at(a, 0)?.contains(str_at(a, 1)?)))
    })
    .costs(Effort::Product),
    test("startsWith", |a| {
        Ok(Val::Bool(str_at(a, 0)?.starts_with(str_at(a, 1)?)))
    })
    .costs(Effort::ReadFirst),
    test("endsWith", |a| {
        Ok(Val::Bool(str_at(a, 0)?.ends_with(str_at(a, 1)?)))
    })
    .costs(Effort::ReadFirst),
    test("matches", |a| {
        Ok(Val::Bool(regex(str_at(a, 1)?)?.is_match(str_at(a, 0)?)))
    })
    .costs(Effort::Product),
    function(
        "matches",
        false,
        2,
        |t| texts(t, Type::Bool),
        |a| Ok(Val::Bool(regex(str_at(a, 1)?)?.is_match(str_at(a, 0)?))),
    )
    .costs(Effort::Product),
    function(
        "find",
        true,
        1,
        |t| texts(t, t[0].clone()),
        |a| {
            let found = regex(str_at(a, 1)?)?
                .find(str_at(a, 0)?)
                .map(|m| m.as_str().to_owned());
            Ok(Val::text(found.unwrap_or_default()))
        },
    )
    .costs(Effort::Product),
    function(
        "findAll",
        true,
        1,
        |t| texts(t, Type::List(Type::string().into(), t[0].size())),
        |a| find_all(a, i64::MAX),
    )
    .costs(Effort::Product),
    function(
        "findAll",
        true,
        2,
        |t| {
            (is_string(&t[0]) && is_string(&t[1]) && is_int(&t[2]))
                .then(|| Type::List(Type::string().into(), t[0].size()))
        },
        |a| find_all(a, int_at(a, 2)?),
    )
    .costs(Effort::Product),
    function("size", true, 0, sized, size),
    function("size", false, 1, sized, size),
    change("lowerAscii", |a| {
        Ok(Val::text(str_at(a, 0)?.to_ascii_lowercase()))
    }),
    change("upperAscii", |a| {
        Ok(Val::text(str_at(a, 0)?.to_ascii_uppercase()))
    }),
    change("trim", |a| Ok(Val::text(str_at(a, 0)?.trim().to_owned()))),
    change("reverse", |a| {
        Ok(Val::text(str_at(a, 0)?.chars().rev().collect::<String>()))
    }),
    function(
        "charAt",
        true,
        1,
        |t| (is_string(&t[0]) && is_int(&t[1])).then_some(Type::String(1)),
        |a| {
            let (text, at) = (str_at(a, 0)?, int_at(a, 1)?);
            let length = text.chars().count() as i64;
            if !(0..=length).contains(&at) {
                return Err(format!("index out of range: {at}"));
            }
            Ok(Val::text(
                text.chars().skip(at as usize).take(1).collect::<String>(),
            ))
        },
    ),
    function("indexOf", true, 1, |t| texts(t, Type::Int), |a| index_of(a, 0)).costs(Effort::Product),
    function(
        "indexOf",
        true,
        2,
        |t| (is_string(&t[0]) && is_string(&t[1]) && is_int(&t[2])).then_some(Type::Int),
        |a| index_of(a, int_at(a, 2)?),
    )
    .costs(Effort::Product),
    function(
        "lastIndexOf",
        true,
        2,
        |t| (is_string(&t[0]) && is_string(&t[1]) && is_int(&t[2])).then_some(Type::Int),
        last_index_of,
    )
    .costs(Effort::Product),
    function(
        "lastIndexOf",
        true,
        1,
        |t| texts(t, Type::Int),
        |a| {
            let (text, part) = (str_at(a, 0)?, str_at(a, 1)?);
            Ok(Val::Int(
                text.rfind(part)
                    .map_or(-1, |at| text[..at].chars().count() as i64),
            ))
        },
    )
    .costs(Effort::Product),
    function(
        "substring",
        true,
        1,
        |t| (is_string(&t[0]) && is_int(&t[1])).then(|| t[0].clone()),
        |a| {
            let length = str_at(a, 0)?.chars().count() as i64;
            substring(a, length)
        },
    )
    .costs(Effort::ReadFirst),
    function(
        "substring",
        true,
        2,
        |t| (is_string(&t[0]) && is_int(&t[1]) && is_int(&t[2])).then(|| t[0].clone()),
        |a| substring(a, int_at(a, 2)?),
    )
    .costs(Effort::ReadFirst),
    function(
        "replace",
        true,
        2,
        |t| texts(t, Type::string()),
        |a| Ok(Val::text(str_at(a, 0)?.replace(str_at(a, 1)?, str_at(a, 2)?))),
    )
    .costs(Effort::ReadAll),
    function(
        "replace",
        true,
        3,
        |t| (t[..3].iter().all(is_string) && is_int(&t[3])).then(Type::string),
        |a| {
            let (text, from, to, most) = (str_at(a, 0)?, str_at(a, 1)?, str_at(a, 2)?, int_at(a, 3)?);
            Ok(Val::text(match usize::try_from(most) {
                Ok(most) => text.replacen(from, to, most),
                Err(_) => text.replace(from, to),
            }))
        },
    )
    .costs(Effort::ReadAll),
    function(
        "split",
        true,
        1,
        |t| texts(t, Type::List(t[0].clone().into(), t[0].size())),
        |a| split(a, -1),
    )
    .costs(Effort::ReadFirst),
    function(
        "split",
        true,
        2,
        |t| {
            (is_string(&t[0]) && is_string(&t[1]) && is_int(&t[2]))
                .then(|| Type::List(t[0].clone().into(), t[0].size()))
        },
        |a| split(a, int_at(a, 2)?),
    )
    .costs(Effort::ReadFirst),
    function(
        "join",
        true,
        0,
        |t| is_list(&t[0]).then(Type::string),
        |a| join(a, ""),
    )
    .costs(Effort::Items),
    function(
        "join",
        true,
        1,
        |t| (is_list(&t[0]) && is_string(&t[1])).then(Type::string),
        |a| join(a, str_at(a, 1)?),
    )
    .costs(Effort::Items),
    function(
        "format",
        true,
        1,
        |t| (is_string(&t[0]) && is_list(&t[1])).then(Type::string),
        format_text,
    )
    .costs(Effort::ReadAll),
    function(
        "strings.quote",
        false,
        1,
        |t| texts(t, Type::string()),
        |a| Ok(Val::text(machinery::field::quote(str_at(a, 0)?))),
    )
    .costs(Effort::ReadFirst),
    function(
        "base64.encode",
        false,
        1,
        |t| matches!(t[0], Type::Bytes(_) | Type::Dyn).then(Type::string),
        |a| match &a[0] {
            Val::Bytes(bytes) => Ok(Val::text(base64::engine::general_purpose::STANDARD.encode(bytes))),
            _ => Err(no_overload()),
        },
    )
    .costs(Effort::ReadFirst),
    function(
        "base64.decode",
        false,
        1,
        |t| texts(t, Type::Bytes(t[0].size())),
        |a| {
            base64::engine::general_purpose::STANDARD
                .decode(str_at(a, 0)?)
                .map(|bytes| Val::Bytes(bytes.into()))
                .map_err(|error| error.to_string())
        },
    )
    .costs(Effort::ReadFirst),
    function(
        "jsonpatch.escapeKey",
        false,
        1,
        |t| texts(t, t[0].clone()),
        |a| Ok(Val::text(str_at(a, 0)?.replace('~', "~0").replace('/', "~1"))),
    )
    .costs(Effort::ReadFirst),
    function(
        "string",
        false,
        1,
        |_| Some(Type::string()),
        |a| match &a[0] {
            Val::Text(_) => Ok(a[0].clone()),
            Val::Bool(_)
            | Val::Int(_)
            | Val::Uint(_)
            | Val::Double(_)
            | Val::Time(_)
            | Val::Duration(_)
            | Val::Opaque(_) => Ok(Val::text(display(&a[0]))),
            Val::Bytes(bytes) => String::from_utf8(bytes.to_vec())
                .map(Val::text)
                .map_err(|_| "invalid UTF-8 in bytes, cannot convert to string".to_owned()),
            _ => Err(no_overload()),
        },
    )
    .costs(Effort::ReadFirst),
    function(
        "bytes",
        false,
        1,
        |t| matches!(t[0], Type::String(_) | Type::Bytes(_) | Type::Dyn).then(|| Type::Bytes(t[0].size())),
        |a| match &a[0] {
            Val::Bytes(_) => Ok(a[0].clone()),
            Val::Text(text) => Ok(Val::Bytes(text.as_bytes().into())),
            _ => Err(no_overload()),
        },
    )
    .costs(Effort::ReadFirst),
];

/// A value as texts have it.
pub(crate) fn display(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Bool(flag) => flag.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => number.to_string(),
        Val::Text(text) => text.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Duration(duration) => time::format_duration(*duration),
        Val::Time(time) => time.to_string(),
        Val::Type(name) => name.to_string(),
        Val::Opaque(value) => value.text(),
        Val::Optional(None) => "optional.none()".to_owned(),
        Val::Optional(Some(inner)) => format!("optional({})", display(inner)),
        Val::List(_) | Val::Map(_) | Val::Domains(_) | Val::Part(..) => {
            match (value.items(), value.entries()) {
                (Some(items), _) => format!("[{}]", items.iter().map(display).collect::<Vec<_>>().join(", ")),
                (_, Some(entries)) => {
                    let mut entries: Vec<String> = entries
                        .iter()
                        .map(|(key, value)| format!("{}: {}", display(key), display(value)))
                        .collect();
                    entries.sort_unstable();
                    format!("{{{}}}", entries.join(", "))
                }
                _ => String::new(),
            }
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| error.to_string())
}

fn sized(types: &[Type]) -> Option<Type> {
    matches!(
        types[0],
        Type::String(_) | Type::Bytes(_) | Type::List(..) | Type::Map(..) | Type::Dyn
    )
    .then_some(Type::Int)
}

fn size<'a>(arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
    let size = arguments[0].size().ok_or_else(no_overload)?;
    Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn find_all<'a>(arguments: &[Val<'a>], most: i64) -> Result<Val<'a>, String> {
    let regex = regex(str_at(arguments, 1)?)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = regex.find_iter(str_at(arguments, 0)?).take(most);
    Ok(Val::list(
        found.map(|m| Val::text(m.as_str().to_owned())).collect(),
    ))
}

/// Where a part begins for the last time, at a place or before it.
fn last_index_of<'a>(arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
    let (text, part, until) = (
        str_at(arguments, 0)?,
        str_at(arguments, 1)?,
        int_at(arguments, 2)?,
    );
    let length = text.chars().count();
    let until = usize::try_from(until)
        .ok()
        .filter(|until| *until <= length)
        .ok_or_else(|| format!("index out of range: {until}"))?;
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let found = starts
        .take(until + 1)
        .enumerate()
        .filter(|(_, at)| text[*at..].starts_with(part))
        .last();
    Ok(Val::Int(found.map_or(-1, |(count, _)| count as i64)))
}

/// A number as the printer of cel-go's format writes it: `1.052033 × 10⁰³`, with narrow spaces.
fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("\u{207b}", digits),
        None => ("", exponent),
    };
    let raised: String = format!("{digits:0>2}")
        .chars()
        .map(|digit| match digit {
            '1' => '\u{b9}',
            '2' => '\u{b2}',
            '3' => '\u{b3}',
            '4'..='9' => char::from_u32(0x2070 + digit as u32 - '0' as u32).unwrap_or(digit),
            _ => '\u{2070}',
        })
        .collect();
    format!("{mantissa}\u{202f}\u{d7}\u{202f}10{sign}{raised}")
}

fn index_of<'a>(arguments: &[Val<'a>], from: i64) -> Result<Val<'a>, String> {
    let (text, part) = (str_at(arguments, 0)?, str_at(arguments, 1)?);
    let skipped = usize::try_from(from).map_err(|_| format!("index out of range: {from}"))?;
    let start = match text.char_indices().nth(skipped) {
        Some((at, _)) => at,
        None if skipped == text.chars().count() => text.len(),
        None => return Err(format!("index out of range: {from}")),
    };
    let found = text[start..].find(part);
    Ok(Val::Int(
        found.map_or(-1, |at| text[..start + at].chars().count() as i64),
    ))
}

fn substring<'a>(arguments: &[Val<'a>], end: i64) -> Result<Val<'a>, String> {
    let (text, start) = (str_at(arguments, 0)?, int_at(arguments, 1)?);
    let length = text.chars().count() as i64;
    if start < 0 || start > length {
        return Err(format!("index out of range: {start}"));
    }
    if end < 0 || end > length {
        return Err(format!("index out of range: {end}"));
    }
    if start > end {
        return Err(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let part = text.chars().skip(start as usize).take((end - start) as usize);
    Ok(Val::text(part.collect::<String>()))
}

fn split<'a>(arguments: &[Val<'a>], most: i64) -> Result<Val<'a>, String> {
    let (text, separator) = (str_at(arguments, 0)?, str_at(arguments, 1)?);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let parts: Vec<String> = if most == 0 {
        Vec::new()
    } else if separator.is_empty() {
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        if parts.len() > most {
            let rest = parts.split_off(most - 1).concat();
            parts.push(rest);
        }
        parts
    } else {
        text.splitn(most, separator).map(str::to_owned).collect()
    };
    Ok(Val::list(parts.into_iter().map(Val::text).collect()))
}

fn join<'a>(arguments: &[Val<'a>], separator: &str) -> Result<Val<'a>, String> {
    let items = arguments[0].items().ok_or_else(no_overload)?;
    let texts: Option<Vec<&str>> = items.iter().map(Val::as_str).collect();
    Ok(Val::text(texts.ok_or_else(no_overload)?.join(separator)))
}

/// `"%s has %d".format([name, count])`.
fn format_text<'a>(arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
    let template = str_at(arguments, 0)?;
    let values = arguments[1].items().ok_or_else(no_overload)?;
    let (mut out, mut next) = (String::new(), 0);
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok();
        }
        let value = values
            .get(next)
            .ok_or_else(|| format!("index {next} out of range"))?;
        next += 1;
        let clause = chars.next().ok_or("unexpected end of string")?;
        out.push_str(&clause_text(clause, precision, value)?);
    }
    Ok(Val::text(out))
}

fn clause_text(clause: char, precision: Option<usize>, value: &Val<'_>) -> Result<String, String> {
    let wrong = || {
        format!(
            "error during formatting: %{clause} does not take a {}",
            value.type_name()
        )
    };
    let number = match value {
        Val::Double(number) => Some(*number),
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        _ => None,
    };
    Ok(match (clause, value) {
        ('s', value) => display(value),
        ('d', Val::Int(_) | Val::Uint(_)) => display(value),
        ('f', _) => format!("{:.*}", precision.unwrap_or(6), number.ok_or_else(wrong)?),
        ('e', _) => scientific(number.ok_or_else(wrong)?, precision.unwrap_or(6)),
        ('b', Val::Int(number)) => format!("{number:b}"),
        ('b', Val::Uint(number)) => format!("{number:b}"),
        ('b', Val::Bool(flag)) => u8::from(*flag).to_string(),
        ('o', Val::Int(number)) => format!("{number:o}"),
        ('o', Val::Uint(number)) => format!("{number:o}"),
        ('x', Val::Int(number)) => format!("{number:x}"),
        ('X', Val::Int(number)) => format!("{number:X}"),
        ('x', Val::Uint(number)) => format!("{number:x}"),
        ('X', Val::Uint(number)) => format!("{number:X}"),
        ('x', Val::Text(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::Text(text)) => text.bytes().map(|b| format!("{b:02X}")).collect(),
        _ => return Err(wrong()),
    })
}
