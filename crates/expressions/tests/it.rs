//! Expressions, from text to value.

use expressions::{Budget, Environment, ObjectType, Type, Val};
use machinery::Value;
use machinery::codec::json;

const OBJECT: &str = r#"{"name":"web","replicas":3,"max":5,"tags":["a","b"],"labels":{"x":"y"},"when":"2024-05-06T07:08:09Z",
    "spec":{"items":[{"k":"1","v":2},{"k":"2","v":3}],"wait":"90s"},"free":{"n":1.5},"in":1,"a-b":true}"#;

fn object_type() -> Type {
    let item = ObjectType::new("item", [("k".into(), Type::String(10)), ("v".into(), Type::Int)]);
    let spec = ObjectType::new(
        "spec",
        [
            ("items".into(), Type::List(Type::object(item).into(), 100)),
            ("wait".into(), Type::Duration),
        ],
    );
    Type::object(ObjectType::new(
        "object",
        [
            ("name".into(), Type::String(20)),
            ("replicas".into(), Type::Int),
            ("max".into(), Type::Int),
            ("missing".into(), Type::Int),
            ("tags".into(), Type::List(Type::String(10).into(), 10)),
            ("labels".into(), Type::map(Type::string())),
            ("when".into(), Type::Timestamp),
            ("spec".into(), Type::object(spec)),
            ("free".into(), Type::Dyn),
            ("in".into(), Type::Int),
            ("a-b".into(), Type::Bool),
        ],
    ))
}

fn environment() -> Environment {
    Environment::new().with("self", object_type())
}

/// What an expression says of the object, as JSON; errors as texts.
fn evaluate(text: &str) -> String {
    let object: Value = json::decode_any(OBJECT.as_bytes()).unwrap().value;
    let program = match environment().compile(text) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    let mut budget = Budget::new(1_000_000);
    match program.evaluate(&[Val::of(&object, &object_type())], &mut budget) {
        Ok(value) => String::from_utf8(json::to_vec(&value.to_value())).unwrap(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        assert_eq!(evaluate(text), *want, "{text}");
    }
}

#[test]
fn operators_and_macros() {
    check(&[
        ("self.replicas <= self.max && self.name != ''", "true"),
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("self.replicas > 2 ? 'many' : 'few'", "\"many\""),
        ("has(self.missing)", "false"),
        ("has(self.name) && !has(self.missing)", "true"),
        ("self.missing == 1 || true", "true"),
        ("self.missing == 1", "no such key: missing"),
        ("self.tags.all(t, t.size() == 1)", "true"),
        ("self.tags.exists(t, t == 'b')", "true"),
        ("self.tags.exists_one(t, t == 'b')", "true"),
        ("self.tags.map(t, t + '!')", r#"["a!","b!"]"#),
        ("self.tags.filter(t, t != 'a')", r#"["b"]"#),
        ("self.labels.all(k, self.labels[k] == 'y')", "true"),
        (
            "self.spec.items.all(i, self.spec.items.exists(j, j.v >= i.v))",
            "true",
        ),
        ("'a' in self.tags && !('z' in self.labels)", "true"),
        ("self.__in__ == 1 && self.a__dash__b", "true"),
        ("self.free.n == 1.5 && self.free.n > 1", "true"),
        ("[1, 2] == [1, 2] && {'a': 1} == {'a': 1}", "true"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("1 / 0", "division by zero"),
        ("self.tags[7]", "index out of bounds: 7"),
        ("type(1) == int && type(self.tags) == list", "true"),
        ("cel.bind(x, self.replicas * 2, x + x)", "12"),
        ("self.tags.all(i, t, i < 2 && t != '')", "true"),
        ("self.tags.transformList(i, t, string(i) + t)", r#"["0a","1b"]"#),
        ("self.labels.transformMap(k, v, k + v)", r#"{"x":"xy"}"#),
        ("self.?missing.orValue(7)", "7"),
        ("self.?replicas.optMap(r, r * 2).value()", "6"),
        ("self.labels[?'q'].hasValue()", "false"),
        ("optional.of(1).or(optional.none()).value()", "1"),
        ("[1, ?optional.none(), 2].size()", "2"),
    ]);
}

#[test]
fn libraries() {
    check(&[
        ("'a,b'.split(',').join('-')", "\"a-b\""),
        ("'hello'.substring(1, 3) + 'Wörld'.lowerAscii()", "\"elwörld\""),
        (
            "'abc 123'.find('[0-9]+') + 'a1b2'.findAll('[0-9]').join('')",
            "\"12312\"",
        ),
        ("self.name.matches('^w.b$') && !self.name.startsWith('x')", "true"),
        ("'%s has %d, %.2f'.format(['a', 3, 1.5])", "\"a has 3, 1.50\""),
        ("[3, 1, 2].isSorted() || [1, 2, 3].sum() == 6", "true"),
        ("[3, 1, 2].min() + [3, 1, 2].max() + [3, 1].indexOf(1)", "5"),
        ("[1, 2, 2].distinct().size() + [[1], [2]].flatten().size()", "4"),
        (
            "sets.contains([1, 2], [2]) && sets.equivalent([1], [1, 1]) && !sets.intersects([1], [2])",
            "true",
        ),
        (
            "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')) == quantity('1')",
            "true",
        ),
        ("quantity('50k').asInteger()", "50000"),
        ("isQuantity('1Xi') || isIP('1.2.3')", "false"),
        (
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && ip('::1').isLoopback()",
            "true",
        ),
        (
            "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && ip('10.0.0.1').family() == 4",
            "true",
        ),
        (
            "url('https://u@exa mple.com:80/p?x=1&x=2').getHost()",
            "URL parse error during conversion from string: parse \"https://u@exa mple.com:80/p?x=1&x=2\": invalid URI for request",
        ),
        (
            "url('https://example.com:80/p?x=1&x=2').getPort() + string(url('https://h/?x=1&x=2').getQuery()['x'].size())",
            "\"802\"",
        ),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('v1')",
            "true",
        ),
        (
            "format.dns1123Label().validate('A').hasValue() && !format.named('uuid').value().validate('x').value().isSorted()",
            "false",
        ),
        (
            "self.when.getFullYear() == 2024 && self.when < timestamp('2025-01-01T00:00:00Z')",
            "true",
        ),
        (
            "self.spec.wait > duration('1m') && duration('1h30m').getMinutes() == 90",
            "true",
        ),
        ("string(self.when - duration('1h'))", "\"2024-05-06T06:08:09Z\""),
        (
            "base64.decode('aGk=') == b'hi' && int('3') + int(2.9) == 5",
            "true",
        ),
        ("math.greatest(1, 2) + math.least(3, 4)", "5"),
    ]);
}

#[test]
fn findings_are_told_with_their_place() {
    check(&[
        (
            "self.nme == 'x'",
            "ERROR: <input>:1:5: undefined field 'nme'\n | self.nme == 'x'\n | ....^",
        ),
        (
            "other > 1",
            "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other > 1\n | ^",
        ),
        (
            "self.name + 1 == 2",
            "ERROR: <input>:1:11: found no matching overload for '_+_' applied to '(string, int)'\n | self.name + 1 == 2\n | ..........^",
        ),
    ]);
    assert!(evaluate("self.name ==").starts_with("ERROR: <input>:1:13: Syntax error:"));
}

#[test]
fn cost_is_estimated_and_limited() {
    let cost = |text: &str| environment().compile(text).unwrap().estimated_cost();
    assert!(cost("self.replicas > 1") < 10);
    let once = cost("self.spec.items.all(i, i.v > 0)");
    let twice = cost("self.spec.items.all(i, self.spec.items.all(j, i.v >= j.v))");
    assert!(
        (100..2_000).contains(&once) && twice > once * 50,
        "{once} {twice}"
    );
    assert_eq!(cost("self.labels.all(k, k.startsWith('a'))"), u64::MAX);

    let object = json::decode_any(OBJECT.as_bytes()).unwrap().value;
    let program = environment()
        .compile("[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, a + b > 0))")
        .unwrap();
    let mut budget = Budget::new(100);
    let outcome = program.evaluate(&[Val::of(&object, &object_type())], &mut budget);
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "operation cancelled: actual cost limit exceeded"
    );
    assert_eq!(budget.left(), 0);
}

#[test]
fn one_known_side_decides_what_an_operator_makes() {
    let environment = Environment::new().with("object", Type::Dyn);
    for (text, want) in [
        ("'a' + object.b", "string"),
        ("object.a + 1", "int"),
        ("[1] + object.a", "list(int)"),
        ("object.a + object.b", "dyn"),
        ("object.a * 2.0", "double"),
    ] {
        assert_eq!(
            environment.compile(text).unwrap().result().to_string(),
            want,
            "{text}"
        );
    }
}

/// Every published macro and function, as documented.
#[test]
fn the_dialect_is_spoken() {
    let environment = Environment::new();
    let mut wrong = Vec::new();
    for line in include_str!("dialect.txt").lines() {
        let Some((text, want)) = line.rsplit_once(" => ") else {
            // An error of any wording.
            let Some(text) = line.strip_suffix(" => !") else {
                assert!(line.is_empty() || line.starts_with('#'), "{line}");
                continue;
            };
            if run(&environment, text).is_ok() {
                wrong.push(format!("{text}: is no error"));
            }
            continue;
        };
        let said = run(&environment, text);
        let fits = match (want.strip_prefix('!'), &said) {
            (Some(part), Err(said)) => said.contains(part.trim()),
            (None, Ok(said)) => said == want,
            _ => false,
        };
        if !fits {
            wrong.push(format!("{text}: {said:?} instead of {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn run(environment: &Environment, text: &str) -> Result<String, String> {
    let program = environment.compile(text).map_err(|error| error.to_string())?;
    let value = program
        .evaluate(&[], &mut Budget::new(1_000_000))
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8(json::to_vec(&value.to_value())).unwrap())
}

/// Whatever is written, the answer is a value or an error.
#[test]
fn nothing_that_is_written_ends_the_process() {
    let environment = Environment::new();
    for (start, part, end, count) in [
        ("", "(", "1", 3_000),
        ("1", "+1", "", 3_000),
        ("", "!", "true", 3_000),
        ("", "-", "1", 3_000),
        ("", "[", "", 3_000),
        ("dyn(1)", ".a", "", 3_000),
        ("dyn(1)", "[0]", "", 3_000),
        ("", "true ? 1 : ", "1", 3_000),
        ("", "[1].all(x, ", "true", 300),
        ("true", " && true", "", 3_000),
        ("'", "a", "'", 200_000),
    ] {
        let text = format!("{start}{}{end}", part.repeat(count));
        // Which of the two is not the question.
        drop(run(&environment, &text));
    }
}

/// Documented examples with a few characters changed: errors of any kind, but no panic.
#[test]
fn damaged_expressions_are_refused_or_mean_something_else() {
    let environment = Environment::new();
    let examples: Vec<&str> = include_str!("dialect.txt")
        .lines()
        .filter_map(|line| line.rsplit_once(" =>").map(|(text, _)| text))
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    const ALPHABET: &[u8] = b"()[]{}.,:?!+-*/%<>=&|'\"\\ \n0123456789abxyzu_$\0";
    for _ in 0..1_500 {
        let mut text = examples[random(examples.len())].as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(text.len());
            match random(4) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, ALPHABET[random(ALPHABET.len())]),
                2 => text[at] = ALPHABET[random(ALPHABET.len())],
                _ => {
                    let other = examples[random(examples.len())].as_bytes();
                    text.splice(at..at, other[..random(other.len())].iter().copied());
                }
            }
            if text.is_empty() {
                break;
            }
        }
        if let Ok(text) = String::from_utf8(text) {
            drop(run(&environment, &text));
        }
    }
}
