//! The query of a request, and the options of each verb that stand in it.

use machinery::selector::{FieldSelector, LabelSelector};
use machinery::status::ApiError;

/// The pairs of a query string, decoded, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_component(key), decode_component(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter that is present and not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).filter(|v| !v.is_empty())
    }

    /// The first value of a parameter, also an empty one.
    pub fn raw(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean parameter: present and neither `0` nor `false`, as upstream reads them.
    pub fn flag(&self, key: &str) -> bool {
        self.raw(key)
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A boolean that can be absent.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.raw(key).map(|_| self.flag(key))
    }

    /// A number parameter.
    pub fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
                })
            })
            .transpose()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How unknown and duplicate fields in a body are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options create, update and patch share.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Server-side apply only: take fields over from other managers.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// Reads and checks the options; `kind` (`CreateOptions` …) appears in the error.
    pub fn parse(query: &Query, kind: &str) -> Result<Self, ApiError> {
        use machinery::field::{Error, ErrorList, Path};
        let mut errors = ErrorList::new();
        let dry_run = parse_dry_run(query.all("dryRun"), &mut errors);
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        if field_manager.chars().count() > 128 {
            errors.push(Error::too_long(&Path::new("fieldManager"), 128));
        }
        if let Some((at, c)) = field_manager.chars().enumerate().find(|(_, c)| !is_printable(*c)) {
            errors.push(Error::invalid(
                &Path::new("fieldManager"),
                field_manager.as_str(),
                format!("invalid character {c:?} (at position {at})"),
            ));
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.push(Error::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if errors.is_empty() {
            Ok(Self {
                dry_run,
                field_manager,
                field_validation,
                force: query.optional_flag("force"),
            })
        } else {
            Err(ApiError::invalid("meta.k8s.io", kind, "", errors))
        }
    }

    /// The manager of the fields this write sets: as named, or the first part of the user agent.
    pub fn manager(&self, user_agent: Option<&http::HeaderValue>) -> String {
        if !self.field_manager.is_empty() {
            return self.field_manager.clone();
        }
        let agent = user_agent
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .unwrap_or_default();
        let first = agent.split('/').next().unwrap_or_default();
        first.chars().filter(|c| is_printable(*c)).take(128).collect()
    }
}

/// Which value of `dryRun` is set; unknown ones are errors.
pub fn parse_dry_run<'a>(
    values: impl Iterator<Item = &'a str>,
    errors: &mut machinery::field::ErrorList,
) -> bool {
    let mut dry_run = false;
    for value in values {
        if value == "All" {
            dry_run = true;
        } else {
            errors.push(machinery::field::Error::not_supported(
                &machinery::field::Path::new("dryRun"),
                value,
                &["All"],
            ));
        }
    }
    dry_run
}

/// How old a list may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// The newest state.
    Latest,
    /// Whatever is at hand.
    Any,
    NotOlderThan(u64),
    Exact(u64),
}

/// The options of list, watch and deletecollection.
#[derive(Debug, Clone)]
pub struct ListOptions {
    pub labels: Option<LabelSelector>,
    pub fields: Option<FieldSelector>,
    pub version: VersionMatch,
    /// `resourceVersion` as given, which a watch reads differently from a list.
    pub resource_version: Option<u64>,
    pub limit: usize,
    pub continue_token: Option<String>,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let labels = query
            .get("labelSelector")
            .map(|text| {
                LabelSelector::parse(text)
                    .map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))
            })
            .transpose()?;
        let fields = query
            .get("fieldSelector")
            .map(|text| FieldSelector::parse(text).map_err(|e| ApiError::bad_request(e.to_string())))
            .transpose()?;
        let resource_version = parse_resource_version(query.get("resourceVersion"))?;
        let continue_token = query.get("continue").map(str::to_owned);
        let match_kind = query.get("resourceVersionMatch");
        let send_initial_events = query.optional_flag("sendInitialEvents");
        validate_match(
            match_kind,
            query.get("resourceVersion"),
            continue_token.is_some(),
            watch,
            send_initial_events.is_some(),
        )?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
        let version = match (match_kind, resource_version) {
            (Some("Exact"), Some(rv)) => VersionMatch::Exact(rv),
            (_, None) => VersionMatch::Latest,
            (_, Some(0)) => VersionMatch::Any,
            // Legacy: with a limit and no match a version is exact (upstream's rule without a match).
            (None, Some(rv)) if limit > 0 && continue_token.is_none() => VersionMatch::Exact(rv),
            (_, Some(rv)) => VersionMatch::NotOlderThan(rv),
        };
        Ok(Self {
            labels,
            fields,
            version,
            resource_version,
            limit,
            continue_token,
            timeout_seconds: query
                .number("timeoutSeconds")?
                .and_then(|s| u64::try_from(s).ok()),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events,
        })
    }
}

/// A resource version is a decimal number to us and opaque to clients.
pub fn parse_resource_version(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        ApiError::invalid(
            "",
            "ListOptions",
            "",
            vec![machinery::field::Error::invalid(
                &machinery::field::Path::new("resourceVersion"),
                text,
                format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
            )],
        )
    })
}

fn validate_match(
    match_kind: Option<&str>,
    version: Option<&str>,
    has_continue: bool,
    watch: bool,
    has_initial_events: bool,
) -> Result<(), ApiError> {
    use machinery::field::{Error, ErrorList, Path};
    let mut errors = ErrorList::new();
    if watch {
        if has_initial_events && match_kind != Some("NotOlderThan") {
            errors.push(Error::forbidden(
                &Path::new("resourceVersionMatch"),
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !has_initial_events && match_kind.is_some() {
            errors.push(Error::forbidden(
                &Path::new("resourceVersionMatch"),
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
    } else {
        if has_initial_events {
            errors.push(Error::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        match match_kind {
            None => {}
            Some(kind @ ("Exact" | "NotOlderThan")) => {
                if version.is_none() {
                    errors.push(Error::forbidden(
                        &Path::new("resourceVersionMatch"),
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                if has_continue {
                    errors.push(Error::forbidden(
                        &Path::new("resourceVersionMatch"),
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if kind == "Exact" && version == Some("0") {
                    errors.push(Error::forbidden(
                        &Path::new("resourceVersionMatch"),
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
            }
            Some(other) => {
                errors.push(Error::not_supported(
                    &Path::new("resourceVersionMatch"),
                    other,
                    &["Exact", "NotOlderThan"],
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", errors))
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control()
}

/// Percent-decoding with `+` as space; what is not UTF-8 becomes replacement characters.
fn decode_component(text: &str) -> String {
    percent_decode(text, true)
}

/// Percent-decoding of a path (`+` is itself).
pub fn decode_path(text: &str) -> String {
    percent_decode(text, false)
}

fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.bytes().any(|b| b == b'%' || (plus_is_space && b == b'+')) {
        return text.to_owned();
    }
    let hex = |b: u8| char::from(b).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (
            bytes.get(at + 1).and_then(|b| hex(*b)),
            bytes.get(at + 2).and_then(|b| hex(*b)),
        );
        match (bytes[at], pair) {
            // Two hex digits make at most 255.
            (b'%', (Some(high), Some(low))) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding() {
        let query = Query::parse("a=1%3D2&b=x+y&c&a=2&watch=true&d=%zz");
        assert_eq!(query.get("a"), Some("1=2"));
        assert_eq!(query.all("a").count(), 2);
        assert_eq!(query.get("b"), Some("x y"));
        assert_eq!(query.get("c"), None);
        assert!(query.flag("c") && query.flag("watch") && !query.flag("none"));
        assert_eq!(query.get("d"), Some("%zz"));
        assert_eq!(decode_path("/a+b%2Fc"), "/a+b/c");
    }

    #[test]
    fn list_versions() {
        let version = |q: &str| ListOptions::parse(&Query::parse(q), false).map(|o| o.version);
        assert_eq!(version("").expect("ok"), VersionMatch::Latest);
        assert_eq!(version("resourceVersion=0").expect("ok"), VersionMatch::Any);
        assert_eq!(
            version("resourceVersion=7").expect("ok"),
            VersionMatch::NotOlderThan(7)
        );
        assert_eq!(
            version("resourceVersion=7&limit=3").expect("ok"),
            VersionMatch::Exact(7)
        );
        assert_eq!(
            version("resourceVersion=7&resourceVersionMatch=Exact").expect("ok"),
            VersionMatch::Exact(7)
        );
        assert!(version("resourceVersionMatch=Exact").is_err());
        assert!(version("resourceVersion=0&resourceVersionMatch=Exact").is_err());
        assert!(version("resourceVersion=x").is_err());
    }
}
