//! Links of proxied pages: the attributes of HTML that hold URLs, rewritten to lead through the proxy.
//!
//! Only start tags are looked at, in one pass; text, comments and scripts stay as they are. A URL is rewritten if it
//! is an absolute path, on no host or on the backend's own.

/// Elements and their attributes that hold a URL.
const LINKS: [(&str, &[&str]); 22] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("script", &["src"]),
    ("video", &["poster", "src"]),
];
/// The same attributes of elements that hold nothing else.
const MORE: [(&str, &[&str]); 3] = [("ins", &["cite"]), ("q", &["cite"]), ("source", &["src"])];

/// The page with its links under `prefix`.
pub(super) fn rewrite(page: &str, prefix: &str, hosts: &[String]) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("<!--") {
            let end = rest.find("-->").map_or(rest.len(), |end| end + 3);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let end = tag_end(rest);
        let (tag, after) = rest.split_at(end);
        let name = tag_name(tag);
        rewrite_tag(tag, &name, prefix, hosts, &mut out);
        rest = after;
        if name == "script" || name == "style" {
            // What stands in these is no markup.
            let close = format!("</{name}");
            let end = find_ignoring_case(rest, &close).unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// A URL as it is to be seen by the client.
pub(super) fn rewrite_url(url: &str, prefix: &str, hosts: &[String]) -> String {
    let (authority, path) = match url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .or_else(|| url.strip_prefix("//"))
    {
        Some(rest) => {
            let slash = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            rest.split_at(slash)
        }
        None => ("", url),
    };
    let ours = authority.is_empty() || hosts.iter().any(|h| h == authority);
    if !ours || !path.starts_with('/') {
        return url.to_owned();
    }
    // With a host that is the client's own name for us, it stays.
    let kept = if !authority.is_empty() && hosts.last().is_some_and(|h| h == authority) {
        &url[..url.len() - path.len()]
    } else {
        ""
    };
    if path.starts_with(prefix) {
        return format!("{kept}{path}");
    }
    format!("{kept}{prefix}{path}")
}

/// Just after the tag's `>`, which quoted values may hold too.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate().skip(1) {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') => return at + 1,
            // Not a tag after all, but a sign in a text.
            (None, b'<') => return at,
            _ => {}
        }
    }
    tag.len()
}

fn tag_name(tag: &str) -> String {
    tag[1..]
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase()
}

fn find_ignoring_case(text: &str, what: &str) -> Option<usize> {
    let (text, what) = (text.as_bytes(), what.as_bytes());
    text.windows(what.len())
        .position(|window| window.eq_ignore_ascii_case(what))
}

fn rewrite_tag(tag: &str, name: &str, prefix: &str, hosts: &[String], out: &mut String) {
    let found = LINKS.iter().chain(&MORE).find(|(element, _)| *element == name);
    let Some((_, attributes)) = found else {
        out.push_str(tag);
        return;
    };
    let mut at = 0;
    let bytes = tag.as_bytes();
    while let Some(equals) = tag[at..].find('=').map(|e| e + at) {
        let key = tag[at..equals]
            .trim_end()
            .rsplit(|c: char| c.is_ascii_whitespace() || c == '"' || c == '\'')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let mut start = equals + 1;
        while bytes.get(start).is_some_and(u8::is_ascii_whitespace) {
            start += 1;
        }
        let (start, end) = match bytes.get(start) {
            Some(&quote @ (b'"' | b'\'')) => {
                let from = start + 1;
                let length = tag[from..].find(char::from(quote));
                (from, length.map_or(tag.len(), |l| from + l))
            }
            _ => {
                let length = tag[start..].find(|c: char| c.is_ascii_whitespace() || c == '>');
                (start, length.map_or(tag.len(), |l| start + l))
            }
        };
        out.push_str(&tag[at..start]);
        let value = &tag[start..end];
        if attributes.contains(&key.as_str()) {
            out.push_str(&rewrite_url(value, prefix, hosts));
        } else {
            out.push_str(value);
        }
        // A closing quote belongs to what follows.
        at = end;
        if matches!(bytes.get(at), Some(b'"' | b'\'')) {
            out.push(char::from(bytes[at]));
            at += 1;
        }
    }
    out.push_str(&tag[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/services/s/proxy";

    fn check(page: &str, want: &str) {
        let hosts = ["10.0.0.1:80".to_owned(), "localhost:8001".to_owned()];
        let want = want.replace('^', PREFIX);
        assert_eq!(rewrite(page, PREFIX, &hosts), want, "{page}");
    }

    #[test]
    fn links_lead_through_the_proxy() {
        check(r#"<a href="/x">test</a>"#, r#"<a href="^/x">test</a>"#);
        check("<A class='b' HREF='/x?y=1>2'>", "<A class='b' HREF='^/x?y=1>2'>");
        check("<img src=/i.png alt=/no>", "<img src=^/i.png alt=/no>");
        check(r#"<a href="x">"#, r#"<a href="x">"#);
        check(r#"<a href="http://other/x">"#, r#"<a href="http://other/x">"#);
        check(r#"<a href="http://10.0.0.1:80/x">"#, r#"<a href="^/x">"#);
        check(
            r#"<a href="http://localhost:8001/x">"#,
            r#"<a href="http://localhost:8001^/x">"#,
        );
        check(
            r#"<a href="^/x">"#.replace('^', PREFIX).as_str(),
            r#"<a href="^/x">"#,
        );
    }

    #[test]
    fn what_is_no_link_stays() {
        for page in [
            "1 < 2 and 3 > 2",
            r#"<p title="/x">"#,
            r#"<!-- <a href="/x"> -->"#,
            r#"<script>var a = '<a href="/x">';</script>"#,
            "<a href=",
            "<",
            "",
        ] {
            check(page, page);
        }
    }
}
