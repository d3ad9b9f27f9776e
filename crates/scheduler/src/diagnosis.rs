//! Why a pod found no node, in upstream's words.

use crate::framework::Rejection;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the plugins said about a pod that fits nowhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Diagnosis {
    pub nodes: usize,
    /// What a plugin said about all nodes at once.
    pub pre_filter: Option<Rejection>,
    /// Position in the snapshot, who refused the node, and why.
    pub rejections: Vec<(usize, &'static str, Rejection)>,
    pub plugins: Vec<&'static str>,
    /// What preemption said.
    pub post_filter: String,
}

impl Diagnosis {
    pub(crate) fn blame(&mut self, plugin: &'static str) {
        if !self.plugins.contains(&plugin) {
            self.plugins.push(plugin);
        }
    }

    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes);
        match &self.pre_filter {
            Some(rejection) => push(&mut message, &rejection.reasons.join(", ")),
            None => push_histogram(&mut message, self.rejections.iter().map(|(_, _, r)| r), None),
        }
        if !self.post_filter.is_empty() {
            message.push(' ');
            message.push_str(&self.post_filter);
        }
        message
    }
}

/// The message of a fit error over `nodes` nodes, of which those not in `rejections` get `absent`.
pub(crate) fn fit_error<'a>(
    nodes: usize,
    rejections: impl Iterator<Item = &'a Rejection>,
    absent: Option<(usize, &'static str)>,
) -> String {
    let mut message = format!("0/{nodes} nodes are available:");
    push_histogram(&mut message, rejections, absent);
    message
}

fn push_histogram<'a>(
    message: &mut String,
    rejections: impl Iterator<Item = &'a Rejection>,
    absent: Option<(usize, &'static str)>,
) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rejections.flat_map(|r| &r.reasons) {
        *reasons.entry(reason).or_default() += 1;
    }
    if let Some((count, reason)) = absent.filter(|(count, _)| *count > 0) {
        *reasons.entry(reason).or_default() += count;
    }
    let mut words: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    words.sort_unstable();
    if !words.is_empty() {
        push(message, &words.join(", "));
    }
}

fn push(message: &mut String, words: &str) {
    // Writing to a String cannot fail.
    let _ = write!(message, " {words}.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let mut diagnosis = Diagnosis {
            nodes: 3,
            ..Diagnosis::default()
        };
        let many = Rejection {
            error: false,
            resolvable: true,
            reasons: vec!["Insufficient cpu".into(), "Too many pods".into()],
        };
        diagnosis.rejections = vec![
            (0, "NodeResourcesFit", many.clone()),
            (1, "NodeResourcesFit", many),
            (
                2,
                "TaintToleration",
                Rejection::unresolvable("node(s) had untolerated taint(s)"),
            ),
        ];
        diagnosis.post_filter = "preemption: x".to_owned();
        assert_eq!(
            diagnosis.message(),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu, 2 Too many pods. preemption: x"
        );
        diagnosis.pre_filter = Some(Rejection::unresolvable(
            "pod has unbound immediate PersistentVolumeClaims",
        ));
        diagnosis.post_filter.clear();
        assert_eq!(
            diagnosis.message(),
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        );
        assert_eq!(
            Diagnosis::default().message(),
            "no nodes available to schedule pods"
        );
    }
}
