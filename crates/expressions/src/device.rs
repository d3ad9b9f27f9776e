//! What expressions that select devices know: `device`, as ResourceSlices tell of it (KEP-4381).
//!
//! Attributes and capacities are looked up by their domain first; names without one are of the driver's. A domain of
//! which the device has nothing is an empty map, so that `has(device.attributes["x"].y)` never fails.

use crate::compile::{CompileError, Environment, Program};
use crate::eval::{Budget, EvalError};
use crate::functions::{quantity, semver};
use crate::types::{ObjectType, Type};
use crate::value::Val;
use compact_str::CompactString;
use machinery::quantity::Quantity;
use std::sync::{Arc, LazyLock};

/// The most one evaluation may cost.
pub const BUDGET: u64 = 1_000_000;

/// Most attributes and capacities of one device.
const NAMES_MOST: u64 = 32;
const DOMAIN_LONGEST: u64 = 63;
const ID_LONGEST: u64 = 32;

/// A checked expression over a device.
#[derive(Debug)]
pub struct Selector(Program);

/// What one attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute<'a> {
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Version(&'a str),
}

/// A device, ready for expressions.
#[derive(Debug, Clone)]
pub struct Device<'a>(Val<'a>);

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let names = |value: Type| {
        let inner = Type::Map(Arc::new(Type::String(ID_LONGEST)), Arc::new(value), NAMES_MOST);
        Type::Map(
            Arc::new(Type::String(DOMAIN_LONGEST)),
            Arc::new(inner),
            NAMES_MOST,
        )
    };
    let fields = [
        ("driver", Type::String(DOMAIN_LONGEST)),
        ("allowMultipleAllocations", Type::Bool),
        ("attributes", names(Type::Dyn)),
        ("capacity", names(Type::Opaque(quantity::NAME))),
    ];
    let fields = fields.map(|(name, ty)| (CompactString::const_new(name), ty));
    Environment::new().with(
        "device",
        Type::object(ObjectType::new("kubernetes.DRADevice", fields)),
    )
});

impl Selector {
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        let program = ENVIRONMENT
            .compile(text)
            .map_err(|error| CompileError(format!("compilation failed: {error}")))?;
        match program.result() {
            Type::Bool | Type::Dyn => Ok(Self(program)),
            other => Err(CompileError(format!(
                "must evaluate to bool or the unknown type, not {other}"
            ))),
        }
    }

    /// The most it can cost.
    pub fn estimated_cost(&self) -> u64 {
        self.0.estimated_cost()
    }

    pub fn matches(&self, device: &Device<'_>) -> Result<bool, EvalError> {
        let mut budget = Budget::new(BUDGET);
        let result = self.0.evaluate(std::slice::from_ref(&device.0), &mut budget)?;
        result.as_bool().ok_or_else(|| {
            EvalError::Failed(format!(
                "CEL result of type {} could not be converted to bool: type conversion error from '{}' to 'bool'",
                result.type_name(),
                result.type_name()
            ))
        })
    }
}

impl<'a> Device<'a> {
    /// The error names an attribute that is no version although it says so.
    pub fn new(
        driver: &'a str,
        many: bool,
        attributes: impl IntoIterator<Item = (&'a str, Attribute<'a>)>,
        capacity: impl IntoIterator<Item = (&'a str, Quantity)>,
    ) -> Result<Self, String> {
        let mut known = Domains::default();
        for (name, attribute) in attributes {
            let value = match attribute {
                Attribute::Bool(flag) => Val::Bool(flag),
                Attribute::Int(number) => Val::Int(number),
                Attribute::Text(text) => Val::text(text),
                Attribute::Version(text) => semver::version(text)
                    .map_err(|why| format!("attribute {name}: parse semantic version: {why}"))?,
            };
            known.insert(driver, name, value);
        }
        let mut sizes = Domains::default();
        for (name, size) in capacity {
            sizes.insert(driver, name, quantity::value(size));
        }
        Ok(Self(Val::Map(Arc::new(vec![
            (Val::text("driver"), Val::text(driver)),
            (Val::text("allowMultipleAllocations"), Val::Bool(many)),
            (Val::text("attributes"), known.into_value()),
            (Val::text("capacity"), sizes.into_value()),
        ]))))
    }
}

/// Names by their domains, in the order in which they are met.
#[derive(Default)]
struct Domains<'a>(Vec<(&'a str, Vec<(Val<'a>, Val<'a>)>)>);

impl<'a> Domains<'a> {
    fn insert(&mut self, driver: &'a str, name: &'a str, value: Val<'a>) {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        let entry = (Val::text(id), value);
        match self.0.iter_mut().find(|(known, _)| *known == domain) {
            Some((_, entries)) => entries.push(entry),
            None => self.0.push((domain, vec![entry])),
        }
    }

    fn into_value(self) -> Val<'a> {
        let maps = self.0.into_iter();
        Val::Domains(Arc::new(
            maps.map(|(domain, entries)| (Val::text(domain), Val::Map(Arc::new(entries))))
                .collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device<'static> {
        let attributes = [
            ("model", Attribute::Text("a100")),
            ("index", Attribute::Int(3)),
            ("fast", Attribute::Bool(true)),
            ("other.io/version", Attribute::Version("1.10.2")),
        ];
        let size = "40Gi".parse().expect("quantity");
        Device::new("gpu.io", false, attributes, [("memory", size)]).expect("a device")
    }

    #[test]
    fn selection() {
        for (text, expected) in [
            (r#"device.driver == "gpu.io""#, true),
            (r#"device.attributes["gpu.io"].model == "a100""#, true),
            (r#"device.attributes["gpu.io"].index > 2"#, true),
            (r#"device.attributes["gpu.io"].fast"#, true),
            (
                r#"device.attributes["other.io"].version.isGreaterThan(semver("1.9.0"))"#,
                true,
            ),
            (
                r#"device.attributes["other.io"].version.compareTo(semver("2.0.0")) >= 0"#,
                false,
            ),
            (
                r#"device.capacity["gpu.io"].memory.isGreaterThan(quantity("30Gi"))"#,
                true,
            ),
            (
                r#"device.capacity["gpu.io"].memory.compareTo(quantity("41Gi")) >= 0"#,
                false,
            ),
            (r#"has(device.attributes["nobody.io"].model)"#, false),
            (r#""nobody.io" in device.attributes"#, false),
            (r#""gpu.io" in device.attributes"#, true),
            (r#"device.allowMultipleAllocations"#, false),
            (
                r#"cel.bind(a, device.attributes["gpu.io"], a.fast && a.index == 3)"#,
                true,
            ),
        ] {
            let selector = Selector::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(&device()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_select() {
        for (text, expected) in [
            (
                r#"device.driver"#,
                "must evaluate to bool or the unknown type, not string",
            ),
            (r#"device.nothing"#, "undefined field 'nothing'"),
            (r#"device.driver =="#, "compilation failed: "),
        ] {
            let error = Selector::compile(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let missing = Selector::compile(r#"device.attributes["nobody.io"].model == "x""#).expect("compiles");
        assert_eq!(
            missing.matches(&device()),
            Err(EvalError::Failed("no such key: model".to_owned()))
        );
    }
}
