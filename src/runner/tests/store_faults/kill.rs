//! Killed.

use super::*;

/// Not a test: what the kill test starts.
#[test]
fn child() {
    let Ok(dir) = std::env::var("CI_RUNNER_STORE_CHILD") else { return };
    let early = std::env::var("CI_RUNNER_STORE_CHILD_EARLY").is_ok();
    let (mut store, _reader, loaded, _) = opened(Path::new(&dir)).expect("opens");
    let mut dice = Dice(loaded.generation * 7919 + 1);
    let mut next = loaded.last_id + 1;
    let mut out = std::io::stdout();
    for number in 0.. {
        // A batch of all kinds: jobs are submitted, the first is claimed and ends, the second stays claimed.
        let size = 2 + dice.below(7);
        let name = format!("{}/{number}/{size}", loaded.generation);
        let mut batch: Vec<Write> = (0..size).map(|job| submission(next + job, &name, &"x".repeat(900))).collect();
        batch.extend([claim(next), end(next), claim(next + 1)]);
        next += size;
        let commit = |store: &mut SqliteStore| store.commit(&batch, &pools()).expect("commits");
        if !early {
            commit(&mut store);
        }
        writeln!(out, "acknowledged {name}").and_then(|()| out.flush()).expect("somebody listens");
        if early {
            commit(&mut store);
        }
    }
}

/// A child that commits, killed when this is dropped, whatever becomes of the test.
struct Committer(Child);

impl Committer {
    fn start(dir: &Path, early: bool) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "kill::child", "--nocapture", "--test-threads=1"]).env("CI_RUNNER_STORE_CHILD", dir);
        if early {
            command.env("CI_RUNNER_STORE_CHILD_EARLY", "1");
        }
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts"))
    }

    /// Waits for so many acknowledgements, kills it, and tells all that it gave.
    fn kill_after(mut self, count: usize) -> Vec<String> {
        let lines = BufReader::new(self.0.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text")).filter(|line| line.starts_with("acknowledged "));
        let mut names: Vec<String> = lines.by_ref().take(count).collect();
        self.0.kill().expect("was running");
        names.extend(lines);
        names.into_iter().map(|line| line["acknowledged ".len()..].to_owned()).collect()
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn cycles() -> u64 {
    std::env::var("CI_RUNNER_TEST_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(20)
}

/// Kills a child once and tells which of its acknowledged batches are not there. Panics on a torn one.
fn lost_by_a_kill(dir: &Path, dice: &mut Dice, early: bool) -> Vec<String> {
    let count = usize::try_from(1 + dice.below(60)).expect("small");
    let acknowledged = Committer::start(dir, early).kill_after(count);
    assert!(acknowledged.len() >= count, "the child ended by itself");
    let (mut store, reader, loaded, open) = opened(dir).expect("opens after a kill");
    assert!(loaded.unclean, "a kill is told");
    let mut batches: BTreeMap<String, Vec<Phase>> = BTreeMap::new();
    for row in all(&reader) {
        batches.entry(row.spec.name.clone().expect("named")).or_default().push(row.phase);
    }
    for (name, phases) in &batches {
        let size = name.rsplit('/').next().and_then(|size| size.parse::<usize>().ok()).expect("a size");
        let mut whole = vec![Phase::Queued; size];
        (whole[0], whole[1]) = (Phase::Finished, Phase::Starting);
        assert_eq!(*phases, whole, "batch {name} is torn");
    }
    let jobs: usize = batches.values().map(Vec::len).sum();
    assert_eq!(open.len(), jobs - batches.len(), "one job of each batch is finished");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    // Leave nothing claimed, so that the places are free for the next child.
    let mut end_all = Vec::new();
    for job in open.iter().filter(|job| job.lease.is_some()) {
        end_all.push(entry(Change::Job { id: job.id, event: Event::Released { attempt: AttemptNumber(1) } }));
        end_all.push(entry(Change::Job { id: job.id, event: Event::Dropped { outcome: Outcome::Expired } }));
    }
    for job in open.iter().filter(|job| job.lease.is_none()) {
        end_all.push(entry(Change::Job { id: job.id, event: Event::Dropped { outcome: Outcome::Expired } }));
    }
    store.commit(&end_all, &pools()).expect("commits");
    let limits = ci_runner::store::CollectLimits::all();
    while !store.collect(&limits, 1_000).expect("collects").is_empty() {}
    acknowledged.into_iter().filter(|name| !batches.contains_key(name)).collect()
}

#[test]
fn a_kill_loses_no_acknowledged_batch_and_tears_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = Dice(0x5eed);
    for cycle in 0..cycles() {
        assert_eq!(lost_by_a_kill(dir.path(), &mut dice, false), [""; 0], "cycle {cycle}");
    }
}

/// The control of the test above: who acknowledges before the commit is caught.
#[test]
fn acknowledging_before_the_commit_is_caught() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = Dice(0xbad);
    let caught = (0..50).any(|_| !lost_by_a_kill(dir.path(), &mut dice, true).is_empty());
    assert!(caught, "50 kills and nothing lost: the kill test would not notice a lie");
}
