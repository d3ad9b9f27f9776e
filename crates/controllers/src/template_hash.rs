//! The name of a pod template: FNV-32a over its canonical JSON and the collision count, in letters that form no words.
//! Deployments name their replica sets by it, stateful and daemon sets their revisions.

use k8s_openapi::api::core::v1::PodTemplateSpec;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

pub(crate) fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    // Maps of these types are sorted and the types cannot fail to be written, so the text is canonical.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut hash = fnv32a(0x811c_9dc5, &text);
    if let Some(count) = collision_count {
        hash = fnv32a(hash, &i64::from(count).to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

fn fnv32a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Stands each character for another, so that vowels and the digits that look like them never occur.
fn safe_encode(text: &str) -> String {
    text.bytes()
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(fnv32a(0x811c_9dc5, b"a"), 0xe40c_292c);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
        let template = PodTemplateSpec::default();
        assert_ne!(template_hash(&template, None), template_hash(&template, Some(1)));
        assert_eq!(template_hash(&template, None), template_hash(&template, None));
    }
}
