//! Alarms start and end in pairs, above their limits, and do not flap.

use super::*;
use proptest::prelude::*;

const CALM_MS: u64 = 60_000;

fn reading(watch: Watch, subject: &str, measured: u64, limit: u64) -> Reading {
    Reading { watch, subject: subject.to_owned(), measured, limit }
}

fn run(run_ms: u64, usual_ms: Option<u64>) -> Figures {
    Figures { runs: vec![Run { subject: "7/1".to_owned(), run_ms, usual_ms }], ..Figures::default() }
}

fn rules() -> Rules {
    Rules {
        stuck_factor: Some(500),
        stuck_after_ms: None,
        slow_factor: Some(200),
        failure_rate_max: Some(2_000),
        failure_jobs_min: 10,
        queue_age_max_ms: Some(1_000),
        flapping_changes_max: Some(3),
    }
}

fn started(figures: &Figures, rules: &Rules) -> Vec<&'static str> {
    let turns = Alarms::default().look(&readings(figures, rules), CALM_MS, Instant(0));
    let word = |turn: &Turn| match turn {
        Turn::Started(alarm) => alarm.reading.watch.word(),
        Turn::Ended(_) => "ended",
    };
    turns.iter().map(word).collect()
}

#[test]
fn each_figure_is_held_against_its_own_limit() {
    let cases: [(Figures, &[&str]); 10] = [
        (run(300_001, Some(60_000)), &["stuck_job", "slow_job"]),
        (run(300_000, Some(60_000)), &["slow_job"]),
        (run(119_999, Some(60_000)), &[]),
        (run(u64::MAX, None), &[]),
        (run(RUN_LEAST_MS, Some(1)), &[]),
        (Figures { judged: 10, failed: 3, ..Figures::default() }, &["failure_rate"]),
        (Figures { judged: 10, failed: 2, ..Figures::default() }, &[]),
        (Figures { judged: 9, failed: 9, ..Figures::default() }, &[]),
        (Figures { queue_age_ms: Some(1_001), ..Figures::default() }, &["queue_age"]),
        (Figures { changes: vec![("a".into(), 4), ("b".into(), 3)], ..Figures::default() }, &["flapping"]),
    ];
    for (figures, expected) in cases {
        assert_eq!(started(&figures, &rules()), expected, "{figures:?}");
        assert!(started(&figures, &Rules::default()).is_empty(), "without rules nothing is watched: {figures:?}");
    }
    let limit = Rules { stuck_after_ms: Some(5), ..Rules::default() };
    assert_eq!(started(&run(6, None), &limit), ["stuck_job"], "a limit needs no history");
    let both = Rules { stuck_after_ms: Some(100_000), ..rules() };
    assert_eq!(started(&run(100_001, Some(60_000)), &both), ["stuck_job"], "the lower limit counts");
}

#[test]
fn a_failure_rate_that_swings_around_its_limit_is_one_alarm() {
    let mut alarms = Alarms::default();
    let mut turns = Vec::new();
    for step in 0..100_i64 {
        let measured = if step % 2 == 0 { 2_100 } else { 1_900 };
        turns.extend(alarms.look(&[reading(Watch::FailureRate, "", measured, 2_000)], CALM_MS, Instant(step * 60_000)));
    }
    assert_eq!(turns.len(), 1, "{turns:?}");
    let shown =
        |alarms: &Alarms| alarms.active().map(|alarm| (alarm.latest, alarm.reading.measured)).collect::<Vec<_>>();
    assert_eq!(shown(&alarms), [(1_900, 2_100)], "how it is, and how it was at worst");
    let low = [reading(Watch::FailureRate, "", 1_600, 2_000)];
    assert!(alarms.look(&low, CALM_MS, Instant(6_000_000)).is_empty(), "low, but not for long");
    assert!(matches!(alarms.look(&low, CALM_MS, Instant(6_060_000))[..], [Turn::Ended(_)]));
    assert_eq!(alarms.active().count(), 0);
}

#[test]
fn an_attempt_that_is_over_ends_its_alarms_at_once_and_a_restart_starts_none_again() {
    let mut alarms = Alarms::default();
    let high = [reading(Watch::StuckJob, "7/1", 10, 5)];
    assert_eq!(alarms.look(&high, CALM_MS, Instant(0)).len(), 1);
    let mut resumed = Alarms::resume(alarms.active().cloned());
    assert!(resumed.look(&high, CALM_MS, Instant(1)).is_empty(), "it was told already");
    assert!(matches!(resumed.look(&[], CALM_MS, Instant(2))[..], [Turn::Ended(_)]));
}

#[test]
fn words_are_read_back() {
    for watch in Watch::ALL {
        assert_eq!(Watch::from_word(watch.word()), Some(watch));
    }
}

proptest! {
    #[test]
    fn starts_and_ends_alternate_and_nothing_flaps(
        looks in proptest::collection::vec((0_u64..120_000, proptest::collection::vec((0_usize..5, 0_usize..3, 0_u64..20), 0..8)), 1..80)
    ) {
        let mut alarms = Alarms::default();
        let mut now = Instant(0);
        let mut lasts: BTreeMap<Key, Instant> = BTreeMap::new();
        for (passed, given) in looks {
            now = now.plus_ms(passed);
            let mut readings: Vec<Reading> = Vec::new();
            for (watch, subject, measured) in given {
                let one = reading(Watch::ALL[watch], &subject.to_string(), measured, 10);
                readings.retain(|other| (other.watch, &other.subject) != (one.watch, &one.subject));
                readings.push(one);
            }
            for turn in alarms.look(&readings, CALM_MS, now) {
                match turn {
                    Turn::Started(alarm) => {
                        let key = (alarm.reading.watch, alarm.reading.subject.clone());
                        prop_assert!(alarm.reading.measured > alarm.reading.limit);
                        prop_assert!(lasts.insert(key, now).is_none(), "started twice");
                    }
                    Turn::Ended(alarm) => {
                        let key = (alarm.reading.watch, alarm.reading.subject.clone());
                        let since = lasts.remove(&key);
                        prop_assert!(since.is_some(), "ended without a start");
                        let shown = readings.iter().find(|one| (one.watch, &one.subject) == (key.0, &key.1));
                        prop_assert!(shown.is_none_or(is_low), "ended while high");
                        if !key.0.is_of_attempt() {
                            prop_assert!(now.since_ms(alarm.since) >= CALM_MS, "too short an alarm");
                        }
                    }
                }
            }
            let active: Vec<Key> = alarms.active().map(|one| (one.reading.watch, one.reading.subject.clone())).collect();
            prop_assert_eq!(active, lasts.keys().cloned().collect::<Vec<_>>());
        }
    }

    #[test]
    fn there_are_never_too_many(subjects in 0_usize..300) {
        let readings: Vec<Reading> =
            (0..subjects).map(|subject| reading(Watch::Flapping, &subject.to_string(), 9, 3)).collect();
        let mut alarms = Alarms::default();
        prop_assert_eq!(alarms.look(&readings, CALM_MS, Instant(0)).len(), subjects.min(ALARMS_MAX));
        prop_assert_eq!(alarms.active().count(), subjects.min(ALARMS_MAX));
    }
}
