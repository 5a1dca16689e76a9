//! Points in time: what `--at` takes, and how times are shown.
//!
//! A local time that a clock change skips is taken as much later as the gap is long (02:30 becomes 03:30);
//! one that happens twice means the first time. That is RFC 5545's rule, and jiff's default.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::{QuantityError, split_number};

const EXAMPLE: &str = "2026-11-22T03:00:00Z, \"2026-11-22 03:00\", 03:00 or \"tomorrow 03:00\"";

fn error(value: &str, problem: impl Into<String>) -> QuantityError {
    QuantityError::new("time", EXAMPLE, value, problem)
}

/// Parses a point in time for a person in the time zone of `now`.
///
/// Taken: RFC 3339 (`2026-11-22T03:00:00+01:00`), a local date and time (`2026-11-22 03:00`), a local time of
/// day (`03:00`: the next one after `now`), `today 03:00`, `tomorrow 03:00` and `now`. A time in the past is
/// not refused here: what it means is for the caller to say.
///
/// # Errors
/// Names the value, what is wrong and an example; also for times more than 100 years away.
pub fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp, QuantityError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(error(text, "it is empty"));
    }
    let parsed = match trimmed.split_once(char::is_whitespace) {
        _ if trimmed == "now" => now.timestamp(),
        Some(("today", time)) => local(text, now.date().to_datetime(time_of_day(text, time)?), now)?,
        Some(("tomorrow", time)) => {
            let date = now.date().tomorrow().map_err(|cause| error(text, cause.to_string()))?;
            local(text, date.to_datetime(time_of_day(text, time)?), now)?
        }
        None if trimmed.contains(':') && !trimmed.contains(['-', 'T', 't']) => {
            next_time_of_day(text, time_of_day(text, trimmed)?, now)?
        }
        _ => full_time(text, trimmed, now)?,
    };
    not_too_far(text, parsed, now)
}

/// A typing slip of a century must not count as a time.
pub(super) fn not_too_far(text: &str, parsed: Timestamp, now: &Zoned) -> Result<Timestamp, QuantityError> {
    let years_away = (parsed.as_second() - now.timestamp().as_second()).unsigned_abs() / 31_557_600;
    if years_away >= 100 {
        return Err(error(text, "it is more than 100 years away"));
    }
    Ok(parsed)
}

pub(super) fn full_time(text: &str, trimmed: &str, now: &Zoned) -> Result<Timestamp, QuantityError> {
    if let Ok(timestamp) = trimmed.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    if trimmed.ends_with(']')
        && let Ok(zoned) = trimmed.parse::<Zoned>()
    {
        return Ok(zoned.timestamp());
    }
    if let Ok(datetime) = trimmed.parse::<DateTime>() {
        // A bare date would silently mean midnight, which is rarely what was meant.
        if trimmed.parse::<Date>().is_ok() && !trimmed.contains(':') {
            return Err(error(text, "the time of day is missing"));
        }
        return local(text, datetime, now);
    }
    if split_number(trimmed).is_some_and(|(_, rest)| rest.chars().all(char::is_alphabetic)) {
        return Err(error(text, "that is a duration: use --in for \"from now\""));
    }
    Err(error(text, "it is neither a date with a time nor a time of day"))
}

pub(super) fn time_of_day(text: &str, time: &str) -> Result<Time, QuantityError> {
    let time = time.trim();
    if !time.contains(':') {
        return Err(error(text, "the time of day is written with a colon"));
    }
    // "3:00" is what people type; the parser wants two digits.
    let padded = if time.find(':') == Some(1) { format!("0{time}") } else { time.to_owned() };
    padded.parse::<Time>().map_err(|_| error(text, "there is no such time of day"))
}

pub(super) fn local(text: &str, datetime: DateTime, now: &Zoned) -> Result<Timestamp, QuantityError> {
    datetime
        .to_zoned(now.time_zone().clone())
        .map(|zoned| zoned.timestamp())
        .map_err(|cause| error(text, cause.to_string()))
}

fn next_time_of_day(text: &str, time: Time, now: &Zoned) -> Result<Timestamp, QuantityError> {
    let today = local(text, now.date().to_datetime(time), now)?;
    if today > now.timestamp() {
        return Ok(today);
    }
    let tomorrow = now.date().checked_add(1.day()).map_err(|cause| error(text, cause.to_string()))?;
    local(text, tomorrow.to_datetime(time), now)
}

/// A time as machines read it, RFC 3339 in UTC with milliseconds: `2026-11-22T02:00:00.000Z`.
pub fn rfc3339_utc(unix_ms: i64) -> String {
    format!("{:.3}", timestamp(unix_ms))
}

/// A time for people in their zone, to the second: `2026-11-22 03:00:00`.
pub fn show_local(unix_ms: i64, zone: &TimeZone) -> String {
    timestamp(unix_ms).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// What the zone is called at that time: `CET`, or `+03` where it has no letters.
pub fn zone_name(unix_ms: i64, zone: &TimeZone) -> String {
    timestamp(unix_ms).to_zoned(zone.clone()).strftime("%Z").to_string()
}

/// A time relative to `now_ms`: `now`, `3m ago`, `in 2h`, `5d ago`, `3y ago`. Rounded down.
pub fn show_relative(unix_ms: i64, now_ms: i64) -> String {
    let distance = Duration::from_millis(unix_ms.abs_diff(now_ms));
    let seconds = distance.as_secs();
    let amount = match seconds {
        0 => return "now".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        172_800..63_115_200 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_557_600),
    };
    if unix_ms > now_ms { format!("in {amount}") } else { format!("{amount} ago") }
}

/// A damaged clock may hand in anything: what jiff cannot hold is shown as its nearest bound.
fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(unix_ms).unwrap_or(if unix_ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn berlin(datetime: &str) -> Zoned {
        format!("{datetime}[Europe/Berlin]").parse().unwrap()
    }

    #[test]
    fn texts_are_times() {
        let now = berlin("2026-11-21T12:00:00");
        for (text, expected) in [
            ("2026-11-22T03:00:00Z", "2026-11-22T03:00:00Z"),
            ("2026-11-22T03:00:00+05:00", "2026-11-21T22:00:00Z"),
            ("2026-11-22 03:00", "2026-11-22T02:00:00Z"),
            ("2026-11-22T03:00:30", "2026-11-22T02:00:30Z"),
            ("2026-11-22T03:00[America/New_York]", "2026-11-22T08:00:00Z"),
            ("13:00", "2026-11-21T12:00:00Z"),
            ("12:00", "2026-11-22T11:00:00Z"),
            ("3:00", "2026-11-22T02:00:00Z"),
            ("03:00:15", "2026-11-22T02:00:15Z"),
            ("today 03:00", "2026-11-21T02:00:00Z"),
            ("tomorrow 03:00", "2026-11-22T02:00:00Z"),
            ("tomorrow   3:00", "2026-11-22T02:00:00Z"),
            ("now", "2026-11-21T11:00:00Z"),
            ("2020-01-01 00:00", "2019-12-31T23:00:00Z"),
        ] {
            assert_eq!(parse_time(text, &now).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn clock_changes_have_one_answer() {
        // The gap of 2027-03-28: 02:30 does not exist and becomes 03:30.
        let spring = berlin("2027-03-27T12:00:00");
        assert_eq!(parse_time("tomorrow 02:30", &spring).unwrap().to_string(), "2027-03-28T01:30:00Z");
        // 2026-10-25 02:30 happens twice: the first one.
        let autumn = berlin("2026-10-24T12:00:00");
        assert_eq!(parse_time("02:30", &autumn).unwrap().to_string(), "2026-10-25T00:30:00Z");
    }

    #[test]
    fn bad_texts_are_refused_by_name() {
        let now = berlin("2026-11-21T12:00:00");
        for (text, part) in [
            ("", "empty"),
            ("25:00", "no such time of day"),
            ("12:61", "no such time of day"),
            ("2026-11-22", "time of day is missing"),
            ("2026-02-30 03:00", "neither"),
            ("yesterday 03:00", "neither"),
            ("tomorrow", "neither"),
            ("tomorrow noon", "colon"),
            ("10m", "--in"),
            ("30", "--in"),
            ("2200-01-01 00:00", "100 years"),
            ("1800-01-01T00:00:00Z", "100 years"),
        ] {
            let error = parse_time(text, &now).unwrap_err();
            assert!(error.problem.contains(part), "{text}: {error}");
            assert!(error.to_string().contains("tomorrow 03:00"), "no example in {error}");
        }
    }

    #[test]
    fn times_are_shown() {
        assert_eq!(rfc3339_utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_utc(1_795_312_800_250), "2026-11-22T02:00:00.250Z");
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(show_local(1_795_312_800_250, &zone), "2026-11-22 03:00:00");
        for (distance, expected) in [
            (0, "now"),
            (-999, "now"),
            (-59_000, "59s ago"),
            (-185_000, "3m ago"),
            (7_300_000, "in 2h"),
            (-5 * 86_400_000, "5d ago"),
            (-1_000 * 86_400_000, "2y ago"),
        ] {
            assert_eq!(show_relative(1_000_000_000_000 + distance, 1_000_000_000_000), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_time(&text, &berlin("2026-11-21T12:00:00"));
        }

        #[test]
        fn time_like_text_never_panics(text in "(today |tomorrow )?[0-9:T+Z -]{0,30}") {
            let _ = parse_time(&text, &berlin("9999-12-29T23:59:00"));
        }

        #[test]
        fn every_time_can_be_shown(unix_ms: i64, now_ms: i64) {
            let _ = (rfc3339_utc(unix_ms), show_relative(unix_ms, now_ms), show_local(unix_ms, &TimeZone::UTC));
        }

        #[test]
        fn machine_times_read_back(unix_ms in -1_000_000_000_000i64..4_000_000_000_000) {
            let now = berlin("2026-11-21T12:00:00");
            prop_assert_eq!(parse_time(&rfc3339_utc(unix_ms), &now).map(|t| t.as_millisecond()), Ok(unix_ms));
        }
    }
}
