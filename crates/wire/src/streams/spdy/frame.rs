//! Frames: eight bytes of head, then the content.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Headers, Packer, Unpacker};

/// A frame longer than this is not from a client of ours.
const MAX_FRAME: usize = 1 << 20;
const VERSION: u16 = 3;
const LAST: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;

/// The status a stream is reset with: the peer has no more use for it.
const CANCEL: u32 = 5;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: u32,
        last: bool,
        headers: Headers,
    },
    Reply {
        stream: u32,
        last: bool,
    },
    Data {
        stream: u32,
        last: bool,
        data: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, windows, priorities: nothing we act on.
    Other,
}

/// Cuts the next frame from what has come. `None` when it is not whole yet.
pub(super) fn decode(buffer: &mut BytesMut, unpacker: &mut Unpacker) -> io::Result<Option<Frame>> {
    if buffer.len() < 8 {
        return Ok(None);
    }
    let flags = buffer[4];
    let len = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
    if len > MAX_FRAME {
        return Err(invalid("a SPDY frame too long"));
    }
    if buffer.len() < 8 + len {
        buffer.reserve(8 + len - buffer.len());
        return Ok(None);
    }
    let word = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    buffer.advance(8);
    let mut body = buffer.split_to(len).freeze();
    let last = flags & LAST != 0;
    if word & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data {
            stream: word,
            last,
            data: body,
        }));
    }
    if (word >> 16) & 0x7fff != u32::from(VERSION) {
        return Err(invalid("another version of SPDY"));
    }
    let frame = match word as u16 {
        SYN_STREAM => {
            let stream = number(&mut body)?;
            // The associated stream, priority and slot say nothing here.
            if body.len() < 6 {
                return Err(invalid("a SPDY frame cut short"));
            }
            body.advance(6);
            Frame::Open {
                stream,
                last,
                headers: unpacker.unpack(&body)?,
            }
        }
        SYN_REPLY => {
            let stream = number(&mut body)?;
            unpacker.unpack(&body)?;
            Frame::Reply { stream, last }
        }
        HEADERS => {
            number(&mut body)?;
            unpacker.unpack(&body)?;
            Frame::Other
        }
        RST_STREAM => Frame::Reset {
            stream: number(&mut body)?,
        },
        PING => Frame::Ping {
            id: number(&mut body)?,
        },
        GO_AWAY => Frame::GoAway,
        _ => Frame::Other,
    };
    Ok(Some(frame))
}

pub(super) fn open(
    out: &mut BytesMut,
    packer: &mut Packer,
    stream: u32,
    headers: &[(String, String)],
) -> io::Result<()> {
    let block = packer.pack(headers)?;
    control(out, SYN_STREAM, 0, 10 + block.len());
    out.put_u32(stream);
    out.put_u32(0);
    out.put_u16(0);
    out.put_slice(&block);
    Ok(())
}

pub(super) fn reply(out: &mut BytesMut, packer: &mut Packer, stream: u32) -> io::Result<()> {
    let block = packer.pack(&[])?;
    control(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(&block);
    Ok(())
}

pub(super) fn data(out: &mut BytesMut, stream: u32, data: &[u8], last: bool) {
    out.put_u32(stream);
    out.put_u32(u32::from(if last { LAST } else { 0 }) << 24 | data.len() as u32);
    out.put_slice(data);
}

pub(super) fn reset(out: &mut BytesMut, stream: u32) {
    control(out, RST_STREAM, 0, 8);
    out.put_u32(stream);
    out.put_u32(CANCEL);
}

pub(super) fn ping(out: &mut BytesMut, id: &[u8]) {
    control(out, PING, 0, id.len());
    out.put_slice(id);
}

pub(super) fn go_away(out: &mut BytesMut, last_stream: u32) {
    control(out, GO_AWAY, 0, 8);
    out.put_u32(last_stream);
    out.put_u32(0);
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, len: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | len as u32);
}

fn number(body: &mut Bytes) -> io::Result<u32> {
    match body.len() >= 4 {
        true => Ok(body.get_u32() & 0x7fff_ffff),
        false => Err(invalid("a SPDY frame cut short")),
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_there_and_back_in_any_pieces() {
        let mut packer = Packer::new();
        let mut bytes = BytesMut::new();
        let headers = vec![("streamtype".to_owned(), "error".to_owned())];
        open(&mut bytes, &mut packer, 1, &headers).unwrap();
        reply(&mut bytes, &mut packer, 1).unwrap();
        data(&mut bytes, 1, b"hello", false);
        data(&mut bytes, 1, b"", true);
        reset(&mut bytes, 3);
        ping(&mut bytes, &7_u32.to_be_bytes());
        go_away(&mut bytes, 3);
        let mut unpacker = Unpacker::new();
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.put_u8(byte);
            seen.extend(decode(&mut buffer, &mut unpacker).unwrap());
        }
        let data = |text: &'static [u8], last| Frame::Data {
            stream: 1,
            last,
            data: Bytes::from_static(text),
        };
        assert_eq!(
            seen,
            [
                Frame::Open {
                    stream: 1,
                    last: false,
                    headers
                },
                Frame::Reply {
                    stream: 1,
                    last: false
                },
                data(b"hello", false),
                data(b"", true),
                Frame::Reset { stream: 3 },
                Frame::Ping { id: 7 },
                Frame::GoAway,
            ]
        );
    }

    #[test]
    fn hostile_frames_are_refused() {
        let cases: [&[u8]; 4] = [
            &[0x80, 2, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
            &[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0],
            &[0x80, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0],
        ];
        for bytes in cases {
            assert!(
                decode(&mut BytesMut::from(bytes), &mut Unpacker::new()).is_err(),
                "{bytes:?}"
            );
        }
    }
}
