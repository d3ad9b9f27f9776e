//! Who converts between a definition's versions. Errors name the fields of the group's own inner version, as upstream's
//! do (`webhookClientConfig`).

use super::Strictness;
use crate::At;
use crate::admissionregistration::client_config;
use crate::fields::{list_at, present, text, text_at, texts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::field::{Error, ErrorList, Path};
use machinery::{Value, names};
use x509_parser::pem::Pem;

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Whether a stored definition names a review that is spoken, or none at all.
pub(super) fn knows_review(crd: &Value) -> bool {
    let named = list_at(
        crd,
        &["spec", "conversion", "webhook", "conversionReviewVersions"],
    );
    named.is_empty()
        || named
            .iter()
            .filter_map(Value::as_str)
            .any(|version| REVIEWS.contains(&version))
}

/// Whether a stored definition has certificates that are none.
pub(super) fn has_bad_bundle(crd: &Value) -> bool {
    let bundle = text_at(
        crd,
        &["spec", "conversion", "webhook", "clientConfig", "caBundle"],
    );
    !bundle.is_empty() && certificates(bundle).is_err()
}

pub(super) fn validate(crd: &Value, strict: &Strictness<'_>, at: &Path, errors: &mut ErrorList) {
    let Some(conversion) = crd.get_path(&["spec", "conversion"]).filter(|c| !c.is_null()) else {
        return;
    };
    let strategy = text(conversion, "strategy");
    match strategy {
        "" => errors.push(Error::required(&at.child("strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(Error::not_supported(
            &at.child("strategy"),
            other,
            &["None", "Webhook"],
        )),
    }
    if strategy != "None" && super::keeps_unknown(crd) {
        let why = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(&at.child("strategy"), strategy, why));
    }
    let webhook = present(conversion, "webhook");
    let client = webhook.and_then(|webhook| present(webhook, "clientConfig"));
    let reviews: Vec<&str> = webhook
        .map(|webhook| texts(webhook, "conversionReviewVersions").collect())
        .unwrap_or_default();
    let (client_at, reviews_at) = (
        at.child("webhookClientConfig"),
        at.child("conversionReviewVersions"),
    );
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.push(Error::forbidden(&client_at, why));
        }
        if !reviews.is_empty() {
            errors.push(Error::forbidden(&reviews_at, why));
        }
        return;
    }
    match client {
        None => errors.push(Error::required(
            &client_at,
            "required when strategy is set to Webhook",
        )),
        Some(client) => {
            client_config(client, &At::new(client_at.as_str()), errors);
            let bundle = text(client, "caBundle");
            if strict.certificates
                && !bundle.is_empty()
                && let Err(why) = certificates(bundle)
            {
                errors.push(Error::invalid(&client_at.child("caBundle"), bundle, why));
            }
        }
    }
    review_versions(&reviews, strict, &reviews_at, errors);
}

fn review_versions(reviews: &[&str], strict: &Strictness<'_>, at: &Path, errors: &mut ErrorList) {
    if reviews.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    for (index, version) in reviews.iter().enumerate() {
        let here = at.index(index);
        if reviews[..index].contains(version) {
            errors.push(Error::invalid(&here, *version, "duplicate version"));
            continue;
        }
        for wrong in names::dns1035_label(version) {
            errors.push(Error::invalid(&here, *version, wrong));
        }
    }
    if strict.known_review && !reviews.iter().any(|version| REVIEWS.contains(version)) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        let named: Vec<Value> = reviews.iter().map(|version| Value::from(*version)).collect();
        errors.push(Error::invalid(at, named, why));
    }
}

/// Whether a bundle has a certificate; or what a client that tried to trust it would say.
fn certificates(bundle: &str) -> Result<(), String> {
    let failed = |why: &str| Err(format!("unable to load root certificates: {why}"));
    // Bytes that are no base64 are refused by the decoder.
    let bytes = STANDARD.decode(bundle).unwrap_or_default();
    let mut blocks = Pem::iter_from_buffer(&bytes).map_while(Result::ok).peekable();
    if blocks.peek().is_none() {
        return failed("unable to parse bytes as PEM block");
    }
    let mut blocks = blocks.filter(|block| block.label == "CERTIFICATE").peekable();
    if blocks.peek().is_none() {
        return failed("no valid certificate authority data seen");
    }
    if blocks.any(|block| block.parse_x509().is_ok()) {
        return Ok(());
    }
    failed("failed to parse certificate: x509: malformed certificate")
}
