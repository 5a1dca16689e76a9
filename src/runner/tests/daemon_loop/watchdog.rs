//! Who the watchdog of the service manager is fed by: the loop alone, while it turns and no commit takes too long.

use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::store::memory::MemoryStore;
use ci_runner::systemd::NotifySettings;
use ci_runner_core::id::JobId;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// How often a loop that is well feeds it.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a commit may take here.
const COMMIT_PATIENCE: Duration = Duration::from_secs(3);

/// A service manager of paper.
struct Manager {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Manager {
    /// With a loop that it has started.
    async fn with_loop() -> (Manager, Loop) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager =
            NotifySettings { socket: Some(path.to_str().unwrap().to_owned()), watchdog_timeout: Some(2 * INTERVAL) };
        let (store, reader) = MemoryStore::new();
        let life = Life { manager, commit_patience: Some(COMMIT_PATIENCE), ..Life::default() };
        let the_loop = Loop::start_on(Box::new(store), reader, Spawner::new().runtime(), life).await;
        (Manager { socket, _dir: dir }, the_loop)
    }

    /// Waits until it was fed so often from now on.
    async fn is_fed(&self, times: usize) {
        self.feeds_until_now();
        let mut feeds = 0;
        let is_enough = || {
            feeds += self.feeds_until_now();
            feeds >= times
        };
        wait_for("food", is_enough).await;
    }

    /// How often it was fed since the last look.
    fn feeds_until_now(&self) -> usize {
        let mut message = [0; 4096];
        let mut feeds = 0;
        while let Ok(length) = self.socket.recv(&mut message) {
            feeds += usize::from(message[..length] == *b"WATCHDOG=1\n");
        }
        feeds
    }
}

/// A disk can be slow: the daemon is not killed for that. One that takes no commit any more holds up everybody: then it is.
#[tokio::test]
async fn a_commit_is_waited_for_as_long_as_a_slow_disk_may_take() {
    let (manager, the_loop) = Manager::with_loop().await;
    manager.is_fed(2).await;
    let stalled = the_loop.stall_commits().await;
    let handle = the_loop.handle.clone();
    let submitted = tokio::spawn(async move { handle.submit(vec![new_job()], None, "me".to_owned()).await });
    wait_for("a commit", || the_loop.is_committing()).await;
    let began = Instant::now();
    manager.is_fed(10).await;
    assert!(the_loop.is_committing() && !submitted.is_finished());

    wait_for("the end of patience", || began.elapsed() > COMMIT_PATIENCE + 2 * INTERVAL).await;
    manager.feeds_until_now();
    let since = Instant::now();
    while since.elapsed() < 10 * INTERVAL {
        // The loop turns, and answers.
        assert!(the_loop.handle.explain(JobId::new(1).unwrap()).await.unwrap().is_some());
    }
    assert_eq!(manager.feeds_until_now(), 0, "fed for a disk that takes no commit");

    drop(stalled);
    assert_eq!(submitted.await.unwrap(), Ok(vec![JobId::new(1).unwrap()]));
    manager.is_fed(2).await;
    the_loop.stop().await;
}

/// All other threads are well, and none of them may say so.
#[tokio::test]
async fn a_loop_that_stands_still_is_not_fed_for() {
    let (manager, the_loop) = Manager::with_loop().await;
    manager.is_fed(2).await;
    // Whoever looks at a snapshot and does not let go holds up the making of the next.
    let snapshots = the_loop.handle.snapshots();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (hold, held) = tokio::sync::oneshot::channel();
    let holder = std::thread::spawn(move || {
        let _snapshot = snapshots.borrow();
        hold.send(()).unwrap();
        released.recv().unwrap_err();
    });
    held.await.unwrap();
    let handle = the_loop.handle.clone();
    let submitted = tokio::spawn(async move { handle.submit(vec![new_job()], None, "me".to_owned()).await });
    let mut last = Instant::now();
    let is_silent = || {
        if manager.feeds_until_now() > 0 {
            last = Instant::now();
        }
        last.elapsed() > 20 * INTERVAL
    };
    wait_for("silence", is_silent).await;

    drop(release);
    holder.join().unwrap();
    manager.is_fed(2).await;
    submitted.await.unwrap().unwrap();
    the_loop.stop().await;
}
