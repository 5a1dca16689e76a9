//! What is kept for how long.

use super::rules::rich_spec;
use super::*;

#[test]
fn keys_are_kept_for_a_day() {
    check(|subject| {
        subject.load();
        let row = |key: &str, at, jobs: &[u64]| KeyRow {
            key: key.into(),
            body: [7; 32],
            jobs: jobs.iter().map(|number| id(*number)).collect(),
            at,
        };
        let first = row("ä", at(0).engine, &[3, 4, 5, 9, 11, 12]);
        subject.commit(&[Write::Key(first.clone())]);
        subject.reopen();
        let last = at(0).engine.plus_ms(KEY_KEPT_MS - 1);
        assert_eq!(subject.reader.key("ä", last).unwrap(), Some(first));
        assert_eq!(subject.reader.key("b", last).unwrap(), None);
        assert_eq!(subject.reader.key("ä", last.plus_ms(1)).unwrap(), None, "expired");
        let again = row("ä", last.plus_ms(1), &[20]);
        subject.commit(&[Write::Key(again.clone())]);
        assert_eq!(subject.reader.key("ä", last.plus_ms(2)).unwrap(), Some(again), "may be used again");
    });
}

#[test]
fn finished_jobs_are_removed_oldest_first_and_stay_counted() {
    check(|subject| {
        subject.load();
        // Ends in the order 3, 1, 2; 4 stays open.
        for (number, end) in [(1, 20), (2, 30), (3, 10), (4, 0)] {
            subject.change(at(1), submitted(number, rich_spec()));
            subject.change(at(2), claimed(number, 1));
            if end > 0 {
                subject.change(at(end), ended(number, 1, 0, succeeded()));
            }
        }
        let ends = [(1, Some(20)), (2, Some(30)), (3, Some(10)), (4, None)];
        assert_eq!(subject.reader.ends(id(1), id(9)).unwrap(), ends.map(|(job, end)| (id(job), end.map(Instant))));
        assert_eq!(subject.reader.ends(id(2), id(2)).unwrap(), [(id(2), Some(Instant(30)))]);
        let before = CollectLimits::new(at(30).engine, Some(0));
        assert_eq!(subject.store.collect(&before, 1).unwrap(), [id(3)]);
        assert_eq!(subject.store.collect(&before, 9).unwrap(), [id(1)]);
        assert_eq!(subject.store.collect(&before, 9).unwrap(), []);
        assert_eq!((subject.reader.job(id(1)).unwrap(), subject.reader.attempts(id(1)).unwrap()), (None, Vec::new()));
        assert_eq!(subject.reader.ended(id(1)).unwrap(), None);
        let left: Vec<u64> = subject.reader.jobs(&JobFilter::all(9)).unwrap().iter().map(|row| row.id.get()).collect();
        assert_eq!(left, [4, 2]);
        assert_eq!(subject.reader.totals().unwrap()[0], ("succeeded".to_owned(), 3));
        assert_eq!(subject.reader.check().unwrap(), [""; 0]);
        subject.change(at(31), ended(4, 1, 0, succeeded()));
        let all = CollectLimits::new(at(99).engine, Some(0));
        assert_eq!(subject.store.collect(&all, 9).unwrap(), [id(2), id(4)]);
        subject.reopen();
        assert_eq!(subject.load().0.last_id, 4, "an id is never given again");
    });
}

/// The date is set forward by a year: neither a key nor a finished job is a minute older for it.
#[test]
fn a_clock_set_forward_ages_nothing() {
    check(|subject| {
        const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
        subject.load();
        let key = KeyRow { key: "k".into(), body: [7; 32], jobs: vec![id(2)], at: at(1).engine };
        subject.commit(&[
            entry(at(1), submitted(1, spec())),
            entry(at(1), submitted(2, spec())),
            Write::Key(key.clone()),
        ]);
        for number in [1, 2] {
            subject.change(at(2), claimed(number, 1));
            subject.change(at(3), ended(number, 1, 0, succeeded()));
        }
        let jumped = Now { engine: Instant(1_000), wall: at(1_000).wall.plus_ms(YEAR_MS) };
        subject.change(jumped, submitted(3, spec()));
        subject.reopen();
        assert_eq!(subject.reader.key("k", jumped.engine).unwrap(), Some(key.clone()));
        // Another key is noted: it purges those that have expired.
        let other = KeyRow { key: "o".into(), jobs: vec![id(3)], at: jumped.engine, ..key.clone() };
        subject.commit(&[Write::Key(other)]);
        assert_eq!(subject.reader.key("k", jumped.engine).unwrap(), Some(key));
        let day = CollectLimits::new(jumped.engine, Some(KEY_KEPT_MS));
        assert_eq!(subject.store.collect(&day, 9).unwrap(), []);
        // The control: time that passed. What a key still answers with stays beyond its age.
        let second = CollectLimits::new(Instant(1_500), Some(1_000));
        assert_eq!(subject.store.collect(&second, 9).unwrap(), [id(1)]);
        let late = CollectLimits::new(Instant(1_500).plus_ms(2 * KEY_KEPT_MS), Some(1_000));
        assert_eq!(subject.store.collect(&late, 9).unwrap(), [id(2)]);
        assert_eq!(subject.reader.check().unwrap(), [""; 0]);
    });
}
