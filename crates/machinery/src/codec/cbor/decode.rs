//! CBOR to values. Errors are upstream's words.

use super::MAGIC;
use crate::codec::json::{self, DecodeError, Decoded, MAX_DEPTH};
use crate::schema::{TypeId, Types};
use crate::value::{Key, Map, Value};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use compact_str::CompactString;
use jiff::Timestamp;
use std::borrow::Cow;

/// Why bytes are no value of the type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    #[error("EOF")]
    Empty,
    #[error("unexpected EOF")]
    Truncated,
    #[error("cbor: exceeded max nested level {MAX_DEPTH}")]
    TooDeep,
    #[error("cbor: {0}")]
    Syntax(String),
    #[error("cbor: data item of cbor type {major} is not accepted by protocol: {what}")]
    Unacceptable { major: &'static str, what: String },
    #[error("cbor: found duplicate map key {key:?} at map element index {index}")]
    DuplicateKey { key: String, index: usize },
    #[error("cbor: {length} bytes of extraneous data starting at index {index}")]
    Extraneous { length: usize, index: usize },
    #[error(transparent)]
    Type(#[from] DecodeError),
}

/// Decodes one document of type `id`.
pub fn decode(bytes: &[u8], types: &Types, id: TypeId) -> Result<Decoded, CborError> {
    Ok(json::conform(&decode_any(bytes)?, types, id)?)
}

/// Decodes one document of any shape.
pub fn decode_any(bytes: &[u8]) -> Result<Value, CborError> {
    let (value, length) = decode_prefix(bytes)?;
    match bytes.len() - length {
        0 => Ok(value),
        rest => Err(CborError::Extraneous {
            length: rest,
            index: length,
        }),
    }
}

/// Decodes the first document of a sequence; its length comes with it.
pub fn decode_prefix(bytes: &[u8]) -> Result<(Value, usize), CborError> {
    if bytes.is_empty() {
        return Err(CborError::Empty);
    }
    let mut reader = Reader {
        bytes,
        at: 0,
        depth: 0,
    };
    if bytes.starts_with(MAGIC) {
        reader.at = MAGIC.len();
    }
    let value = reader.item(Later::Text)?;
    Ok((value, reader.at))
}

/// What becomes of byte strings, as the tags around them say.
#[derive(Clone, Copy)]
enum Later {
    Text,
    Base64Url,
    Base64,
    Base16,
}

/// The kinds of data items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Major {
    Unsigned,
    Negative,
    Bytes,
    Text,
    Array,
    Map,
    Tag,
    Simple,
}

impl Major {
    fn of(byte: u8) -> Self {
        match byte >> 5 {
            0 => Self::Unsigned,
            1 => Self::Negative,
            2 => Self::Bytes,
            3 => Self::Text,
            4 => Self::Array,
            5 => Self::Map,
            6 => Self::Tag,
            _ => Self::Simple,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "positive integer",
            Self::Negative => "negative integer",
            Self::Bytes => "byte string",
            Self::Text => "UTF-8 text string",
            Self::Array => "array",
            Self::Map => "map",
            Self::Tag => "tag",
            Self::Simple => "primitives",
        }
    }
}

/// What a data item begins with.
struct Head {
    major: Major,
    /// The low five bits of the first byte.
    info: u8,
    /// `None` for what ends with a break.
    argument: Option<u64>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn item(&mut self, later: Later) -> Result<Value, CborError> {
        let head = self.head()?;
        match head.major {
            Major::Unsigned => {
                let int = head.argument.unwrap_or_default();
                i64::try_from(int)
                    .map(Value::Int)
                    .map_err(|_| overflows(head.major, &int.to_string()))
            }
            Major::Negative => {
                let int = head.argument.unwrap_or_default();
                i64::try_from(int)
                    .map(|int| Value::Int(!int))
                    .map_err(|_| overflows(head.major, &(-1 - i128::from(int)).to_string()))
            }
            Major::Bytes | Major::Text => {
                let text = self.string(&head)?;
                Ok(Value::String(match head.major {
                    Major::Text => into_utf8(text)?,
                    _ => later.text(&text),
                }))
            }
            Major::Array => self.nested(|reader| reader.array(head.argument, later)),
            Major::Map => self.nested(|reader| reader.map(head.argument, later)),
            Major::Tag => self.nested(|reader| reader.tagged(head.argument.unwrap_or_default(), later)),
            Major::Simple => simple(&head),
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CborError>) -> Result<T, CborError> {
        if self.depth == MAX_DEPTH {
            return Err(CborError::TooDeep);
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self, length: Option<u64>, later: Later) -> Result<Value, CborError> {
        let mut items = Vec::new();
        while self.goes_on(length, items.len())? {
            items.push(self.item(later)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, length: Option<u64>, later: Later) -> Result<Value, CborError> {
        let mut entries: Vec<(Key, Value)> = Vec::new();
        while self.goes_on(length, entries.len())? {
            let key = self.key(later)?;
            if length.is_none() && self.bytes.get(self.at) == Some(&BREAK) {
                return Err(unexpected_break());
            }
            entries.push((key, self.item(later)?));
        }
        if let Some(index) = first_repeated(&entries) {
            return Err(CborError::DuplicateKey {
                key: entries[index].0.to_string(),
                index,
            });
        }
        Ok(Value::Object(Map::from_unsorted(entries, |_| {})))
    }

    fn key(&mut self, later: Later) -> Result<Key, CborError> {
        let head = self.head()?;
        match head.major {
            Major::Bytes => {
                let text = self.string(&head)?;
                Ok(Key::from(later.text(&text)))
            }
            Major::Text => {
                let text = self.string(&head)?;
                Ok(Key::from(into_utf8(text)?))
            }
            other => Err(CborError::Syntax(format!(
                "cannot unmarshal {} into Go value of type string",
                other.name()
            ))),
        }
    }

    /// Whether another item of a list or object follows; a break is passed over.
    fn goes_on(&mut self, length: Option<u64>, seen: usize) -> Result<bool, CborError> {
        match length {
            Some(length) => Ok((seen as u64) < length),
            None => match self.bytes.get(self.at) {
                None => Err(CborError::Truncated),
                Some(&BREAK) => {
                    self.at += 1;
                    Ok(false)
                }
                Some(_) => Ok(true),
            },
        }
    }

    fn tagged(&mut self, tag: u64, later: Later) -> Result<Value, CborError> {
        let next = Major::of(*self.bytes.get(self.at).ok_or(CborError::Truncated)?);
        let must = |good: bool, what: &str| {
            good.then_some(()).ok_or_else(|| {
                CborError::Syntax(format!(
                    "tag number {tag} must be followed by {what}, got {}",
                    next.name()
                ))
            })
        };
        match tag {
            0 => {
                must(next == Major::Text, "text string")?;
                let text = self.item(Later::Text)?;
                let good = text.as_str().is_some_and(|t| t.parse::<Timestamp>().is_ok());
                good.then_some(text).ok_or_else(|| {
                    CborError::Syntax("cannot set string for time.Time: not RFC 3339".to_owned())
                })
            }
            1 => {
                let number = matches!(self.bytes.get(self.at), Some(0x00..=0x3f | 0xf9..=0xfb));
                must(number, "integer or floating-point number")?;
                let time = match self.item(Later::Text)? {
                    Value::Int(seconds) => Timestamp::from_second(seconds).ok(),
                    Value::Float(seconds) => Timestamp::from_nanosecond((seconds * 1e9).round() as i128).ok(),
                    _ => None,
                };
                let time = time.ok_or_else(|| {
                    CborError::Syntax("cannot unmarshal tag into Go value of type time.Time".to_owned())
                })?;
                Ok(Value::from(time.to_string()))
            }
            2 | 3 => Err(CborError::Unacceptable {
                major: Major::Tag.name(),
                what: "bignum".to_owned(),
            }),
            21 => self.item(Later::Base64Url),
            22 => self.item(Later::Base64),
            23 => self.item(Later::Base16),
            _ => self.item(later),
        }
    }

    /// The content of a string of either kind, its pieces put together.
    fn string(&mut self, head: &Head) -> Result<Cow<'a, [u8]>, CborError> {
        if let Some(length) = head.argument {
            return self.take(length).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        loop {
            let byte = *self.bytes.get(self.at).ok_or(CborError::Truncated)?;
            if byte == BREAK {
                self.at += 1;
                return Ok(Cow::Owned(whole));
            }
            let (wanted, found) = (head.major.name(), Major::of(byte));
            if found != head.major {
                return Err(CborError::Syntax(format!(
                    "wrong element type {} for indefinite-length {wanted}",
                    found.name()
                )));
            }
            let Some(length) = self.head()?.argument else {
                return Err(CborError::Syntax(format!(
                    "indefinite-length {wanted} chunk is not definite-length"
                )));
            };
            let piece = self.take(length)?;
            if head.major == Major::Text {
                into_utf8(Cow::Borrowed(piece))?;
            }
            whole.extend_from_slice(piece);
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let rest = &self.bytes[self.at..];
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= rest.len());
        let length = length.ok_or(CborError::Truncated)?;
        self.at += length;
        Ok(&rest[..length])
    }

    fn head(&mut self) -> Result<Head, CborError> {
        let first = *self.bytes.get(self.at).ok_or(CborError::Truncated)?;
        self.at += 1;
        let (major, info) = (Major::of(first), first & 0x1f);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            }
            31 if matches!(major, Major::Bytes | Major::Text | Major::Array | Major::Map) => None,
            31 if major == Major::Simple => return Err(unexpected_break()),
            _ => {
                return Err(CborError::Syntax(format!(
                    "invalid additional information {info} for type {}",
                    major.name()
                )));
            }
        };
        Ok(Head {
            major,
            info,
            argument,
        })
    }
}

const BREAK: u8 = 0xff;

impl Later {
    fn text(self, bytes: &[u8]) -> CompactString {
        match self {
            // Go's texts may hold anything; what is no UTF-8 is replaced when they are written.
            Self::Text => String::from_utf8_lossy(bytes).into(),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes).into(),
            Self::Base64 => STANDARD.encode(bytes).into(),
            Self::Base16 => bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                .into(),
        }
    }
}

fn simple(head: &Head) -> Result<Value, CborError> {
    let bits = head.argument.unwrap_or_default();
    let number = match head.info {
        20 => return Ok(Value::Bool(false)),
        21 => return Ok(Value::Bool(true)),
        22 => return Ok(Value::Null),
        // The argument is as long as the number.
        25 => from_half(bits as u16),
        26 => f64::from(f32::from_bits(bits as u32)),
        27 => f64::from_bits(bits),
        24 if bits < 32 => {
            return Err(CborError::Syntax(format!(
                "invalid simple value {bits} for type {}",
                head.major.name()
            )));
        }
        _ => return Err(unacceptable(format!("simple value {bits} is not recognized"))),
    };
    if number.is_nan() {
        return Err(unacceptable("floating-point NaN".to_owned()));
    }
    if number.is_infinite() {
        return Err(unacceptable("floating-point infinity".to_owned()));
    }
    Ok(Value::Float(number))
}

fn from_half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match (bits >> 10) & 0x1f {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The place of the first key that stood before.
fn first_repeated(entries: &[(Key, Value)]) -> Option<usize> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|a, b| entries[*a].0.cmp(&entries[*b].0));
    let repeated = order
        .windows(2)
        .filter(|pair| entries[pair[0]].0 == entries[pair[1]].0);
    repeated.map(|pair| pair[1]).min()
}

fn into_utf8(bytes: Cow<'_, [u8]>) -> Result<CompactString, CborError> {
    CompactString::from_utf8(bytes).map_err(|_| CborError::Syntax("invalid UTF-8 string".to_owned()))
}

fn overflows(major: Major, number: &str) -> CborError {
    CborError::Syntax(format!(
        "cannot unmarshal {} into Go value of type int64 ({number} overflows Go's int64)",
        major.name()
    ))
}

fn unacceptable(what: String) -> CborError {
    CborError::Unacceptable {
        major: Major::Simple.name(),
        what,
    }
}

fn unexpected_break() -> CborError {
    CborError::Syntax("unexpected \"break\" code".to_owned())
}
