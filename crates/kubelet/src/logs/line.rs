//! One line of a container's log: `2026-01-02T03:04:05.000000006Z stdout F text`.
//!
//! The tag `P` marks a part of a longer line; its newline belongs to the format, not to the text.

use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: Timestamp,
    /// The time as it is written.
    pub time_text: &'a str,
    pub stream: Stream,
    /// With its newline, unless the line is a part of a longer one.
    pub text: &'a [u8],
}

/// Reads a line; nothing when it is not in the format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = cut(line)?;
    let time_text = std::str::from_utf8(time).ok()?;
    let time: Timestamp = time_text.parse().ok()?;
    let (stream, rest) = cut(rest)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let (tags, text) = cut(rest)?;
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    let text = if partial {
        text.strip_suffix(b"\n").unwrap_or(text)
    } else {
        text
    };
    Some(Line {
        time,
        time_text,
        stream,
        text,
    })
}

fn cut(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let parse = |text: &'static str| {
            parse(text.as_bytes()).map(|l| (l.stream, String::from_utf8_lossy(l.text).into_owned()))
        };
        let at = "2026-01-02T03:04:05.000000006Z";
        let cases = [
            (
                format!("{at} stdout F hello world\n"),
                Some((Stream::Stdout, "hello world\n")),
            ),
            (format!("{at} stderr P part\n"), Some((Stream::Stderr, "part"))),
            (format!("{at} stdout P:x part\n"), Some((Stream::Stdout, "part"))),
            (format!("{at} stdout F \n"), Some((Stream::Stdout, "\n"))),
            (format!("{at} other F x\n"), None),
            ("nonsense\n".to_owned(), None),
            (String::new(), None),
        ];
        for (text, expected) in cases {
            let text: &'static str = text.leak();
            assert_eq!(parse(text), expected.map(|(s, t)| (s, t.to_owned())), "{text}");
        }
    }
}
