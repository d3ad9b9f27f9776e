//! The files inside a request: what a client asks to have signed, and what a signer answers.
//!
//! A signature made with an algorithm that the cryptographic library does not know (ECDSA on P-521) is not looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

const REQUEST: &str = "CERTIFICATE REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// Whether a request, in base64 as objects hold bytes, is a signed PKCS#10 request.
pub(super) fn judge(encoded: &str) -> Result<(), String> {
    let block = blocks(encoded).next().and_then(Result::ok);
    let Some(block) = block.filter(|block| block.label == REQUEST) else {
        return Err(format!("PEM block type must be {REQUEST}"));
    };
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|_| "x509: malformed certificate request")?;
    let Some(algorithm) = algorithm(&request) else {
        return Ok(());
    };
    let key = &request
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data;
    UnparsedPublicKey::new(algorithm, key)
        .verify(
            request.certification_request_info.raw,
            &request.signature_value.data,
        )
        .map_err(|_| "x509: signature verification failed".to_owned())
}

/// Whether an answer, if there is one, is a list of certificates.
pub(super) fn judge_certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let mut count = 0;
    for block in blocks(encoded).map_while(Result::ok) {
        if block.label != CERTIFICATE {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.label
            ));
        }
        block.parse_x509().map_err(|_| "x509: malformed certificate")?;
        count += 1;
    }
    if count == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}

fn blocks(encoded: &str) -> impl Iterator<Item = Result<Pem, x509_parser::error::PEMError>> {
    // Bytes that are no base64 are refused by the decoder.
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    Pem::iter_from_buffer(&bytes).collect::<Vec<_>>().into_iter()
}

fn algorithm(request: &X509CertificationRequest<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    let parameters = request
        .certification_request_info
        .subject_pki
        .algorithm
        .parameters
        .as_ref();
    let curve = parameters
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|oid| oid.to_id_string())
        .unwrap_or_default();
    let signature = request.signature_algorithm.algorithm.to_id_string();
    Some(match (signature.as_str(), curve.as_str()) {
        ("1.2.840.113549.1.1.11", _) => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        ("1.2.840.113549.1.1.12", _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", _) => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        ("1.2.840.10045.4.3.2", P256) => &signature::ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", P256) => &signature::ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.2", P384) => &signature::ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", P384) => &signature::ECDSA_P384_SHA384_ASN1,
        ("1.3.101.112", _) => &signature::ED25519,
        _ => return None,
    })
}

/// What is wrong with a list of certificates of authorities.
pub(super) fn judge_anchors(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
    for (index, block) in Pem::iter_from_buffer(text.as_bytes())
        .map_while(Result::ok)
        .enumerate()
    {
        if block.label != CERTIFICATE {
            wrong.push(format!("entry {index} has bad block type: {}", block.label));
            continue;
        }
        let Ok(certificate) = block.parse_x509() else {
            wrong.push(format!("entry {index} does not parse as X.509"));
            continue;
        };
        if !certificate.is_ca() {
            wrong.push(format!("entry {index} does not have the CA bit set"));
            continue;
        }
        drop(certificate);
        match seen.iter_mut().find(|(bytes, _)| *bytes == block.contents) {
            Some((_, places)) => places.push(index),
            None => seen.push((block.contents, vec![index])),
        }
    }
    if !wrong.is_empty() {
        return wrong;
    }
    if seen.is_empty() {
        return vec!["at least one trust anchor must be provided".to_owned()];
    }
    seen.iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(_, places)| {
            let places: Vec<String> = places.iter().map(ToString::to_string).collect();
            format!("duplicate trust anchor (indices [{}])", places.join(" "))
        })
        .collect()
}
