//! Label selectors of typed objects, ready to be asked often.
//!
//! Upstream's rule for a missing selector: `None` selects nothing, an empty one selects everything.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Expression, Selector, SelectorExt as _};
use std::collections::BTreeMap;

/// A parsed selector.
#[derive(Debug, Clone, PartialEq)]
pub enum Matcher {
    Nothing,
    Labels(Selector),
}

impl Matcher {
    /// Parses a selector; one with an unknown operator selects nothing, for validation lets none through.
    pub fn of(selector: Option<&LabelSelector>) -> Self {
        match selector {
            None => Self::Nothing,
            Some(selector) => match Selector::try_from(selector.clone()) {
                Ok(selector) => Self::Labels(selector),
                Err(error) => {
                    tracing::debug!(%error, "unknown selector operator");
                    Self::Nothing
                }
            },
        }
    }

    /// All of these labels, as Services and ReplicationControllers select; no labels select nothing.
    pub fn all_of(labels: Option<&BTreeMap<String, String>>) -> Self {
        match labels {
            Some(labels) if !labels.is_empty() => Self::Labels(
                labels
                    .iter()
                    .map(|(k, v)| Expression::Equal(k.clone(), v.clone()))
                    .collect(),
            ),
            _ => Self::Nothing,
        }
    }

    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Self::Nothing => false,
            Self::Labels(selector) => selector.matches(labels.unwrap_or(&NONE)),
        }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Labels(s) if s.selects_all())
    }

    /// Both selectors at once.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Labels(mut a), Self::Labels(b)) => {
                a.extend(b);
                Self::Labels(a)
            }
            _ => Self::Nothing,
        }
    }
}

/// Whether `labels` hold every pair of `wanted`; an empty or missing `wanted` is held by nobody.
pub fn selects(wanted: Option<&BTreeMap<String, String>>, labels: Option<&BTreeMap<String, String>>) -> bool {
    match (wanted, labels) {
        (Some(wanted), Some(labels)) if !wanted.is_empty() => {
            wanted.iter().all(|(k, v)| labels.get(k).is_some_and(|l| l == v))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn missing_selects_nothing_and_empty_everything() {
        assert!(!Matcher::of(None).matches(None));
        assert!(Matcher::of(Some(&LabelSelector::default())).matches(None));
        assert!(!Matcher::all_of(Some(&BTreeMap::new())).matches(None));
    }

    #[test]
    fn all_pairs_must_be_held() {
        let have = labels(&[("a", "1"), ("b", "2")]);
        assert!(selects(Some(&labels(&[("a", "1")])), Some(&have)));
        assert!(!selects(Some(&labels(&[("a", "2")])), Some(&have)));
        assert!(Matcher::all_of(Some(&labels(&[("a", "1"), ("b", "2")]))).matches(Some(&have)));
    }
}
