//! What a daemon can make a spawner keep in `/run`, which is the whole host's.

use std::fs;

use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, ExitResult, PROTOCOL_VERSION, Reply, Request};

use crate::common::{Cgroup, Host, PATIENCE};

/// As in `daemons/serve.rs`.
const RESTING_MAX: u64 = 5_000;
const STORES_MAX: usize = 256;
/// Voids in a packet.
const AT_ONCE: u64 = 400;

/// Voids these jobs; the replies.
fn void(host: &mut Host, jobs: std::ops::RangeInclusive<u64>) -> Vec<Reply> {
    let keys: Vec<AttemptKey> = jobs.map(|job| host.key(job)).collect();
    let mut replies = Vec::new();
    for some in keys.chunks(AT_ONCE as usize) {
        let asked: Vec<Request> = some.iter().cloned().map(Request::Void).collect();
        let want = replies.len() + asked.len();
        host.client().send(&asked).unwrap();
        while replies.len() < want {
            assert!(host.client().wait(PATIENCE).unwrap());
            replies.extend(host.client().recv().unwrap());
        }
    }
    replies
}

#[test]
fn attempts_that_never_began_are_bounded() {
    let mut host = Host::started(Cgroup::Auto);
    let replies = void(&mut host, 1..=RESTING_MAX);
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Voided { .. })));
    let attempts = || fs::read_dir(host.path("run/spawner/attempts")).unwrap().count() as u64;
    assert_eq!(attempts(), RESTING_MAX);

    // Also after the death of the spawner; one that is known already is answered still.
    host.kill_spawner();
    host.connect();
    let replies = void(&mut host, RESTING_MAX..=RESTING_MAX + 2);
    let refused = |reply: &Reply| matches!(reply, Reply::RefusedStart { voided: false, closed: false, .. });
    assert!(matches!(replies[0], Reply::Voided { .. }) && replies[1..].iter().all(refused), "{replies:?}");
    let spec = host.spec(&["true"]);
    host.start(RESTING_MAX + 3, &spec);
    host.reply("a refusal", |reply| refused(reply).then_some(()));
    let attempts = fs::read_dir(host.path("run/spawner/attempts")).unwrap().count() as u64;
    assert_eq!(attempts, RESTING_MAX);

    let first = host.key(1);
    host.send(Request::Forget(first));
    assert_eq!(host.run(RESTING_MAX + 3, &spec), ExitResult::Exited { code: 0 });
}

#[test]
fn stores_are_bounded() {
    let host = Host::started(Cgroup::Auto);
    let hello = |store: usize| {
        let mut client = Client::connect(&host.socket()).unwrap();
        let store = format!("{store:08x}");
        client.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store, generation: 1 }]).unwrap();
        assert!(client.wait(PATIENCE).unwrap());
        client.recv().unwrap().remove(0)
    };
    // The host's own daemon is one.
    for store in 1..STORES_MAX {
        assert!(matches!(hello(store), Reply::Welcome { .. }), "store {store}");
    }
    assert!(matches!(hello(STORES_MAX), Reply::Refused { why } if why.contains("256 other stores")));
    assert!(matches!(hello(1), Reply::Welcome { .. }), "one that was here is let in again");
}
