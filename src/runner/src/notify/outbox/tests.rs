//! What is kept, and what is not taken twice.

use super::*;
use serde_json::json;

fn event(id: &str) -> Event {
    Event { id: id.to_owned(), kind: "job.ended".into(), at_ms: 5, title: id.to_owned(), data: json!({"a": 1}) }
}

fn deliveries(ids: &[&str]) -> Batch {
    let deliveries = ids.iter().map(|id| ("ops".to_owned(), event(id))).collect();
    Batch { deliveries, cursor: Some(Instant(7)), ..Batch::default() }
}

fn due(outbox: &Outbox, now_ms: i64) -> Option<Waiting> {
    outbox.due("ops", &BTreeSet::new(), now_ms).unwrap().ok()
}

#[test]
fn what_waits_is_there_again_and_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Outbox::open(dir.path(), "s").unwrap();
    let many = |_: &str| 10;
    assert_eq!(open().cursor().unwrap(), None);
    open().commit(&deliveries(&["a", "b"]), &many, 100).unwrap();
    let outbox = open();
    assert_eq!(outbox.cursor().unwrap(), Some(Instant(7)));
    let first = due(&outbox, 100).unwrap();
    assert_eq!((first.event.clone(), first.tries), (event("a"), 0));
    outbox.tried("ops", first.number, "failed", Some(900), 101).unwrap();
    let second = due(&outbox, 101).unwrap();
    outbox.tried("ops", second.number, "delivered", None, 102).unwrap();
    assert_eq!(outbox.due("ops", &BTreeSet::new(), 103).unwrap().unwrap_err(), Some(900));
    assert!(due(&outbox, 900 - FAR_MS - 1).is_some(), "a clock that was set back holds nothing up");
    outbox.commit(&deliveries(&["a", "b"]), &many, 104).unwrap();
    let again = due(&outbox, 900).unwrap();
    assert_eq!((again.number, again.tries), (first.number, 1), "the same events are not taken twice");
    outbox.tried("ops", again.number, "delivered", None, 901).unwrap();
    assert_eq!(outbox.due("ops", &BTreeSet::new(), i64::MAX).unwrap().unwrap_err(), None);
    let (counts, waiting) = outbox.counts("ops").unwrap();
    assert_eq!((counts, waiting), (vec![("delivered".into(), 2), ("failed".into(), 1)], 0));
}

#[test]
fn the_queue_is_bounded_and_drops_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), "s").unwrap();
    assert_eq!(outbox.commit(&deliveries(&["a", "b", "c"]), &|_| 2, 0).unwrap(), ["ops"]);
    assert_eq!(outbox.counts("ops").unwrap(), (vec![("dropped".into(), 1)], 2));
    assert_eq!(outbox.forget_others(&["ops"], 1).unwrap(), 0);
    assert_eq!(outbox.forget_others(&[], 1).unwrap(), 2);
    assert!(due(&outbox, 5).is_none());
}

#[test]
fn alarms_are_resumed_and_another_store_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), "s").unwrap();
    let reading = Reading { watch: Watch::StuckJob, subject: "7/1".into(), measured: 9, limit: 5 };
    let alarm = Alarm { latest: reading.measured, reading, since: Instant(3), calm_since: None };
    let kept = KeptAlarm { id: "x".into(), alarm, since_ms: 4, ended_ms: None, details: json!({"job": 7}) };
    outbox.commit(&Batch { alarms: vec![kept.clone()], ..Batch::default() }, &|_| 1, 0).unwrap();
    drop(outbox);
    let outbox = Outbox::open(dir.path(), "s").unwrap();
    assert_eq!(outbox.alarms(true).unwrap(), std::slice::from_ref(&kept));
    let ended = KeptAlarm { ended_ms: Some(9), ..kept };
    outbox.commit(&Batch { alarms: vec![ended.clone()], ..Batch::default() }, &|_| 1, 0).unwrap();
    assert_eq!(outbox.alarms(true).unwrap(), []);
    assert_eq!(outbox.alarms(false).unwrap(), [ended]);
    drop(outbox);
    assert_eq!(Outbox::open(dir.path(), "other").unwrap().alarms(false).unwrap(), []);
}

#[test]
fn a_file_that_cannot_be_read_is_made_anew_and_no_directory_is_no_reason_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), "this is no database, and long enough to be looked at as one").unwrap();
    let outbox = Outbox::open(dir.path(), "s").unwrap();
    assert!(outbox.trouble.is_none());
    outbox.commit(&deliveries(&["a"]), &|_| 1, 0).unwrap();
    let outbox = Outbox::open(&dir.path().join("no/such"), "s").unwrap();
    assert!(outbox.trouble.is_some());
    outbox.commit(&deliveries(&["a"]), &|_| 1, 0).unwrap();
    assert!(due(&outbox, 0).is_some(), "in memory it works");
}

/// It used to be open to every reader of the directory, beside a store that is not.
#[test]
fn the_files_are_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    // As an earlier version left it.
    drop(Outbox::open(dir.path(), "s").unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        let _open = Outbox::open(dir.path(), "s").unwrap();
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
        assert!(files.len() >= 2, "the log of SQLite among them: {files:?}");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
