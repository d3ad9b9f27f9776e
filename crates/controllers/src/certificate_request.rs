//! What a certificate request asks for, for the controllers that approve and sign.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use std::collections::BTreeSet;

pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const API_SERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// A condition that holds.
pub(crate) fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// The signed chain; `None` while there is none.
pub(crate) fn issued(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|c| !c.is_empty())
}

/// The request inside the object; its own signature has been verified.
pub(crate) fn parse(request: &CertificateSigningRequest) -> Result<CertificateSigningRequestParams, String> {
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    CertificateSigningRequestParams::from_pem(&pem).map_err(|error| error.to_string())
}

fn text(value: &DnValue) -> Option<&str> {
    match value {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        DnValue::Ia5String(text) => Some(text.as_str()),
        DnValue::TeletexString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The subject's common name.
pub(crate) fn common_name(parsed: &CertificateSigningRequestParams) -> &str {
    let name = parsed.params.distinguished_name.get(&DnType::CommonName);
    name.and_then(text).unwrap_or("")
}

/// Whether a kubelet may ask for this; or why not.
pub(crate) fn check_kubelet(
    parsed: &CertificateSigningRequestParams,
    usages: Option<&Vec<String>>,
    serving: bool,
) -> Result<(), String> {
    let organizations: Vec<&str> = parsed
        .params
        .distinguished_name
        .iter()
        .filter(|(kind, _)| **kind == DnType::OrganizationName)
        .filter_map(|(_, value)| text(value))
        .collect();
    if organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    let names = &parsed.params.subject_alt_names;
    let has = |is: fn(&SanType) -> bool| names.iter().any(is);
    let dns = has(|n| matches!(n, SanType::DnsName(_)));
    let ip = has(|n| matches!(n, SanType::IpAddress(_)));
    let refusals = [
        (serving && !dns && !ip, "DNS or IP subjectAltName is required"),
        (!serving && dns, "DNS subjectAltNames are not allowed"),
        (
            has(|n| matches!(n, SanType::Rfc822Name(_))),
            "Email subjectAltNames are not allowed",
        ),
        (!serving && ip, "IP subjectAltNames are not allowed"),
        (
            has(|n| matches!(n, SanType::URI(_))),
            "URI subjectAltNames are not allowed",
        ),
    ];
    if let Some((_, reason)) = refusals.into_iter().find(|(refused, _)| *refused) {
        return Err(reason.to_owned());
    }
    let purpose = if serving { "server auth" } else { "client auth" };
    let asked: BTreeSet<&str> = usages.into_iter().flatten().map(String::as_str).collect();
    let without_rsa: BTreeSet<&str> = ["digital signature", purpose].into();
    let mut wanted = without_rsa.clone();
    wanted.insert("key encipherment");
    if asked != wanted && asked != without_rsa {
        let wanted: Vec<&str> = wanted.into_iter().collect();
        return Err(format!("usages did not match [{}]", wanted.join(" ")));
    }
    if !common_name(parsed).starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    /// A request for a client's certificate.
    pub(crate) fn request(signer: &str, name: &str, group: &str, dns: &[&str]) -> CertificateSigningRequest {
        let names: Vec<String> = dns.iter().map(|d| (*d).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("params");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().expect("key");
        let pem = params
            .serialize_request(&key)
            .expect("request")
            .pem()
            .expect("pem");
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "u"},
            "spec": {"request": "", "signerName": signer, "username": name,
                "usages": ["digital signature", "client auth"]}}))
        .expect("request");
        request.spec.request.0 = pem.into_bytes();
        request
    }

    #[test]
    fn what_a_kubelet_may_ask_for() {
        let check = |name: &str, group: &str, dns: &[&str], expected: &str| {
            let request = request(KUBELET_CLIENT, name, group, dns);
            let parsed = parse(&request).expect("parsed");
            let verdict = check_kubelet(&parsed, request.spec.usages.as_ref(), false);
            assert_eq!(verdict.err().unwrap_or_default(), expected);
        };
        check("system:node:a", "system:nodes", &[], "");
        check(
            "system:node:a",
            "others",
            &[],
            "subject organization is not system:nodes",
        );
        check(
            "system:node:a",
            "system:nodes",
            &["a"],
            "DNS subjectAltNames are not allowed",
        );
        check(
            "a",
            "system:nodes",
            &[],
            "subject common name does not begin with system:node:",
        );
    }
}
