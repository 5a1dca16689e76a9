//! What people see, for fixed jobs at a fixed time, at several widths.

use crate::api::{
    AfterParts, AlarmView, AttemptView, ComponentView, GroupParts, JobCounts, JobView, NotifierView, PauseView,
    SlotCounts, StatusView, WatchesView,
};
use crate::cli::doctor::{Finding, Grade};
use crate::cli::host::status_page;
use crate::cli::list::lines;
use crate::cli::look::Look;
use crate::cli::notify::{notifiers_page, watches_page};
use crate::cli::show::page;
use crate::style::Output;

fn look(columns: usize) -> Look {
    Look { output: Output::Terminal { columns, colour: false }, ..pipe() }
}

fn pipe() -> Look {
    Look {
        output: Output::Plain,
        now_ms: "2026-11-21T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond(),
        zone: jiff::tz::TimeZone::get("Europe/Berlin").unwrap(),
    }
}

fn job(id: u64, summary: &str) -> JobView {
    JobView {
        id,
        name: None,
        state: "queued".to_owned(),
        outcome: None,
        exit_code: None,
        signal: None,
        cause: None,
        attempts: None,
        attempt_count: 0,
        priority: 0,
        labels: Vec::new(),
        pool: None,
        group: None,
        after: Vec::new(),
        summary: summary.to_owned(),
        command: Some(summary.split(' ').map(str::to_owned).collect()),
        shell: None,
        env_names: Vec::new(),
        profile: None,
        dir: None,
        timeout_seconds: Some(21_600.0),
        soft_timeout_seconds: None,
        retry: 3,
        notify: Vec::new(),
        correlation: "0193-c".to_owned(),
        submitter: "anna".to_owned(),
        held_by: None,
        submitted_at: "2026-11-21T11:57:00.000Z".to_owned(),
        started_at: None,
        finished_at: None,
        queue_seconds: 180.0,
        run_seconds: None,
        reason: None,
        ..JobView::default()
    }
}

fn attempt(number: u32, exit_code: u8) -> AttemptView {
    AttemptView {
        number,
        pool: "default".to_owned(),
        slot: 1,
        result: Some("exited".to_owned()),
        exit_code: Some(exit_code),
        signal: None,
        cause: None,
        started_at: Some("2026-11-21T11:58:00.000Z".to_owned()),
        finished_at: Some("2026-11-21T11:58:04.200Z".to_owned()),
        run_seconds: Some(4.2),
        cpu_user_seconds: Some(3.0),
        cpu_system_seconds: Some(0.5),
        peak_memory_bytes: Some(50 * 1024 * 1024),
        log_bytes: Some(1_200),
        log_dropped_bytes: Some(0),
        leftover_processes: Some(0),
        ..AttemptView::default()
    }
}

fn failed() -> JobView {
    JobView {
        name: Some("deploy".to_owned()),
        state: "finished".to_owned(),
        outcome: Some("failed".to_owned()),
        exit_code: Some(2),
        cause: Some("exited with 2".to_owned()),
        attempts: Some(vec![attempt(1, 75), AttemptView { leftover_processes: Some(2), ..attempt(2, 2) }]),
        attempt_count: 2,
        pool: Some("default".to_owned()),
        labels: vec!["arch=x86_64".to_owned(), "gpu".to_owned()],
        group: Some(GroupParts { name: "prod".to_owned(), limit: Some(1), policy: Some("queue".to_owned()) }),
        after: vec![AfterParts { id: 3, on: Some("always".to_owned()) }],
        command: Some(vec!["./deploy".to_owned(), "--to".to_owned(), "the moon".to_owned(), "it's".to_owned()]),
        env_names: vec!["STAGE".to_owned()],
        dir: Some("/srv/app".to_owned()),
        started_at: Some("2026-11-21T11:58:00.000Z".to_owned()),
        finished_at: Some("2026-11-21T11:58:10.000Z".to_owned()),
        queue_seconds: 60.0,
        run_seconds: Some(4.2),
        ..job(7, "./deploy --to the moon it's")
    }
}

fn jobs() -> Vec<JobView> {
    let running = JobView {
        state: "running".to_owned(),
        attempt_count: 1,
        pool: Some("default".to_owned()),
        run_seconds: Some(75.0),
        ..job(12, "cargo test --workspace --all-features")
    };
    let held = JobView { held_by: Some("anna".to_owned()), ..job(11, "make \u{1b}[31mred") };
    let retrying = JobView { attempt_count: 1, run_seconds: Some(0.35), ..job(10, "flaky") };
    vec![running, held, retrying, failed()]
}

#[test]
fn a_cause_that_names_the_result_is_not_said_twice() {
    let with = |result: &str, cause: &str| AttemptView {
        result: Some(result.to_owned()),
        exit_code: None,
        cause: Some(cause.to_owned()),
        ..attempt(1, 0)
    };
    let attempts = vec![with("lost", "lost: its shim was killed"), with("oom_killed", "out of memory")];
    let text = page(&JobView { attempts: Some(attempts), ..failed() }, &look(200));
    assert!(text.contains("lost: its shim") && !text.contains("lost: lost"), "{text}");
    assert!(text.contains("oom killed: out of memory"), "{text}");
}

#[test]
fn lists_fit_the_terminal() {
    assert_eq!(
        lines(&jobs(), &look(100)),
        "\
ID  STATE       JOB                                    POOL     AGE    TIME
12  running     cargo test --workspace --all-features  default   3m  1m 15s
11  held        make \\u{1b}[31mred                     -         3m
10  retrying    flaky                                  -         3m   350ms
 7  failed (2)  deploy                                 default   3m    4.2s
"
    );
    assert_eq!(
        lines(&jobs(), &look(50)),
        "\
ID  STATE       JOB           POOL     AGE    TIME
12  running     cargo test …  default   3m  1m 15s
11  held        make \\u{1b}…  -         3m
10  retrying    flaky         -         3m   350ms
 7  failed (2)  deploy        default   3m    4.2s
"
    );
    for columns in [30, 40, 50, 60, 80] {
        for line in lines(&jobs(), &look(columns)).lines() {
            assert!(crate::style::width(line) <= columns, "{columns}: {line}");
        }
    }
    assert_eq!(lines(&[], &look(80)), "no jobs\n");
    assert_eq!(lines(&[], &pipe()), "");
}

#[test]
fn a_pipe_gets_ten_columns_for_ever() {
    let text = lines(&jobs(), &pipe());
    assert_eq!(
        text.lines().last().unwrap(),
        "7\tfinished\tfailed\tdeploy\tdefault\t2026-11-21T11:57:00.000Z\t2026-11-21T11:58:00.000Z\t\
         2026-11-21T11:58:10.000Z\t4.200\t./deploy --to the moon it's"
    );
    assert!(text.lines().all(|line| line.split('\t').count() == 10), "{text}");
}

#[test]
fn a_job_is_a_page() {
    assert_eq!(
        page(&failed(), &look(100)),
        r"Job 7 · deploy  failed
  cause        exited with 2

Work
  command      ./deploy --to 'the moon' 'it'\''s'
  dir          /srv/app
  env          STAGE
  timeout      6h 00m

Place
  pool         default
  labels       arch=x86_64 gpu
  group        prod (limit 1)
  after        3:always
  priority     0
  retries      3

Times
  submitted    2026-11-21 12:57:00 (3m ago) by anna
  started      2026-11-21 12:58:00 (2m ago), 1m 00s in the queue
  finished     2026-11-21 12:58:10 (1m ago)
  correlation  0193-c

Attempts
#  RESULT                                PLACE      STARTED              TIME   CPU  MEMORY      LOG
1  exit 75                               default/1  2026-11-21 12:58:00  4.2s  3.5s  50 MiB  1.2 KiB
2  exit 2; 2 processes left behind wer…  default/1  2026-11-21 12:58:00  4.2s  3.5s  50 MiB  1.2 KiB
"
    );
    for line in page(&failed(), &look(60)).lines() {
        assert!(crate::style::width(line) <= 60, "{line}");
    }
    // In a pipe nothing is cut.
    assert!(page(&failed(), &pipe()).contains("2 processes left behind were killed"));
}

#[test]
fn reasons_are_wrapped_under_themselves() {
    let reason = "no slot: all 4 slots of pool default are in use by the jobs 3, 4, 5 and 6";
    let waiting = JobView { reason: Some(reason.to_owned()), ..job(8, "make") };
    let text = page(&waiting, &look(50));
    assert!(
        text.contains(
            "  why          no slot: all 4 slots of pool\n               default are in use by the jobs 3,\n"
        ),
        "{text}"
    );
}

#[test]
fn the_host_is_one_screen() {
    let status = StatusView {
        version: "0.1.0".to_owned(),
        state: "paused".to_owned(),
        problems: vec!["metrics: 127.0.0.1:9100 is in use".to_owned()],
        jobs: JobCounts {
            queued: 3,
            running: 2,
            starting: 1,
            succeeded: 10,
            failed: 1,
            timed_out: 1,
            ..JobCounts::default()
        },
        slots: SlotCounts { used: 2, total: 4 },
        oldest_queued_seconds: Some(75.0),
        paused: Some(PauseView {
            by: "anna".to_owned(),
            reason: "kernel update".to_owned(),
            since: "2026-11-21T11:00:00.000Z".to_owned(),
            drain: false,
        }),
        busy: vec!["the load is 9.00 for each CPU (load_max = 2.00)".to_owned()],
        watches: vec![AlarmView {
            watch: "stuck_job".to_owned(),
            text: "job 7 (build) runs for 1h; beyond 10m it counts as stuck".to_owned(),
            ..AlarmView::default()
        }],
        components: [("metrics", "metrics: 127.0.0.1:9100 is in use"), ("disk", "9.0 MiB are free")]
            .map(|(name, detail)| (name.to_owned(), ComponentView::degraded("x", detail)))
            .into(),
        uptime_seconds: 3_720.0,
        pid: 42,
        generation: 5,
        state_dir: None,
        runtime_dir: None,
    };
    assert_eq!(
        status_page(&status, &look(80)),
        "\
ci-runner 0.1.0  paused
  ! metrics: 127.0.0.1:9100 is in use
  ! disk: 9.0 MiB are free
  ! stuck_job: job 7 (build) runs for 1h; beyond 10m it counts as stuck
  paused    by anna, 2026-11-21 12:00:00 (1h ago): kernel update
  busy      nothing more starts for now: the load is 9.00 for each CPU (load_max
            = 2.00)
  slots     2 of 4 in use
  queue     3 queued, the oldest for 1m 15s; 1 running, 1 starting
  finished  10 succeeded, 1 failed, 1 timed out
  daemon    up 1h 02m, process 42, start number 5
"
    );
    let status = StatusView { watches: Vec::new(), components: [].into(), ..status };
    let narrow = status_page(&status, &look(20));
    assert!(narrow.contains("\nfinished\n  10 succeeded,\n  1 failed,\n  1 timed out\n"), "{narrow}");
    let long = narrow.lines().skip(2).filter(|line| line.chars().count() > 20).count();
    assert_eq!(long, 0, "{narrow}");
}

/// At 40 columns `watches` left out what it is all about, and alarms ran over the edge.
#[test]
fn alarms_are_told_where_it_is_narrow() {
    let text = "job 7 (build) runs for 1h; beyond 10m it counts as stuck";
    let alarm = AlarmView {
        watch: "stuck_job".to_owned(),
        text: text.to_owned(),
        started_at: "2026-11-21T11:00:00.000Z".to_owned(),
        job: Some(7),
        ..AlarmView::default()
    };
    let watches = WatchesView { active: vec![alarm], recent: Vec::new() };
    let narrow = watches_page(&watches, &look(40));
    assert!(narrow.contains("job 7 (build) runs") && narrow.contains("stuck_job"), "{narrow}");
    assert!(
        watches_page(&watches, &look(100))
            .contains("stuck_job  1h ago            7  job 7 (build) runs for 1h; beyond")
    );
    let finding = Finding {
        grade: Grade::Warn,
        check: "watches",
        text: text.to_owned(),
        matters: Some("it holds its slot, and what waits for it waits on"),
        mend: Some("`ci-runner logs ID`, then `ci-runner cancel ID`".to_owned()),
    };
    let doctor = crate::cli::doctor::lines(&[finding], &look(50));
    assert_eq!(
        doctor,
        "\
warn  watches       job 7 (build) runs for 1h;
                    beyond 10m it counts as stuck
                      it holds its slot, and what
                      waits for it waits on
                    → `ci-runner logs ID`, then
                      `ci-runner cancel ID`
"
    );
}

#[test]
fn what_goes_wrong_with_notifiers_is_told_where_it_is_narrow() {
    let notifier = NotifierView {
        name: "ops".to_owned(),
        kind: "command".to_owned(),
        watches: Vec::new(),
        outcomes: Vec::new(),
        waiting: 3,
        counts: [("given_up".to_owned(), 4), ("dropped".to_owned(), 5)].into(),
        last_error: Some("exit code 1".to_owned()),
        last_delivered_at: None,
    };
    let narrow = notifiers_page(std::slice::from_ref(&notifier), &look(50));
    let head = narrow.lines().next().unwrap();
    assert!(["GIVEN UP", "DROPPED", "LAST ERROR"].iter().all(|column| head.contains(column)), "{narrow}");
    assert!(narrow.contains("exit code 1") && !head.contains("DELIVERED"), "{narrow}");
    let wide = notifiers_page(&[notifier], &look(120));
    assert!(wide.contains("DELIVERED") && wide.contains("KIND"), "{wide}");
}
