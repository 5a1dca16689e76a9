//! `logs --export`: what is in the archive is what jobs wrote, and an archive that could not be made whole is not there.

use crate::support::small::Small;
use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What the system's `tar` makes of it, by path below the top directory.
fn unpacked(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir.path()).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let top = dir.path().join("ci-runner-logs");
    let mut files = BTreeMap::new();
    for job in fs::read_dir(&top).unwrap().flatten() {
        for file in fs::read_dir(job.path()).unwrap().flatten() {
            let name = file.path().strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(file.path()).unwrap());
        }
    }
    files
}

fn export(host: &Host, place: &Path, words: &[&str]) -> Output {
    host.run_cli(&[&["logs", "--export", place.to_str().unwrap()], words].concat())
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

fn json_of(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

/// Names of what is in a directory.
fn listed(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_byte_of_every_attempt_is_in_it() {
    let host = Host::started();
    let gate = host.gate("gate");
    let binary = host.add(&host.shell("printf 'a\\377\\376\\000b\\033[31m\\r\\nno end'"));
    let retried = host.shell_with("echo try $CI_RUNNER_ATTEMPT; exit 1", json!({ "retry": 1, "retry_delay": 0 }));
    let retried = host.add(&retried);
    let silent = host.add(&host.shell_with("true", json!({ "name": "silent" })));
    let large = host.add(&host.shell("head -c 3000001 /dev/zero | tr '\\0' 'x'"));
    for id in [binary, retried, silent, large] {
        host.finish(id);
    }
    let running = host.add(&host.shell(&format!("echo before; read x <{}; echo after", host.path("gate").display())));
    wait_for("its output", || (host.log(running) == "before\n").then_some(()));
    let held = host.add(&host.shell_with("true", json!({ "hold": true })));

    let place = host.path("all.tar");
    let done = export(&host, &place, &[]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), format!("{}\n", place.display()));
    assert!(said(&done).contains("logs: 6, of jobs: 5") && said(&done).contains("still written: 1"), "{}", said(&done));
    let files = unpacked(&place);
    assert_eq!(files[&format!("{binary}/1.log")], b"a\xff\xfe\x00b\x1b[31m\r\nno end");
    assert_eq!(files[&format!("{retried}/1.log")], b"try 1\n");
    assert_eq!(files[&format!("{retried}/2.log")], b"try 2\n");
    assert_eq!(files[&format!("{silent}/1.log")], b"");
    assert!(files[&format!("{large}/1.log")] == vec![b'x'; 3_000_001]);
    assert_eq!(files[&format!("{running}/1.log")], b"before\n");
    assert!(!files.keys().any(|name| name.starts_with(&format!("{held}/"))), "it was never tried: {:?}", names(&files));
    let job = json_of(&files, &format!("{running}/job.json"));
    assert_eq!((&job["state"], &job["logs"][0]["complete"]), (&json!("running"), &json!(false)));
    let job = json_of(&files, &format!("{retried}/job.json"));
    assert_eq!((&job["outcome"], &job["attempts"][1]["exit_code"]), (&json!("failed"), &json!(1)));
    let log = |number: u32| json!({ "attempt": number, "file": format!("{number}.log"), "bytes": 6, "complete": true, "part": false });
    assert_eq!(job["logs"], json!([log(1), log(2)]));
    // The daemon's values of variables and secrets are nobody's business.
    assert!(!files[&format!("{running}/job.json")].windows(host.marker.len()).any(|at| at == host.marker.as_bytes()));
    drop(gate);

    // Packed it is the same, and smaller; nobody else may read it.
    host.finish(running);
    for name in ["a.tar.gz", "a.tgz", "a.tar.zst", "a.tar"] {
        let packed = host.path(name);
        let (large, binary) = (large.to_string(), binary.to_string());
        let done = export(&host, &packed, &[&large, &binary, &large]);
        assert!(done.status.success(), "{done:?}");
        let of_two = unpacked(&packed);
        assert_eq!(of_two.len(), 4, "{:?}", names(&of_two));
        assert!(of_two.iter().all(|(name, content)| files[name] == *content), "{name}");
        assert!(name == "a.tar" || packed.metadata().unwrap().len() < 100_000, "{name}");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(packed.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn jobs_times_and_lines_are_chosen() {
    let host = Host::started();
    let add = |name: &str, script: &str| {
        let id = host.add(&host.shell_with(script, json!({ "name": name, "group": { "name": name } })));
        host.finish(id);
        id
    };
    let good = add("build-a", "echo one; printf 'two\\377'");
    let bad = add("build-b", "echo three; exit 1");
    let other = add("deploy", "echo four");
    let place = host.path("a.tar");
    let jobs_of = |words: &[&str]| {
        let done = export(&host, &place, words);
        assert!(done.status.success(), "{words:?}: {done:?}");
        let files = unpacked(&place);
        fs::remove_file(&place).unwrap();
        files.keys().filter(|name| name.ends_with(".log")).map(|name| name[..1].parse().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!(jobs_of(&[]), [good, bad, other]);
    assert_eq!(jobs_of(&["--name", "build*"]), [good, bad]);
    assert_eq!(jobs_of(&["--outcome", "failed,timed_out"]), [bad]);
    assert_eq!(jobs_of(&["--group", "deploy", "--pool", "default"]), [other]);
    assert_eq!(jobs_of(&["--since", "1h", "--name", "deploy"]), [other]);
    assert_eq!(jobs_of(&["2", "--attempt", "1"]), [bad]);

    let (code, note) = {
        let done = export(&host, &place, &["--since", "2h", "--until", "1h"]);
        (done.status.code(), said(&done))
    };
    assert!(code == Some(1) && note.contains("nothing was written") && !place.exists(), "{code:?} {note}");
    let done = export(&host, &place, &["1", "--times"]);
    assert!(done.status.success(), "{done:?}");
    let files = unpacked(&place);
    assert_eq!(names(&files), ["1/1.jsonl", "1/job.json"]);
    let lines = String::from_utf8(files["1/1.jsonl"].clone()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["text"], &lines[1]["base64"], lines.len()), (&json!("one"), &json!("dHdv/w=="), 2));
    assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'));
    let told = host.run_cli(&["logs", "--output", "json", "--export", host.path("j.tar").to_str().unwrap(), "2"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["jobs"], &told["logs"], &told["log_bytes"]), (&json!(1), &json!(1), &json!(6)), "{told}");
}

#[test]
fn archived_removed_damaged_and_moved_logs() {
    let mut host = Host::started();
    let text = "echo begin; head -c 9000 /dev/zero | tr '\\0' 'x'";
    let ids: Vec<u64> = (0..4).map(|_| host.add(&host.shell(text))).collect();
    let logs: Vec<String> = ids.iter().map(|id| (host.finish(*id), host.log(*id)).1).collect();
    assert!(logs.iter().all(|log| log.len() == 9_006));
    let path = |id: u64| host.state.join("logs").join(ci_runner_spawner::joblog::log_path(id, 1));
    ci_runner::joblog::archive(&path(ids[0]), &mut |_| Ok(())).unwrap();
    fs::remove_file(path(ids[1])).unwrap();
    ci_runner::joblog::archive(&path(ids[2]), &mut |_| Ok(())).unwrap();
    let packed = path(ids[2]).with_extension("log.zst");
    let mut damaged = fs::read(&packed).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    fs::write(&packed, damaged).unwrap();
    // From now on logs are elsewhere.
    host.kill();
    let dir = host.path("logs");
    host.config = format!("grace = 1\nlog_dir = {dir:?}\n");
    host.start();
    let next = host.add(&host.shell("echo next"));
    host.finish(next);
    assert!(dir.join(ci_runner_spawner::joblog::log_path(next, 1)).exists(), "the control: logs are elsewhere now");

    let place = host.path("a.tar.zst");
    let done = export(&host, &place, &[]);
    assert_eq!(done.status.code(), Some(1), "one cannot be read: {done:?}");
    assert!(said(&done).contains("removed before: 1; not readable: 1"), "{}", said(&done));
    let files = unpacked(&place);
    for at in [0, 3] {
        assert_eq!(files[&format!("{}/1.log", ids[at])], logs[at].as_bytes());
    }
    assert_eq!(files[&format!("{next}/1.log")], b"next\n");
    for at in [1, 2] {
        assert!(!files.contains_key(&format!("{}/1.log", ids[at])));
        let told = json_of(&files, &format!("{}/job.json", ids[at]));
        assert!(told["logs"][0]["missing"].is_string(), "{told:#}");
    }
    // What is removed is no fault where nobody named it.
    let one = ids[1].to_string();
    let only = export(&host, &host.path("b.tar"), &[&one]);
    assert_eq!(only.status.code(), Some(1), "{only:?}");
    fs::remove_file(&packed).unwrap();
    assert!(export(&host, &host.path("c.tar"), &[]).status.success());
}

#[test]
fn what_cannot_be_exported_leaves_nothing() {
    let host = Host::started();
    let id = host.add(&host.shell("echo text"));
    host.finish(id);
    let dir = host.path("out");
    fs::create_dir(&dir).unwrap();
    let check = |place: &Path, words: &[&str], code: i32, text: &str| {
        let done = export(&host, place, words);
        assert!(done.status.code() == Some(code) && said(&done).contains(text), "{words:?}: {done:?}");
        assert!(done.stdout.is_empty());
    };
    let taken = dir.join("taken.tar");
    fs::write(&taken, "mine").unwrap();
    check(&taken, &["1"], 3, "exists, and is not written over");
    std::os::unix::fs::symlink("nowhere", dir.join("link.tar")).unwrap();
    check(&dir.join("link.tar"), &["1"], 3, "exists");
    check(&dir.join("a.zip"), &["1"], 3, ".tar.zst");
    check(&dir.join("no/a.tar"), &["1"], 3, "No such file");
    check(&dir.join("a.tar"), &["999"], 1, "999");
    check(&dir.join("a.tar"), &["--name", "nobody"], 1, "nothing was written");
    check(&dir.join("a.tar"), &["1", "--attempt", "2"], 1, "nothing was written");
    check(&dir.join("a.tar"), &["--attempt", "1"], 3, "--attempt is of one job");
    check(&dir.join("a.tar"), &["1", "--outcome", "failed"], 3, "not both");
    check(&dir.join("a.tar"), &["--grep", "x"], 3, "cannot be used with");
    check(Path::new("-"), &["1", "--output", "json"], 3, "give a file");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    let mut left = listed(&dir);
    left.sort();
    assert_eq!(left, ["link.tar", "taken.tar"]);
    assert_eq!(host.run_cli(&["logs", "1", "--outcome", "failed"]).status.code(), Some(3));
}

#[test]
fn a_full_disk_keeps_no_half_of_it() {
    let Some(small) = Small::mount("a_full_disk_keeps_no_half_of_it", "2m") else { return };
    let host = Host::started();
    // Bytes that nothing packs.
    let id = host.add(&host.shell("head -c 4000000 /dev/urandom"));
    host.finish(id);
    let id = id.to_string();
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        for words in [vec![id.as_str()], vec![id.as_str(), "--times"]] {
            let done = export(&host, &small.join(name), &words);
            assert!(done.status.code() == Some(2) && said(&done).contains("no room"), "{name} {words:?}: {done:?}");
            assert!(listed(small.path()).is_empty(), "{name} {words:?}: {:?}", listed(small.path()));
        }
    }
    let done = host.run_cli(&["logs", "--export", small.join("a.tar").to_str().unwrap(), &id, "--since", "1h"]);
    assert_eq!(done.status.code(), Some(2), "a part of a log has no room either: {done:?}");
    small.fill();
    let done = export(&host, &small.join("a.tar"), &[&id]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    small.free();
    let little = host.add(&host.shell("echo little"));
    host.finish(little);
    assert!(
        export(&host, &small.join("a.tar"), &[&little.to_string()]).status.success(),
        "the control: with room it works"
    );
    drop(host);
}

#[test]
fn a_reader_that_goes_away_is_told_of() {
    let host = Host::started();
    let id = host.add(&host.shell("head -c 4000000 /dev/zero"));
    host.finish(id);
    let words = ["logs", "--export", "-", &id.to_string()];
    let mut whole = host.cli(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    whole.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(whole.wait_with_output().unwrap().status.success(), "the control");
    let place = host.path("piped.tar");
    fs::write(&place, &bytes).unwrap();
    assert_eq!(unpacked(&place)[&format!("{id}/1.log")], vec![0; 4_000_000]);

    let mut cut = host.cli(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut begin = [0; 512];
    let mut pipe = cut.stdout.take().unwrap();
    pipe.read_exact(&mut begin).unwrap();
    drop(pipe);
    let done = cut.wait_with_output().unwrap();
    assert!(done.status.code() == Some(1) && said(&done).contains("not whole"), "{done:?}");
}

/// A daemon that is killed in the middle of a log, and started again, changes no byte of the archive.
#[test]
fn a_daemon_that_restarts_meanwhile_is_waited_for() {
    let mut host = Host::started();
    let size = 40_000_000;
    let id = host.add(&host.shell(&format!("head -c {size} /dev/zero | tr '\\0' 'y'")));
    host.finish(id);
    let words = ["logs", "--export", "-", &id.to_string()];
    let mut child = host.cli(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut bytes = vec![0; 1_000_000];
    pipe.read_exact(&mut bytes).unwrap();
    // The pipe and the socket hold less than what is left, so it is in the middle now.
    host.kill();
    host.start();
    pipe.read_to_end(&mut bytes).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let place = host.path("a.tar");
    fs::write(&place, &bytes).unwrap();
    let files = unpacked(&place);
    let log = &files[&format!("{id}/1.log")];
    assert!(log.len() == size && log.iter().all(|byte| *byte == b'y'), "{} bytes", log.len());
}
