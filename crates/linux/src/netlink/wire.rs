//! The bytes of netlink: messages made of a header, a family header and attributes.
//!
//! Used where no encoder exists (nf_tables, conntrack); routing messages use `netlink-packet-route`.
//! Integers in attributes are big-endian for netfilter; strings end with a zero; everything is padded to
//! four bytes.

pub(crate) const HEADER: usize = 16;
pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLM_F_CAPPED: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A growing run of messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// Where something with a length field began.
#[derive(Clone, Copy)]
pub(crate) struct Mark(usize);

impl Writer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn begin(&mut self, kind: u16, flags: u16, sequence: u32) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        mark
    }

    pub(crate) fn end(&mut self, mark: Mark) {
        let length = (self.bytes.len() - mark.0) as u32;
        self.bytes[mark.0..mark.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        self.bytes
            .extend_from_slice(&((payload.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(payload);
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.bytes
            .extend_from_slice(&((text.len() + 5) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.raw(&[0]);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// The messages of one datagram; ends at the first that is cut short.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let whole = bytes.get(..length)?;
        let message = Message {
            kind: u16::from_ne_bytes(whole.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(whole.get(6..8)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(whole.get(8..12)?.try_into().ok()?),
            payload: whole.get(HEADER..)?,
            whole,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The attributes in a payload as `(type, value)`; ends at the first that is cut short.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
}

pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut writer = Writer::default();
        let mark = writer.begin(7, 5, 42);
        writer.raw(&[2, 0, 0, 0]);
        writer.text(1, "abcd");
        writer.nest(2, |w| {
            w.u8(3, 9);
            w.be32(4, 0x0102_0304);
        });
        writer.end(mark);
        let mark = writer.begin(8, 0, 43);
        writer.end(mark);
        let bytes = writer.into_bytes();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (7, 5, 42));
        let body = &all[0].payload[4..];
        assert_eq!(text(attribute(body, 1).unwrap()), "abcd");
        let nested = attribute(body, 2).unwrap();
        assert_eq!(attribute(nested, 3).unwrap(), [9]);
        assert_eq!(be32(attribute(nested, 4).unwrap()), Some(0x0102_0304));
        assert!(
            messages(&bytes[..20]).next().is_none(),
            "a cut message is not read"
        );
    }
}
