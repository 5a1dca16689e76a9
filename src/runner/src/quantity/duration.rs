//! Durations: `30m`, `1h30m`, `250ms`, `1.5h`; a plain number is seconds.
//!
//! Units go from large to small and each stands once, so that `5m5m` or `30s1h` (typing slips, more likely
//! than wishes) are refused. Upper-case units are refused too: `30M` might have meant months.

use std::time::Duration;

use super::{QuantityError, split_number};

/// The longest duration that is taken: 100 years of 365.25 days. Anything longer is a slip of the keyboard,
/// and the bound keeps every sum of a time and a duration far from overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 31_557_600);

const EXAMPLE: &str = "30s, 5m, 1h30m, 250ms or a plain number of seconds";

/// Units from large to small: names, then nanoseconds.
const UNITS: [(&[&str], u128); 7] = [
    (&["w", "week", "weeks"], 604_800_000_000_000),
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hr", "hour", "hours"], 3_600_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["ms", "msec", "millisecond", "milliseconds"], 1_000_000),
    (&["us", "µs", "usec", "microsecond", "microseconds"], 1_000),
];

fn error(value: &str, problem: impl Into<String>) -> QuantityError {
    QuantityError::new("duration", EXAMPLE, value, problem)
}

/// Parses a duration. Zero is a duration; whether it makes sense is for the caller to say.
///
/// # Errors
/// Names the value, what is wrong with it and an example: negative, longer than [`DURATION_MAX`], a unit
/// that is not known or out of order, or no number at all.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(error(text, "it is empty"));
    }
    if trimmed.starts_with('-') {
        return Err(error(text, "a duration cannot be negative"));
    }
    let mut rest = trimmed;
    let mut total: u128 = 0;
    let mut largest_allowed = 0;
    while !rest.is_empty() {
        let Some((number, after)) = split_number(rest) else {
            return Err(error(text, format!("a number was expected at {:?}", shorten(rest))));
        };
        let after = after.trim_start();
        let unit_end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let nanos_per_unit = if unit.is_empty() {
            if rest.len() != trimmed.len() || !after.is_empty() {
                return Err(error(text, "a unit is missing after a number"));
            }
            1_000_000_000
        } else {
            let Some(index) = UNITS.iter().position(|(names, _)| names.contains(&unit)) else {
                return Err(error(text, unknown_unit(unit)));
            };
            if index < largest_allowed {
                return Err(error(text, "units go from large to small, each once"));
            }
            largest_allowed = index + 1;
            UNITS[index].1
        };
        // What does not fit 128 bits is too long in any case.
        total += number.saturating_mul(nanos_per_unit) / 1_000_000_000;
        if total > DURATION_MAX.as_nanos() {
            return Err(error(text, "it is longer than 100 years"));
        }
        rest = after.trim_start();
    }
    let seconds = (total / 1_000_000_000) as u64;
    Ok(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

fn shorten(text: &str) -> String {
    text.chars().take(12).collect()
}

fn unknown_unit(unit: &str) -> String {
    let lower = unit.to_lowercase();
    match UNITS.iter().any(|(names, _)| names.contains(&lower.as_str())) {
        true => format!("{unit:?} is not a unit, {lower:?} is"),
        false => format!("{unit:?} is not a unit (w, d, h, m, s, ms, us)"),
    }
}

/// The shortest text that [`parse_duration`] reads back to exactly the same number of microseconds:
/// `1h30m`, `250ms`, `0s`. For files and `config show`.
pub fn exact_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos() / 1_000 * 1_000;
    let mut text = String::new();
    // Weeks are left out: "7d" reads better than "1w" in a configuration.
    for (names, nanos) in &UNITS[1..] {
        let count = rest / nanos;
        if count > 0 {
            text.push_str(&format!("{count}{}", names[0]));
            rest -= count * nanos;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A duration for people, at most two units: `350ms`, `4.2s`, `42s`, `3m 05s`, `1h 02m`, `3d 04h`.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 if millis == 0 && !duration.is_zero() => "<1ms".to_owned(),
        0 if millis == 0 => "0s".to_owned(),
        0 => format!("{millis}ms"),
        1..10 => format!("{}.{}s", seconds, millis % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_durations() {
        let ms = |text: &str| parse_duration(text).map(|d| d.as_millis());
        for (text, expected) in [
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            (" 5s ", 5_000),
            ("250ms", 250),
            ("90", 90_000),
            ("1.5", 1_500),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("2w", 1_209_600_000),
            ("1d 12h", 129_600_000),
            ("10 minutes", 600_000),
            ("100d", 8_640_000_000),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_duration("1500us").unwrap(), Duration::from_micros(1500));
    }

    #[test]
    fn bad_texts_are_refused_by_name() {
        for (text, part) in [
            ("", "empty"),
            ("   ", "empty"),
            ("-5s", "negative"),
            ("-1", "negative"),
            ("soon", "number was expected"),
            ("5x", "\"x\" is not a unit"),
            ("30M", "\"m\" is"),
            ("5m5m", "large to small"),
            ("30s1h", "large to small"),
            ("1h30", "unit is missing"),
            ("10 20", "unit is missing"),
            ("5.m", "number was expected"),
            ("1e9", "is not a unit"),
            ("101 years", "is not a unit"),
            ("36526d", "longer than 100 years"),
            ("99999999999999999999", "longer than 100 years"),
            ("99999999999999999999w", "longer than 100 years"),
            ("999999999999999999999w", "number was expected"),
            ("∞", "number was expected"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.problem.contains(part), "{text}: {error}");
            assert!(error.to_string().contains("1h30m"), "no example in {error}");
            assert!(error.to_string().contains(&format!("{:?}", text)), "value not named in {error}");
        }
    }

    #[test]
    fn people_read_two_units_at_most() {
        for (ms, expected) in [
            (0, "0s"),
            (350, "350ms"),
            (4_250, "4.2s"),
            (42_900, "42s"),
            (185_000, "3m 05s"),
            (3_720_000, "1h 02m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(ms)), expected);
        }
        assert_eq!(show_duration(Duration::from_micros(10)), "<1ms");
    }

    proptest! {
        #[test]
        fn exact_text_reads_back(micros in 0u64..3_155_760_000_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&exact_duration(duration)).unwrap(), duration);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration <= DURATION_MAX);
            }
        }

        #[test]
        fn number_like_text_never_panics(text in "[0-9.hmsdw -]{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
