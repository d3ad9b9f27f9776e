//! Sees to it that an image is there: policy, back-off, pull, events. Follows upstream's `images/image_manager`
//! with its messages.
//!
//! Pulls run side by side. **Invariant:** one image is pulled once at a time for one set of credentials is the
//! runtime's business; back-off is per pod and image.

use std::collections::HashMap;
use std::sync::Arc;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use machinery::clock::Clock;
use parking_lot::Mutex;

use super::credentials::Keyring;
use super::name;
use super::providers::Providers;
use crate::backoff::{self, Backoff, since};
use crate::events::Events;
use crate::pod::PodExt;
use crate::runtime::client::Runtime;

/// Why an image cannot be used; the reason is what the container's status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
    /// When trying again makes sense.
    pub retry_at: Option<jiff::Timestamp>,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub image_ref: String,
}

pub struct ImageManager {
    runtime: Runtime,
    events: Events,
    clock: Arc<dyn Clock>,
    providers: Providers,
    backoff: Backoff<(String, String)>,
    last_errors: Mutex<HashMap<(String, String), String>>,
}

impl ImageManager {
    pub fn new(runtime: Runtime, events: Events, clock: Arc<dyn Clock>, providers: Providers) -> Self {
        Self {
            runtime,
            events,
            clock,
            providers,
            backoff: Backoff::new(backoff::INITIAL, backoff::MAXIMUM),
            last_errors: Mutex::default(),
        }
    }

    /// The image of a container, pulled if its policy says so.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        keyring: &Result<Keyring, String>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<Present, ImageError> {
        let requested = container.image.as_deref().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let warn = |reason: &'static str, message: &str| {
            self.events.container(pod, container).warning(reason, message)
        };
        let image = name::with_default_tag(requested).map_err(|error| {
            let message = format!("Failed to apply default image tag {requested:?}: {error}");
            warn("InspectFailed", &message);
            ImageError {
                reason: "InvalidImageName",
                message,
                retry_at: None,
            }
        })?;
        let spec = v1::ImageSpec {
            image: image.clone(),
            user_specified_image: requested.to_owned(),
            annotations: crate::runtime::labels::pod_annotations(pod),
            ..v1::ImageSpec::default()
        };
        if policy != "Always" {
            let found = self.runtime.image_status(spec.clone()).await.map_err(|error| {
                let message = format!("Failed to inspect image {:?}: {}", "", error.full());
                warn("InspectFailed", &message);
                ImageError {
                    reason: "ImageInspectError",
                    message,
                    retry_at: None,
                }
            })?;
            if let Some(found) = found {
                let message = format!(
                    "Container image {requested:?} already present on machine and can be accessed by the pod"
                );
                self.events.container(pod, container).normal("Pulled", message);
                return Ok(Present { image_ref: found.id });
            }
            if policy == "Never" {
                let message =
                    format!("Container image {requested:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", &message);
                return Err(ImageError {
                    reason: "ErrImageNeverPull",
                    message,
                    retry_at: None,
                });
            }
        }
        self.pull(pod, container, requested, spec, keyring, sandbox).await
    }

    async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        requested: &str,
        spec: v1::ImageSpec,
        keyring: &Result<Keyring, String>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<Present, ImageError> {
        let events = self.events.container(pod, container);
        let key = (pod.uid().to_owned(), requested.to_owned());
        if let Some(retry_at) = self.backoff.waiting(&key, self.clock.now()) {
            let mut message = format!("Back-off pulling image {requested:?}");
            events.normal("BackOff", message.clone());
            if let Some(last) = self.last_errors.lock().get(&key) {
                message = format!("{message}: {last}");
            }
            return Err(ImageError {
                reason: "ImagePullBackOff",
                message,
                retry_at: Some(retry_at),
            });
        }
        self.last_errors.lock().remove(&key);
        events.normal("Pulling", format!("Pulling image {requested:?}"));
        let started = self.clock.now();
        match self.pull_with(pod, &spec, keyring, sandbox).await {
            Ok(image_ref) => {
                let size = match self.runtime.image_status(spec).await {
                    Ok(found) => found.map_or(0, |image| image.size),
                    Err(_) => 0,
                };
                let took = go_duration(since(self.clock.now(), started));
                events.normal(
                    "Pulled",
                    format!(
                        "Successfully pulled image {requested:?} in {took} ({took} including waiting). Image size: \
                         {size} bytes."
                    ),
                );
                self.backoff.forget(&key);
                Ok(Present { image_ref })
            }
            Err(text) => {
                events.warning("Failed", format!("Failed to pull image {requested:?}: {text}"));
                let now = self.clock.now();
                self.backoff.next(key.clone(), now, now);
                let (reason, message) = judge(requested, &text);
                self.last_errors
                    .lock()
                    .insert(key.clone(), format!("{reason}: {message}"));
                Err(ImageError {
                    reason,
                    message,
                    retry_at: self.backoff.waiting(&key, now),
                })
            }
        }
    }

    /// With each fitting set of credentials in turn, the pod's own before those of providers, or with none.
    async fn pull_with(
        &self,
        pod: &Pod,
        spec: &v1::ImageSpec,
        keyring: &Result<Keyring, String>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<String, String> {
        let keyring = keyring.as_ref().map_err(Clone::clone)?;
        let repository = name::parse(&spec.image)?.repository();
        let mut attempts: Vec<Option<v1::AuthConfig>> = keyring
            .lookup(&repository)
            .into_iter()
            .cloned()
            .map(Some)
            .collect();
        attempts.extend(
            self.providers
                .lookup(pod, &repository)
                .await
                .into_iter()
                .map(Some),
        );
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut errors = Vec::new();
        for auth in attempts {
            match self.runtime.pull_image(spec.clone(), auth, sandbox.clone()).await {
                Ok(image_ref) => return Ok(image_ref),
                Err(error) => {
                    let text = error.rpc_text();
                    if !errors.contains(&text) {
                        errors.push(text);
                    }
                }
            }
        }
        Err(match errors.len() {
            1 => errors.remove(0),
            _ => format!("[{}]", errors.join(", ")),
        })
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod: &Pod) {
        for (_, container) in pod.all_containers() {
            let key = (pod.uid().to_owned(), container.image.clone().unwrap_or_default());
            self.backoff.forget(&key);
            self.last_errors.lock().remove(&key);
        }
    }
}

fn judge(image: &str, text: &str) -> (&'static str, String) {
    for (prefix, words) in [
        (
            "RegistryUnavailable",
            "image pull failed for {} because the registry is unavailable",
        ),
        (
            "SignatureValidationFailed",
            "image pull failed for {} because the signature validation failed",
        ),
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return (prefix, format!("{}{rest}", words.replace("{}", image)));
        }
    }
    ("ErrImagePull", text.to_owned())
}

/// `1.234s`, `56ms`: as Go prints a duration cut to milliseconds.
pub fn go_duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    let mut seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_as_go_prints_them() {
        let cases = [
            (0, "0s"),
            (56, "56ms"),
            (1234, "1.234s"),
            (10_000, "10s"),
            (61_500, "1m1.5s"),
            (3_600_000, "1h0m0s"),
        ];
        for (ms, expected) in cases {
            assert_eq!(go_duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn reasons() {
        assert_eq!(judge("i", "no such host").0, "ErrImagePull");
        let (reason, message) = judge("i", "RegistryUnavailable: down");
        assert_eq!(reason, "RegistryUnavailable");
        assert_eq!(
            message,
            "image pull failed for i because the registry is unavailable: down"
        );
    }
}
