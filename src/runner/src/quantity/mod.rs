//! Durations, sizes and times as people write and read them.
//!
//! The command line, the TOML file and the JSON of the API take the same texts, so there is one parser for
//! each. Every error names the value and shows an example. Nothing here reads a clock: "now" is an argument.

mod duration;
mod field;
mod past;
mod size;
mod time;
mod words;

pub use duration::{DURATION_MAX, exact_duration, parse_duration, show_duration};
pub use field::{DurationField, LimitField, SizeField};
pub use past::{is_range, parse_past};
pub use size::{SIZE_MAX_BYTES, exact_size, parse_size, show_size};
pub use time::{parse_time, rfc3339_utc, show_local, show_relative, zone_name};
pub use words::WordsField;

/// A text that is no duration, size or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {kind}: {problem} (write it like {example})")]
pub struct QuantityError {
    /// What was given, shortened if it is very long.
    pub value: String,
    /// `duration`, `size` or `time`.
    pub kind: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// Texts that would be right.
    pub example: &'static str,
}

/// The longest part of a wrong value that is repeated in an error.
const SHOWN_CHARS_MAX: usize = 60;

impl QuantityError {
    fn new(kind: &'static str, example: &'static str, value: &str, problem: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        QuantityError { value: shown, kind, problem: problem.into(), example }
    }
}

/// Reads an unsigned decimal number with an optional fraction and returns it in units of 10⁻⁹ together with
/// the rest of the text. `None` where no digit stands or the number does not fit.
fn split_number(text: &str) -> Option<(u128, &str)> {
    const SCALE_DIGITS: usize = 9;
    let whole_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(whole_end);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
        None => ("", rest),
    };
    let dangling_point = text.as_bytes().get(whole_end) == Some(&b'.') && fraction.is_empty();
    if whole.is_empty() || dangling_point || whole.len() > 20 {
        return None;
    }
    let mut nanos = whole.parse::<u128>().ok()? * 10u128.pow(SCALE_DIGITS as u32);
    let mut scale = 10u128.pow(SCALE_DIGITS as u32);
    for digit in fraction.bytes().take(SCALE_DIGITS) {
        scale /= 10;
        nanos += u128::from(digit - b'0') * scale;
    }
    Some((nanos, rest))
}
