//! The parts of the daemon, each with its own health: from the last snapshot and the last look of the watches, so that a
//! part that hangs holds up no answer.

use super::App;
use crate::api::ComponentView;
use crate::daemon::handle::Snapshot;
use crate::daemon::watching::Board;
use crate::quantity::show_size;
use std::collections::BTreeMap;
use std::time::Duration;

/// Below this much free space jobs will soon find no room for their logs.
const FREE_BYTES_LOW: u64 = 512 << 20;
/// Below this the database may not take another job.
const FREE_BYTES_NONE: u64 = 16 << 20;
/// A clock before this is that of a machine without one: 2026-01-01.
const CLOCK_LEAST_MS: i64 = 1_767_225_600_000;
/// A look that is later than its time by this hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(60);

/// All but the loop, by name.
pub(super) fn components(app: &App, snapshot: &Snapshot) -> BTreeMap<String, ComponentView> {
    let watching = &app.context.watching;
    let board = watching.board();
    let elapsed = board.looked.map_or_else(|| app.context.started.elapsed(), |at| at.elapsed());
    let looks = !watching.is_on() || elapsed <= watching.every() * 2 + LOOK_PATIENCE;
    let parts = [
        ("store", store(snapshot)),
        ("spawners", spawners(snapshot)),
        ("executors", executors(snapshot)),
        ("disk", disk(&board, looks)),
        ("metrics", trouble(snapshot, "metrics", "not_served")),
        ("clock", clock(super::api::wall_now().0)),
        ("watches", watches(watching.is_on(), looks)),
        ("notifiers", notifiers(&board)),
    ];
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

fn store(snapshot: &Snapshot) -> ComponentView {
    match snapshot.troubles.get("database") {
        _ if snapshot.store_failing => {
            ComponentView::failing("commit_failed", "the last commit failed; nothing is taken in until one succeeds")
        }
        Some(damage) => ComponentView::degraded("damaged", damage.clone()),
        None => ComponentView::ok(),
    }
}

fn spawners(snapshot: &Snapshot) -> ComponentView {
    let down: Vec<&str> =
        snapshot.sides.iter().filter(|side| !side.connected).filter_map(|side| side.problem.as_deref()).collect();
    if down.is_empty() { ComponentView::ok() } else { ComponentView::failing("not_connected", down.join("; ")) }
}

fn executors(snapshot: &Snapshot) -> ComponentView {
    // A former one looks after what it started, and starts nothing.
    let sides = || snapshot.sides.iter().filter(|side| !side.former);
    let closed = sides().filter(|side| side.connected && !side.takes_starts);
    let words: Vec<String> = closed
        .map(|side| {
            let why = side.problem.clone().unwrap_or_else(|| "it has not told yet what it has".to_owned());
            format!("{}: {why}", side.executor.name())
        })
        .collect();
    match words.is_empty() {
        _ if sides().any(|side| !side.connected) => {
            ComponentView::failing("no_spawner", "pools whose spawner is not connected start nothing")
        }
        true => ComponentView::ok(),
        false => ComponentView::degraded("starts_nothing", words.join("; ")),
    }
}

fn disk(board: &Board, looks: bool) -> ComponentView {
    match board.disk_free_bytes {
        _ if !looks => {
            ComponentView::degraded("not_measured", "the disk of the state was not measured for a while: does it hang?")
        }
        Some(free @ ..FREE_BYTES_NONE) => {
            ComponentView::failing("full", format!("{} are free on the disk of the state", show_size(free)))
        }
        Some(free @ ..FREE_BYTES_LOW) => {
            ComponentView::degraded("low", format!("{} are free on the disk of the state", show_size(free)))
        }
        Some(_) | None => ComponentView::ok(),
    }
}

fn clock(now_ms: i64) -> ComponentView {
    match now_ms < CLOCK_LEAST_MS {
        true => ComponentView::failing("not_set", "the clock shows a time before this program was made"),
        false => ComponentView::ok(),
    }
}

fn watches(on: bool, looks: bool) -> ComponentView {
    match (on, looks) {
        (false, _) => ComponentView::degraded("off", "nothing is watched; the log of the start says why"),
        (true, false) => ComponentView::degraded("late", "the watches have not looked for a while"),
        (true, true) => ComponentView::ok(),
    }
}

fn notifiers(board: &Board) -> ComponentView {
    if let Some(trouble) = &board.trouble {
        return ComponentView::degraded("outbox", trouble.clone());
    }
    match board.failing.as_slice() {
        [] => ComponentView::ok(),
        failing => {
            let names = failing.join(", ");
            ComponentView::degraded("undelivered", format!("the last try of {names} failed: `ci-runner notify list`"))
        }
    }
}

fn trouble(snapshot: &Snapshot, name: &str, reason: &str) -> ComponentView {
    snapshot.troubles.get(name).map_or_else(ComponentView::ok, |text| ComponentView::degraded(reason, text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Executor;
    use crate::daemon::handle::SideView;

    #[test]
    fn each_part_is_judged_on_its_own() {
        let reason = |part: ComponentView| part.reason.unwrap_or(part.status);
        let fine = Snapshot::default();
        for part in [store(&fine), spawners(&fine), executors(&fine), trouble(&fine, "metrics", "x")] {
            assert!(part.is_ok(), "{part:?}");
        }
        assert_eq!(reason(store(&Snapshot { store_failing: true, ..Snapshot::default() })), "commit_failed");
        let of_kind = |former: bool, connected: bool, takes_starts: bool| {
            let problem = (!connected || !takes_starts).then(|| "why".to_owned());
            Snapshot {
                sides: vec![SideView { executor: Executor::Native, former, connected, takes_starts, problem }],
                ..Snapshot::default()
            }
        };
        let side = |connected, takes_starts| of_kind(false, connected, takes_starts);
        assert_eq!(reason(spawners(&side(false, false))), "not_connected");
        assert_eq!(reason(executors(&side(false, false))), "no_spawner");
        assert_eq!(reason(spawners(&side(true, false))), "ok");
        assert_eq!(reason(executors(&side(true, false))), "starts_nothing");
        assert_eq!(reason(executors(&of_kind(true, true, false))), "ok");
        assert_eq!(reason(executors(&of_kind(true, false, false))), "ok");
        assert_eq!(reason(spawners(&of_kind(true, false, false))), "not_connected");
        let free = |bytes| Board { disk_free_bytes: Some(bytes), ..Board::default() };
        assert_eq!(reason(disk(&free(1 << 20), true)), "full");
        assert_eq!(reason(disk(&free(100 << 20), true)), "low");
        assert_eq!(reason(disk(&free(1 << 30), true)), "ok");
        assert_eq!(reason(disk(&free(1 << 30), false)), "not_measured");
        assert_eq!(reason(clock(0)), "not_set");
        assert_eq!(reason(notifiers(&Board { failing: vec!["ops".into()], ..Board::default() })), "undelivered");
        assert_eq!(reason(watches(true, false)), "late");
    }
}
