//! What upstream says of every definition and field, compressed in the binary and read only while a document is made.
//!
//! `build.rs` writes it and documents its form.

use std::collections::HashMap;
use std::io::Read as _;

static PROSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose.z"));

/// The text, for [`Prose::of`].
pub(super) fn text() -> String {
    let mut text = String::new();
    if let Err(error) = flate2::read::ZlibDecoder::new(PROSE).read_to_string(&mut text) {
        // Compiled in and tested; a document without prose is still a document.
        tracing::error!(%error, "the prose of the API cannot be read");
        text.clear();
    }
    text
}

/// The text, by definition.
#[derive(Default)]
pub(super) struct Prose<'a>(HashMap<&'a str, &'a str>);

impl<'a> Prose<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let definitions = text.split_terminator('\x1d');
        Self(definitions.filter_map(|d| d.split_once('\x1f')).collect())
    }

    /// What is said of a definition.
    pub(super) fn definition(&self, name: &str) -> Option<&'a str> {
        let rest = self.0.get(name)?;
        Some(rest.split('\x1e').next().unwrap_or_default()).filter(|said| !said.is_empty())
    }

    /// What is said of a definition's field.
    pub(super) fn field(&self, name: &str, field: &str) -> Option<&'a str> {
        let rest = self.0.get(name)?;
        let mut lines = rest
            .split('\x1e')
            .skip(1)
            .filter_map(|line| line.split_once('\x1f'));
        lines
            .find(|(key, _)| *key == field)
            .map(|(_, said)| said)
            .filter(|said| !said.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_nearly_every_field_has_its_prose() {
        let text = text();
        let prose = Prose::of(&text);
        let said = prose.definition("io.k8s.api.core.v1.Pod");
        assert!(said.is_some_and(|s| s.starts_with("Pod is a collection of containers")));
        let said = prose.field("io.k8s.api.apps.v1.DeploymentSpec", "replicas");
        assert!(said.is_some_and(|s| s.starts_with("Number of desired pods.")));
        assert_eq!(prose.field("io.k8s.api.apps.v1.DeploymentSpec", "none"), None);
        let (mut fields, mut silent) = (0, Vec::new());
        for kind in api::kinds().filter(|k| !k.gvk.kind.ends_with("List")) {
            let Some(s) = api::types().as_struct(kind.ty) else {
                continue;
            };
            for field in s.fields() {
                fields += 1;
                if prose.field(&s.name, &field.name).is_none() {
                    silent.push(format!("{}.{}", s.name, field.name));
                }
            }
        }
        assert!(
            silent.len() * 20 < fields,
            "{} of {fields}: {silent:?}",
            silent.len()
        );
    }
}
