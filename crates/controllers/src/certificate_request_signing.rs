//! The certificate request signing controller: signs approved requests to Kubernetes' own signers with the cluster's
//! authority.
//!
//! **Invariant:** a certificate is never an authority's, says only the usages that were asked for and approved, and
//! does not outlive the authority.

use crate::certificate_request::{
    API_SERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, check_kubelet, condition, issued, parse,
};
use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::sync::Arc;

const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// The longest a certificate holds, as upstream's `--cluster-signing-duration`.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// Clocks differ: a certificate holds from a little before it was made.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Below this the backdating is not taken off the end.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// Starts the controller; without an authority's key there is nothing to sign with.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ends: Timestamp,
}

fn load(certificate: &str, key: &str) -> Result<Authority, String> {
    let key = KeyPair::from_pem(key).map_err(|error| error.to_string())?;
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|error| error.to_string())?;
    let parsed = pem.parse_x509().map_err(|error| error.to_string())?;
    let ends =
        Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
    let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(|error| error.to_string())?;
    Ok(Authority { issuer, ends })
}

async fn run(context: Context) {
    let Some((certificate, key)) = &context.options.cluster_signing else {
        return;
    };
    let authority = match load(certificate, key) {
        Ok(authority) => Arc::new(authority),
        Err(error) => {
            tracing::error!(
                error,
                "certificate requests are not signed: the authority cannot be read"
            );
            return;
        }
    };
    let requests = context.informer::<CertificateSigningRequest>();
    let queue = context.queue::<ObjectKey>("certificate_signing");
    let adds = queue.clone();
    requests.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) && is_due(event.object()) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = requests.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, requests) = (shell.clone(), requests.clone());
            let authority = Arc::clone(&authority);
            async move { reconcile(&context, &requests, &authority, &key).await }
        })
        .await;
}

fn is_due(request: &CertificateSigningRequest) -> bool {
    let ours = [KUBELET_CLIENT, KUBELET_SERVING, API_SERVER_CLIENT, LEGACY];
    issued(request).is_none()
        && condition(request, "Approved").is_some()
        && condition(request, "Denied").is_none()
        && condition(request, "Failed").is_none()
        && ours.contains(&request.spec.signer_name.as_str())
}

/// Why the signer refuses what was approved.
fn check(
    request: &CertificateSigningRequest,
    parsed: &CertificateSigningRequestParams,
) -> Result<(), String> {
    let usages = request.spec.usages.as_ref();
    match request.spec.signer_name.as_str() {
        KUBELET_CLIENT => check_kubelet(parsed, usages, false),
        KUBELET_SERVING => check_kubelet(parsed, usages, true),
        API_SERVER_CLIENT => {
            let allowed = ["digital signature", "key encipherment", "client auth"];
            let mut usages = usages.into_iter().flatten();
            let stranger = usages.clone().find(|u| !allowed.contains(&u.as_str()));
            if let Some(usage) = stranger {
                return Err(format!("invalid usage for client certificate: {usage}"));
            }
            if usages.any(|u| u == "client auth") {
                Ok(())
            } else {
                Err("missing required usage for client certificate: client auth".to_owned())
            }
        }
        _ => Ok(()),
    }
}

fn sign(
    request: &CertificateSigningRequest,
    mut parsed: CertificateSigningRequestParams,
    authority: &Authority,
    now: Timestamp,
) -> Result<String, String> {
    let asked = request.spec.expiration_seconds;
    let lifetime = asked.map_or(LIFETIME, |seconds| {
        SignedDuration::from_secs(i64::from(seconds)).clamp(SHORTEST, LIFETIME)
    });
    if now >= authority.ends {
        return Err(format!("the signer has expired: NotAfter={}", authority.ends));
    }
    let end = if lifetime < SHORT {
        now + lifetime
    } else {
        now + lifetime - BACKDATE
    };
    let params = &mut parsed.params;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages.clear();
    params.extended_key_usages.clear();
    for usage in request.spec.usages.iter().flatten() {
        match (key_usage(usage), extended(usage)) {
            (Some(purpose), _) => params.key_usages.push(purpose),
            (None, Some(purpose)) => params.extended_key_usages.push(purpose),
            (None, None) => return Err(format!("unrecognized usage values: [{usage:?}]")),
        }
    }
    let date = |time: Timestamp| {
        // Timestamps of certificates and of the clock are both within the years 1 to 9999.
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_second().unsigned_abs())
    };
    params.not_before = date(now - BACKDATE);
    params.not_after = date(end.min(authority.ends));
    params.serial_number = None;
    params.use_authority_key_identifier_extension = true;
    parsed
        .signed_by(&authority.issuer)
        .map(|certificate| certificate.pem())
        .map_err(|error| error.to_string())
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "ipsec end system" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "microsoft sgc" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => ExtendedKeyUsagePurpose::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

async fn reconcile(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    authority: &Authority,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(request) = requests.get(key).filter(|r| is_due(r)) else {
        return Ok(Outcome::Done);
    };
    let mut signed = (*request).clone();
    let status = signed.status.get_or_insert_default();
    let parsed = match parse(&request) {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(request = %key, error, "unable to parse csr");
            return Ok(Outcome::Done);
        }
    };
    let answer = check(&request, &parsed)
        .map_err(|why| ("SignerValidationFailure", why))
        .and_then(|()| {
            sign(&request, parsed, authority, context.now()).map_err(|why| ("SigningFailure", why))
        });
    match answer {
        Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
        Err((reason, why)) => {
            let now = Time(context.now());
            status
                .conditions
                .get_or_insert_default()
                .push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some(reason.to_owned()),
                    message: Some(why),
                    last_update_time: Some(now.clone()),
                    last_transition_time: Some(now),
                });
        }
    }
    let api = Api::<CertificateSigningRequest>::all(context.client.clone());
    match api
        .replace_status(&key.name, &PostParams::default(), &signed)
        .await
    {
        Ok(written) => requests.written(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::testing::request;
    use rcgen::{BasicConstraints, CertificateParams};

    fn authority() -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        load(&certificate.pem(), &key.serialize_pem()).expect("loaded")
    }

    #[test]
    fn a_certificate_says_what_was_approved() {
        let authority = authority();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let mut request = request(API_SERVER_CLIENT, "jane", "devs", &[]);
        request.spec.expiration_seconds = Some(3600);
        let parsed = parse(&request).expect("parsed");
        assert_eq!(check(&request, &parsed), Ok(()));
        let pem = sign(&request, parsed, &authority, now).expect("signed");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("pem");
        let certificate = pem.parse_x509().expect("certificate");
        assert!(certificate.subject().to_string().contains("CN=jane"));
        assert_eq!(
            certificate.validity().not_after.timestamp(),
            now.as_second() + 3600
        );
        assert!(!certificate.is_ca());
        let usages = certificate
            .extended_key_usage()
            .expect("parsed")
            .expect("usages")
            .value;
        assert!(usages.client_auth && !usages.server_auth);
        request.spec.usages = Some(vec!["server auth".to_owned()]);
        let parsed = parse(&request).expect("parsed");
        assert_eq!(
            check(&request, &parsed),
            Err("invalid usage for client certificate: server auth".to_owned())
        );
    }
}
