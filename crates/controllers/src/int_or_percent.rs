//! A number, or a share of another number.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share that is no whole number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The value against a total; validation has seen to the form, so what is neither counts as nothing.
pub(crate) fn resolve(value: Option<&IntOrString>, total: i32, round: Round) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let value = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let percent = IntOrString::String("25%".to_owned());
        assert_eq!(resolve(Some(&percent), 10, Round::Up), 3);
        assert_eq!(resolve(Some(&percent), 10, Round::Down), 2);
        assert_eq!(resolve(Some(&IntOrString::Int(7)), 10, Round::Down), 7);
        assert_eq!(resolve(None, 10, Round::Up), 0);
    }
}
