//! What is said when an applier would change what somebody else manages.

use super::managed::Manager;
use super::set::{FieldSet, display_path};
use crate::patch::go;
use crate::status::Cause;

/// Fields one other manager owns and the configuration would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Manager,
    pub fields: FieldSet,
}

/// All conflicts of one apply, in the order upstream names them: by manager.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct Conflicts(pub(super) Vec<Conflict>);

impl Conflicts {
    pub(super) fn new(mut conflicts: Vec<Conflict>) -> Self {
        conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
        Self(conflicts)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Conflict> {
        self.0.iter()
    }

    /// The causes of the Status.
    pub fn causes(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        for conflict in &self.0 {
            let message = format!("conflict with {}", shown(&conflict.manager));
            conflict.fields.for_each(&mut |path| {
                causes.push(Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: message.clone(),
                    field: display_path(path),
                });
            });
        }
        causes
    }

    /// The message of the Status.
    pub fn message(&self) -> String {
        let count: usize = self.0.iter().map(|conflict| conflict.fields.len()).sum();
        if let ([only], 1) = (self.0.as_slice(), count) {
            return format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                shown(&only.manager),
                only.fields.paths().concat()
            );
        }
        let mut lines = Vec::new();
        for conflict in &self.0 {
            lines.push(format!("conflicts with {}:", shown(&conflict.manager)));
            lines.extend(conflict.fields.paths().iter().map(|path| format!("- {path}")));
        }
        format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
    }
}

fn shown(manager: &Manager) -> String {
    let mut out = go::quote(&manager.name);
    if !manager.subresource.is_empty() {
        out.push_str(&format!(" with subresource {}", go::quote(&manager.subresource)));
    }
    if let Some(version) = manager.update_version() {
        out.push_str(&format!(" using {version}"));
    }
    out
}
