//! CBOR beside JSON, where its feature gate is on.

use super::*;
use machinery::Value;
use machinery::codec::{cbor, json};

const CBOR: &str = "application/cbor";

async fn speaking() -> Api {
    Api::featured(Arc::new(store::Memory::new()), Features { cbor: true }).await
}

/// The JSON that a CBOR document says.
fn said(bytes: &[u8]) -> Json {
    assert!(bytes.starts_with(cbor::MAGIC), "{bytes:x?}");
    let value = cbor::decode_any(bytes).expect("CBOR");
    serde_json::from_slice(&json::to_vec(&value)).expect("JSON")
}

fn document(value: Json) -> Vec<u8> {
    let text = value.to_string();
    let value: Value = json::decode_any(text.as_bytes()).expect("JSON").value;
    cbor::to_vec(&value, None)
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_cbor_unless_the_gate_is_on() {
    let api = Api::start().await;
    let answer = api.get_as(MAPS, CBOR).await;
    answer.fails(
        406,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let answer = api.call(Method::POST, MAPS, CBOR, document(json!({}))).await;
    answer.fails(
        415,
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let path = format!("{MAPS}/a?fieldManager=m");
    let answer = api
        .call(
            Method::PATCH,
            &path,
            "application/apply-patch+cbor",
            document(json!({})),
        )
        .await;
    assert_eq!(answer.status, 415);
}

#[tokio::test(start_paused = true)]
async fn objects_and_lists_are_said_in_cbor() {
    let api = speaking().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aGVsbG8="}});
    let answer = api.call(Method::POST, secrets, CBOR, document(secret)).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(answer.json()["data"]["k"], "aGVsbG8=");

    let one = api.get_as(&format!("{secrets}/s"), CBOR).await;
    assert_eq!(one.headers["content-type"], CBOR);
    // Bytes travel as bytes.
    assert!(
        one.body.windows(7).any(|w| w == b"\xd6\x45hello"),
        "{:x?}",
        one.body
    );
    let plain = api.get(&format!("{secrets}/s")).await.ok();
    assert_eq!(said(&one.body), plain);

    let list = said(&api.get_as(secrets, CBOR).await.body);
    assert_eq!(list, api.get(secrets).await.ok());
    let meta = api
        .get_as(
            secrets,
            "application/cbor;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        )
        .await;
    assert_eq!(said(&meta.body)["items"][0]["metadata"]["name"], "s");
    let table = api
        .get_as(secrets, "application/cbor;as=Table;g=meta.k8s.io;v=v1")
        .await;
    assert_eq!(said(&table.body)["rows"][0]["cells"][0], "s");
    let missing = api.get_as(&format!("{secrets}/t"), CBOR).await;
    assert_eq!(missing.status, 404);
    assert_eq!(said(&missing.body)["message"], "secrets \"t\" not found");
}

#[tokio::test(start_paused = true)]
async fn bodies_in_cbor_are_judged_as_in_json() {
    let api = speaking().await;
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dat": {}});
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer = api
        .call(Method::POST, &strict, CBOR, document(unknown.clone()))
        .await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);
    let answer = api.call(Method::POST, MAPS, CBOR, document(unknown)).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.warnings().len(), 1);
    let answer = api
        .call(Method::POST, MAPS, CBOR, b"\xa2\x41a\x01\x41a\x02".to_vec())
        .await;
    answer.fails(
        400,
        "the object provided is unrecognized (must be of type ConfigMap): unable to determine group/version/kind: cbor: found duplicate map key \"a\" at map element index 1 (a2416101416102)",
    );
    let wrong = document(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}));
    assert_eq!(api.call(Method::POST, MAPS, CBOR, wrong).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn configurations_are_applied_in_cbor() {
    let api = speaking().await;
    let path = format!("{MAPS}/a?fieldManager=m");
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let answer = api
        .call(
            Method::PATCH,
            &path,
            "application/apply-patch+cbor",
            document(config),
        )
        .await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let managed = &answer.json()["metadata"]["managedFields"][0];
    assert_eq!(
        (&managed["operation"], &managed["manager"]),
        (&json!("Apply"), &json!("m"))
    );
    let refused = api
        .call(
            Method::PATCH,
            &path,
            "application/apply-patch+cbor",
            b"\xff".to_vec(),
        )
        .await;
    refused.fails(400, "error decoding YAML: cbor: unexpected \"break\" code");
}

#[tokio::test(start_paused = true)]
async fn watches_are_sequences_of_documents() {
    let api = speaking().await;
    api.config_map("a", "x").await;
    for accept in [CBOR, "application/cbor-seq"] {
        let request = Request::get(format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion=0"))
            .header("accept", accept)
            .body(Body::empty())
            .expect("request");
        let answer = read(api.send(request).await).await;
        if accept != CBOR {
            // Upstream answers in it, but is not asked for it by this name.
            assert_eq!(answer.status, 406);
            continue;
        }
        assert_eq!(answer.headers["content-type"], "application/cbor-seq");
        let mut rest = &answer.body[..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (_, length) = cbor::decode_prefix(rest).expect("an event");
            events.push(said(&rest[..length]));
            rest = &rest[length..];
        }
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["type"], "ADDED");
        assert_eq!(events[0]["object"]["metadata"]["name"], "a");
    }
}
