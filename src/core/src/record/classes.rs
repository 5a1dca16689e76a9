//! How many different sets of pool, labels and limits open jobs may ask for, because each costs a comparison per claim.
//!
//! Whoever uses many of them takes nothing from plain jobs, those without labels and limits: there are no more such sets
//! than pools, and they are always let in. Jobs that ask for a set that is in use are, too.

use super::{ClassKey, Record};
use crate::job::Terms;
use crate::limits::Limits;
use std::collections::HashSet;

/// Different sets of pool, labels and limits among open jobs; each costs a comparison per claim.
pub const CLASSES_MAX: usize = 4_096;

/// Sets that the first jobs of a submission bring along and the record does not have yet.
#[derive(Default)]
pub struct NewClasses(HashSet<ClassKey>);

impl Record {
    /// Whether one more job of this placement is within [`CLASSES_MAX`], beside those of its submission that were looked at
    /// before; notes it there.
    pub fn has_room_for_class(&self, terms: &Terms, new: &mut NewClasses) -> bool {
        let plain = terms.labels.is_empty() && terms.limits == Limits::NONE;
        let key = ClassKey { pool: terms.pool.clone(), labels: terms.labels.clone(), limits: terms.limits };
        if plain || self.class_keys.find(&key).is_some() || new.0.contains(&key) {
            return true;
        }
        let room = self.class_keys.len() + new.0.len() < CLASSES_MAX;
        room && new.0.insert(key)
    }
}
