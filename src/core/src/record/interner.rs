//! Shared values kept once, counted, and dropped with their last user.

use std::collections::HashMap;
use std::hash::Hash;

/// Values by small number.
pub(super) struct Interner<T> {
    numbers: HashMap<T, u32>,
    values: Vec<Option<(T, u32)>>,
    free: Vec<u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Number of `value`, and whether it is new; counts one user more.
    pub fn take(&mut self, value: &T) -> (u32, bool) {
        if let Some(number) = self.numbers.get(value) {
            if let Some((_, users)) = &mut self.values[*number as usize] {
                *users += 1;
            }
            return (*number, false);
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            u32::try_from(self.values.len() - 1).expect("fewer values than jobs, fewer jobs than 2^32")
        });
        self.values[number as usize] = Some((value.clone(), 1));
        self.numbers.insert(value.clone(), number);
        (number, true)
    }

    /// One user less; true when it was the last.
    pub fn give(&mut self, number: u32) -> bool {
        let Some((value, users)) = &mut self.values[number as usize] else { return false };
        *users -= 1;
        if *users > 0 {
            return false;
        }
        self.numbers.remove(value);
        self.values[number as usize] = None;
        self.free.push(number);
        true
    }

    pub fn get(&self, number: u32) -> &T {
        self.values[number as usize].as_ref().map(|(value, _)| value).expect("a number lives as long as its users")
    }

    pub fn is_live(&self, number: u32) -> bool {
        self.values.get(number as usize).is_some_and(Option::is_some)
    }

    pub fn find(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}
