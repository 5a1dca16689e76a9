//! Sizes: `2G`, `64M`, `1.5GiB`, plain bytes.
//!
//! As with systemd and docker, a bare letter counts in powers of 1024 (`K` = `KiB`); the SI words `KB`, `MB`,
//! `GB`, `TB` are powers of 1000. Letters may be lower case.

use super::{QuantityError, split_number};

/// The largest size that is taken, 1 EiB: it fits every signed 64-bit field it is stored in.
pub const SIZE_MAX_BYTES: u64 = 1 << 60;

const EXAMPLE: &str = "512K, 64M, 2G, 1.5GiB or a plain number of bytes";

const UNITS: [(&[&str], u64); 9] = [
    (&["b", "byte", "bytes"], 1),
    (&["k", "kib"], 1 << 10),
    (&["m", "mib"], 1 << 20),
    (&["g", "gib"], 1 << 30),
    (&["t", "tib"], 1 << 40),
    (&["kb"], 1_000),
    (&["mb"], 1_000_000),
    (&["gb"], 1_000_000_000),
    (&["tb"], 1_000_000_000_000),
];

fn error(value: &str, problem: impl Into<String>) -> QuantityError {
    QuantityError::new("size", EXAMPLE, value, problem)
}

/// Parses a size into bytes. Zero is a size; whether it makes sense is for the caller to say.
///
/// # Errors
/// Names the value, what is wrong with it and an example: negative, above [`SIZE_MAX_BYTES`], an unknown
/// unit, a fraction of a byte, or no number at all.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(error(text, "it is empty"));
    }
    if trimmed.starts_with('-') {
        return Err(error(text, "a size cannot be negative"));
    }
    let Some((number, unit)) = split_number(trimmed) else {
        return Err(error(text, "it does not start with a number"));
    };
    let unit = unit.trim().to_lowercase();
    let bytes_per_unit = if unit.is_empty() {
        1
    } else {
        let Some((_, bytes)) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str())) else {
            return Err(error(text, format!("{unit:?} is not a unit (K, M, G, T)")));
        };
        *bytes
    };
    if bytes_per_unit == 1 && number % 1_000_000_000 != 0 {
        return Err(error(text, "a byte has no fractions"));
    }
    // What does not fit 128 bits is too large in any case.
    let bytes = number.saturating_mul(u128::from(bytes_per_unit)) / 1_000_000_000;
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= SIZE_MAX_BYTES => Ok(bytes),
        _ => Err(error(text, "it is more than 1 EiB")),
    }
}

/// The shortest text that [`parse_size`] reads back to exactly these bytes: `64M`, `1536K`, `100`.
pub fn exact_size(bytes: u64) -> String {
    for (letter, unit) in [("T", 1u64 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{letter}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A size for people: `512 B`, `1.5 KiB`, `64 MiB`.
pub fn show_size(bytes: u64) -> String {
    const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut power = (63 - bytes.leading_zeros() as usize) / 10;
    // In tenths, rounded to the nearest; 1023.96 KiB would round to "1024 KiB" and moves up instead.
    let mut tenths = (u128::from(bytes) * 10 + (1 << (power * 10)) / 2) >> (power * 10);
    if tenths >= 10_240 && power < NAMES.len() - 1 {
        power += 1;
        tenths = 10;
    }
    match tenths {
        0..100 if !tenths.is_multiple_of(10) => format!("{}.{} {}", tenths / 10, tenths % 10, NAMES[power]),
        _ => format!("{} {}", (tenths + 5) / 10, NAMES[power]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_sizes() {
        for (text, expected) in [
            ("2G", 2 << 30),
            ("64M", 64 << 20),
            ("512K", 512 << 10),
            ("512k", 512 << 10),
            ("1.5GiB", 3 << 29),
            ("1 MiB", 1 << 20),
            ("1MB", 1_000_000),
            ("100", 100),
            ("100B", 100),
            ("0", 0),
            ("1T", 1 << 40),
            ("1048576T", 1 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused_by_name() {
        for (text, part) in [
            ("", "empty"),
            ("-1M", "negative"),
            ("G", "start with a number"),
            ("1.5", "fractions"),
            ("2X", "not a unit"),
            ("2 G B", "not a unit"),
            ("1048577T", "more than 1 EiB"),
            ("18446744073709551615", "more than 1 EiB"),
            ("99999999999999999999T", "more than 1 EiB"),
        ] {
            let error = parse_size(text).unwrap_err();
            assert!(error.problem.contains(part), "{text}: {error}");
            assert!(error.to_string().contains("64M"), "no example in {error}");
        }
    }

    #[test]
    fn people_read_sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (10_700_000, "10 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(show_size(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn exact_text_reads_back(bytes in 0..=SIZE_MAX_BYTES) {
            prop_assert_eq!(parse_size(&exact_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_size(&text);
        }

        #[test]
        fn every_size_can_be_shown(bytes: u64) {
            prop_assert!(show_size(bytes).len() <= 9);
        }
    }
}
