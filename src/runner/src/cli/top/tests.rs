//! The screen at several sizes, with nothing, a lot and hostile names; the keys; what a log's line becomes.

use super::data::{RunningRow, Snapshot};
use super::draw::{Paint, draw, share};
use super::ui::{LogPane, Mode, Sort, Ui, Wish};
use super::{harmless, page};
use crate::api::UsageView;
use crate::api::{HostUsage, JobCounts, JobView, LineView, PauseView, PoolInfo, PressureUsage, SlotCounts, StatusView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

fn paint(colour: bool) -> Paint {
    let now = "2026-11-21T12:00:00Z".parse::<jiff::Timestamp>().unwrap();
    Paint { colour, now_ms: now.as_millisecond(), zone: jiff::tz::TimeZone::UTC }
}

fn job(id: u64, name: &str, state: &str) -> JobView {
    JobView {
        id,
        name: Some(name.to_owned()),
        state: state.to_owned(),
        pool: Some("default".to_owned()),
        submitted_at: "2026-11-21T11:57:00.000Z".to_owned(),
        ..JobView::default()
    }
}

fn running(id: u64, name: &str, seconds: f64, cpu: f64) -> RunningRow {
    let job = JobView { run_seconds: Some(seconds), attempt_count: 1, ..job(id, name, "running") };
    RunningRow { job, cpu_percent: Some(cpu), cpu_seconds: Some(1.0), memory_bytes: Some(id << 20), processes: Some(2) }
}

fn ended(id: u64, outcome: &str, code: u8) -> JobView {
    JobView {
        outcome: Some(outcome.to_owned()),
        exit_code: Some(code),
        run_seconds: Some(75.0),
        finished_at: Some("2026-11-21T11:59:30.000Z".to_owned()),
        ..job(id, "unit tests", "finished")
    }
}

fn status() -> StatusView {
    StatusView {
        version: "0.1.0".to_owned(),
        state: "running".to_owned(),
        problems: Vec::new(),
        jobs: JobCounts::default(),
        slots: SlotCounts { used: 0, total: 4 },
        oldest_queued_seconds: None,
        paused: None,
        watches: Vec::new(),
        components: [].into(),
        busy: Vec::new(),
        uptime_seconds: 11_000.0,
        pid: 1,
        generation: 1,
        state_dir: None,
        runtime_dir: None,
    }
}

fn empty() -> Snapshot {
    let pool = PoolInfo {
        name: "default".to_owned(),
        executor: "native".to_owned(),
        slots: 4,
        used: 0,
        labels: Vec::new(),
        queued: 0,
    };
    let pressure = |some_percent| Some(PressureUsage { some_percent, full_percent: None });
    let host = HostUsage {
        cpus: 4,
        load1: Some(1.24),
        load5: Some(0.98),
        load15: Some(0.8),
        memory_total_bytes: Some(16 << 30),
        memory_available_bytes: Some(4 << 30),
        cpu_pressure: pressure(3.2),
        memory_pressure: pressure(0.0),
        io_pressure: pressure(11.0),
    };
    Snapshot {
        taken_at: "2026-11-21T12:00:00Z".to_owned(),
        status: status(),
        pools: vec![pool],
        usage: UsageView { host, ..UsageView::default() },
        running: Vec::new(),
        waiting: Vec::new(),
        recent: Vec::new(),
    }
}

fn full() -> Snapshot {
    let mut all = empty();
    all.status.slots.used = 3;
    all.status.jobs = JobCounts { queued: 120, running: 3, succeeded: 1200, failed: 30, ..JobCounts::default() };
    all.status.oldest_queued_seconds = Some(252.0);
    all.pools.push(PoolInfo { name: "gpu".to_owned(), slots: 1, queued: 7, ..all.pools[0].clone() });
    all.running = vec![
        running(7, "build-linux", 252.0, 98.4),
        running(8, "evil\x1b]0;title\x07\x1b[2Jname\u{202e}", 3.0, 0.0),
        running(9, "构建一个非常长的名字的作业以便看到它被截断的样子 and then some more", 40.0, 250.0),
    ];
    all.waiting = (20..60).map(|id| job(id, "lint", "queued")).collect();
    all.waiting[0].held_by = Some("anna".to_owned());
    all.recent = vec![ended(6, "failed", 2), ended(5, "succeeded", 0), ended(4, "timed_out", 143)];
    all
}

fn screen(snapshot: Option<&Snapshot>, ui: &Ui, columns: u16, rows: u16, colour: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let drawn = |frame: &mut ratatui::Frame<'_>| {
        let area = frame.area();
        draw(area, frame.buffer_mut(), snapshot, ui, &paint(colour));
    };
    terminal.draw(drawn).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let mut lines = Vec::new();
    for row in 0..area.height {
        let mut line = String::new();
        let mut skip = 0;
        for column in 0..area.width {
            let symbol = buffer[(column, row)].symbol();
            if skip > 0 {
                skip -= 1;
                continue;
            }
            line.push_str(symbol);
            skip = crate::style::width(symbol).saturating_sub(1);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

fn settled(snapshot: &Snapshot) -> Ui {
    let mut ui = Ui::default();
    ui.settle(snapshot);
    ui
}

#[test]
fn everything_is_there_in_80_columns() {
    let all = full();
    let lines = text(&screen(Some(&all), &settled(&all), 80, 24, false));
    let expected = [
        "ci-runner 0.1.0  running  up 3h 03m                                     12:00:00",
        "load 1.24 0.98 0.80 of 4 · mem 75 % of 16 GiB · pressure cpu 3 mem 0 io 11 %",
        "slots [###-] 3/4 · queue 120, oldest 4m 12s · 1200 ok, 30 failed",
        "pools default 0/4 · gpu 0/1 +7",
        "RUNNING 3                                  POOL           TIME    CPU    MEMORY",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(line), squeezed(expected), "{lines:#?}");
    }
    assert!(lines[5].contains("7 running") && lines[5].contains("98 %") && lines[5].ends_with("7 MiB"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("WAITING 120, these are 40")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("held")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("failed") && line.contains("1m 15s") && line.ends_with("30s")));
    assert!(lines[23].starts_with("? help  q quit"), "{lines:#?}");
}

#[test]
fn no_name_is_obeyed_and_no_line_is_wider_than_the_screen() {
    let all = full();
    for (columns, rows) in [(80, 24), (120, 40), (40, 10), (20, 5), (10, 3), (3, 1), (200, 60)] {
        let buffer = screen(Some(&all), &settled(&all), columns, rows, true);
        for cell in buffer.content() {
            assert!(!cell.symbol().chars().any(char::is_control), "{:?} at {columns}x{rows}", cell.symbol());
            assert!(!cell.symbol().contains('\u{202e}'));
        }
        for line in text(&buffer) {
            assert!(crate::style::width(&line) <= usize::from(columns), "{line:?} at {columns}x{rows}");
        }
    }
    let wide = text(&screen(Some(&all), &settled(&all), 120, 40, true));
    assert!(wide.iter().any(|line| line.contains("evil\\u{1b}]0;title")), "{wide:#?}");
}

#[test]
fn a_small_screen_shows_the_list_that_is_looked_at() {
    let all = full();
    let mut ui = settled(&all);
    let lines = text(&screen(Some(&all), &ui, 40, 10, false));
    assert!(lines[0].starts_with("ci-runner 0.1.0  running"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("RUNNING 3")), "{lines:#?}");
    // The last job of all.
    ui.key(Some(&all), KeyEvent::from(KeyCode::End));
    let lines = text(&screen(Some(&all), &ui, 40, 10, false));
    assert!(lines.iter().any(|line| line.contains("4 timed out")), "{lines:#?}");
    // Somewhere in the middle of a long list.
    ui.key(Some(&all), KeyEvent::from(KeyCode::Home));
    for _ in 0..30 {
        ui.key(Some(&all), KeyEvent::from(KeyCode::Down));
    }
    assert_eq!(ui.selected, Some(47));
    let lines = text(&screen(Some(&all), &ui, 40, 10, false));
    assert!(lines.iter().any(|line| line.contains("47 queued")), "{lines:#?}");
}

#[test]
fn an_empty_host_and_no_host_at_all() {
    let lines = text(&screen(Some(&empty()), &Ui::default(), 80, 24, false));
    assert!(lines.iter().any(|line| line.starts_with("RUNNING 0")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("queue 0 · 0 ok")), "{lines:#?}");
    let mut refused = empty();
    (refused.status.jobs.running, refused.status.jobs.starting) = (3, 2);
    let lines = text(&screen(Some(&refused), &Ui::default(), 80, 24, false));
    assert!(lines.iter().any(|line| line.starts_with("RUNNING 1, STARTING 2")), "{lines:#?}");
    let lines = text(&screen(None, &Ui::default(), 80, 24, false));
    assert_eq!(lines[1], "asking the daemon");
    let away = Ui { away: Some((paint(false).now_ms, "connection refused".to_owned())), ..Ui::default() };
    for snapshot in [None, Some(&full())] {
        let lines = text(&screen(snapshot, &away, 80, 24, false));
        assert!(lines[1].contains("daemon away since 12:00:00: connection refused"), "{lines:#?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_and_without_colours() {
    let mut all = full();
    all.status.state = "degraded".to_owned();
    all.status.problems = vec!["the disk is full\x1b[31m".to_owned(), "second".to_owned()];
    all.status.busy = vec!["the load is 9.00 for each CPU (load_max = 4.00)".to_owned()];
    all.status.paused = Some(PauseView {
        by: "anna".to_owned(),
        reason: "kernel".to_owned(),
        since: "2026-11-21T11:00:00Z".to_owned(),
        drain: false,
    });
    let lines = text(&screen(Some(&all), &settled(&all), 100, 30, false));
    assert!(lines.iter().any(|line| line.starts_with("! the disk is full\\u{1b}[31m")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("and 1 more: ci-runner status")), "{lines:#?}");
    let plain = screen(Some(&all), &settled(&all), 100, 30, false);
    assert!(plain.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset), "monochrome");
    assert!(plain.content().iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)), "the chosen row");
    let coloured = screen(Some(&all), &settled(&all), 100, 30, true);
    assert!(coloured.content().iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn keys_choose_ask_and_wish() {
    let all = full();
    let mut ui = settled(&all);
    let mut press = |code: KeyCode| {
        let wish = ui.key(Some(&all), KeyEvent::from(code));
        (wish, ui.clone())
    };
    let (wish, ui_then) = press(KeyCode::Char('c'));
    assert_eq!((wish, ui_then.mode), (None, Mode::Confirm(7)), "cancelling asks first");
    let (wish, ui_then) = press(KeyCode::Char('n'));
    assert_eq!((wish, ui_then.mode), (None, Mode::Lists));
    assert_eq!(press(KeyCode::Char('c')).0, None);
    assert_eq!(press(KeyCode::Char('y')).0, Some(Wish::Cancel(7)));
    assert_eq!(press(KeyCode::Down).1.selected, Some(8));
    assert_eq!(press(KeyCode::Char('h')).0, Some(Wish::Hold(8)));
    assert_eq!(press(KeyCode::Char('r')).0, Some(Wish::Release(8)));
    assert_eq!(press(KeyCode::Char('w')).0, Some(Wish::Why(8)));
    assert_eq!(press(KeyCode::Char('x')).1.mode, Mode::Lists);
    assert_eq!(press(KeyCode::Tab).1.selected, Some(20));
    assert_eq!(press(KeyCode::Tab).1.selected, Some(6));
    let (wish, ui_then) = press(KeyCode::Char('c'));
    assert_eq!((wish, ui_then.mode), (None, Mode::Lists), "it has finished");
    assert_eq!(press(KeyCode::Enter).0, Some(Wish::Log(6)));
    assert_eq!(press(KeyCode::Char('q')).0, Some(Wish::CloseLog), "out of the log, not out of the program");
    assert_eq!(press(KeyCode::Char('s')).1.sort, Sort::Cpu);
    assert_eq!(press(KeyCode::Char('?')).1.mode, Mode::Help);
    assert_eq!(press(KeyCode::Char('q')).0, None);
    assert_eq!(press(KeyCode::Char('q')).0, Some(Wish::Quit));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for mode in [Mode::Lists, Mode::Help, Mode::Confirm(7), Mode::Log(LogPane::default())] {
        let mut ui = Ui { mode, ..Ui::default() };
        assert_eq!(ui.key(None, control), Some(Wish::Quit));
    }
    assert_eq!(Ui::default().key(None, KeyEvent::from(KeyCode::Char('c'))), None, "no job, no question");
}

#[test]
fn running_jobs_are_put_in_order_and_the_choice_stays() {
    let mut all = full();
    let mut ui = settled(&all);
    ui.selected = Some(9);
    let order = |all: &Snapshot| all.running.iter().map(|row| row.job.id).collect::<Vec<_>>();
    for (sort, expected) in
        [(Sort::Time, [7, 9, 8]), (Sort::Cpu, [9, 7, 8]), (Sort::Memory, [9, 8, 7]), (Sort::Id, [7, 8, 9])]
    {
        sort.apply(&mut all.running);
        ui.settle(&all);
        assert_eq!((order(&all).as_slice(), ui.selected), (expected.as_slice(), Some(9)));
    }
    // The job is gone: what took its place is chosen, not the first of all.
    all.running.retain(|row| row.job.id != 9);
    ui.settle(&all);
    assert_eq!(ui.selected, Some(20));
    ui.settle(&empty());
    assert_eq!(ui.selected, None);
}

#[test]
fn room_is_shared_and_none_is_wasted() {
    assert_eq!(share(20, [3, 41, 101]), [3, 9, 8]);
    assert_eq!(share(20, [1, 1, 1]), [1, 1, 1]);
    assert_eq!(share(2, [5, 5, 5]), [1, 1, 0]);
    assert_eq!(share(0, [5, 5, 5]), [0, 0, 0]);
}

#[test]
fn boxes_lie_over_the_lists_at_every_size() {
    let all = full();
    let why = "job 8 waits for a slot: ".repeat(20);
    for mode in [Mode::Help, Mode::Confirm(7), Mode::Why(8, None), Mode::Why(8, Some(why))] {
        for (columns, rows) in [(80, 24), (40, 10), (8, 3), (1, 1)] {
            screen(Some(&all), &Ui { mode: mode.clone(), ..settled(&all) }, columns, rows, true);
        }
    }
    let ui = Ui { mode: Mode::Confirm(7), ..settled(&all) };
    let lines = text(&screen(Some(&all), &ui, 80, 24, false)).join("\n");
    assert!(lines.contains("Cancel job 7? What runs of it is ended."), "{lines}");
}

#[test]
fn a_log_scrolls_and_nothing_in_it_is_obeyed() {
    let line = |text: &str| LineView {
        offset: 0,
        next: 0,
        at: String::new(),
        text: Some(text.to_owned()),
        base64: None,
        continues: false,
        unfinished: false,
    };
    assert_eq!(harmless(&line("\x1b[1;31mred\x1b[0m\tand \x1b]0;title\x07plain\x1b[2J")), "red    and plain");
    let mut pane = LogPane { id: 7, ..LogPane::default() };
    (0..100).for_each(|number| pane.push(format!("line {number}")));
    let mut ui = Ui { mode: Mode::Log(pane), page: 10, ..Ui::default() };
    let all = full();
    let shown = |ui: &Ui| text(&screen(Some(&all), ui, 80, 24, false)).join("\n");
    assert!(shown(&ui).contains("line 99"), "{}", shown(&ui));
    ui.key(Some(&all), KeyEvent::from(KeyCode::Home));
    assert!(shown(&ui).contains("line 0") && !shown(&ui).contains("line 99"), "{}", shown(&ui));
    ui.key(Some(&all), KeyEvent::from(KeyCode::End));
    assert!(shown(&ui).contains("line 99"));
}

#[test]
fn one_look_is_plain_text() {
    let text = page(&full(), &Ui { index: usize::MAX, ..Ui::default() }, &paint(false), 100);
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.contains("RUNNING 3") && text.contains("build-linux") && text.contains("4 timed out"), "{text}");
    assert!(!text.contains("? help"), "{text}");
    // A wide character is followed by the next one, not by the half of its own place.
    assert!(text.contains("构建一个非常长"), "{text}");
}
