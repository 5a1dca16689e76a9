//! A list of words as a field of TOML and JSON: a list, or the command line's text with commas.

use std::fmt;

use ci_runner_core::retry::RULES_MAX;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// `["exit:2", "lost"]` or `"exit:2,lost"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordsField(pub Vec<String>);

/// Read no further: some more than any field of words may have, so that what checks the field says how many it may.
const WORDS_MAX: usize = 2 * RULES_MAX;

impl WordsField {
    /// For a field that holds the words themselves, or none.
    ///
    /// # Errors
    /// Neither a text nor a list of texts.
    pub fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
        Ok(Option::<WordsField>::deserialize(deserializer)?.map(|field| field.0))
    }
}

impl<'de> Deserialize<'de> for WordsField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordsVisitor;
        impl<'de> Visitor<'de> for WordsVisitor {
            type Value = WordsField;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text like \"exit:2,lost\" or a list of such words")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WordsField, E> {
                Ok(WordsField(text.split(',').take(WORDS_MAX).map(|word| word.trim().to_owned()).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<WordsField, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element::<String>()? {
                    if words.len() == WORDS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "has more than {WORDS_MAX} words, at most {RULES_MAX} are taken"
                        )));
                    }
                    words.push(word);
                }
                Ok(WordsField(words))
            }
        }
        deserializer.deserialize_any(WordsVisitor)
    }
}
