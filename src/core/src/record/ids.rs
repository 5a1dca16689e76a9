//! A set of job ids. Ids are dense and rise: a bit for each and an index for 64 of them, where a tree of ids would take 20
//! bytes for each.

use crate::id::JobId;
use std::collections::BTreeMap;

/// Ids that share a word.
const WORD: u64 = u64::BITS as u64;

/// A set of job ids.
#[derive(Default)]
pub(super) struct Ids {
    /// By id / 64; no word is empty.
    words: BTreeMap<u64, u64>,
}

impl Ids {
    pub fn insert(&mut self, id: JobId) {
        *self.words.entry(id.get() / WORD).or_default() |= 1 << (id.get() % WORD);
    }

    pub fn remove(&mut self, id: JobId) {
        let number = id.get() / WORD;
        if let Some(word) = self.words.get_mut(&number) {
            *word &= !(1 << (id.get() % WORD));
            if *word == 0 {
                self.words.remove(&number);
            }
        }
    }

    /// The lowest.
    pub fn first(&self) -> Option<JobId> {
        self.iter().next()
    }

    /// All, rising.
    pub fn iter(&self) -> impl Iterator<Item = JobId> {
        self.words.iter().flat_map(|(number, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
                rest &= rest - 1;
                JobId::new(number * WORD + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_ids_is_a_set(steps in prop::collection::vec((any::<bool>(), 1u64..300), 0..200)) {
            let (mut ids, mut oracle) = (Ids::default(), BTreeSet::new());
            for (insert, id) in steps {
                let id = JobId::new(id).expect("positive");
                if insert {
                    ids.insert(id);
                    oracle.insert(id);
                } else {
                    ids.remove(id);
                    oracle.remove(&id);
                }
                prop_assert_eq!(ids.first(), oracle.first().copied());
            }
            prop_assert!(ids.iter().eq(oracle.iter().copied()));
            prop_assert!(ids.words.values().all(|word| *word != 0));
        }
    }
}
