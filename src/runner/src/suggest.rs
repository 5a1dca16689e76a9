//! "Did you mean …": the nearest known name for a mistyped one.

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// The candidate nearest to `word`, or `None` where nothing is near enough to be a slip of the keyboard.
///
/// `-` and `_` count as equal, so do upper and lower case. At most one slip in three letters is forgiven
/// (always at least one); a beginning of a name (`max_par`) counts as near when only one candidate has it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words are no slips, and the distance costs their length squared.
    const WORD_BYTES_MAX: usize = 64;
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = plain(word);
    let forgiven = (word.chars().count() / 3).max(1);
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let by_distance = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), *candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= forgiven);
    if let Some((_, candidate)) = by_distance {
        return Some(candidate);
    }
    let mut beginning = candidates.iter().filter(|candidate| word.len() >= 3 && plain(candidate).starts_with(&word));
    match (beginning.next(), beginning.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// `did you mean "x"?`, or, where nothing is near, the known names: `known are a, b, c`; `none is known here` where there are
/// no names.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean {candidate:?}?"),
        None if candidates.is_empty() => "none is known here".to_owned(),
        None => format!("known are {}", candidates.join(", ")),
    }
}

fn plain(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// The field names that serde knows for the struct `T`, without a value of it: so that unknown keys can be
/// found, and suggested for, from the same definition that reads them. Empty where `T` is no struct.
pub fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("only the field names were asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // The probe always answers with an error; what it saw is the result.
    let _ = T::deserialize(Probe(&mut fields));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        let verbs = ["cancel", "list", "logs", "show", "status", "retry", "retry_delay", "max_parallel_jobs"];
        for (word, expected) in [
            ("cacnel", Some("cancel")),
            ("lst", Some("list")),
            ("lsit", Some("list")),
            ("Retry-Dealy", Some("retry_delay")),
            ("max-parallel-job", Some("max_parallel_jobs")),
            ("max_par", Some("max_parallel_jobs")),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, verbs), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), verbs), None);
        assert_eq!(did_you_mean("shw", verbs), "did you mean \"show\"?");
        assert_eq!(did_you_mean("zzz", ["a", "bb"]), "known are a, bb");
        assert_eq!(did_you_mean("zzz", []), "none is known here");
    }

    #[test]
    fn serde_tells_the_field_names() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Example {
            #[serde(rename = "first")]
            _one: u32,
            #[serde(default)]
            _second: Option<String>,
        }
        assert_eq!(fields_of::<Example>(), ["first", "_second"]);
        assert_eq!(fields_of::<u32>(), [] as [&str; 0]);
    }
}
