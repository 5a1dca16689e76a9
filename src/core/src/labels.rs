//! Labels: what a job requires and a pool offers. A job may go to a pool that carries *all* labels it requires.

use std::fmt;

/// Longest label, `key=value` together.
pub const LABEL_BYTES_MAX: usize = 128;
/// Most labels one job may require or one pool may carry.
pub const LABELS_MAX: usize = 32;

/// `key` or `key=value`. Key: a letter or digit, then letters, digits, `.`, `_`, `-`, `/`. Value: the same and empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// No text, or nothing before `=`.
    Empty,
    /// Over [`LABEL_BYTES_MAX`].
    TooLong(usize),
    /// A character that no label has.
    Character(char),
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a label is `key` or `key=value`, and the key is missing"),
            Self::TooLong(bytes) => write!(f, "a label has at most {LABEL_BYTES_MAX} bytes, this one {bytes}"),
            Self::Character(c) => write!(f, "a label cannot hold {c:?}; use letters, digits, `.`, `_`, `-`, `/`"),
        }
    }
}

impl std::error::Error for LabelError {}

impl Label {
    /// Parses `key` or `key=value`.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        if text.len() > LABEL_BYTES_MAX {
            return Err(LabelError::TooLong(text.len()));
        }
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(LabelError::Empty);
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if let Some(c) = key.chars().chain(value.chars()).find(|c| !allowed(c)) {
            return Err(LabelError::Character(c));
        }
        match key.chars().next() {
            Some(c) if !c.is_ascii_alphanumeric() => Err(LabelError::Character(c)),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The labels that `required` asks for and `offered` lacks; empty means a match.
pub fn missing<'a>(required: &'a [Label], offered: &[Label]) -> Vec<&'a Label> {
    required.iter().filter(|label| !offered.contains(label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_parse_or_name_the_fault() {
        for good in ["gpu", "arch=arm64", "a/b.c_d-e=1", "x="] {
            assert_eq!(Label::parse(good).expect(good).as_str(), good);
        }
        for (bad, error) in [
            ("", LabelError::Empty),
            ("=x", LabelError::Empty),
            ("a b", LabelError::Character(' ')),
            ("-a", LabelError::Character('-')),
            ("a=b=c", LabelError::Character('=')),
            ("ü", LabelError::Character('ü')),
        ] {
            assert_eq!(Label::parse(bad), Err(error), "{bad:?}");
        }
        assert_eq!(Label::parse(&"a".repeat(129)), Err(LabelError::TooLong(129)));
    }

    #[test]
    fn every_required_label_must_be_there() {
        let label = |text| Label::parse(text).expect("a label");
        let offered = [label("gpu"), label("arch=arm64")];
        assert!(missing(&[label("gpu")], &offered).is_empty());
        assert!(missing(&[], &offered).is_empty());
        assert_eq!(missing(&[label("gpu"), label("arch")], &offered), [&label("arch")]);
    }
}
