//! What a restored store makes of the files of jobs: those of its own jobs stay, those of others are nobody's.

use crate::skipped;
use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::fs;

/// A finished job that printed this, and one on hold with a secret of this name, which tells what it finds of two.
fn with_history(host: &Host, printed: &str, secret: &str) -> (u64, u64) {
    let finished = host.add(&host.shell(&format!("echo {printed}")));
    host.finish(finished);
    let script = "echo token=${TOKEN:+there} key=${KEY:+there}";
    let held = host.add(&host.shell_with(script, json!({ "hold": true, "secrets": { secret: "a secret of twelve" } })));
    (finished, held)
}

fn restore(host: &mut Host, backup: &str) -> String {
    host.stop();
    restore_stopped(host, backup)
}

fn restore_stopped(host: &mut Host, backup: &str) -> String {
    let state = host.state.to_str().unwrap().to_owned();
    let done = host.run_cli(&["restore", "--state-dir", &state, backup]);
    assert!(done.status.success(), "{done:?}");
    host.start();
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn a_job_gets_neither_log_nor_secrets_of_another_that_had_its_id() {
    let (mine, mut other) = (Host::started(), Host::started());
    let (finished, held) = with_history(&mine, "mine", "TOKEN");
    assert_eq!(with_history(&other, "of another", "KEY"), (finished, held), "the same ids");
    let backup = mine.path("backup.db").to_str().unwrap().to_owned();
    assert!(mine.run_cli(&["backup", &backup]).status.success());
    let said = restore(&mut other, &backup);
    assert_eq!(other.log(finished), "", "the backup holds no logs");
    other.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    let job = other.finish(held);
    assert!(job["cause"].as_str().unwrap().contains("its secrets are gone"), "{job:#}");
    assert_eq!(said.matches("the same ids were other jobs there").count(), 2, "{said}");
    for (dir, file) in [("logs", format!("0/{finished}-1.log")), ("secrets", held.to_string())] {
        let kept = fs::read_dir(other.state.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("replaced-"));
        assert!(kept.map(|path| path.join(&file)).all(|path| path.exists()), "{dir} is kept");
    }
    other.stop();
    other.assert_clean();
}

#[test]
fn the_files_of_ones_own_jobs_stay() {
    let mut host = Host::started();
    let (finished, held) = with_history(&host, "mine", "TOKEN");
    let backup = host.path("backup.db").to_str().unwrap().to_owned();
    assert!(host.run_cli(&["backup", &backup]).status.success());
    // Once in the life that goes on, once over a restored store.
    for _ in 0..2 {
        let said = restore(&mut host, &backup);
        assert!(!said.contains("other jobs"), "{said}");
        assert_eq!(host.log(finished), "mine\n");
    }
    host.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    assert_eq!(host.finish(held)["outcome"], "succeeded");
    assert_eq!(host.log(held), "token=there key=\n");
    host.stop();
    host.assert_clean();
}

/// Where the daemon was told of a log directory and who restores was not; a step that fails leaves all as it was, and the next
/// try decides as the first one did.
#[test]
fn a_restore_that_fails_changes_nothing_and_is_tried_again() {
    let (mine, mut other) = (Host::started(), Host::new());
    other.config = format!("grace = 1\nlog_dir = {:?}\n", other.path("logs"));
    other.start();
    let (finished, held) = with_history(&mine, "mine", "TOKEN");
    assert_eq!(with_history(&other, "of another", "TOKEN"), (finished, held), "the same ids");
    let last = other.add(&other.shell("true"));
    other.finish(last);
    let backup = mine.path("backup.db").to_str().unwrap().to_owned();
    assert!(mine.run_cli(&["backup", &backup]).status.success());
    other.stop();
    let state = other.state.to_str().unwrap().to_owned();
    let words = ["restore", "--state-dir", &state, &backup];
    // Not a directory that can be looked at.
    let (logs, aside) = (other.path("logs"), other.path("aside"));
    fs::rename(&logs, &aside).unwrap();
    fs::write(&logs, "").unwrap();
    let failed = other.run_cli(&words);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(other.state.join("queue.db").exists() && other.state.join("secrets").join(held.to_string()).exists());
    fs::remove_file(&logs).unwrap();
    fs::rename(&aside, &logs).unwrap();
    let done = other.run_cli(&words);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.matches("the same ids were other jobs there").count() == 2, "{done:?}");
    other.start();
    assert_eq!(other.log(finished), "");
    other.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    assert!(other.finish(held)["cause"].as_str().unwrap().contains("its secrets are gone"));
    let next = other.add(&other.shell("true"));
    other.finish(next);
    assert!(next > last, "an id that was given is not given again");
    other.stop();
    other.assert_clean();
}

/// As after a power cut in the middle of it.
#[test]
fn a_restore_that_was_cut_short_decides_by_the_store_under_its_dated_name() {
    let (mine, mut other) = (Host::started(), Host::started());
    let (finished, held) = with_history(&mine, "mine", "TOKEN");
    assert_eq!(with_history(&other, "of another", "TOKEN"), (finished, held), "the same ids");
    let last = other.add(&other.shell("true"));
    other.finish(last);
    let backup = mine.path("backup.db").to_str().unwrap().to_owned();
    assert!(mine.run_cli(&["backup", &backup]).status.success());
    other.stop();
    for end in ["", "-wal"] {
        let name = |middle: &str| other.state.join(format!("queue.db{middle}{end}"));
        fs::rename(name(""), name(".replaced-20261122T000000000Z")).unwrap();
    }
    let said = restore_stopped(&mut other, &backup);
    assert_eq!(said.matches("the same ids were other jobs there").count(), 2, "{said}");
    let next = other.add(&other.shell("true"));
    other.finish(next);
    assert!(next > last, "an id that was given is not given again");
    other.stop();
    other.assert_clean();
}

/// The wrong backup first, then the right one.
#[test]
fn a_newer_backup_after_an_older_one_finds_its_files() {
    let mut host = Host::started();
    let (_, held) = with_history(&host, "first", "TOKEN");
    let backups = ["older", "newer"].map(|name| host.path(name).to_str().unwrap().to_owned());
    assert!(host.run_cli(&["backup", &backups[0]]).status.success());
    let (second, later) = with_history(&host, "second", "KEY");
    assert!(host.run_cli(&["pause", "--reason", "moving"]).status.success());
    assert!(host.run_cli(&["backup", &backups[1]]).status.success());
    let said = restore(&mut host, &backups[0]);
    assert!(said.contains("secrets of jobs that are not open in this backup are kept"), "{said}");
    assert!(!said.contains("other jobs") && !said.contains("ci-runner resume"), "{said}");
    let said = restore(&mut host, &backups[1]);
    assert!(said.contains("1 jobs have secrets again") && !said.contains("other jobs"), "{said}");
    assert!(said.contains("paused by") && said.contains("moving") && said.contains("`ci-runner resume`"), "{said}");
    assert!(host.run_cli(&["resume"]).status.success());
    assert_eq!(host.log(second), "second\n");
    for id in [held, later] {
        host.post(&format!("/api/v1/jobs/{id}/release"), &json!({}));
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    assert_eq!(host.log(later), "token= key=there\n", "the start in between left it alone");
    host.stop();
    host.assert_clean();
}

/// A job that waits for `go<pid>` before it prints, and for `end<pid>` behind that; it says in `began` who it is.
fn silent(host: &Host) -> Value {
    let file = |name: &str| host.path(name).display().to_string();
    let until = |name: &str| format!("until [ -e {}$$ ]; do sleep 0.02; done", file(name));
    let script = format!("echo $$ >>{}; {}; echo from $$; {}", file("began"), until("go"), until("end"));
    host.shell_with(&script, json!({ "hold": true }))
}

/// A job that began before a restore and has printed nothing, and a restored one with its id.
struct Silent {
    host: Host,
    id: u64,
    former: String,
    /// Where what the former one prints is to be.
    kept: std::path::PathBuf,
}

impl Silent {
    fn restored() -> Self {
        let mut host = Host::started();
        let id = host.add(&silent(&host));
        let kept = host.state.join(format!("logs/replaced-{}/0/{id}-1.log", store_of(&host)));
        let backup = host.path("backup.db").to_str().unwrap().to_owned();
        assert!(host.run_cli(&["backup", &backup]).status.success());
        host.post(&format!("/api/v1/jobs/{id}/release"), &json!({}));
        let former = host.wait_lines("began", 1).remove(0);
        restore(&mut host, &backup);
        Self { host, id, former, kept }
    }

    fn release(&self) -> String {
        self.host.post(&format!("/api/v1/jobs/{}/release", self.id), &json!({}));
        self.host.wait_lines("began", 2).remove(1)
    }

    fn go(&self, pid: &str) {
        fs::write(self.host.path(&format!("go{pid}")), "").unwrap();
    }

    fn the_former_prints(&self) {
        self.go(&self.former);
        let printed = format!("from {}\n", self.former);
        wait_for("what it prints", || (fs::read_to_string(&self.kept).ok()? == printed).then_some(()));
    }

    /// Tells all that is in the log then.
    fn end(mut self, restored: &str) -> String {
        for pid in [restored, &self.former] {
            fs::write(self.host.path(&format!("end{pid}")), "").unwrap();
        }
        assert_eq!(self.host.finish(self.id)["outcome"], "succeeded");
        wait_for("the end of both", || self.host.survivors().is_empty().then_some(()));
        let log = self.host.log(self.id);
        self.host.stop();
        log
    }
}

/// Its log is made at its first byte, under an id and an attempt that are another job's by then.
#[test]
fn what_a_job_of_before_prints_first_after_a_restore_is_in_no_log_of_the_restored_store() {
    for order in ["before the other starts", "before the other prints", "behind the other"] {
        let silent = Silent::restored();
        if order == "before the other starts" {
            silent.the_former_prints();
        }
        let restored = silent.release();
        if order == "before the other prints" {
            silent.the_former_prints();
        }
        silent.go(&restored);
        let own = format!("from {restored}\n");
        wait_for("its own", || (silent.host.log(silent.id) == own).then_some(()));
        if order == "behind the other" {
            silent.the_former_prints();
        }
        assert_eq!(silent.end(&restored), own, "{order}");
    }
}

/// The control of the test above.
#[test]
fn where_nothing_says_whose_the_logs_are_a_job_of_before_writes_into_the_log_of_another() {
    let silent = Silent::restored();
    fs::remove_file(silent.host.state.join("logs/store-id")).unwrap();
    let restored = silent.release();
    silent.go(&restored);
    let own = format!("from {restored}\n");
    wait_for("its own", || (silent.host.log(silent.id) == own).then_some(()));
    silent.go(&silent.former);
    let both = format!("{own}from {}\n", silent.former);
    wait_for("both", || (silent.host.log(silent.id) == both).then_some(()));
    assert!(!silent.kept.exists());
    assert_eq!(silent.end(&restored), both);
}

/// What the daemon here calls its store.
fn store_of(host: &Host) -> String {
    fs::read_to_string(host.state.join("logs/store-id")).unwrap().trim().to_owned()
}

/// Whoever puts a file there by hand: a job gets what it declared, or nothing.
#[test]
fn a_file_of_other_secrets_is_not_a_jobs() {
    let host = Host::started();
    let (_, first) = with_history(&host, "x", "TOKEN");
    let (_, second) = with_history(&host, "x", "KEY");
    fs::copy(host.state.join(format!("secrets/{second}")), host.state.join(format!("secrets/{first}"))).unwrap();
    host.post(&format!("/api/v1/jobs/{first}/release"), &json!({}));
    let job = host.finish(first);
    assert!(job["cause"].as_str().unwrap().contains("those of another job"), "{job:#}");
    host.post(&format!("/api/v1/jobs/{second}/release"), &json!({}));
    assert_eq!(host.finish(second)["outcome"], "succeeded", "the control: its own it gets");
    host.assert_clean();
}

/// The logs that were put aside were those of the daemon that runs.
#[test]
fn a_restore_to_a_place_beside_leaves_the_logs_of_the_configuration_alone() {
    let (mut mine, mut other) = (Host::new(), Host::started());
    mine.config = format!("grace = 1\nlog_dir = {:?}\n", mine.path("logs"));
    mine.start();
    let (finished, _) = with_history(&mine, "mine", "TOKEN");
    assert_eq!(with_history(&other, "of another", "KEY").0, finished, "the same id");
    other.stop();
    let words = [mine.path("backup.db"), mine.path("config.toml"), other.state.clone()];
    let [backup, config, state] = words.each_ref().map(|path| path.to_str().unwrap());
    assert!(mine.run_cli(&["backup", backup]).status.success());
    let done = mine.run_cli(&["restore", "--config", config, "--state-dir", state, backup]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(mine.log(finished), "mine\n");
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(
        said.matches("the same ids were other jobs there").count(),
        2,
        "those of the state that is made: {said}"
    );
    mine.stop();
    mine.assert_clean();
    other.assert_clean();
}

/// A daemon that is refused changed the note, and the next one looked for logs where none ever were.
#[test]
fn a_second_daemon_leaves_the_note_of_the_log_directory_alone() {
    let (mut host, mut second) = (Host::started(), Host::new());
    let note = || fs::read(host.state.join("log-dir")).unwrap();
    let before = note();
    second.state = host.state.clone();
    second.config = format!("grace = 1\nlog_dir = {:?}\n", second.path("logs"));
    let (status, said) = second.refused();
    assert_eq!(status.code(), Some(2), "{said}");
    assert_eq!(note(), before);
    assert!(!second.path("logs").exists());
    host.stop();
    host.assert_clean();
}

/// It would follow links of that user, and leave a database that the daemon cannot open.
#[test]
fn root_is_told_to_restore_as_the_owner_of_the_state_directory() {
    if !rustix::process::geteuid().is_root() {
        return skipped::tell("root_is_told_to_restore_as_the_owner_of_the_state_directory", "needs root");
    }
    let mut host = Host::started();
    let backup = host.path("backup.db");
    assert!(host.run_cli(&["backup", backup.to_str().unwrap()]).status.success());
    host.stop();
    let state = host.path("of nobody");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65_534), Some(65_534)).unwrap();
    let words = ["restore", "--state-dir", state.to_str().unwrap(), backup.to_str().unwrap()];
    let refused = host.run_cli(&words);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains(" restore --state-dir '") && said.contains("as its owner: runuser -u nobody -- "), "{said}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    host.assert_clean();
}
