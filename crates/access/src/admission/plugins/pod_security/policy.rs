//! Levels, versions, and what a namespace's labels choose.

use machinery::field::{Error, ErrorList, Path};
use machinery::{Map, Value};
use std::fmt;

/// How strict; later is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The standards as of a minor version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    Minor(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standard {
    pub level: Level,
    pub version: Version,
}

/// What a namespace demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

impl Level {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").filter(|rest| {
            *rest == "0" || (!rest.starts_with('0') && rest.bytes().all(|byte| byte.is_ascii_digit()))
        });
        digits
            .and_then(|digits| digits.parse().ok())
            .map(Self::Minor)
            .ok_or(r#"must be "latest" or "v1.x""#)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged:",
            Level::Baseline => "baseline:",
            Level::Restricted => "restricted:",
        })?;
        match self.version {
            Version::Latest => f.write_str("latest"),
            Version::Minor(minor) => write!(f, "v1.{minor}"),
        }
    }
}

impl Policy {
    /// What holds where nothing is said.
    const OPEN: Self = {
        let open = Standard {
            level: Level::Privileged,
            version: Version::Latest,
        };
        Self {
            enforce: open,
            audit: open,
            warn: open,
        }
    };

    pub(super) fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|standard| standard.level == Level::Privileged)
    }

    /// Reads a namespace's labels. What cannot be read is enforced strictly, and audited and warned of not at all.
    pub(super) fn of(labels: Option<&Map>) -> (Self, ErrorList) {
        let mut policy = Self::OPEN;
        let mut errors = ErrorList::new();
        let Some(labels) = labels else {
            return (policy, errors);
        };
        let label = |mode: &str| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            labels
                .get(&key)
                .and_then(Value::as_str)
                .map(|text| (key, text.to_owned()))
        };
        let mut level = |mode: &str, unreadable: Level| {
            let (key, text) = label(mode)?;
            Some(Level::parse(&text).map_err(|why| {
                errors.push(wrong(&key, &text, why));
                unreadable
            }))
        };
        let enforce = level("enforce", Level::Restricted);
        let audit = level("audit", Level::Privileged);
        let warn = level("warn", Level::Privileged);
        let mut version = |mode: &str| {
            let (key, text) = label(mode)?;
            Some(Version::parse(&text).unwrap_or_else(|why| {
                errors.push(wrong(&key, &text, why));
                Version::Latest
            }))
        };
        let versions = [
            version("enforce-version"),
            version("audit-version"),
            version("warn-version"),
        ];
        let apply =
            |standard: &mut Standard, level: Option<Result<Level, Level>>, version: Option<Version>| {
                if let Some(Ok(level) | Err(level)) = level {
                    standard.level = level;
                }
                if let Some(version) = version {
                    standard.version = version;
                }
            };
        apply(&mut policy.enforce, enforce, versions[0]);
        apply(&mut policy.audit, audit, versions[1]);
        apply(&mut policy.warn, warn, versions[2]);
        // Who says only what is enforced is warned of the same, so that templates are judged too.
        if warn.is_none() && matches!(enforce, Some(Ok(level)) if level > policy.warn.level) {
            policy.warn.level = policy.enforce.level;
            if versions[2].is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

fn wrong(key: &str, value: &str, why: &str) -> Error {
    Error::invalid(&Path::new("metadata").child("labels").key(key), value, why)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::object;
    use super::*;

    #[test]
    fn labels_choose_the_policy() {
        let check = |labels: &str, expected: [&str; 3], errors: usize| {
            let labels = object(labels);
            let (policy, wrong) = Policy::of(labels.as_object());
            let shown = [policy.enforce, policy.audit, policy.warn].map(|standard| standard.to_string());
            assert_eq!(shown, expected, "{labels:?}");
            assert_eq!(wrong.len(), errors, "{labels:?}");
        };
        check("{}", ["privileged:latest"; 3], 0);
        check(
            r#"{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/enforce-version":"v1.20"}"#,
            ["baseline:v1.20", "privileged:latest", "baseline:v1.20"],
            0,
        );
        check(
            r#"{"pod-security.kubernetes.io/enforce":"restricted","pod-security.kubernetes.io/warn":"baseline"}"#,
            ["restricted:latest", "privileged:latest", "baseline:latest"],
            0,
        );
        check(
            r#"{"pod-security.kubernetes.io/enforce":"x","pod-security.kubernetes.io/audit":"y","pod-security.kubernetes.io/warn-version":"1"}"#,
            ["restricted:latest", "privileged:latest", "privileged:latest"],
            3,
        );
    }
}
