//! The screen of `top` as a function of data, what `top` remembers, and the size. It asks nothing and knows no clock.
//!
//! Whatever came from a job or a user goes through [`visible`]: a name cannot move the cursor. Without colours everything is
//! told by words, bold and reversed letters.

use super::super::list::{seconds, word};
use super::data::{RunningRow, Snapshot};
use super::ui::{Mode, Ui, seconds_since};
use super::{head, panes};
use crate::api::JobView;
use crate::quantity::show_size;
use crate::style::{clip, visible, width};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// Columns at the right: time, CPU or priority, memory or age.
const NUMBERS: [usize; 3] = [8, 6, 9];
/// State or outcome.
const STATE: usize = 12;
/// A pool's name.
const POOL: usize = 10;

/// How to draw.
#[derive(Clone, Debug)]
pub struct Paint {
    /// Whether colours are wanted.
    pub colour: bool,
    /// The present time, Unix milliseconds.
    pub now_ms: i64,
    /// The reader's.
    pub zone: jiff::tz::TimeZone,
}

impl Paint {
    /// A state's or outcome's style.
    pub fn of_word(&self, word: &str) -> Style {
        let coloured = |colour| if self.colour { Style::new().fg(colour) } else { Style::new() };
        match word {
            "succeeded" => coloured(Color::Green),
            "failed" | "timed_out" | "degraded" => coloured(Color::Red).add_modifier(Modifier::BOLD),
            "running" | "starting" => coloured(Color::Cyan),
            "stopping" | "held" | "paused" | "draining" => coloured(Color::Yellow),
            "cancelled" | "superseded" | "expired" => self.dim(),
            _ => Style::new(),
        }
    }

    /// What matters less.
    pub fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What is wrong.
    pub fn alarm(&self) -> Style {
        self.of_word("degraded")
    }

    /// The clock, in the reader's zone.
    pub fn clock(&self, unix_ms: i64) -> String {
        let at = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
        at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }
}

/// Draws everything. Returns how many rows the lists have.
pub fn draw(area: Rect, buffer: &mut Buffer, snapshot: Option<&Snapshot>, ui: &Ui, paint: &Paint) -> usize {
    buffer.set_style(area, Style::reset());
    let columns = usize::from(area.width);
    let mut top = head::head(snapshot, ui, paint, columns, usize::from(area.height));
    top.truncate(usize::from(area.height.saturating_sub(1)));
    for (row, line) in top.iter().enumerate() {
        put(buffer, area, row, line.clone());
    }
    let rows = usize::from(area.height).saturating_sub(top.len() + 1);
    match (&ui.mode, snapshot) {
        (Mode::Log(pane), _) => panes::log(buffer, below(area, top.len(), rows), pane, paint),
        (_, Some(snapshot)) => lists(buffer, area, top.len(), rows, snapshot, ui, paint),
        (_, None) => {}
    }
    panes::over(buffer, area, ui, paint);
    put(buffer, area, usize::from(area.height.saturating_sub(1)), head::foot(ui, paint, columns));
    rows
}

fn below(area: Rect, from: usize, rows: usize) -> Rect {
    let clamp = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    Rect { y: area.y.saturating_add(clamp(from)), height: clamp(rows), ..area }
}

/// One line; what does not fit is left out.
pub fn put(buffer: &mut Buffer, area: Rect, row: usize, line: Line<'_>) {
    let row = u16::try_from(row).unwrap_or(u16::MAX);
    if row < area.height {
        buffer.set_line(area.x, area.y + row, &line, area.width);
    }
}

/// A row of one of the lists, before it is fitted.
struct Row {
    id: u64,
    state: String,
    style: Style,
    name: String,
    pool: String,
    numbers: [String; 3],
}

struct List {
    title: String,
    titles: [&'static str; 3],
    rows: Vec<Row>,
}

fn all_lists(snapshot: &Snapshot, paint: &Paint) -> [List; 3] {
    let counts = &snapshot.status.jobs;
    let count = |shown: usize, all: u64| match shown as u64 {
        shown if shown < all => format!("{all}, these are {shown}"),
        shown => shown.to_string(),
    };
    let under_way = match counts.starting {
        0 => format!("RUNNING {}", count(snapshot.running.len(), counts.running)),
        starting => format!("RUNNING {}, STARTING {starting}", counts.running.saturating_sub(starting)),
    };
    [
        List {
            title: under_way,
            titles: ["TIME", "CPU", "MEMORY"],
            rows: snapshot.running.iter().map(|row| running_row(row, paint)).collect(),
        },
        List {
            title: format!("WAITING {}", count(snapshot.waiting.len(), counts.queued)),
            titles: ["AGE", "PRIO", ""],
            rows: snapshot.waiting.iter().map(|job| waiting_row(job, paint)).collect(),
        },
        List {
            title: "RECENT".to_owned(),
            titles: ["RAN", "EXIT", "AGO"],
            rows: snapshot.recent.iter().map(|job| recent_row(job, paint)).collect(),
        },
    ]
}

fn row(job: &JobView, numbers: [String; 3], paint: &Paint) -> Row {
    let state = match (word(job), job.attempt_count) {
        ("queued", 1..) => "retrying".to_owned(),
        (word, _) => word.replace('_', " "),
    };
    Row {
        id: job.id,
        style: paint.of_word(word(job)),
        state,
        name: visible(job.name.as_deref().unwrap_or(&job.summary)).into_owned(),
        pool: visible(job.pool.as_deref().unwrap_or("-")).into_owned(),
        numbers,
    }
}

fn running_row(running: &RunningRow, paint: &Paint) -> Row {
    let job = &running.job;
    let cpu = running.cpu_percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default();
    let memory = running.memory_bytes.map(show_size).unwrap_or_default();
    row(job, [job.run_seconds.map(seconds).unwrap_or_default(), cpu, memory], paint)
}

fn waiting_row(job: &JobView, paint: &Paint) -> Row {
    let age = seconds_since(Some(&job.submitted_at), paint.now_ms).map(seconds).unwrap_or_default();
    let priority = if job.priority == 0 { String::new() } else { job.priority.to_string() };
    row(job, [age, priority, String::new()], paint)
}

fn recent_row(job: &JobView, paint: &Paint) -> Row {
    let ago = seconds_since(job.finished_at.as_deref(), paint.now_ms).map(seconds).unwrap_or_default();
    let exit = match (job.exit_code, job.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("sig {signal}"),
        (None, None) => String::new(),
    };
    row(job, [job.run_seconds.map(seconds).unwrap_or_default(), exit, ago], paint)
}

/// Rows for each list: what it wants, but none starves the others. An empty one has its title only.
pub fn share(rows: usize, wants: [usize; 3]) -> [usize; 3] {
    let mut given = [0; 3];
    let mut left = rows;
    // First a title and a row for each, then the rest in turn: whoever has enough leaves it to the others.
    while left > 0 {
        let before = left;
        for (given, want) in given.iter_mut().zip(wants) {
            if *given < want && left > 0 {
                *given += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    given
}

fn lists(buffer: &mut Buffer, area: Rect, top: usize, rows: usize, snapshot: &Snapshot, ui: &Ui, paint: &Paint) {
    let lists = all_lists(snapshot, paint);
    let mut heights = share(rows, [0, 1, 2].map(|index| lists[index].rows.len() + 1));
    let mut begins = [0; 3];
    let mut begin = 0;
    for (at, list) in begins.iter_mut().zip(&lists) {
        *at = begin;
        begin += list.rows.len();
    }
    // Where there is hardly room, the list that is looked at has it.
    let focus = (0..3).rev().find(|index| ui.index >= begins[*index] && !lists[*index].rows.is_empty()).unwrap_or(0);
    if rows < 8 {
        heights = [0; 3];
        heights[focus] = rows.min(lists[focus].rows.len() + 1);
        let mut left = rows - heights[focus];
        for index in [0, 1, 2].into_iter().filter(|index| *index != focus) {
            heights[index] = left.min(lists[index].rows.len() + 1);
            left -= heights[index];
        }
    }
    let mut at = top;
    for (index, list) in lists.iter().enumerate().filter(|(index, _)| heights[*index] > 0) {
        let chosen = ui.index.checked_sub(begins[index]).filter(|row| *row < list.rows.len());
        let fit = Fit::new(usize::from(area.width), &lists);
        put(buffer, area, at, fit.title(list));
        let visible_rows = heights[index] - 1;
        let skip = chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(visible_rows));
        for (line, row) in list.rows.iter().enumerate().skip(skip).take(visible_rows) {
            put(buffer, area, at + 1 + line - skip, fit.row(row, chosen == Some(line), paint));
        }
        at += heights[index];
    }
}

/// Which columns there is room for.
struct Fit {
    columns: usize,
    id: usize,
    state: usize,
    pool: usize,
    numbers: usize,
}

impl Fit {
    fn new(columns: usize, lists: &[List; 3]) -> Fit {
        let ids = lists.iter().flat_map(|list| &list.rows).map(|row| row.id.to_string().len());
        let id = ids.max().unwrap_or(1).max(4);
        let numbers = match columns {
            0..30 => 0,
            30..50 => 1,
            50..66 => 2,
            _ => 3,
        };
        let pool = if columns >= 76 { POOL } else { 0 };
        Fit { columns, id, state: STATE.min(columns / 3), pool, numbers }
    }

    fn numbers_width(&self) -> usize {
        NUMBERS[..self.numbers].iter().map(|width| width + 1).sum::<usize>()
            + if self.pool > 0 { self.pool + 1 } else { 0 }
    }

    /// Pool and numbers, right-aligned in their columns.
    fn right(&self, pool: &str, numbers: [&str; 3]) -> String {
        let mut text = String::new();
        if self.pool > 0 {
            text.push(' ');
            text.push_str(&padded(pool, self.pool, false));
        }
        for (number, width) in numbers.iter().zip(NUMBERS).take(self.numbers) {
            text.push(' ');
            text.push_str(&padded(number, width, true));
        }
        text
    }

    fn title(&self, list: &List) -> Line<'static> {
        let room = self.columns.saturating_sub(self.numbers_width());
        let text = format!("{}{}", padded(&list.title, room, false), self.right("POOL", list.titles));
        Line::styled(text, Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
    }

    fn row(&self, row: &Row, chosen: bool, paint: &Paint) -> Line<'static> {
        let room = self.columns.saturating_sub(self.id + 1 + self.state + 1 + self.numbers_width());
        let [first, second, third] = &row.numbers;
        let spans = vec![
            Span::raw(format!("{} ", padded(&row.id.to_string(), self.id, true))),
            Span::styled(format!("{} ", padded(&row.state, self.state, false)), row.style),
            Span::raw(padded(&row.name, room, false)),
            Span::styled(self.right(&row.pool, [first, second, third]), Style::new()),
        ];
        let line = Line::from(spans);
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        if chosen {
            line.patch_style(if paint.colour { reversed.add_modifier(Modifier::BOLD) } else { reversed })
        } else {
            line
        }
    }
}

/// The text in exactly so many columns.
fn padded(text: &str, columns: usize, right: bool) -> String {
    let text = clip(text, columns);
    let blanks = " ".repeat(columns.saturating_sub(width(&text)));
    if right { format!("{blanks}{text}") } else { format!("{text}{blanks}") }
}
