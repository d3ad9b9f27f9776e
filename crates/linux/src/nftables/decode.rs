//! Requests for dumps, and what comes back.

use super::encode::SUBSYSTEM;
use super::{Element, ElementData, Key, Verdict};
use crate::netlink::wire::{self, NLM_F_ACK, NLM_F_REQUEST, Writer, attribute, attributes, text};

/// A request to list things; with an acknowledgement so that a single answer has an end too.
pub(super) fn request(
    kind: u16,
    flags: u16,
    of: u8,
    sequence: u32,
    fill: impl FnOnce(&mut Writer),
) -> Vec<u8> {
    let mut w = Writer::default();
    let mark = w.begin(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence);
    w.raw(&[of, 0, 0, 0]);
    fill(&mut w);
    w.end(mark);
    w.into_bytes()
}

/// A message's attributes, after the four bytes of the family header.
pub(super) fn body(payload: &[u8]) -> &[u8] {
    payload.get(4..).unwrap_or(&[])
}

pub(super) fn named(body: &[u8], kind: u16) -> String {
    attribute(body, kind).map(text).unwrap_or_default()
}

pub(super) fn read_hook(body: &[u8]) -> Option<(u32, i32)> {
    let hook = attribute(body, 4)?;
    Some((
        wire::be32(attribute(hook, 1)?)?,
        wire::be32(attribute(hook, 2)?)? as i32,
    ))
}

pub(super) fn read_rule(body: &[u8]) -> Vec<String> {
    let expressions = attribute(body, 4).unwrap_or(&[]);
    attributes(expressions)
        .map(|(_, expression)| named(expression, 1))
        .collect()
}

pub(super) fn read_elements(body: &[u8]) -> Vec<Element> {
    let list = attribute(body, 3).unwrap_or(&[]);
    attributes(list)
        .filter_map(|(_, element)| read_element(element))
        .collect()
}

fn read_element(element: &[u8]) -> Option<Element> {
    // The mark of a range's end is not an element.
    if attribute(element, 3)
        .and_then(wire::be32)
        .is_some_and(|flags| flags & 1 != 0)
    {
        return None;
    }
    let value = |kind| attribute(attribute(element, kind)?, 1).map(Key::from_bytes);
    let verdict = || read_verdict(attribute(attribute(element, 2)?, 2)?);
    let data = match (value(2), verdict()) {
        (Some(value), _) => ElementData::Value(value),
        (None, Some(verdict)) => ElementData::Verdict(verdict),
        (None, None) => ElementData::None,
    };
    Some(Element {
        key: value(1)?,
        end: value(10),
        data,
    })
}

fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let chain = || named(data, 2);
    Some(match wire::be32(attribute(data, 1)?)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        _ => return None,
    })
}
