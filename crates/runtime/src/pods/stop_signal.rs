//! Signals by the names images and CRI give them.

use cri::v1::Signal;

pub(crate) const SIGTERM: i32 = 15;
pub(crate) const SIGKILL: i32 = 9;

const NAMES: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("UNUSED", 31),
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-2`.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, base: i32| -> Option<i32> {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.parse::<i32>().ok()?
        };
        (RTMIN..=RTMAX)
            .contains(&(base + offset))
            .then_some(base + offset)
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(&rest.replace("PLUS", "+"), RTMIN);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(&rest.replace("MINUS", "-"), RTMAX);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// What stops the container: its own wish, the image's, or SIGTERM.
pub(crate) fn choose(wanted: Signal, image: &str) -> i32 {
    match wanted {
        Signal::RuntimeDefault => parse(image).unwrap_or(SIGTERM),
        named => parse(named.as_str_name()).unwrap_or(SIGTERM),
    }
}

/// The CRI name of a signal.
pub(crate) fn to_cri(number: i32) -> Signal {
    (1..=65)
        .filter_map(|value| Signal::try_from(value).ok())
        .find(|signal| parse(signal.as_str_name()) == Some(number))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS3", 37),
            ("RTMAX-2", 62),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "SIGNOPE", "0", "65", "RTMIN+40"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(choose(Signal::RuntimeDefault, "SIGQUIT"), 3);
        assert_eq!(choose(Signal::Sigusr1, "SIGQUIT"), 10);
        assert_eq!(choose(Signal::Sigrtmaxminus14, ""), 50);
        assert_eq!(to_cri(15), Signal::Sigterm);
    }

    #[test]
    fn every_cri_signal_has_a_number() {
        for value in 1..=65 {
            let signal = Signal::try_from(value).unwrap();
            assert!(parse(signal.as_str_name()).is_some(), "{}", signal.as_str_name());
        }
    }
}
