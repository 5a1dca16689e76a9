//! Fields that hold many, read no further than is allowed.
//!
//! A body of 64 MiB holds some thirty million numbers, and they would take more than a gigabyte before anybody counted them. So
//! reading stops behind twice what a job may have: those that are a few too many are still counted, and named, by whoever checks
//! the job. A name that is there twice is refused: which of the two values was meant nobody can tell.

use super::AfterField;
use super::SecretText;
use ci_runner_core::job::{AFTER_MAX, ENV_MAX, NOTIFY_MAX, SECRETS_MAX, WORK_BYTES_MAX};
use ci_runner_core::labels::LABELS_MAX;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

/// Words of a command: each takes three bytes of its JSON at least.
const WORDS_MAX: usize = WORK_BYTES_MAX / 3;

pub(super) fn after<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AfterField>, D::Error> {
    deserializer.deserialize_seq(Many::new("after", AFTER_MAX))
}

pub(super) fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_seq(Many::new("labels", LABELS_MAX))
}

pub(super) fn notify<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_seq(Many::new("notify", NOTIFY_MAX))
}

pub(super) fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let words = Many { read: WORDS_MAX, ..Many::new("command", WORDS_MAX) };
    deserializer.deserialize_option(Perhaps(words))
}

pub(super) fn env<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    deserializer.deserialize_map(Named(Many::new("env", ENV_MAX)))
}

pub(super) fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SecretText>, D::Error> {
    deserializer.deserialize_map(Named(Many::new("secrets", SECRETS_MAX)))
}

/// A list in the making.
struct Many<T> {
    field: &'static str,
    /// What a job may have.
    most: usize,
    /// What is read before it is refused.
    read: usize,
    entries: PhantomData<T>,
}

impl<T> Many<T> {
    fn new(field: &'static str, most: usize) -> Self {
        Self { field, most, read: 2 * most, entries: PhantomData }
    }

    fn check<E: Error>(&self, count: usize) -> Result<(), E> {
        let Self { field, most, read, .. } = self;
        match count < *read {
            true => Ok(()),
            false => Err(E::custom(format_args!("`{field}` has more than {read} entries, at most {most} are taken"))),
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Many<T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            self.check(entries.len())?;
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// A list, or null.
struct Perhaps<T>(Many<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Perhaps<T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self.0).map(Some)
    }
}

/// Entries with names.
struct Named<T>(Many<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    /// The words of serde would quote it, and it may be a secret.
    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(E::custom(format_args!("`{}` is a text; an object is needed", self.0.field)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<String, T>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((name, entry)) = map.next_entry()? {
            self.0.check(entries.len())?;
            match entries.entry(name) {
                Entry::Vacant(free) => free.insert(entry),
                Entry::Occupied(taken) => {
                    // In the words of serde for fields.
                    let twice = format_args!("duplicate field `{}.{}`", self.0.field, taken.key());
                    return Err(A::Error::custom(twice));
                }
            };
        }
        Ok(entries)
    }
}
