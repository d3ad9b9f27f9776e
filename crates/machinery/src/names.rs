//! What names may look like, with upstream's messages: each function returns what is wrong, nothing when all is well.

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = too_many_characters(value, 63);
    if is_label(value, false) {
        return wrong;
    }
    if value.split('.').all(|label| is_label(label, false)) {
        wrong.push("must not contain dots".to_owned());
    } else {
        wrong.push(regex_message(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
             and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        ));
    }
    wrong
}

/// Labels joined by dots, at most 253 bytes.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_many_characters(value, 253);
    wrong.extend(no_subdomain(value));
    wrong
}

fn no_subdomain(value: &str) -> Option<String> {
    if value.split('.').all(|label| is_label(label, false)) {
        return None;
    }
    Some(regex_message(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
         start and end with an alphanumeric character",
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        &["example.com"],
    ))
}

/// `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = too_many_characters(value, 63);
    if !is_label(value, true) {
        wrong.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// A wildcard subdomain: `*.example.com`.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_many_characters(value, 253);
    let rest = value.strip_prefix("*.").unwrap_or("");
    if rest.is_empty() || !rest.split('.').all(|label| is_label(label, false)) {
        wrong.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    wrong
}

/// `[prefix/]name`: label keys, annotation keys, resource names.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                let messages = too_long(prefix, 253).into_iter().chain(no_subdomain(prefix));
                wrong.extend(messages.map(|message| format!("prefix part {message}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                qualified_message("")
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else {
        wrong.extend(
            too_long(name, 63)
                .into_iter()
                .map(|message| format!("name part {message}")),
        );
    }
    if !is_qualified_part(name) {
        wrong.push(qualified_message("name part "));
    }
    wrong
}

/// Empty, or like the name part of a qualified name.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, 63);
    if !value.is_empty() && !is_qualified_part(value) {
        wrong.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// A Service's or container's port name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 15 {
        wrong.push("must be no more than 15 characters".to_owned());
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// An environment variable: any printable ASCII but `=`.
pub fn env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|c| (0x20..=0x7e).contains(&c) && c != b'=') {
        return Vec::new();
    }
    let why =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![why.to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut wrong = too_many_characters(value, 253);
    if value.is_empty()
        || !value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    {
        wrong.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." {
        wrong.push("must not be '.'".to_owned());
    } else if value == ".." {
        wrong.push("must not be '..'".to_owned());
    } else if value.starts_with("..") {
        wrong.push("must not start with '..'".to_owned());
    }
    wrong
}

/// What a name may be that stands in a URL path; with `prefix`, a part of one.
pub fn path_segment(value: &str, prefix: bool) -> Vec<String> {
    if !prefix && (value == "." || value == "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| value.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Vec<String> {
    let mut bytes = value.bytes();
    let good = bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if good {
        return Vec::new();
    }
    vec![regex_message(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// How a kind's names are checked; with `prefix`, a `generateName` is (its end is masked, as upstream).
pub type NameRule = fn(value: &str, prefix: bool) -> Vec<String>;

/// Most kinds.
pub fn subdomain_rule(value: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&masked(value, prefix))
}

/// Namespaces and others that become a DNS label.
pub fn label_rule(value: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&masked(value, prefix))
}

/// Services.
pub fn dns1035_rule(value: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&masked(value, prefix))
}

/// Kinds whose names hold colons, such as RBAC's.
pub fn path_segment_rule(value: &str, prefix: bool) -> Vec<String> {
    path_segment(value, prefix)
}

/// A trailing dash of a prefix is fine: something follows it.
fn masked(value: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    if prefix && value.len() > 1 && value.ends_with('-') {
        format!("{}a", &value[..value.len() - 1]).into()
    } else {
        value.into()
    }
}

fn is_label(value: &str, alphabetic_start: bool) -> bool {
    let bytes = value.as_bytes();
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            plain(*last)
                && (if alphabetic_start {
                    first.is_ascii_lowercase()
                } else {
                    plain(*first)
                })
                && bytes.iter().all(|c| plain(*c) || *c == b'-')
        }
        _ => false,
    }
}

fn is_qualified_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn qualified_message(prefix: &str) -> String {
    let message = regex_message(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character",
        "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
        &["MyName", "my.name", "123-abc"],
    );
    format!("{prefix}{message}")
}

/// Upstream counts bytes, whatever it calls them.
fn too_many_characters(value: &str, max: usize) -> Vec<String> {
    if value.len() > max {
        vec![format!("must be no more than {max} characters")]
    } else {
        Vec::new()
    }
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max {
        vec![format!("must be no more than {max} bytes")]
    } else {
        Vec::new()
    }
}

fn regex_message(message: &str, pattern: &str, examples: &[&str]) -> String {
    // The comma before "or" is upstream's.
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_upstream_judges_them() {
        for (check, good, bad) in [
            (dns1123_label as fn(&str) -> Vec<String>, "a-1", "A"),
            (dns1123_label, "1", "-a"),
            (dns1123_subdomain, "a.b-c.d", "a..b"),
            (dns1035_label, "a1", "1a"),
            (qualified_name, "example.com/My_Name", "a/b/c"),
            (qualified_name, "x", "/x"),
            (label_value, "", "-"),
            (port_name, "http-2", "80"),
            (env_var_name, "A.b-c", "a=b"),
            (config_map_key, "a.b_C-1", ".."),
        ] {
            assert!(check(good).is_empty(), "{good}: {:?}", check(good));
            assert!(!check(bad).is_empty(), "{bad}");
        }
        assert!(subdomain_rule("abc-", true).is_empty() && !subdomain_rule("abc-", false).is_empty());
    }
}
