//! The certificate request approving controller: approves what kubelets ask for as clients, if whoever asked is
//! allowed to.

use crate::certificate_request::{KUBELET_CLIENT, check_kubelet, common_name, condition, issued, parse};
use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let requests = context.informer::<CertificateSigningRequest>();
    let queue = context.queue::<ObjectKey>("certificate");
    let adds = queue.clone();
    requests.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = requests.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, requests) = (shell.clone(), requests.clone());
            async move { reconcile(&context, &requests, &key).await }
        })
        .await;
}

/// What somebody must be allowed to do for a request to be approved, and what is then said; in the order to ask.
fn permissions(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    let undecided = ["Approved", "Denied"]
        .iter()
        .all(|kind| condition(request, kind).is_none());
    if !undecided || issued(request).is_some() || request.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(parsed) = parse(request) else {
        return Vec::new();
    };
    if check_kubelet(&parsed, request.spec.usages.as_ref(), false).is_err() {
        return Vec::new();
    }
    let mut permissions = vec![(
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    )];
    if request.spec.username.as_deref() == Some(common_name(&parsed)) {
        permissions.insert(
            0,
            (
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
        );
    }
    permissions
}

async fn reconcile(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(request) = requests.get(key) else {
        return Ok(Outcome::Done);
    };
    for (subresource, message) in permissions(&request) {
        if !is_allowed(context, &request, subresource).await? {
            continue;
        }
        let mut approved = (*request).clone();
        let now = Time(context.now());
        let status = approved.status.get_or_insert_default();
        status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: "Approved".to_owned(),
                status: "True".to_owned(),
                reason: Some("AutoApproved".to_owned()),
                message: Some(message.to_owned()),
                last_update_time: Some(now.clone()),
                last_transition_time: Some(now),
            });
        let api = Api::<CertificateSigningRequest>::all(context.client.clone());
        let written: Result<CertificateSigningRequest, _> = api
            .replace_subresource("approval", &key.name, &PostParams::default(), &approved)
            .await;
        return match written {
            Ok(written) => {
                requests.written(written);
                Ok(Outcome::Done)
            }
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        };
    }
    Ok(Outcome::Done)
}

async fn is_allowed(
    context: &Context,
    request: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, kube::Error> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: request.spec.username.clone(),
            uid: request.spec.uid.clone(),
            groups: request.spec.groups.clone(),
            extra: request.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(subresource.to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let api = Api::<SubjectAccessReview>::all(context.client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::testing::request;

    #[test]
    fn only_kubelets_are_approved() {
        let asked = |request: &CertificateSigningRequest| -> Vec<&'static str> {
            permissions(request).into_iter().map(|(name, _)| name).collect()
        };
        let own = request(KUBELET_CLIENT, "system:node:a", "system:nodes", &[]);
        assert_eq!(asked(&own), ["selfnodeclient", "nodeclient"]);
        let mut bootstrap = own.clone();
        bootstrap.spec.username = Some("system:bootstrap:x".to_owned());
        assert_eq!(asked(&bootstrap), ["nodeclient"]);
        let serving = request(
            "kubernetes.io/kubelet-serving",
            "system:node:a",
            "system:nodes",
            &[],
        );
        assert!(asked(&serving).is_empty());
        assert!(asked(&request(KUBELET_CLIENT, "a", "b", &[])).is_empty());
    }
}
