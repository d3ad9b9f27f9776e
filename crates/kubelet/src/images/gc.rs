//! Image garbage collection: above 85 % use of the image filesystem, unused images go until it is at 80 %.
//!
//! Follows upstream's `image_gc_manager`: the longest unused first, none younger than two minutes, none pinned.
//! The choice is pure; what was seen unused since when is remembered between rounds.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::backoff::since;

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub high_percent: u64,
    pub low_percent: u64,
    pub min_age: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
        }
    }
}

/// An image as the runtime lists it.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: String,
    pub size: u64,
    pub pinned: bool,
}

/// When images were first seen and last used.
#[derive(Debug, Default)]
pub struct Records {
    seen: HashMap<String, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    last_used: Timestamp,
}

impl Records {
    /// Takes note of what there is and what is in use now.
    pub fn observe(&mut self, images: &[Image], used: &HashSet<String>, now: Timestamp) {
        let present: HashSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
        self.seen.retain(|id, _| present.contains(id.as_str()));
        for image in images {
            let entry = self.seen.entry(image.id.clone()).or_insert(Seen {
                first: now,
                last_used: Timestamp::UNIX_EPOCH,
            });
            if used.contains(&image.id) {
                entry.last_used = now;
            }
        }
    }

    /// What to remove for the filesystem to come down from `used_bytes` to the low mark.
    pub fn choose(
        &self,
        policy: Policy,
        images: &[Image],
        used: &HashSet<String>,
        used_bytes: u64,
        capacity: u64,
        now: Timestamp,
    ) -> Vec<String> {
        if capacity == 0 || used_bytes * 100 < capacity * policy.high_percent {
            return Vec::new();
        }
        let goal = used_bytes.saturating_sub(capacity * policy.low_percent / 100);
        let mut candidates: Vec<(&Image, Seen)> = images
            .iter()
            .filter(|i| !i.pinned && !used.contains(&i.id))
            .filter_map(|i| Some((i, *self.seen.get(&i.id)?)))
            .filter(|(_, seen)| since(now, seen.first) >= policy.min_age)
            .collect();
        candidates.sort_by_key(|(_, seen)| (seen.last_used, seen.first));
        let mut freed = 0;
        let mut chosen = Vec::new();
        for (image, _) in candidates {
            if freed >= goal {
                break;
            }
            freed += image.size;
            chosen.push(image.id.clone());
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_until_the_low_mark() {
        let at = |s: i64| Timestamp::from_second(1000 + s).unwrap();
        let image = |id: &str, pinned| Image {
            id: id.into(),
            size: 10,
            pinned,
        };
        let images = [
            image("a", false),
            image("b", false),
            image("c", false),
            image("p", true),
            image("used", false),
        ];
        let set = |ids: &[&str]| ids.iter().map(|s| (*s).to_owned()).collect::<HashSet<_>>();
        let mut records = Records::default();
        records.observe(&images, &set(&["a", "used"]), at(0));
        records.observe(&images, &set(&["b", "used"]), at(10));
        let choose = |used_bytes, now| {
            records.choose(Policy::default(), &images, &set(&["used"]), used_bytes, 100, now)
        };
        assert!(choose(84, at(300)).is_empty());
        assert!(choose(90, at(60)).is_empty(), "too young");
        assert_eq!(choose(90, at(300)), ["c"]);
        assert_eq!(choose(99, at(300)), ["c", "a"]);
    }
}
