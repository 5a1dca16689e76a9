//! Include and exclude patterns over names (devices, mount points, fields), with their answers remembered.

use crate::error::Error;
use regex_lite::Regex;
use std::collections::HashMap;

/// Names come and go (`veth…`); above this many the memory of answers starts anew.
const REMEMBERED_MAX: usize = 4096;

/// Which names are shown: those that match `include` (if there is one) and do not match `exclude` (if there is one).
/// Patterns are regular expressions and match anywhere in the name unless they have anchors, as in node_exporter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only names that match; everything where it is `None`.
    pub include: Option<String>,
    /// Not the names that match; nothing where it is `None`.
    pub exclude: Option<String>,
}

impl Filter {
    /// Leaves out what matches.
    pub fn excluding(pattern: &str) -> Self {
        Self { include: None, exclude: Some(pattern.to_owned()) }
    }

    /// Takes only what matches.
    pub fn including(pattern: &str) -> Self {
        Self { include: Some(pattern.to_owned()), exclude: None }
    }

    /// What is wrong with both.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Error> {
        [Self { exclude: None, ..self.clone() }, Self { include: None, ..self.clone() }]
            .into_iter()
            .filter_map(|one| one.compile().err())
    }

    pub(crate) fn compile(&self) -> Result<Matcher, Error> {
        let compiled = |pattern: &Option<String>| match pattern {
            None => Ok(None),
            Some(text) => Regex::new(text).map(Some).map_err(|source| Error::Pattern { pattern: text.clone(), source }),
        };
        Ok(Matcher { include: compiled(&self.include)?, exclude: compiled(&self.exclude)?, known: HashMap::new() })
    }
}

/// A compiled [`Filter`].
#[derive(Debug)]
pub(crate) struct Matcher {
    include: Option<Regex>,
    exclude: Option<Regex>,
    known: HashMap<String, bool>,
}

impl Matcher {
    /// Whether `name` is shown.
    pub(crate) fn takes(&mut self, name: &str) -> bool {
        if let Some(&known) = self.known.get(name) {
            return known;
        }
        let takes = self.include.as_ref().is_none_or(|pattern| pattern.is_match(name))
            && !self.exclude.as_ref().is_some_and(|pattern| pattern.is_match(name));
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(name.to_owned(), takes);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_and_exclude_are_both_asked() {
        let mut matcher = Filter { include: Some("^e".into()), exclude: Some("1$".into()) }.compile().unwrap();
        for (name, takes) in [("eth0", true), ("eth1", false), ("wlan0", false), ("eth0", true)] {
            assert_eq!(matcher.takes(name), takes, "{name}");
        }
        assert!(Filter::excluding("(").compile().is_err());
        let mut forgetful = Filter::default().compile().unwrap();
        (0..2 * REMEMBERED_MAX).for_each(|at| assert!(forgetful.takes(&format!("veth{at}"))));
        assert!(forgetful.known.len() <= REMEMBERED_MAX);
    }
}
