//! Header blocks: names and values, packed with zlib over a dictionary both sides know.
//!
//! One packer and one unpacker live as long as the connection: every block is packed in the light of all
//! before it, so each must go through, in order, even when nobody wants its content.

use std::io;
use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// No block unpacks to more.
const MAX_BLOCK: usize = 64 * 1024;

/// The first part of the dictionary: each word behind its length.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection",
    "content-base", "content-encoding", "content-language", "content-length", "content-location",
    "content-md5", "content-range", "content-type", "date", "etag", "expect", "expires", "from", "host",
    "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified",
    "location", "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range",
    "referer", "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    "vary", "via", "warning", "www-authenticate", "method", "get", "status", "200 OK", "version",
    "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin",
];

/// The second part, run together.
#[rustfmt::skip]
const TEXT: &[&str] = &[
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Una",
    "uthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service ",
    "UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, F",
    "ri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,applicati",
    "on/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-",
    "8charset=iso-8859-1,utf-,*,enq=0.",
];

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    TEXT.iter()
        .for_each(|text| bytes.extend_from_slice(text.as_bytes()));
    bytes
});

pub(super) type Headers = Vec<(String, String)>;

/// Packs the headers a connection sends.
#[derive(Debug)]
pub(super) struct Packer(Compress);

/// Unpacks those it receives.
#[derive(Debug)]
pub(super) struct Unpacker(Decompress);

impl Packer {
    pub(super) fn new() -> Packer {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .expect("a fresh stream takes a dictionary");
        Packer(compress)
    }

    pub(super) fn pack(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        put(&mut plain, headers.len());
        for (name, value) in headers {
            for text in [&name.to_ascii_lowercase(), value] {
                put(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            packed.reserve(256);
            self.0
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)?;
            // Room left means that everything is out.
            if packed.len() < packed.capacity() {
                return Ok(packed);
            }
        }
    }
}

impl Unpacker {
    pub(super) fn new() -> Unpacker {
        Unpacker(Decompress::new(true))
    }

    pub(super) fn unpack(&mut self, packed: &[u8]) -> io::Result<Headers> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(packed.len());
            plain.reserve(1024);
            let status = match self
                .0
                .decompress_vec(&packed[done..], &mut plain, FlushDecompress::Sync)
            {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY)?;
                    continue;
                }
                other => other?,
            };
            if plain.len() > MAX_BLOCK {
                return Err(invalid("a header block unpacks to too much"));
            }
            let all_in = self.0.total_in() - start == packed.len() as u64;
            if (all_in && plain.len() < plain.capacity()) || status == Status::StreamEnd {
                return parse(&plain);
            }
            if status == Status::BufError && !all_in {
                return Err(invalid("a header block that does not unpack"));
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> io::Result<Headers> {
    let count = take_number(&mut plain)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut plain)?;
        let value = take_text(&mut plain)?;
        // A header with several values has them in one, with zero bytes between.
        headers.extend(
            value
                .split('\0')
                .map(|value| (name.to_ascii_lowercase(), value.to_owned())),
        );
    }
    Ok(headers)
}

fn put(plain: &mut Vec<u8>, len: usize) {
    plain.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

fn take_number(plain: &mut &[u8]) -> io::Result<usize> {
    let (head, rest) = plain
        .split_first_chunk()
        .ok_or_else(|| invalid("a header block cut short"))?;
    *plain = rest;
    Ok(u32::from_be_bytes(*head) as usize)
}

fn take_text(plain: &mut &[u8]) -> io::Result<String> {
    let len = take_number(plain)?;
    let (text, rest) = plain
        .split_at_checked(len)
        .ok_or_else(|| invalid("a header block cut short"))?;
    *plain = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_standards() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The check number by which zlib names a dictionary.
        let (a, b) = DICTIONARY.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_go_there_and_back() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for round in 0..50 {
            let headers: Headers = (0..round)
                .map(|n| {
                    (
                        format!("name-{n}"),
                        format!("value {round} {}", "x".repeat(n * 7)),
                    )
                })
                .collect();
            let packed = packer.pack(&headers).unwrap();
            assert_eq!(unpacker.unpack(&packed).unwrap(), headers, "{round}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Unpacker::new().unpack(b"no zlib at all").is_err());
        let mut short = Packer::new();
        let packed = short.pack(&[("a".into(), "b".into())]).unwrap();
        assert!(Unpacker::new().unpack(&packed[..packed.len() / 2]).is_err());
        let bomb = Packer::new().pack(&[("a".into(), "x".repeat(1 << 20))]).unwrap();
        assert!(Unpacker::new().unpack(&bomb).is_err());
    }
}
