//! `DefaultTolerationSeconds`: a pod stays five minutes on a node that is not ready or out of reach, unless it says
//! otherwise.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && target.is("", "pods")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(spec) = object.and_then(|pod| pod.get_mut("spec")) else {
            return Ok(());
        };
        let tolerations = spec.make_object().entry_or_null("tolerations");
        if !matches!(tolerations, Value::Array(_)) {
            *tolerations = Value::Array(Vec::new());
        }
        let Some(tolerations) = tolerations.as_array_mut() else {
            return Ok(());
        };
        for taint in TAINTS {
            if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
                tolerations.push(Value::Object(
                    [
                        ("effect", Value::from("NoExecute")),
                        ("key", Value::from(taint)),
                        ("operator", Value::from("Exists")),
                        ("tolerationSeconds", Value::from(SECONDS)),
                    ]
                    .into_iter()
                    .collect(),
                ));
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or("");
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn what_is_not_tolerated_yet_is_tolerated_for_five_minutes() {
        let check = |spec: &str, added: usize| {
            let mut pod = object(&format!(r#"{{"spec":{spec}}}"#));
            create(
                &DefaultTolerationSeconds,
                Vec::new(),
                ("", "pods", "ns"),
                &mut pod,
            )
            .unwrap();
            let all = pod
                .get_path(&["spec", "tolerations"])
                .unwrap()
                .as_array()
                .unwrap();
            let ours = |t: &&Value| t.get("tolerationSeconds") == Some(&Value::from(SECONDS));
            assert_eq!(all.iter().filter(ours).count(), added, "{spec}");
        };
        check("{}", 2);
        check(r#"{"tolerations":[{"operator":"Exists"}]}"#, 0);
        check(
            r#"{"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute"}]}"#,
            1,
        );
        check(
            r#"{"tolerations":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}"#,
            2,
        );
    }
}
