//! The rules that need no chance.

use super::*;

pub(super) fn rich_spec() -> JobSpec {
    let mut spec = spec();
    spec.name = Some("build 'ü' \"x\"".into());
    spec.correlation = "0191d7a2-5b5c-7c3a-8f00-0123456789ab".into();
    spec.work = Work {
        command: Command::Argv(vec!["make".into(), String::new(), "a\nb\t\u{1f600}\\\"".into()]),
        env: vec![("B".into(), "2=3".into()), ("A".into(), String::new())],
        dir: Some("/src".into()),
        timeout_ms: Some(u64::from(u32::MAX) * 7),
        soft_timeout_ms: Some(5),
        log_bytes_max: 1 << 40,
        secrets: vec!["TOKEN".into()],
        profile: Some("strict".into()),
        submitter_uid: Some(1000),
        notify: vec!["ops".to_owned()],
    };
    spec.terms.labels = vec![Label::parse("arch=arm64").unwrap(), Label::parse("gpu").unwrap()];
    spec.terms.limits = Limits { memory_bytes: Some(1 << 40), cpu_milli: Some(10), pids: None };
    spec.terms.retry.oom_factor = Some(150);
    spec.terms.priority = -7;
    spec.terms.delay_ms = Some(30);
    spec.terms.expires = Some(WallTime(1_900_000_000_000));
    spec
}

#[test]
fn a_job_is_told_as_it_was() {
    check(|subject| {
        subject.load();
        subject.change(at(100), submitted(1, rich_spec()));
        assert_eq!(
            subject.store.claimed(id(1)).unwrap().unwrap(),
            Claimed { spec: rich_spec(), submitter: "me".into() }
        );
        let mut expected = JobRow {
            id: id(1),
            spec: rich_spec(),
            group_limit: None,
            submitter: "me".into(),
            phase: Phase::Queued,
            outcome: None,
            result: None,
            attempt: 0,
            tries: 0,
            ran_in: None,
            held: None,
            submitted: at(100).wall,
            started: None,
            finished: None,
            queue_ms: None,
            run_us: None,
            own_end: None,
        };
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);

        subject.change(at(200), claimed(1, 1));
        (expected.phase, expected.attempt, expected.ran_in) = (Phase::Starting, 1, Some("gpu".into()));
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);

        subject.change(at(300), event(1, Event::Started { attempt: AttemptNumber(1) }));
        (expected.phase, expected.started, expected.queue_ms) = (Phase::Running, Some(at(300).wall), Some(200));
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);

        let receipt =
            Receipt { started: at(290).wall, ended: at(390).wall, run_us: 99_001, leftovers: 3, ..Receipt::default() };
        let end = entry(at(400), ended(1, 1, 75, Next::Retry { ready_at: Instant(900), memory_bytes: None }));
        subject.commit(&[Write::Receipt { job: id(1), attempt: AttemptNumber(1), receipt }, end]);
        (expected.phase, expected.tries, expected.run_us) = (Phase::Queued, 1, Some(99_001));
        expected.result = Some(AttemptResult::Exited { code: 75 });
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);

        subject.change(at(900), claimed(1, 2));
        subject.change(at(950), event(1, Event::Released { attempt: AttemptNumber(2) }));
        expected.attempt = 2;
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);

        subject.change(at(1_000), claimed(1, 3));
        let lost = AttemptResult::Lost { cause: LostCause::Host };
        let next = Next::Finish { outcome: Outcome::Failed { cause: lost.clone() } };
        subject.change(at(1_100), event(1, Event::Ended { attempt: AttemptNumber(3), result: lost.clone(), next }));
        (expected.phase, expected.attempt, expected.tries, expected.run_us) = (Phase::Finished, 3, 2, None);
        (expected.result, expected.finished) = (Some(lost.clone()), Some(at(1_100).wall));
        expected.outcome = Some(Outcome::Failed { cause: lost.clone() });
        assert_eq!(subject.reader.job(id(1)).unwrap().unwrap(), expected);
        assert_eq!(subject.store.claimed(id(1)).unwrap(), None, "it is not open");

        attempts_are_told(subject, receipt);
        assert_eq!(subject.reader.check().unwrap(), [""; 0]);
    });
}

/// The three attempts of the job above.
fn attempts_are_told(subject: &Subject, receipt: Receipt) {
    let lost = AttemptResult::Lost { cause: LostCause::Host };
    let attempt = |number, claimed, ended| AttemptRow {
        number: AttemptNumber(number),
        pool: "gpu".into(),
        slot: 2,
        limits: limits(),
        claimed: at(claimed).wall,
        started: None,
        ended: Some(at(ended).wall),
        result: None,
        released: false,
        receipt: None,
    };
    let first = AttemptRow {
        started: Some(at(300).wall),
        result: Some(AttemptResult::Exited { code: 75 }),
        receipt: Some(receipt),
        ..attempt(1, 200, 400)
    };
    let second = AttemptRow { released: true, ..attempt(2, 900, 950) };
    let third = AttemptRow { result: Some(lost), ..attempt(3, 1_000, 1_100) };
    assert_eq!(subject.reader.attempts(id(1)).unwrap(), [first, second, third]);
}

#[test]
fn every_outcome_and_result_comes_back() {
    let results = [
        AttemptResult::Exited { code: 0 },
        AttemptResult::Exited { code: 255 },
        AttemptResult::Signaled { signal: 9 },
        AttemptResult::OomKilled,
        AttemptResult::TimedOut,
        AttemptResult::FailedToStart { cause: "no: such, program".into() },
        AttemptResult::FailedToStart { cause: String::new() },
        AttemptResult::Lost { cause: LostCause::Host },
        AttemptResult::Lost { cause: LostCause::Executor },
        AttemptResult::Lost { cause: LostCause::Stopped },
    ];
    let outcomes = [
        Outcome::Succeeded,
        Outcome::TimedOut,
        Outcome::Cancelled { by: By::User("root: of all".into()) },
        Outcome::Cancelled { by: By::Dependency(id(7)) },
        Outcome::Cancelled { by: By::Newer(id(8)) },
        Outcome::Superseded { by: id(9) },
        Outcome::Expired,
    ];
    let failed = results.iter().map(|cause| Outcome::Failed { cause: cause.clone() });
    let outcomes: Vec<Outcome> = outcomes.into_iter().chain(failed).collect();
    check(|subject| {
        subject.load();
        let mut number = 0;
        for outcome in &outcomes {
            for result in &results {
                number += 1;
                let next = Next::Finish { outcome: outcome.clone() };
                let end = event(number, Event::Ended { attempt: AttemptNumber(1), result: result.clone(), next });
                subject.commit(&[
                    entry(at(1), submitted(number, spec())),
                    entry(at(1), claimed(number, 1)),
                    entry(at(2), end),
                ]);
                let row = subject.reader.job(id(number)).unwrap().unwrap();
                assert_eq!((row.outcome.as_ref(), row.result.as_ref()), (Some(outcome), Some(result)));
                assert_eq!(subject.reader.ended(id(number)).unwrap(), Some(outcome.is_success()));
            }
        }
    });
}

#[test]
fn what_a_start_is_told_survives() {
    check(|subject| {
        let (first, open) = subject.load();
        assert!(open.is_empty() && !first.unclean, "{first:?}");
        assert_eq!((first.generation, first.last_id, first.last), (1, 0, Now::default()));
        assert_eq!((first.store_id.len(), first.store_id.to_lowercase() == first.store_id), (8, true));
        let base = ClockBase { boot_id: "boot".into(), offset_ms: -5 };
        let pause = Pause { by: "root".into(), reason: "disk".into(), since: at(7), drain: true };
        subject.commit(&[Write::Clock { base: base.clone(), now: at(5) }]);
        subject.change(at(9), Change::Paused(Some(pause.clone())));
        // Engine time decides which reading is the latest, also when the date was set back.
        let back = Now { engine: Instant(20), wall: WallTime(3) };
        subject.change(back, submitted(41, spec()));
        subject.change(at(10), submitted(42, spec()));
        subject.reopen();
        let (second, open) = subject.load();
        let expected = Loaded {
            generation: 2,
            last_id: 42,
            paused: Some(pause),
            clock: Some(base.clone()),
            last: back,
            unclean: true,
            ..first
        };
        assert_eq!(second, expected);
        assert_eq!(open.iter().map(|job| job.id.get()).collect::<Vec<_>>(), [41, 42]);
        subject.change(at(21), Change::Paused(None));
        let mut again = 0;
        let reread = subject.store.reread(&mut pool_id, &mut |_| again += 1).unwrap();
        assert_eq!((reread.generation, reread.paused, again), (2, None, 2), "it counts no start");
        subject.store.close(&base, at(22)).unwrap();
        subject.reopen();
        let (third, _) = subject.load();
        assert_eq!((third.generation, third.unclean, third.last), (3, false, at(22)));
    });
}

#[test]
fn an_open_attempt_comes_back_whole() {
    check(|subject| {
        subject.load();
        subject.change(at(1), submitted(1, spec()));
        subject.change(at(2), claimed(1, 1));
        let lease = |subject: &mut Subject| {
            subject.reopen();
            let (_, open) = subject.load();
            (open[0].phase, open[0].attempt, open[0].lease.clone().unwrap())
        };
        let mut expected = Lease {
            attempt: AttemptNumber(1),
            pool: PoolId(1),
            slot: 2,
            epoch: Epoch::new("boot-1"),
            limits: limits(),
            claimed: Instant(2),
            started: None,
            stop: None,
            dispatched: Some(Instant(2)),
            refused: None,
        };
        assert_eq!(lease(subject), (Phase::Starting, 1, expected.clone()));
        subject.change(at(3), event(1, Event::Started { attempt: AttemptNumber(1) }));
        subject.change(at(3), event(1, Event::Renewed { attempt: AttemptNumber(1) }));
        expected.started = Some(Instant(3));
        assert_eq!(lease(subject), (Phase::Running, 1, expected.clone()));
        subject.change(at(3), event(1, Event::Refused { attempt: AttemptNumber(1) }));
        expected.started = None;
        assert_eq!(lease(subject), (Phase::Starting, 1, expected.clone()), "it did not begin after all");
        subject.change(at(4), event(1, Event::Started { attempt: AttemptNumber(1) }));
        expected.started = Some(Instant(4));
        let stop = Event::StopRequested { attempt: AttemptNumber(1), by: By::Newer(id(5)), kill_at: Instant(99) };
        subject.change(at(4), event(1, stop));
        expected.stop = Some((By::Newer(id(5)), Instant(99)));
        assert_eq!(lease(subject), (Phase::Stopping, 1, expected));
    });
}

#[test]
fn schedules_are_added_changed_and_removed() {
    check(|subject| {
        subject.load();
        let row = |name: &str| ScheduleRow {
            name: name.into(),
            calendar: "0 3 * * *".into(),
            timezone: "Europe/Berlin".into(),
            overlap: "skip".into(),
            missed: "once".into(),
            request: r#"{"command":["make"]}"#.into(),
            by: "me".into(),
            paused: None,
            after: at(0).wall,
            last_job: None,
            timed_job: None,
            refused: None,
        };
        subject.commit(&[Write::Schedule(row("b")), Write::Schedule(row("a"))]);
        let refused = Some(RefusedRun { at: at(8).wall, why: "the queue is full".into() });
        let (paused, last_job, timed_job) = (Some("root".into()), Some(id(4)), Some(id(3)));
        let changed = ScheduleRow { paused, last_job, timed_job, after: at(9).wall, refused, ..row("b") };
        subject.commit(&[Write::Schedule(changed.clone())]);
        subject.reopen();
        assert_eq!(subject.reader.schedules().unwrap(), [row("a"), changed.clone()]);
        subject.commit(&[Write::ScheduleRemoved { name: "a".into() }]);
        assert_eq!(subject.reader.schedules().unwrap(), std::slice::from_ref(&changed));
        let well = ScheduleRow { refused: None, ..changed };
        subject.commit(&[Write::Schedule(well.clone())]);
        assert_eq!(subject.reader.schedules().unwrap(), std::slice::from_ref(&well));
        // A run leaves the rest as it is, and makes no schedule of one that is gone.
        let ran = |name: &str, refused| {
            let (after, last_job, timed_job) = (at(12).wall, Some(id(9)), Some(id(8)));
            Write::ScheduleRan(ScheduleRan { name: name.into(), after, last_job, timed_job, refused })
        };
        let refused = Some(RefusedRun { at: at(12).wall, why: "no such pool".into() });
        subject.commit(&[ran("b", refused.clone()), ran("a", None)]);
        subject.reopen();
        let (last_job, timed_job) = (Some(id(9)), Some(id(8)));
        let expected = ScheduleRow { after: at(12).wall, last_job, timed_job, refused, ..well };
        assert_eq!(subject.reader.schedules().unwrap(), std::slice::from_ref(&expected));
        assert_eq!(subject.reader.schedule("b").unwrap(), Some(expected));
        assert_eq!(subject.reader.schedule("a").unwrap(), None);
    });
}

#[test]
fn consequences_that_were_not_yet_decided_survive() {
    use ci_runner_core::group::{GroupPolicy, GroupSpec};
    use ci_runner_core::job::{After, Condition};
    check(|subject| {
        subject.load();
        let grouped = |policy| {
            let mut spec = spec();
            spec.terms.group = Some(GroupSpec { name: "g".into(), limit: None, policy });
            spec
        };
        let after = |job: u64, on| {
            let mut spec = spec();
            spec.terms.after = vec![After { job: id(job), on }];
            spec
        };
        subject.change(at(1), submitted(1, grouped(GroupPolicy::Queue)));
        subject.change(at(1), claimed(1, 1));
        subject.change(at(1), submitted(2, grouped(GroupPolicy::Queue)));
        subject.change(at(1), submitted(3, grouped(GroupPolicy::Latest)));
        subject.change(at(2), submitted(4, after(1, Condition::Success)));
        subject.change(at(2), submitted(5, after(1, Condition::Failure)));
        subject.change(at(2), submitted(6, after(77, Condition::Always)));
        subject.reopen();
        let wishes = |subject: &mut Subject| -> Vec<(u64, Wish)> {
            subject.load().1.into_iter().map(|job| (job.id.get(), job.wish)).collect()
        };
        let cancel = |by| Wish::Cancel { by };
        let expected = [
            (1, Wish::Run),
            (2, cancel(By::Newer(id(3)))),
            (3, Wish::Run),
            (4, Wish::Run),
            (5, Wish::Run),
            (6, cancel(By::Dependency(id(77)))),
        ];
        assert_eq!(wishes(subject), expected);
        subject.change(at(3), claimed(3, 1));
        subject.change(at(3), submitted(7, grouped(GroupPolicy::Cancel)));
        subject.change(at(3), submitted(8, grouped(GroupPolicy::Queue)));
        subject.change(at(3), claimed(8, 1));
        subject.change(at(3), submitted(9, grouped(GroupPolicy::Latest)));
        subject.change(at(3), event(8, Event::Released { attempt: AttemptNumber(1) }));
        subject.change(at(3), Change::Wished { id: id(2), wish: Wish::Run });
        subject.change(at(4), ended(1, 1, 0, succeeded()));
        subject.reopen();
        let (_, open) = subject.load();
        assert_eq!(open.iter().map(|job| job.id.get()).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(open[0].wish, cancel(By::Newer(id(3))), "the first reason stays");
        assert_eq!(open[1].wish, cancel(By::Newer(id(7))));
        assert_eq!(open[5].wish, cancel(By::Newer(id(9))));
        assert_eq!(open[6].wish, cancel(By::Newer(id(9))), "came back after 9 was there");
        assert_eq!((&open[2].wish, open[2].waits_for.len(), open[2].terms.after.len()), (&Wish::Run, 0, 0));
        assert_eq!((&open[3].wish, open[3].impossible), (&cancel(By::Dependency(id(1))), Some(id(1))));
    });
}

#[test]
fn a_newcomer_that_can_never_run_takes_nobodys_place() {
    use ci_runner_core::group::{GroupPolicy, GroupSpec};
    use ci_runner_core::job::{After, Condition};
    check(|subject| {
        subject.load();
        let grouped = |policy, after: Option<u64>| {
            let mut spec = spec();
            spec.terms.group = Some(GroupSpec { name: "g".into(), limit: None, policy });
            spec.terms.after.extend(after.map(|job| After { job: id(job), on: Condition::Success }));
            spec
        };
        subject.change(at(1), submitted(1, grouped(GroupPolicy::Queue, None)));
        subject.change(at(1), submitted(2, grouped(GroupPolicy::Queue, None)));
        subject.change(at(1), claimed(1, 1));
        subject.change(at(2), submitted(3, grouped(GroupPolicy::Cancel, Some(77))));
        subject.change(at(3), event(1, Event::Released { attempt: AttemptNumber(1) }));
        subject.reopen();
        let wishes: Vec<Wish> = subject.load().1.into_iter().map(|job| job.wish).collect();
        assert_eq!(wishes, [Wish::Run, Wish::Run, Wish::Cancel { by: By::Dependency(id(77)) }]);
    });
}

/// It decides how a job ends whose date passes before its next try.
#[test]
fn the_last_result_of_a_job_that_expires_is_told() {
    check(|subject| {
        subject.load();
        let mut expiring = spec();
        expiring.terms.expires = Some(WallTime(1_900_000_000_000));
        subject.change(at(1), submitted(1, expiring));
        let last = |subject: &mut Subject| {
            subject.reopen();
            subject.load().1[0].last.clone()
        };
        assert_eq!(last(subject), None);
        for (number, code) in [(1, 7), (2, 8)] {
            subject.change(at(2), claimed(1, number));
            subject.change(at(3), ended(1, number, code, Next::Retry { ready_at: Instant(3), memory_bytes: None }));
            assert_eq!(last(subject), Some(AttemptResult::Exited { code }));
        }
        subject.change(at(4), claimed(1, 3));
        assert_eq!(last(subject), Some(AttemptResult::Exited { code: 8 }), "of an attempt that ended");
        subject.change(at(5), event(1, Event::Released { attempt: AttemptNumber(3) }));
        assert_eq!(last(subject), Some(AttemptResult::Exited { code: 8 }), "given back: no result");
    });
}
