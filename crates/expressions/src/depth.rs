//! How deep a text nests, told before it is parsed: parsing, checking and evaluating all recurse, and the text is
//! anybody's.
//!
//! A bound, not the depth itself: what stands in brackets nests in what stands around them, operators of one level nest
//! in each other, and so do the members of one operand. Operands of `&&` and `||`, and the items of a list, do not.

/// The deepest an expression may be, and the most characters it may have: cel-go's limits.
const DEEPEST: usize = 250;
const LONGEST: usize = 100_000;
/// Conjunctions and disjunctions of one level: they are one long chain.
const CHAIN: usize = 1_000;

/// What is counted on one level of brackets.
#[derive(Default)]
struct Level {
    operators: usize,
    members: usize,
    chained: usize,
}

/// Why a text is not parsed, if it is not.
pub(crate) fn refusal(text: &str) -> Option<String> {
    let length = text.chars().count();
    if length > LONGEST {
        return Some(format!(
            "ERROR: <input>:-1:0: expression code point size exceeds limit: size: {length}, limit {LONGEST}"
        ));
    }
    let mut levels = vec![Level::default()];
    let mut outer = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if matches!(byte, b'"' | b'\'') {
            at = after_text(bytes, at);
            continue;
        }
        if bytes[at..].starts_with(b"//") {
            at += bytes[at..]
                .iter()
                .position(|b| *b == b'\n')
                .unwrap_or(bytes.len() - at);
            continue;
        }
        let own = |level: &Level| 1 + level.operators + level.members;
        let open = levels.len();
        let level = levels.last_mut()?;
        match byte {
            b'(' | b'[' | b'{' => {
                level.members += 1;
                outer += own(level);
                levels.push(Level::default());
            }
            b')' | b']' | b'}' if open > 1 => {
                levels.pop();
                outer -= levels.last().map_or(0, own);
            }
            b'.' => level.members += 1,
            b',' => *level = Level::default(),
            b'&' | b'|' => {
                level.chained += 1;
                level.operators = 0;
                level.members = 0;
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'?' | b'<' | b'>' | b'=' => {
                level.operators += 1;
                level.members = 0;
            }
            _ => {}
        }
        let deep = levels.last().map_or(0, |level| own(level) + outer);
        if deep > DEEPEST || levels.last().is_some_and(|level| level.chained > 2 * CHAIN) {
            return Some(format!(
                "ERROR: <input>:-1:0: expression recursion limit exceeded: {DEEPEST}"
            ));
        }
        at += 1;
    }
    None
}

/// Where a text between quotes ends.
fn after_text(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let raw = start > 0 && matches!(bytes[start - 1], b'r' | b'R');
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let width = if triple { 3 } else { 1 };
    let mut at = start + width;
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at] == quote && (!triple || bytes[at..].starts_with(&[quote; 3])) {
            return at + width;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn what_nests_counts_and_what_stands_side_by_side_does_not() {
        let check = |start: &str, part: &str, end: &str, count: usize, refused: bool| {
            let text = format!("{start}{}{end}", part.repeat(count));
            assert_eq!(refusal(&text).is_some(), refused, "{part}");
        };
        check("", "(", "1", 300, true);
        check("1", " + 1", "", 300, true);
        check("1", " + 1", "", 200, false);
        check("a", ".b", "", 300, true);
        check("a", " && a.b.c == 1", "", 300, false);
        check("a", " && a.b.c == 1", "", 3_000, true);
        check("[1", ", a.b + 1", "]", 3_000, false);
        check("'", "(+", "'", 3_000, false);
        check("r'\\' + '", "((", "'", 300, false);
        check("\"\"\"'", "((", "\"\"\"", 300, false);
        check("a.b(c).d", " + a.b.c", "", 100, false);
        check("'", "a", "'", 100_000, true);
    }
}
