//! A pool whose executor came into use after the start.

use crate::room::reload;
use crate::scheduling::{add, check_why};
use crate::support::{Host, wait_for};
use serde_json::json;

const PLAIN: &str = "grace = 1\n[pools.default]\nslots = 2\n";
const BOXED: &str = "[pools.boxed]\nslots = 2\nexecutor = \"systemd\"\nprofile = \"strict\"\n";
const PERSON: &str = "[pools.person]\nslots = 2\nexecutor = \"systemd\"\nuser = \"nobody\"\npaths = [\"/tmp\"]\nsubmitters = [\"root\"]\n";

/// Jobs of such pools ran without a sandbox, as the daemon's own user, and wrote where they liked.
#[test]
fn a_pool_with_an_executor_that_a_reload_brings_starts_nothing_until_a_restart() {
    let mut host = Host::new();
    host.config = PLAIN.to_owned();
    host.start();
    reload(&host, &format!("{PLAIN}{BOXED}{PERSON}"));
    let escape = format!("touch {}", host.path("escaped").display());
    for pool in ["boxed", "person"] {
        let id = add(&host, &escape, json!({ "pool": pool, "dir": "/tmp" }));
        check_why(&host, id, "executor", &[pool, "until the daemon is restarted", "systemd"]);
        assert!(host.why(id).iter().all(|(kind, _)| kind != "next"), "{:?}", host.why(id));
    }
    // The control: what comes after them in another pool runs, so they had their turn.
    let free = add(&host, "true", json!({ "pool": "default" }));
    assert_eq!(host.finish(free)["outcome"], "succeeded");
    assert!(!host.path("escaped").exists(), "a job of a sandboxed pool ran natively");
    let is_told =
        || host.get("/api/v1/status")["problems"].to_string().contains("pool boxed until the daemon is restarted");
    wait_for("the problem", || is_told().then_some(()));
    reload(&host, PLAIN);
    wait_for("its end", || (!is_told()).then_some(()));
}
