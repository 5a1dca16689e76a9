//! When a job of each name succeeded last, for so many names and no more.
//!
//! A name is a free text of whoever submits. The first [`NAMES_MAX`] names have series of their own; one that was silent for
//! [`SILENT_MS`] makes place for a new one. All others share one series, and so do names above [`NAME_BYTES_MAX`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names with a series of their own.
pub const NAMES_MAX: usize = 200;
/// Longer names have none: a label is read by people.
pub const NAME_BYTES_MAX: usize = 120;
/// A name that did not succeed for so long makes place: 30 days.
const SILENT_MS: i64 = 30 * 86_400_000;

/// Times of last success, wall milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    known: BTreeMap<String, i64>,
    other: Option<i64>,
}

impl Names {
    /// A job of this name succeeded.
    pub(super) fn succeeded(&mut self, name: &str, now_ms: i64) {
        if let Some(last) = self.known.get_mut(name) {
            *last = now_ms.max(*last);
            return;
        }
        if name.len() > NAME_BYTES_MAX || !self.makes_place(now_ms) {
            self.other = self.other.max(Some(now_ms));
            return;
        }
        self.known.insert(name.to_owned(), now_ms);
    }

    fn makes_place(&mut self, now_ms: i64) -> bool {
        if self.known.len() < NAMES_MAX {
            return true;
        }
        let oldest = self.known.iter().min_by_key(|(_, last)| **last);
        let Some((name, last)) = oldest.map(|(name, last)| (name.clone(), *last)) else { return false };
        let silent = now_ms.saturating_sub(last) > SILENT_MS;
        if silent {
            self.known.remove(&name);
            self.other = self.other.max(Some(last));
        }
        silent
    }

    /// What this program allows of what was kept.
    pub(super) fn sound(mut self) -> Self {
        self.known.retain(|name, _| name.len() <= NAME_BYTES_MAX);
        while self.known.len() > NAMES_MAX {
            self.known.pop_last();
        }
        self
    }

    /// Names and times; the name of all others is None.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<&str>, i64)> {
        let known = self.known.iter().map(|(name, last)| (Some(name.as_str()), *last));
        known.chain(self.other.map(|last| (None, last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_the_silent_make_place() {
        let mut names = Names::default();
        for number in 0..100_000 {
            names.succeeded(&format!("n{number}"), number);
        }
        names.succeeded(&"x".repeat(10_000), 7);
        assert_eq!(names.iter().count(), NAMES_MAX + 1);
        assert_eq!(names.iter().last(), Some((None, 99_999)));
        names.succeeded("n0", 200_000);
        assert!(names.iter().any(|one| one == (Some("n0"), 200_000)), "a known name goes on");
        names.succeeded("new", SILENT_MS + 2);
        assert!(names.iter().any(|(name, _)| name == Some("new")), "n1 was silent");
        assert!(names.iter().all(|(name, _)| name != Some("n1")));
        assert_eq!(names.iter().count(), NAMES_MAX + 1);
        assert_eq!(names.clone().sound(), names);
    }
}
