//! Feature gates of the API server: what may be switched on beside what is always there.
//!
//! **Invariant:** a gate stands here only if something asks for it; names and defaults are upstream's.

/// The gates and how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// `CBORServingAndStorage` (alpha): CBOR beside JSON on the wire, and custom objects stored in it.
    pub cbor: bool,
}

/// A gate that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    #[error("missing bool value for {0}")]
    NoValue(String),
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    #[error("invalid value of {gate}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    Value { gate: String, value: String },
}

impl Features {
    /// Reads `gate=true` settings, in order; `AllAlpha` stands for every gate that is off for being young.
    pub fn parse<'a>(settings: impl IntoIterator<Item = &'a str>) -> Result<Self, FeatureError> {
        let mut features = Self::default();
        for setting in settings.into_iter().filter(|s| !s.is_empty()) {
            let (gate, value) = setting
                .split_once('=')
                .ok_or_else(|| FeatureError::NoValue(setting.to_owned()))?;
            let (gate, value) = (gate.trim(), value.trim());
            let on = match value {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
                "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
                _ => {
                    return Err(FeatureError::Value {
                        gate: gate.to_owned(),
                        value: value.to_owned(),
                    });
                }
            };
            match gate {
                "CBORServingAndStorage" | "AllAlpha" => features.cbor = on,
                _ => return Err(FeatureError::Unknown(gate.to_owned())),
            }
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_set_by_name() {
        let parse = |text: &'static str| Features::parse(text.split(','));
        assert_eq!(parse(""), Ok(Features { cbor: false }));
        assert_eq!(parse("CBORServingAndStorage=true"), Ok(Features { cbor: true }));
        assert_eq!(
            parse("AllAlpha=1,CBORServingAndStorage=F"),
            Ok(Features { cbor: false })
        );
        let error = |text| parse(text).unwrap_err().to_string();
        assert_eq!(
            error("CBORServingAndStorage"),
            "missing bool value for CBORServingAndStorage"
        );
        assert_eq!(error("Nothing=true"), "unrecognized feature gate: Nothing");
    }
}
