//! `docs/state-machine.md`, made by asking the code: every cell of the table, and every look at every kind of attempt.

use ci_runner_core::change::{Change, Entry, Lease, OpenJob, Pause, Wish};
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::Terms;
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, By};
use ci_runner_core::policy::Settings;
use ci_runner_core::reconcile::{Observation, Seen, Step, reconcile};
use ci_runner_core::record::Record;
use ci_runner_core::state::{Event, EventKind, Next, Phase, next};
use ci_runner_core::time::{Instant, Now};
use std::fmt::Write as _;

/// The time at which all looks are taken.
const NOW: Now = Now { engine: Instant(60_000), wall: ci_runner_core::time::WallTime(0) };

/// An attempt as the record knows it.
#[derive(Clone, Copy)]
struct Case {
    title: &'static str,
    phase: Phase,
    started: bool,
    sent: bool,
    kill_at: Option<i64>,
    paused: bool,
}

const CASES: [Case; 7] = [
    Case {
        title: "Starting, `start` never sent",
        phase: Phase::Starting,
        started: false,
        sent: false,
        kill_at: None,
        paused: false,
    },
    Case {
        title: "Starting, `start` may be sent",
        phase: Phase::Starting,
        started: false,
        sent: true,
        kill_at: None,
        paused: false,
    },
    Case {
        title: "Starting, `start` may be sent, host paused or pool full",
        phase: Phase::Starting,
        started: false,
        sent: true,
        kill_at: None,
        paused: true,
    },
    Case { title: "Running", phase: Phase::Running, started: true, sent: true, kill_at: None, paused: false },
    Case {
        title: "Stopping, `start` never sent",
        phase: Phase::Stopping,
        started: false,
        sent: false,
        kill_at: Some(65_000),
        paused: false,
    },
    Case {
        title: "Stopping, 5 s of grace left",
        phase: Phase::Stopping,
        started: true,
        sent: true,
        kill_at: Some(65_000),
        paused: false,
    },
    Case {
        title: "Stopping, grace over",
        phase: Phase::Stopping,
        started: true,
        sent: true,
        kill_at: Some(50_000),
        paused: false,
    },
];

/// The whole page.
pub fn state_machine() -> String {
    let mut text = String::from(
        "# State machine\n\nGenerated from `ci_runner_core::state::next` and `ci_runner_core::reconcile::reconcile`; do not edit.\n\
         A test compares this page with the code, and writes it anew with `CI_RUNNER_BLESS=1 cargo test -p ci-runner-sim`.\n\n",
    );
    drawing(&mut text);
    table(&mut text);
    text.push_str(
        "\n## What is done about an attempt\n\nEach look at an attempt is judged by the record, the epoch and whether a `start` may still be on its way\n\
         (*not settled*). Facts are recorded first; what they call for is done when they are on disk. In the other epoch nothing\n\
         is ever started, whether settled or not. The results in these tables are an example: exit code 1, no retries.\n",
    );
    for case in CASES {
        looks(&mut text, case);
    }
    strangers(&mut text);
    text
}

fn drawing(text: &mut String) {
    text.push_str("```mermaid\nstateDiagram-v2\n    [*] --> Queued: Submitted\n");
    for phase in Phase::ALL {
        for to in Phase::ALL {
            let leads = |event: &EventKind| next(phase, *event) == Some(to);
            let events: Vec<String> =
                EventKind::ALL.into_iter().filter(leads).map(|event| format!("{event:?}")).collect();
            if !events.is_empty() {
                let _ = writeln!(text, "    {phase:?} --> {to:?}: {}", events.join(", "));
            }
        }
    }
    text.push_str("    Finished --> [*]\n```\n");
}

fn table(text: &mut String) {
    text.push_str("\n## Phases and events\n\nAn empty cell is an error. `EndedRetry` and `EndedFinish` are `Ended` with its two consequences.\n\n| |");
    for event in EventKind::ALL {
        let _ = write!(text, " {event:?} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(EventKind::ALL.len()));
    for phase in Phase::ALL {
        let _ = write!(text, "\n| **{phase:?}** |");
        for event in EventKind::ALL {
            let cell = next(phase, event).map(|to| format!("{to:?}")).unwrap_or_default();
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
}

fn looks(text: &mut String, case: Case) {
    let record = record(case);
    let _ = writeln!(
        text,
        "\n### {}\n\n| seen | same epoch | same epoch, not settled | other epoch |\n|---|---|---|---|",
        case.title
    );
    for (word, seen) in all_seen() {
        let _ = write!(text, "| {word} |");
        for (same_epoch, settled) in [(true, true), (true, false), (false, true)] {
            let look = Observation { seen: seen.clone(), same_epoch, settled };
            let _ = write!(text, " {} |", words(&reconcile(&record, job(), 1, &look, NOW)));
        }
        text.push('\n');
    }
}

fn strangers(text: &mut String) {
    text.push_str("\n### Not the open attempt of its job\n\n| seen | the job is known | no such job was ever submitted |\n|---|---|---|\n");
    let known = record(Case { phase: Phase::Queued, ..CASES[0] });
    let mut unknown = Record::new(Settings::default());
    unknown.advance(NOW);
    for (word, seen) in all_seen() {
        let look = Observation { seen, same_epoch: true, settled: true };
        let steps = [&known, &unknown].map(|record| words(&reconcile(record, job(), 1, &look, NOW)));
        let _ = writeln!(text, "| {word} | {} | {} |", steps[0], steps[1]);
    }
}

fn all_seen() -> [(&'static str, Seen); 7] {
    [
        ("nothing", Seen::Absent),
        ("alive", Seen::Alive),
        ("prepared, never began", Seen::NotBegan),
        ("voided", Seen::Voided),
        ("exit record", Seen::Ended(AttemptResult::Exited { code: 1 })),
        ("began, nothing alive, no record", Seen::Gone),
        ("shim gone, processes left", Seen::Leftovers),
    ]
}

fn words(step: &Step) -> String {
    match step {
        Step::Leave => "–".to_owned(),
        Step::Start => "send `start`, the same attempt".to_owned(),
        Step::Void => "send `void`".to_owned(),
        Step::Signal { grace_ms } => format!("send `signal`, kill in {} s", grace_ms / 1000),
        Step::Kill => "send `kill`".to_owned(),
        Step::Forget => "clean up".to_owned(),
        Step::Report => "report, touch nothing".to_owned(),
        Step::Record(Event::Started { .. }) => "record `Started`".to_owned(),
        Step::Record(Event::Refused { .. }) => "record `Refused`".to_owned(),
        Step::Record(Event::Released { .. }) => "record `Released`".to_owned(),
        Step::Record(Event::Ended { result, next, .. }) => match next {
            Next::Finish { outcome } => format!("record {result}: {}", outcome.word()),
            Next::Retry { .. } => format!("record {result}: retry"),
        },
        Step::Record(event) => format!("record {event:?}"),
    }
}

fn job() -> JobId {
    JobId::new(1).expect("one is positive")
}

/// A record with one job in this state.
fn record(case: Case) -> Record {
    let mut settings = Settings::default();
    settings.retry.retries = 0;
    let queued = case.phase == Phase::Queued;
    let by = By::User("somebody".to_owned());
    let lease = Lease {
        attempt: AttemptNumber(1),
        pool: PoolId(0),
        slot: 0,
        epoch: Epoch::new("epoch"),
        limits: Limits::NONE,
        claimed: Instant(1_000),
        started: case.started.then_some(Instant(1_000)),
        stop: case.kill_at.map(|at| (by.clone(), Instant(at))),
        dispatched: case.sent.then_some(Instant(1_000)),
        refused: None,
    };
    let terms = Terms {
        pool: None,
        labels: Vec::new(),
        priority: 0,
        retry: settings.retry.clone(),
        group: None,
        after: Vec::new(),
        at: None,
        delay_ms: None,
        expires: None,
        hold: false,
        limits: Limits::NONE,
    };
    let open = OpenJob {
        id: job(),
        submitted: Instant(0),
        terms,
        group_limit: None,
        waits_for: Vec::new(),
        impossible: None,
        phase: case.phase,
        ready_at: Instant(0),
        attempt: 1,
        tries: u32::from(queued),
        last: None,
        wish: if case.kill_at.is_some() { Wish::Cancel { by } } else { Wish::Run },
        lease: (!queued).then_some(lease),
    };
    let mut record = Record::new(settings);
    record.advance(NOW);
    record.load(&open).expect("one job fits an empty record");
    if case.paused {
        let pause = Pause { by: "somebody".to_owned(), reason: String::new(), since: NOW, drain: false };
        let entry = Entry { at: NOW, change: Change::Paused(Some(pause)) };
        record.apply(&entry).expect("a pause is always legal");
    }
    record
}
