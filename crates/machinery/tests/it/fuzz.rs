//! A short slice of the fuzzers (`fuzz/`): their seeds, and mutations of them from a fixed seed.

#[path = "../../../../fuzz/src/lib.rs"]
mod entries;

use std::path::Path;

/// Mutations of each target's seeds.
const MUTATIONS: usize = 3000;

/// An input at work; shown when it brings a panic.
struct AtWork<'a>(&'a str, &'a [u8]);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}: {:?}\n{:02x?}",
                self.0,
                String::from_utf8_lossy(self.1),
                self.1
            );
        }
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

fn check(target: &str) {
    let (_, entry) = entries::TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("seeds")
        .map(|seed| seed.expect("a seed").path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).expect("a seed"))
        .collect();
    assert!(seeds.len() >= 4, "few seeds for {target}");
    for seed in &seeds {
        let _at_work = AtWork(target, seed);
        entry(seed);
    }
    let mut dice = Dice(1);
    for _ in 0..MUTATIONS {
        let mut input = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(6) {
            mutate(&mut input, &seeds, &mut dice);
        }
        let _at_work = AtWork(target, &input);
        entry(&input);
    }
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    const TELLING: &[u8] = b"{}[]\",:\\-0192eE.+~/$\0\n\x7f\x80\xff \xc0";
    let at = dice.roll(input.len() + 1);
    match dice.roll(6) {
        0 if at < input.len() => input[at] ^= 1 << dice.roll(8),
        1 if at < input.len() => input[at] = TELLING[dice.roll(TELLING.len())],
        2 => input.insert(at, TELLING[dice.roll(TELLING.len())]),
        3 => {
            let end = (at + dice.roll(12)).min(input.len());
            input.drain(at..end);
        }
        4 => {
            let other = &seeds[dice.roll(seeds.len())];
            let from = dice.roll(other.len());
            let piece = &other[from..(from + 1 + dice.roll(40)).min(other.len())];
            input.splice(at..at, piece.iter().copied());
        }
        5 if at < input.len() => {
            let end = (at + 1 + dice.roll(30)).min(input.len());
            let piece = input[at..end].to_vec();
            for _ in 0..1 + dice.roll(3) {
                input.splice(at..at, piece.iter().copied());
            }
        }
        _ => {}
    }
}

#[test]
fn json() {
    check("json");
}

#[test]
fn yaml() {
    check("yaml");
}

#[test]
fn protobuf() {
    check("protobuf");
}

#[test]
fn cbor() {
    check("cbor");
}

#[test]
fn patches() {
    check("patches");
}

#[test]
fn apply() {
    check("apply");
}

#[test]
fn selectors() {
    check("selectors");
}

#[test]
fn continue_tokens() {
    check("continue_token");
}

#[test]
fn frames() {
    check("frames");
}
