//! Points in time that lie behind: what `--since` and `--until` take.
//!
//! The same texts as for a time to come, with two differences: an age (`24h`) is a point too, and a time of day is the latest one
//! that is not after now. Who asks at 15:00 what was written since 14:00 does not mean tomorrow.

use jiff::civil::{Date, Time};
use jiff::{Timestamp, ToSpan, Zoned};

use super::QuantityError;
use super::duration::parse_duration;
use super::time::{full_time, local, not_too_far, time_of_day};

const EXAMPLE: &str =
    "24h (so long ago), 14:00, \"yesterday 03:00\", 2026-11-22, \"2026-11-22 03:00\" or 2026-11-22T03:00:00Z";

/// Parses a point in the past for a person in the time zone of `now`.
///
/// Taken: an age (`5m`: so long before `now`), RFC 3339, a local date and time, a date (its first moment), a local time of day (the
/// latest that is not after `now`), `today` and `yesterday`, alone or with a time of day, and `now`. A time to come is not refused.
///
/// # Errors
/// Names the value, what is wrong and an example; also for times more than 100 years away.
pub fn parse_past(text: &str, now: &Zoned) -> Result<Timestamp, QuantityError> {
    let trimmed = text.trim();
    let digit = |c: char| c.is_ascii_digit();
    if let Some(at) = spoken(text, trimmed, now).map_err(past)? {
        return not_too_far(text, at, now).map_err(past);
    }
    match parse_duration(text) {
        Ok(age) => now.timestamp().checked_sub(age).map_err(|cause| error(text, cause.to_string())),
        // `1y` is meant to be an age: what is wrong with it as such is what helps.
        Err(wrong) if trimmed.is_empty() || (trimmed.starts_with(digit) && !trimmed.contains([':', '-'])) => {
            Err(error(text, wrong.problem))
        }
        Err(_) => full_time(text, trimmed, now).and_then(|at| not_too_far(text, at, now)).map_err(past),
    }
}

/// Whether `since` to `until` is a range at all: where both are given, the one is before the other.
pub fn is_range(since_ms: Option<i64>, until_ms: Option<i64>) -> bool {
    since_ms.zip(until_ms).is_none_or(|(since, until)| since < until)
}

/// What is no age and no full time.
fn spoken(text: &str, trimmed: &str, now: &Zoned) -> Result<Option<Timestamp>, QuantityError> {
    let days = |days: i64| now.date().checked_sub(days.days()).map_err(|cause| error(text, cause.to_string()));
    let (day, time) = match trimmed.split_once(char::is_whitespace) {
        _ if trimmed == "now" => return Ok(Some(now.timestamp())),
        Some(("today", time)) => (days(0)?, time_of_day(text, time)?),
        Some(("yesterday", time)) => (days(1)?, time_of_day(text, time)?),
        None if trimmed == "today" => (days(0)?, Time::midnight()),
        None if trimmed == "yesterday" => (days(1)?, Time::midnight()),
        None if trimmed.contains(':') && !trimmed.contains(['-', 'T', 't']) => {
            let time = time_of_day(text, trimmed)?;
            let today = local(text, days(0)?.to_datetime(time), now)?;
            if today <= now.timestamp() {
                return Ok(Some(today));
            }
            (days(1)?, time)
        }
        _ => match trimmed.parse::<Date>() {
            // The parser of dates takes more, and drops it.
            Ok(day) if trimmed.len() == "2026-11-21".len() => (day, Time::midnight()),
            Ok(_) | Err(_) => return Ok(None),
        },
    };
    local(text, day.to_datetime(time), now).map(Some)
}

fn error(value: &str, problem: impl Into<String>) -> QuantityError {
    QuantityError::new("time", EXAMPLE, value, problem)
}

/// The error of a parser of times to come, with the examples of this one.
fn past(error: QuantityError) -> QuantityError {
    QuantityError { example: EXAMPLE, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn berlin(datetime: &str) -> Zoned {
        format!("{datetime}[Europe/Berlin]").parse().unwrap()
    }

    #[test]
    fn texts_are_times_that_were() {
        let now = berlin("2026-11-21T12:00:00");
        for (text, expected) in [
            ("11:00", "2026-11-21T10:00:00Z"),
            ("12:00", "2026-11-21T11:00:00Z"),
            // Not later today: yesterday's.
            ("12:00:01", "2026-11-20T11:00:01Z"),
            ("13:00", "2026-11-20T12:00:00Z"),
            ("3:00", "2026-11-21T02:00:00Z"),
            ("5m", "2026-11-21T10:55:00Z"),
            ("24h", "2026-11-20T11:00:00Z"),
            ("30", "2026-11-21T10:59:30Z"),
            ("now", "2026-11-21T11:00:00Z"),
            ("today", "2026-11-20T23:00:00Z"),
            ("today 03:00", "2026-11-21T02:00:00Z"),
            ("yesterday", "2026-11-19T23:00:00Z"),
            ("yesterday 03:00", "2026-11-20T02:00:00Z"),
            ("2026-11-21", "2026-11-20T23:00:00Z"),
            (" 2026-11-01 ", "2026-10-31T23:00:00Z"),
            ("2026-11-20 03:00", "2026-11-20T02:00:00Z"),
            ("2026-11-20T03:00:00Z", "2026-11-20T03:00:00Z"),
            ("2026-11-20T03:00:00+05:00", "2026-11-19T22:00:00Z"),
            ("2099-01-01T00:00:00Z", "2099-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse_past(text, &now).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn clock_changes_and_midnight_have_one_answer() {
        // Two hours 02:30 to 03:30 on that night: the first, and it is not after now.
        let autumn = berlin("2026-10-25T12:00:00");
        assert_eq!(parse_past("02:30", &autumn).unwrap().to_string(), "2026-10-25T00:30:00Z");
        // A day that has no midnight begins when the clock goes on.
        let cairo: Zoned = "2026-04-24T12:00:00[Africa/Cairo]".parse().unwrap();
        assert_eq!(parse_past("2026-04-24", &cairo).unwrap().to_string(), "2026-04-23T22:00:00Z");
        let night = berlin("2026-11-21T00:30:00");
        assert_eq!(parse_past("23:00", &night).unwrap().to_string(), "2026-11-20T22:00:00Z");
        assert_eq!(parse_past("00:10", &night).unwrap().to_string(), "2026-11-20T23:10:00Z");
    }

    #[test]
    fn bad_texts_are_refused_with_what_helps() {
        let now = berlin("2026-11-21T12:00:00");
        for (text, part) in [
            ("", "empty"),
            ("25:00", "no such time of day"),
            ("2026-02-30", "neither"),
            ("2026-11-20 03", "time of day"),
            ("2026-11-20 0300", "time of day"),
            ("yesterday noon", "colon"),
            ("soon", "neither"),
            ("1y", "\"y\" is not a unit"),
            ("24h 3", "a unit is missing"),
            ("200000w", "100 years"),
            ("1800-01-01", "100 years"),
        ] {
            let error = parse_past(text, &now).unwrap_err();
            assert!(error.problem.contains(part), "{text}: {error}");
            let shown = error.to_string();
            assert!(shown.contains("yesterday 03:00") && !shown.contains("--in"), "{text}: {shown}");
        }
    }

    #[test]
    fn a_range_has_its_begin_before_its_end() {
        for (since, until, expected) in
            [(Some(1), Some(2), true), (Some(1), Some(1), false), (Some(2), Some(1), false), (None, Some(1), true)]
        {
            assert_eq!(is_range(since, until), expected, "{since:?} {until:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(yesterday |today )?[0-9:TZ +hm-]{0,20}|\\PC*") {
            let _ = parse_past(&text, &berlin("2026-11-21T12:00:00"));
            let _ = parse_past(&text, &berlin("9999-12-29T23:59:00"));
        }

        #[test]
        fn a_time_of_day_was_in_the_last_day(hour in 0i64..24, minute in 0i64..60, at in 1_795_000_000i64..1_799_000_000) {
            let now = Timestamp::from_second(at).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            let age = at - parse_past(&format!("{hour:02}:{minute:02}"), &now).unwrap().as_second();
            prop_assert!((0..86_400).contains(&age), "{age}");
        }
    }
}
