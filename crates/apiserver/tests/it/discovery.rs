//! What is served, against the list of what upstream serves by default (`discovery.txt`).

use super::{Answer, Api};
use serde_json::Value as Json;

/// Served here, where upstream's table has nothing: there an API server of its own brings it.
const ADDED: &str = "metrics.k8s.io/";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn list<'a>(value: &'a Json, key: &str) -> &'a [Json] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn words(value: &Json, key: &str) -> String {
    let words: Vec<&str> = list(value, key).iter().filter_map(Json::as_str).collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(",")
    }
}

fn kind(value: &Json) -> String {
    let kind = &value["responseKind"];
    let text = |key: &str| kind[key].as_str().unwrap_or_default();
    if text("group").is_empty() && text("version").is_empty() {
        return match text("kind") {
            "" => "-".to_owned(),
            kind => kind.to_owned(),
        };
    }
    format!("{}/{}/{}", text("group"), text("version"), text("kind"))
}

/// The document in the lines of `discovery.txt`.
fn lines(answer: Answer) -> Vec<String> {
    let document = answer.ok();
    let mut out = Vec::new();
    for group in list(&document, "items") {
        let name = group["metadata"]["name"].as_str().unwrap_or("-");
        for version in list(group, "versions") {
            let place = format!("{name}/{}", version["version"].as_str().unwrap_or_default());
            assert_eq!(version["freshness"], "Current");
            for resource in list(version, "resources") {
                let text = |key: &str| resource[key].as_str().unwrap_or("-").to_owned();
                out.push(format!(
                    "{place} {} {} {} {} {} {} {}",
                    text("resource"),
                    kind(resource),
                    text("scope"),
                    text("singularResource"),
                    words(resource, "shortNames"),
                    words(resource, "categories"),
                    words(resource, "verbs")
                ));
                for sub in list(resource, "subresources") {
                    out.push(format!(
                        "{place} {}/{} {} {}",
                        text("resource"),
                        sub["subresource"].as_str().unwrap_or_default(),
                        kind(sub),
                        words(sub, "verbs")
                    ));
                }
            }
        }
    }
    out
}

#[tokio::test]
async fn all_that_upstream_serves_by_default_is_served_and_nothing_else() {
    let api = Api::start().await;
    let mut served = lines(api.get_as("/api", AGGREGATED).await);
    served.extend(lines(api.get_as("/apis", AGGREGATED).await));
    served.retain(|line| !line.starts_with(ADDED));
    let wanted: Vec<&str> = include_str!("discovery.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let mut diff = String::new();
    for line in wanted.iter().filter(|w| !served.iter().any(|s| s == *w)) {
        diff.push_str(&format!("-{line}\n"));
    }
    for line in served.iter().filter(|s| !wanted.contains(&s.as_str())) {
        diff.push_str(&format!("+{line}\n"));
    }
    println!("difference of {} lines:\n{diff}", wanted.len());
    assert_eq!(diff, "");
    assert_eq!(served, wanted, "the order");
}

#[tokio::test]
async fn lists_of_resources_in_protobuf_keep_their_verbs() {
    let api = Api::start().await;
    let answer = api
        .get_as("/apis/node.k8s.io/v1", "application/vnd.kubernetes.protobuf")
        .await;
    let ty = api::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList").expect("a type");
    let list = machinery::codec::proto::decode_envelope(&answer.body, api::types(), ty).expect("an envelope");
    let json: Json = serde_json::from_slice(&machinery::codec::json::to_vec(&list)).expect("json");
    assert_eq!(json["resources"][0]["name"], "runtimeclasses");
    assert_eq!(json["resources"][0]["verbs"][0], "create");
    assert_eq!(list_len(&json["resources"][0]["verbs"]), 8);
}

fn list_len(value: &Json) -> usize {
    value.as_array().map_or(0, Vec::len)
}
