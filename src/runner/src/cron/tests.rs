//! When schedules fire: plain, over clock changes, and with clocks that jump.

use proptest::prelude::*;

use super::*;

fn schedule(expression: &str, zone: &str) -> CronSchedule {
    CronSchedule::parse(expression, Some(zone)).unwrap_or_else(|error| panic!("{error}"))
}

fn ms(time: &str) -> i64 {
    time.parse::<Timestamp>().unwrap().as_millisecond()
}

/// The next times after `from`, as the zone shows them.
fn check_next(expression: &str, zone: &str, from: &str, expected: &[&str]) {
    let schedule = schedule(expression, zone);
    let mut last = ms(from);
    for expected in expected {
        last = schedule.next_after(last).unwrap();
        let shown = Timestamp::from_millisecond(last).unwrap().to_zoned(schedule.zone.clone());
        assert_eq!(shown.strftime("%a %F %T%:z").to_string(), *expected, "{expression} in {zone} after {from}");
    }
}

#[test]
fn cron_and_calendar_words_fire_when_they_say() {
    let from = "2026-11-21T12:34:56.789Z";
    for (expression, expected) in [
        ("* * * * *", ["Sat 2026-11-21 12:35:00+00:00", "Sat 2026-11-21 12:36:00+00:00"]),
        ("*/15 * * * *", ["Sat 2026-11-21 12:45:00+00:00", "Sat 2026-11-21 13:00:00+00:00"]),
        ("0 3 * * 1-5", ["Mon 2026-11-23 03:00:00+00:00", "Tue 2026-11-24 03:00:00+00:00"]),
        ("0 0 29 2 *", ["Tue 2028-02-29 00:00:00+00:00", "Sun 2032-02-29 00:00:00+00:00"]),
        ("0 0 1 * MON", ["Mon 2026-11-23 00:00:00+00:00", "Mon 2026-11-30 00:00:00+00:00"]),
        ("30 0 3 * * *", ["Sun 2026-11-22 03:00:30+00:00", "Mon 2026-11-23 03:00:30+00:00"]),
        ("0 0 L * *", ["Mon 2026-11-30 00:00:00+00:00", "Thu 2026-12-31 00:00:00+00:00"]),
        ("@daily", ["Sun 2026-11-22 00:00:00+00:00", "Mon 2026-11-23 00:00:00+00:00"]),
        ("minutely", ["Sat 2026-11-21 12:35:00+00:00", "Sat 2026-11-21 12:36:00+00:00"]),
        ("hourly", ["Sat 2026-11-21 13:00:00+00:00", "Sat 2026-11-21 14:00:00+00:00"]),
        ("Weekly", ["Mon 2026-11-23 00:00:00+00:00", "Mon 2026-11-30 00:00:00+00:00"]),
        ("monthly", ["Tue 2026-12-01 00:00:00+00:00", "Fri 2027-01-01 00:00:00+00:00"]),
        ("quarterly", ["Fri 2027-01-01 00:00:00+00:00", "Thu 2027-04-01 00:00:00+00:00"]),
        ("yearly", ["Fri 2027-01-01 00:00:00+00:00", "Sat 2028-01-01 00:00:00+00:00"]),
        ("*-*-* 03:00:00", ["Sun 2026-11-22 03:00:00+00:00", "Mon 2026-11-23 03:00:00+00:00"]),
        ("*-*-* 03:00:00 UTC", ["Sun 2026-11-22 03:00:00+00:00", "Mon 2026-11-23 03:00:00+00:00"]),
        ("03:00", ["Sun 2026-11-22 03:00:00+00:00", "Mon 2026-11-23 03:00:00+00:00"]),
        ("*:0/15", ["Sat 2026-11-21 12:45:00+00:00", "Sat 2026-11-21 13:00:00+00:00"]),
        ("Mon..Fri *-*-* 09:30", ["Mon 2026-11-23 09:30:00+00:00", "Tue 2026-11-24 09:30:00+00:00"]),
        ("Sat,Sunday 10:00", ["Sun 2026-11-22 10:00:00+00:00", "Sat 2026-11-28 10:00:00+00:00"]),
        ("Mon", ["Mon 2026-11-23 00:00:00+00:00", "Mon 2026-11-30 00:00:00+00:00"]),
        ("Mon *-*-1..7 00:00", ["Mon 2026-12-07 00:00:00+00:00", "Mon 2027-01-04 00:00:00+00:00"]),
        ("12-24 18:00", ["Thu 2026-12-24 18:00:00+00:00", "Fri 2027-12-24 18:00:00+00:00"]),
        ("*-*-01,15 00:00", ["Tue 2026-12-01 00:00:00+00:00", "Tue 2026-12-15 00:00:00+00:00"]),
    ] {
        check_next(expression, "UTC", from, &expected);
    }
    assert_eq!(schedule("2027-01-01 00:00", "UTC").next_after(ms("2027-01-01T00:00:00Z")), None);
    let zoned = CronSchedule::parse("daily Europe/Berlin", None).unwrap();
    assert_eq!(zoned.time_zone_name(), Some("Europe/Berlin"));
}

#[test]
fn a_fixed_time_fires_once_on_each_day_over_clock_changes() {
    // Berlin 2027-03-28: 02:00 becomes 03:00. New York 2027-03-14 likewise.
    check_next(
        "30 2 * * *",
        "Europe/Berlin",
        "2027-03-27T00:00:00Z",
        &["Sat 2027-03-27 02:30:00+01:00", "Sun 2027-03-28 03:00:00+02:00", "Mon 2027-03-29 02:30:00+02:00"],
    );
    check_next(
        "*-*-* 02:30:00",
        "America/New_York",
        "2027-03-13T00:00:00Z",
        &["Sat 2027-03-13 02:30:00-05:00", "Sun 2027-03-14 03:00:00-04:00", "Mon 2027-03-15 02:30:00-04:00"],
    );
    // Berlin 2026-10-25: 03:00 becomes 02:00. New York 2026-11-01: 02:00 becomes 01:00.
    check_next(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T00:00:00Z",
        &["Sat 2026-10-24 02:30:00+02:00", "Sun 2026-10-25 02:30:00+02:00", "Mon 2026-10-26 02:30:00+01:00"],
    );
    check_next(
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T00:00:00Z",
        &["Sat 2026-10-31 01:30:00-04:00", "Sun 2026-11-01 01:30:00-04:00", "Mon 2026-11-02 01:30:00-05:00"],
    );
    // Asked between the two 02:30 of one night: not again.
    check_next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", &["Mon 2026-10-26 02:30:00+01:00"]);
}

#[test]
fn a_repeated_time_follows_real_time_over_clock_changes() {
    check_next(
        "0 * * * *",
        "Europe/Berlin",
        "2027-03-27T23:30:00Z",
        &["Sun 2027-03-28 01:00:00+01:00", "Sun 2027-03-28 03:00:00+02:00"],
    );
    check_next(
        "0 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:30:00Z",
        &["Sun 2026-10-25 02:00:00+02:00", "Sun 2026-10-25 02:00:00+01:00", "Sun 2026-10-25 03:00:00+01:00"],
    );
    check_next(
        "*/30 * * * *",
        "America/New_York",
        "2026-11-01T04:45:00Z",
        &[
            "Sun 2026-11-01 01:00:00-04:00",
            "Sun 2026-11-01 01:30:00-04:00",
            "Sun 2026-11-01 01:00:00-05:00",
            "Sun 2026-11-01 01:30:00-05:00",
            "Sun 2026-11-01 02:00:00-05:00",
        ],
    );
}

#[test]
fn a_day_that_a_zone_skips_does_not_end_the_schedule() {
    check_next("30 2 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", &["Sat 2011-12-31 02:30:00+14:00"]);
}

#[test]
fn bad_expressions_name_the_field_and_the_mend() {
    for (expression, parts) in [
        ("", ["is empty", "0 3 * * *"]),
        ("61 * * * *", ["\"61\" is not a valid minute", "0-59"]),
        ("* 24 * * *", ["\"24\" is not a valid hour", "0-23"]),
        ("* * 32 * *", ["\"32\" is not a valid day of month", "1-31"]),
        ("* * * 13 *", ["\"13\" is not a valid month", "1-12"]),
        ("* * * * 8", ["\"8\" is not a valid day of week", "MON-FRI"]),
        ("* * * * MOO", ["\"MOO\" is not a valid day of week", "MON-FRI"]),
        ("99 * * * * *", ["\"99\" is not a valid second", "0-59"]),
        ("*/0 * * * *", ["\"*/0\" is not a valid minute", "*/15"]),
        ("10-5 * * * *", ["\"10-5\" is not a valid minute", "0-59"]),
        ("-1 * * * *", ["\"-1\" is not a valid minute", "0-59"]),
        ("* * * * * * * *", ["8 fields", "5 to 7"]),
        ("0 0 30 2 *", ["never fires", "day, month"]),
        ("2026-02-30 00:00", ["never fires", "day, month"]),
        ("dayly", ["no calendar word", "did you mean \"daily\"?"]),
        ("@reboot", ["no calendar word", "known are"]),
        ("*-*-* 25:00", ["\"25\" is not a valid hour", "up to 23"]),
        ("*-*-~1 03:00", ["\"~1\" is not a valid day of month", "up to 31"]),
        ("1-2-3-4 03:00", ["is not a date", "year-month-day"]),
        ("1:2:3:4", ["is not a time of day", "hour:minute"]),
        ("Mon Tue", ["\"Tue\" is no weekday, date or time here", "5 fields"]),
        ("03:00 04:00", ["\"04:00\" is no weekday", "Mon..Fri"]),
    ] {
        let error = CronSchedule::parse(expression, Some("UTC")).expect_err(expression).to_string();
        for part in parts {
            assert!(error.contains(part), "{expression:?} gave: {error}\nwithout {part}");
        }
    }
    let error = |timezone| CronSchedule::parse("daily", Some(timezone)).unwrap_err().problem;
    assert!(error("Europe/Berlinn").contains("\"Europe/Berlinn\" is not a time zone; write a name like Europe/Berlin"));
    let both = CronSchedule::parse("daily UTC", Some("Europe/Berlin")).unwrap_err();
    assert!(both.problem.contains("keep one"), "{both}");
    assert!(CronSchedule::parse(&"* ".repeat(200), None).unwrap_err().problem.contains("at most 256"));
}

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// How many fire, and the state after it, for a state at `START` and a clock moved from there.
fn fire(expression: &str, missed: Missed, wall: i64, elapsed: Option<i64>) -> (usize, i64) {
    let start = ms("2026-11-21T12:00:00Z");
    let clock = Clock { wall_ms: start + wall, elapsed_ms: elapsed.map(|elapsed| elapsed as u64) };
    let due = due(&schedule(expression, "UTC"), missed, ScheduleState { until_ms: start }, clock);
    assert!(due.times.is_sorted() && due.times.iter().all(|time| (start + 1..=clock.wall_ms).contains(time)));
    (due.times.len(), due.state.until_ms - start)
}

#[test]
fn missed_runs_follow_their_policy() {
    use Missed::{All, Once, Skip};
    for (expression, missed, wall, expected) in [
        ("0 * * * *", Skip, 59 * MINUTE, 0),
        ("0 * * * *", Skip, HOUR, 1),
        ("0 * * * *", Skip, HOUR + 30_000, 1),
        ("0 * * * *", Skip, HOUR + 5 * MINUTE, 0),
        ("0 * * * *", Once, HOUR + 5 * MINUTE, 1),
        ("0 * * * *", Once, 5 * HOUR, 1),
        ("0 * * * *", All, 5 * HOUR + MINUTE, 5),
        ("* * * * *", All, 3 * HOUR, MISSED_RUNS_MAX),
        ("* * * * * *", All, 3 * HOUR, MISSED_RUNS_MAX),
        ("* * * * * *", Once, 3 * HOUR, 1),
        ("* * * * * *", Skip, 3 * HOUR, 1),
        ("0 3 * * *", All, 10 * DAY, 10),
    ] {
        for elapsed in [Some(wall), None] {
            assert_eq!(fire(expression, missed, wall, elapsed), (expected, wall), "{expression} {missed:?} {wall}");
        }
    }
}

#[test]
fn the_newest_missed_runs_count_and_the_others_are_told() {
    let start = ms("2026-11-21T12:00:00Z");
    let clock = Clock { wall_ms: start + 101 * MINUTE, elapsed_ms: None };
    let due = due(&schedule("* * * * *", "UTC"), Missed::All, ScheduleState { until_ms: start }, clock);
    assert_eq!((due.times[0], due.skipped), (start + 2 * MINUTE, 1));
    assert_eq!(*due.times.last().unwrap(), clock.wall_ms);
}

#[test]
fn a_clock_that_jumps_fires_no_storm() {
    for expression in ["* * * * * *", "* * * * *", "0 * * * *", "0 3 * * *"] {
        for missed in [Missed::Skip, Missed::Once] {
            // Set forward by a year, after ten seconds of real time; then set right again.
            let (fired, until) = fire(expression, missed, YEAR, Some(10_000));
            assert!(fired <= 1, "{expression} {missed:?}: {fired}");
            assert_eq!(until, YEAR);
        }
        let (fired, _) = fire(expression, Missed::All, YEAR, Some(10_000));
        assert!(fired <= 10, "{expression}: at most what ten real seconds hold, not {fired}");
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            assert_eq!(fire(expression, missed, -YEAR, Some(10_000)), (0, -YEAR), "set back: go on from here");
            assert_eq!(fire(expression, missed, -YEAR, None), (0, -YEAR));
            assert_eq!(fire(expression, missed, -30 * MINUTE, Some(0)), (0, 0), "a small step back: nothing twice");
            // The worst case: another boot, and nobody knows how long the host was off.
            assert!(fire(expression, missed, YEAR, None).0 <= MISSED_RUNS_MAX);
        }
    }
    // The control: without the real time, the same jump would count as a year of missed runs.
    assert_eq!(fire("* * * * *", Missed::All, YEAR, None).0, MISSED_RUNS_MAX);
    // A suspended laptop is no jump: the time really passed.
    assert_eq!(fire("0 3 * * *", Missed::All, 3 * DAY, Some(3 * DAY)).0, 3);
}

/// The next daemon knows nothing of the clock's jump but what was written: a schedule that was not due at the jump itself
/// made up for a year of missed runs after a restart.
#[test]
fn a_jump_is_told_so_that_it_can_be_written() {
    let step = |wall, elapsed_ms| {
        let clock = Clock { wall_ms: wall, elapsed_ms };
        due(&schedule("30 0 1 1 *", "UTC"), Missed::All, ScheduleState { until_ms: 0 }, clock)
    };
    for (wall, elapsed, jumped) in [
        (YEAR, Some(10_000), true),
        (-YEAR, Some(10_000), true),
        (YEAR, Some(YEAR.unsigned_abs()), false),
        (10 * MINUTE, Some(10_000), false),
        (-10 * MINUTE, Some(10_000), false),
    ] {
        assert_eq!(step(wall, elapsed).jumped, jumped, "{wall} ms in {elapsed:?} ms");
    }
    assert!(is_set_back(ScheduleState { until_ms: YEAR }, 0) && !is_set_back(ScheduleState { until_ms: MINUTE }, 0));
}

#[test]
fn a_long_way_back_is_found_fast() {
    let start = std::time::Instant::now();
    // Dense stretches far away: every second of one January night, seen from the end of the year.
    for expression in ["* * 3 1 1 *", "* * * * 1 *", "* * * * * *", "0 0 29 2 *"] {
        let (fired, _) = fire(expression, Missed::All, 100 * YEAR, None);
        assert!(fired >= 20, "{expression}: {fired}");
    }
    // Counting second by second through a hundred Januaries would take minutes.
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn policies_have_words() {
    for word in ["skip", "once", "all"] {
        assert_eq!(Missed::parse(word).unwrap().name(), word);
    }
    for word in ["skip", "queue", "cancel", "allow"] {
        assert_eq!(Overlap::parse(word).unwrap().name(), word);
    }
    assert!(Missed::parse("onec").unwrap_err().contains("did you mean \"once\"?"));
    assert!(Overlap::parse("qeue").unwrap_err().contains("did you mean \"queue\"?"));
}

proptest! {
    #[test]
    fn no_expression_panics(text in "[0-9*/,.@:A-Za-z~# -]{0,40}") {
        let _ = CronSchedule::parse(&text, Some("UTC"));
    }

    #[test]
    fn next_is_later_and_on_the_hour(wall_ms in 0i64..8_000_000_000_000) {
        for zone in ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"] {
            let next = schedule("0 * * * *", zone).next_after(wall_ms).unwrap();
            prop_assert!(next > wall_ms);
            prop_assert!(next - wall_ms <= 26 * HOUR, "{} {}", zone, next - wall_ms);
        }
    }

    #[test]
    fn any_clock_fires_at_most_the_bound(wall_ms: i64, until_ms: i64, elapsed: Option<u64>) {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            let clock = Clock { wall_ms, elapsed_ms: elapsed };
            let due = due(&schedule("* * * * *", "UTC"), missed, ScheduleState { until_ms }, clock);
            prop_assert!(due.times.len() <= MISSED_RUNS_MAX);
        }
    }
}

/// It was looked for behind each long gap of the zone, for seconds. Measured against a zone without any; the best of some counts.
#[test]
fn what_never_fires_is_not_looked_for_behind_each_gap() {
    let took = |zone| {
        let begun = std::time::Instant::now();
        let error = CronSchedule::parse("0 0 31 2,4,6,9,11 *", Some(zone)).unwrap_err();
        assert!(error.problem.contains("never fires"), "{error}");
        begun.elapsed()
    };
    let found = (0..5).any(|_| took("Antarctica/Casey") < took("UTC") * 3);
    assert!(found, "{:?} in UTC, {:?} in Casey", took("UTC"), took("Antarctica/Casey"));
}
