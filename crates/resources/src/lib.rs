//! One file a kind: how it differs from the default [`Strategy`]. Add a kind by adding its file and its line in
//! [`all`]; kinds that are not listed behave as [`strategy::Default`].

pub mod strategy;

pub use strategy::{Column, Context, Grace, KindInfo, Strategy, Subresource};

/// A resource and its strategy.
pub type Entry = (&'static str, &'static str, &'static dyn Strategy);

/// Group, resource and strategy of every kind that differs from the default, sorted.
pub fn all() -> &'static [Entry] {
    &[]
}

/// The strategy of a resource.
pub fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    let all = all();
    match all.binary_search_by(|(g, r, _)| (*g, *r).cmp(&(group, resource))) {
        Ok(at) => all[at].2,
        Err(_) => &strategy::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(all().is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}
