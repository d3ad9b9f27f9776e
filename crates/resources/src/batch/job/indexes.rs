//! Lists of completion indexes as statuses and policies write them: `1,3-5,7`.

/// How many indexes a list names, or what is wrong with it: every one is below `completions`, in rising order.
pub(super) fn count(list: &str, completions: i64) -> Result<i64, String> {
    if list.is_empty() {
        return Ok(0);
    }
    let (mut last, mut total) = (None, 0);
    for interval in list.split(',') {
        let (first, end) = parse(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(not_rising(last, first));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// The first index two lists share; intervals that cannot be read are passed over.
pub(super) fn overlap(a: &str, b: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<(i64, i64)> {
        list.split(',')
            .filter_map(|interval| parse(interval, completions).ok())
            .collect()
    };
    let (a, b) = (read(a), read(b));
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.0 <= y.1 && y.0 <= x.1 {
            return Some(x.0.max(y.0));
        }
        if x.0 <= y.0 {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

fn parse(interval: &str, completions: i64) -> Result<(i64, i64), String> {
    let number = |text: &str| {
        let number: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let mut parts = interval.split('-');
    let (Some(first), second, None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!(
            "the fragment {interval:?} violates the requirement that an index interval can have at most two parts \
             separated by '-'"
        ));
    };
    let first = number(first)?;
    let Some(second) = second else {
        return Ok((first, first));
    };
    let second = number(second)?;
    if first >= second {
        return Err(not_rising(first, second));
    }
    Ok((first, second))
}

fn not_rising(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_and_compared() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0,2-4", 5), Ok(4));
        assert_eq!(count("1,1", 5), Err(not_rising(1, 1)));
        assert_eq!(count("3-2", 5), Err(not_rising(3, 2)));
        assert_eq!(count("5", 5), Err("too large index: \"5\"".to_owned()));
        assert!(count("a", 5).is_err() && count("1-2-3", 5).is_err());
        assert_eq!(overlap("0-2,5", "3,5-6", 9), Some(5));
        assert_eq!(overlap("0,2", "1,3", 9), None);
    }
}
