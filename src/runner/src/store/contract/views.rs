//! What is particular to the store on disk.

use super::rules::rich_spec;
use super::*;

/// What a person with `sqlite3` sees: words and times, and no way to write through them.
#[test]
fn views_speak_in_words() {
    let mut subject = Subject::sqlite();
    subject.load();
    let mut named = rich_spec();
    named.name = Some("build".into());
    for (number, spec) in [(1, named), (2, spec()), (3, spec()), (4, spec())] {
        subject.change(at(0), submitted(number, spec));
    }
    subject.change(at(1_000), claimed(1, 1));
    subject.change(at(1_500), event(1, Event::Started { attempt: AttemptNumber(1) }));
    let receipt = Receipt { run_us: 2_500_000, ..Receipt::default() };
    let failed = Next::Finish { outcome: Outcome::Failed { cause: AttemptResult::Exited { code: 7 } } };
    subject.commit(&[
        Write::Receipt { job: id(1), attempt: AttemptNumber(1), receipt },
        entry(at(4_000), ended(1, 1, 7, failed)),
    ]);
    subject.change(at(2_000), claimed(2, 1));
    subject
        .change(at(2_000), Change::Wished { id: id(3), wish: Wish::Hold { by: "me".into(), reason: "wait".into() } });
    let db = rusqlite::Connection::open(subject.dir.as_ref().unwrap().path().join("queue.db")).unwrap();
    let told = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let jobs = "SELECT concat_ws('|', id, name, state, outcome, exit_code, attempts, priority, labels, pool, \"group\", reason, \
        submitted_at, started_at, finished_at, queue_seconds, run_seconds, correlation) FROM jobs ORDER BY id";
    assert_eq!(
        told(jobs),
        [
            "1|build|finished|failed|7|1|-7|arch=arm64 gpu|gpu|2023-11-14T22:13:20.000Z|2023-11-14T22:13:21.500Z|\
             2023-11-14T22:13:24.000Z|1.5|2.5|0191d7a2-5b5c-7c3a-8f00-0123456789ab",
            "2|starting|1|0|gpu|2023-11-14T22:13:20.000Z|c",
            "3|queued|0|0|held by me: wait|2023-11-14T22:13:20.000Z|c",
            "4|queued|0|0|2023-11-14T22:13:20.000Z|c",
        ]
    );
    let attempts = "SELECT concat_ws('|', id, attempt, pool, slot, result, exit_code, claimed_at, ended_at, run_seconds) \
        FROM attempts ORDER BY id";
    assert_eq!(
        told(attempts),
        [
            "1|1|gpu|2|exited|7|2023-11-14T22:13:21.000Z|2023-11-14T22:13:24.000Z|2.5",
            "2|1|gpu|2|2023-11-14T22:13:22.000Z"
        ]
    );
    assert_eq!(told("SELECT concat_ws('|', pool, slot, id, attempt, state) FROM runners"), ["gpu|2|2|1|starting"]);
    assert!(db.execute("DELETE FROM jobs", []).is_err(), "a view is not written through");
}

/// A fact that cannot be keeps the whole batch out.
#[test]
fn a_batch_that_cannot_be_kept_leaves_nothing() {
    let mut subject = Subject::sqlite();
    subject.load();
    let batch = [entry(at(1), submitted(1, spec())), entry(at(1), ended(9, 1, 0, succeeded()))];
    let refused = subject.store.commit(&batch, &subject.pools);
    assert!(matches!(refused, Err(StoreError::Row { .. })), "{refused:?}");
    let twice = [entry(at(1), submitted(2, spec())), entry(at(1), submitted(2, spec()))];
    assert!(subject.store.commit(&twice, &subject.pools).is_err());
    assert_eq!(subject.reader.jobs(&JobFilter::all(9)).unwrap(), []);
    subject.change(at(1), submitted(1, spec()));
    assert_eq!(subject.load().1.len(), 1, "and the store goes on");
}

/// The daemon may hear of an end long after it; the attempt itself knows when it was.
#[test]
fn a_job_knows_when_its_last_attempt_ended() {
    check(|subject| {
        subject.load();
        subject.change(at(100), submitted(1, rich_spec()));
        subject.change(at(200), claimed(1, 1));
        subject.change(at(300), event(1, Event::Started { attempt: AttemptNumber(1) }));
        let receipt = Receipt { started: at(290).wall, ended: at(390).wall, ..Receipt::default() };
        let end = entry(at(20_000), ended(1, 1, 0, succeeded()));
        subject.commit(&[Write::Receipt { job: id(1), attempt: AttemptNumber(1), receipt }, end]);
        let row = subject.reader.job(id(1)).unwrap().unwrap();
        assert_eq!((row.finished, row.own_end), (Some(at(20_000).wall), Some(at(390).wall)));
    });
}
