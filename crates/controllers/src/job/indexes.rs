//! Sets of completion indexes as a job's status writes them: `0,3-5,9`.

use std::collections::BTreeSet;

/// Indexes below the number of completions. What is written out of range is left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

/// Three or more in a row are written as a range; two are written one by one.
pub(super) fn write(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.push(format!("{first},{last}")),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for (text, completions, expected) in [
            ("", 5, ""),
            ("0,3-5,9", 10, "0,3-5,9"),
            ("0,1", 10, "0,1"),
            ("0,1,2", 10, "0-2"),
            ("3-9", 5, "3,4"),
            ("7", 5, ""),
        ] {
            assert_eq!(write(&parse(text, completions)), expected, "{text}");
        }
    }
}
