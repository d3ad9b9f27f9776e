//! What changed between two objects, as a unified diff of their JSON: part of messages about forbidden changes.

use machinery::Value;
use std::fmt::Write as _;

const CONTEXT: usize = 3;

/// The diff's text; empty when nothing differs.
pub(crate) fn unified(old: &Value, new: &Value) -> String {
    let (old, new) = (lines(old), lines(new));
    let steps = steps(&old, &new);
    let changed: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| !matches!(step, Step::Same(..)))
        .map(|(at, _)| at)
        .collect();
    let mut out = String::new();
    let mut at = 0;
    while let Some(first) = changed.get(at) {
        // Changes that are near each other stand in one hunk.
        let mut last = at;
        while changed
            .get(last + 1)
            .is_some_and(|next| next - changed[last] <= 2 * CONTEXT)
        {
            last += 1;
        }
        let from = first.saturating_sub(CONTEXT);
        let to = (changed[last] + CONTEXT + 1).min(steps.len());
        hunk(&steps[from..to], &old, &new, &mut out);
        at = last + 1;
    }
    out
}

/// A line of both, of the old or of the new text, by its place there.
#[derive(Clone, Copy)]
enum Step {
    Same(usize, usize),
    Old(usize, usize),
    New(usize, usize),
}

fn hunk(steps: &[Step], old: &[String], new: &[String], out: &mut String) {
    let Some(Step::Same(a, b) | Step::Old(a, b) | Step::New(a, b)) = steps.first() else {
        return;
    };
    let count = |keep: fn(&Step) -> bool| steps.iter().filter(|step| keep(step)).count();
    let (olds, news) = (
        count(|step| !matches!(step, Step::New(..))),
        count(|step| !matches!(step, Step::Old(..))),
    );
    // Writing to a String cannot fail.
    let _ok = writeln!(out, "@@ -{} +{} @@", range(*a, olds), range(*b, news));
    for step in steps {
        let _ok = match step {
            Step::Same(a, _) => writeln!(out, " {}", old[*a]),
            Step::Old(a, _) => writeln!(out, "-{}", old[*a]),
            Step::New(_, b) => writeln!(out, "+{}", new[*b]),
        };
    }
}

fn range(start: usize, length: usize) -> String {
    match length {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        _ => format!("{},{length}", start + 1),
    }
}

/// The shortest way from the old lines to the new ones.
fn steps(old: &[String], new: &[String]) -> Vec<Step> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..]
        .iter()
        .rev()
        .zip(new[head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (rows, columns) = (old.len() - head - tail, new.len() - head - tail);
    // How many lines are common from each place on.
    let mut common = vec![vec![0_u32; columns + 1]; rows + 1];
    for a in (0..rows).rev() {
        for b in (0..columns).rev() {
            common[a][b] = if old[head + a] == new[head + b] {
                common[a + 1][b + 1] + 1
            } else {
                common[a + 1][b].max(common[a][b + 1])
            };
        }
    }
    let mut steps: Vec<Step> = (0..head).map(|at| Step::Same(at, at)).collect();
    let (mut a, mut b) = (0, 0);
    while a < rows || b < columns {
        let (at_old, at_new) = (head + a, head + b);
        if a < rows && b < columns && old[at_old] == new[at_new] {
            steps.push(Step::Same(at_old, at_new));
            a += 1;
            b += 1;
        } else if b == columns || (a < rows && common[a + 1][b] >= common[a][b + 1]) {
            steps.push(Step::Old(at_old, at_new));
            a += 1;
        } else {
            steps.push(Step::New(at_old, at_new));
            b += 1;
        }
    }
    steps.extend((0..tail).map(|at| Step::Same(head + rows + at, head + columns + at)));
    steps
}

/// The lines of an object's JSON.
fn lines(value: &Value) -> Vec<String> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    // One blank a level, as upstream.
    text.lines()
        .map(|line| {
            let rest = line.trim_start();
            format!("{}{rest}", " ".repeat((line.len() - rest.len()) / 2))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_stand_in_their_context() {
        let mut old = Value::object();
        for field in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            old.set_path(&[field], 1);
        }
        let mut new = old.clone();
        new.set_path(&["d"], 2);
        let want = "@@ -2,7 +2,7 @@\n  \"a\": 1,\n  \"b\": 1,\n  \"c\": 1,\n- \"d\": 1,\n+ \"d\": 2,\n  \"e\": 1,\n  \"f\": 1,\n  \"g\": 1,\n";
        assert_eq!(unified(&old, &new), want);
        assert_eq!(unified(&old, &old), "");
    }
}
