//! The generated page is the code's. `CI_RUNNER_BLESS=1` writes it.

use ci_runner_sim::document::state_machine;
use std::path::Path;

#[test]
fn the_state_machine_page_is_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/state-machine.md");
    let text = state_machine();
    if std::env::var_os("CI_RUNNER_BLESS").is_some() {
        std::fs::write(&path, &text).expect("the page can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == text,
        "docs/state-machine.md is not what the code says: CI_RUNNER_BLESS=1 cargo test -p ci-runner-sim"
    );
}
