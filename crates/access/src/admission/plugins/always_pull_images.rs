//! `AlwaysPullImages`: every container's image is pulled at every start, so that nobody uses an image of a private
//! registry only because it is on the node already.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::field::{Error, Path};
use machinery::status::ApiError;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

fn list<'a>(pod: &'a mut Value, field: &str) -> &'a mut [Value] {
    pod.get_path_mut(&["spec", field])
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    /// Pods, and their ephemeral containers; other subresources have no images.
    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && target.group.is_empty()
            && target.resource == "pods"
            && matches!(target.subresource, "" | "ephemeralcontainers")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        for field in CONTAINERS {
            for container in list(pod, field) {
                container.set_path(&["imagePullPolicy"], "Always");
            }
        }
        for volume in list(pod, "volumes") {
            if let Some(image) = volume.get_mut("image") {
                image.set_path(&["pullPolicy"], "Always");
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        for field in CONTAINERS {
            let containers = object
                .and_then(|pod| pod.get_path(&["spec", field]))
                .and_then(Value::as_array)
                .unwrap_or_default();
            for (at, container) in containers.iter().enumerate() {
                let policy = container
                    .get("imagePullPolicy")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if policy != "Always" {
                    let path = Path::new("spec").child(field).index(at).child("imagePullPolicy");
                    return Err(
                        attributes.forbidden(object, Error::not_supported(&path, policy, &["Always"]))
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn every_image_is_pulled() {
        let mut pod = object(
            r#"{"spec":{"containers":[{"imagePullPolicy":"Never"}],"volumes":[{"image":{"reference":"a"}}]}}"#,
        );
        create(&AlwaysPullImages, Vec::new(), ("", "pods", "ns"), &mut pod).unwrap();
        let pulled = Some(&Value::from("Always"));
        assert_eq!(list(&mut pod, "containers")[0].get("imagePullPolicy"), pulled);
        assert_eq!(
            list(&mut pod, "volumes")[0].get_path(&["image", "pullPolicy"]),
            pulled
        );
    }
}
