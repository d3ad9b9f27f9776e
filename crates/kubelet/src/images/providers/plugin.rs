//! Asking a credential provider: a program that reads a request and writes an answer.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::config::Settings;
use crate::configuration::go_duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What an answer holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Reach {
    Image,
    Registry,
    Global,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) reach: Reach,
    /// Nothing where the configuration decides.
    pub(super) keep: Option<Duration>,
    /// By place: user name and password.
    pub(super) logins: BTreeMap<String, (String, String)>,
}

/// What a program is told of who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
}

pub(super) async fn ask(settings: &Settings, image: &str, asker: &Asker) -> Result<Answer, String> {
    let failed = |why: String| {
        format!(
            "error execing credential provider plugin {} for image {image}: {why}",
            settings.name
        )
    };
    let mut child = Command::new(&settings.program)
        .args(&settings.args)
        .envs(&settings.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let request = request(settings, image, asker).to_string();
    let input = child.stdin.take();
    let talk = async {
        let write = async {
            if let Some(mut input) = input {
                // One that answers without listening closes its end; what it says counts.
                if let Err(error) = input.write_all(request.as_bytes()).await {
                    tracing::debug!(provider = settings.name, %error, "the request was not read");
                }
            }
        };
        tokio::join!(write, child.wait_with_output()).1
    };
    let output = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| failed("context deadline exceeded".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let status = match output.status.code() {
            Some(code) => format!("exit status {code}"),
            None => output.status.to_string(),
        };
        return Err(failed(format!("{status}: {told}")));
    }
    read(&output.stdout, &settings.api_version)
}

fn request(settings: &Settings, image: &str, asker: &Asker) -> Value {
    let mut request = json!({
        "kind": "CredentialProviderRequest", "apiVersion": settings.api_version, "image": image,
    });
    if !asker.token.is_empty() {
        request["serviceAccountToken"] = json!(asker.token);
    }
    if !asker.annotations.is_empty() {
        request["serviceAccountAnnotations"] = json!(asker.annotations);
    }
    request
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    cache_key_type: Reach,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Says nothing of what was read when it cannot be: it may hold a password.
fn read(bytes: &[u8], wanted: &str) -> Result<Answer, String> {
    const UNREADABLE: &str = "error decoding credential provider plugin response from stdout";
    let value: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| UNREADABLE.to_owned())?;
    let version = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if version != wanted {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion:{wanted}, actual \
             apiVersion:{version}"
        ));
    }
    let response: Response =
        serde_json::from_value(Value::Object(value)).map_err(|_| UNREADABLE.to_owned())?;
    if response.kind != "CredentialProviderResponse" {
        return Err(UNREADABLE.to_owned());
    }
    let keep = response
        .cache_duration
        .map(|text| go_duration(&text))
        .transpose()?;
    let logins = response.auth.unwrap_or_default().into_iter();
    Ok(Answer {
        reach: response.cache_key_type,
        keep,
        logins: logins
            .map(|(place, l)| (place, (l.username, l.password)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

    #[test]
    fn an_answer_is_read() {
        let answer = json!({
            "kind": "CredentialProviderResponse", "apiVersion": VERSION, "cacheKeyType": "Registry",
            "cacheDuration": "6h", "auth": {"*.example.com": {"username": "u", "password": "p"}},
        });
        let read = |value: &Value| read(value.to_string().as_bytes(), VERSION);
        let told = read(&answer).unwrap();
        assert_eq!(told.reach, Reach::Registry);
        assert_eq!(told.keep, Some(Duration::from_secs(6 * 3600)));
        assert_eq!(told.logins["*.example.com"], ("u".to_owned(), "p".to_owned()));
        for (field, value, words) in [
            ("apiVersion", json!("v2"), "actual apiVersion:v2"),
            ("cacheKeyType", json!("Moon"), "error decoding"),
            ("kind", json!("Secret"), "error decoding"),
            ("auth", json!("password"), "error decoding"),
        ] {
            let mut answer = answer.clone();
            answer[field] = value;
            let told = read(&answer).unwrap_err();
            assert!(told.contains(words) && !told.contains("password"), "{told}");
        }
    }
}
