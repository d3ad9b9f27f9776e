//! Webhook configurations, read once when they change.

use super::endpoint::Endpoint;
use crate::Objects;
use crate::admission::Attributes;
use crate::admission::matching::{Hit, Matcher, rules, selector};
use crate::admission::policy::inputs::Conditions;
use expressions::admission::Declared;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::Arc;

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Tells it from all others, even of the same name.
    pub id: String,
    pub name: String,
    pub configuration: String,
    pub endpoint: Endpoint,
    pub review_versions: Vec<String>,
    pub timeout_seconds: u64,
    pub ignores_failure: bool,
    /// It has no side effects, or none on a dry run.
    pub dry_run: bool,
    /// It wants to see what others changed after it.
    pub reinvoked: bool,
    pub conditions: Conditions,
    /// What cannot be read matches nothing that is let through.
    matcher: Result<Matcher, String>,
}

impl Hook {
    pub(super) async fn hit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<Option<Hit>, ApiError> {
        match &self.matcher {
            Ok(matcher) => matcher.hit(attributes, object, objects).await,
            Err(why) => Err(ApiError::internal(why)),
        }
    }
}

/// All webhooks of the configurations, sorted by the configurations' names.
pub(super) fn read(list: &[Arc<Value>]) -> Vec<Hook> {
    let mut sorted: Vec<&Arc<Value>> = list.iter().collect();
    sorted.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
    sorted
        .into_iter()
        .flat_map(|configuration| {
            let hooks = configuration
                .get("webhooks")
                .and_then(Value::as_array)
                .unwrap_or_default();
            hooks
                .iter()
                .enumerate()
                .map(|(index, hook)| read_one(configuration, index, hook))
        })
        .collect()
}

fn read_one(configuration: &Value, index: usize, hook: &Value) -> Hook {
    let text = |field: &str| hook.get(field).and_then(Value::as_str).unwrap_or_default();
    let versions = hook
        .get("admissionReviewVersions")
        .and_then(Value::as_array)
        .unwrap_or_default();
    let name = text("name").to_owned();
    Hook {
        id: format!("{}/{name}/{index}", meta::name(configuration)),
        configuration: meta::name(configuration).to_owned(),
        endpoint: Endpoint::read(hook.get("clientConfig")),
        review_versions: versions
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        timeout_seconds: hook
            .get("timeoutSeconds")
            .and_then(Value::as_i64)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or(10),
        ignores_failure: text("failurePolicy") == "Ignore",
        dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
        reinvoked: text("reinvocationPolicy") == "IfNeeded",
        conditions: Conditions::read(&Declared::WEBHOOK.environment(), hook.get("matchConditions")),
        matcher: matcher(hook),
        name,
    }
}

fn matcher(hook: &Value) -> Result<Matcher, String> {
    let select = |field: &str| selector(hook.get(field)).map_err(|error| error.to_string());
    Ok(Matcher {
        rules: rules(hook.get("rules")),
        exclude: Vec::new(),
        namespaces: select("namespaceSelector")?,
        objects: select("objectSelector")?,
        equivalent: hook.get("matchPolicy").and_then(Value::as_str) != Some("Exact"),
    })
}
