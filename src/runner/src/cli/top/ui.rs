//! What `top` remembers between two drawings, and what keys do to it. Pure: a key gives a wish, somebody else does it.

use super::super::list::unix_ms;
use super::data::{RunningRow, Snapshot};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;

/// Lines of a followed log that can be scrolled back to.
pub const LOG_LINES_MAX: usize = 5_000;

/// How running jobs are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The longest first.
    #[default]
    Time,
    /// The busiest first.
    Cpu,
    /// The largest first.
    Memory,
    /// By number.
    Id,
}

impl Sort {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Time => "time",
            Sort::Cpu => "cpu",
            Sort::Memory => "memory",
            Sort::Id => "id",
        }
    }

    fn next(self) -> Sort {
        match self {
            Sort::Time => Sort::Cpu,
            Sort::Cpu => Sort::Memory,
            Sort::Memory => Sort::Id,
            Sort::Id => Sort::Time,
        }
    }

    /// Puts rows in order.
    pub fn apply(self, rows: &mut [RunningRow]) {
        let seconds = |row: &RunningRow| row.job.run_seconds.unwrap_or(0.0);
        match self {
            Sort::Time => rows.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)).then(a.job.id.cmp(&b.job.id))),
            Sort::Cpu => rows.sort_by(|a, b| {
                let percent = |row: &RunningRow| row.cpu_percent.unwrap_or(-1.0);
                percent(b).total_cmp(&percent(a)).then(a.job.id.cmp(&b.job.id))
            }),
            Sort::Memory => rows.sort_by_key(|row| (std::cmp::Reverse(row.memory_bytes), row.job.id)),
            Sort::Id => rows.sort_by_key(|row| row.job.id),
        }
    }
}

/// What lies over the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    #[default]
    Lists,
    /// The keys.
    Help,
    /// A question before a job is ended.
    Confirm(u64),
    /// Why a job is where it is; the text comes later.
    Why(u64, Option<String>),
    /// The log of a job.
    Log(LogPane),
}

/// A followed log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPane {
    /// The job.
    pub id: u64,
    /// Its lines, harmless to a terminal.
    pub lines: VecDeque<String>,
    /// Lines between the last one shown and the end; 0: it goes along.
    pub back: usize,
    /// What is the matter: it waits, the daemon is away, the job has ended.
    pub note: String,
}

impl LogPane {
    /// A line came.
    pub fn push(&mut self, line: String) {
        self.lines.push_back(line);
        if self.back > 0 {
            self.back = (self.back + 1).min(LOG_LINES_MAX);
        }
        if self.lines.len() > LOG_LINES_MAX {
            self.lines.pop_front();
        }
    }
}

/// Everything but the data.
#[derive(Clone, Debug, Default)]
pub struct Ui {
    /// The chosen job.
    pub selected: Option<u64>,
    /// Where it was in the lists, for when it is gone.
    pub index: usize,
    /// Order of running jobs.
    pub sort: Sort,
    /// What lies over the lists.
    pub mode: Mode,
    /// The last thing that happened, until the next key.
    pub message: Option<String>,
    /// Since when the daemon is away (Unix milliseconds), and why.
    pub away: Option<(i64, String)>,
    /// Rows of the screen, for keys that go by pages.
    pub page: usize,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// End.
    Quit,
    /// Look again now.
    Refresh,
    /// Cancel a job: asked and answered.
    Cancel(u64),
    /// Hold it.
    Hold(u64),
    /// Release it.
    Release(u64),
    /// Ask why.
    Why(u64),
    /// Follow its log.
    Log(u64),
    /// Follow no more.
    CloseLog,
}

impl Ui {
    /// New data came: the chosen job stays chosen, or the one that took its place is.
    pub fn settle(&mut self, snapshot: &Snapshot) {
        let ids = ids(snapshot);
        match self.selected.and_then(|id| ids.iter().position(|other| *other == id)) {
            Some(index) => self.index = index,
            None => {
                self.index = self.index.min(ids.len().saturating_sub(1));
                self.selected = ids.get(self.index).copied();
            }
        }
    }

    /// A key was pressed.
    pub fn key(&mut self, snapshot: Option<&Snapshot>, key: KeyEvent) -> Option<Wish> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Some(Wish::Quit);
        }
        self.message = None;
        match &mut self.mode {
            Mode::Lists => return self.list_key(snapshot, key.code, control),
            Mode::Help => self.mode = Mode::Lists,
            Mode::Why(..) => self.mode = Mode::Lists,
            Mode::Confirm(id) => {
                let id = *id;
                self.mode = Mode::Lists;
                if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                    return Some(Wish::Cancel(id));
                }
                self.message = Some(format!("job {id} goes on"));
            }
            Mode::Log(pane) => {
                let most = pane.lines.len().saturating_sub(1);
                let page = self.page.max(1);
                match key.code {
                    KeyCode::Esc | KeyCode::Char('q') | KeyCode::Left => {
                        self.mode = Mode::Lists;
                        return Some(Wish::CloseLog);
                    }
                    KeyCode::Up | KeyCode::Char('k') => pane.back = (pane.back + 1).min(most),
                    KeyCode::Down | KeyCode::Char('j') => pane.back = pane.back.saturating_sub(1),
                    KeyCode::PageUp | KeyCode::Char('b') => pane.back = (pane.back + page).min(most),
                    KeyCode::PageDown | KeyCode::Char(' ') => pane.back = pane.back.saturating_sub(page),
                    KeyCode::Home | KeyCode::Char('g') => pane.back = most,
                    KeyCode::End | KeyCode::Char('G') => pane.back = 0,
                    _ => {}
                }
            }
        }
        None
    }

    fn list_key(&mut self, snapshot: Option<&Snapshot>, code: KeyCode, control: bool) -> Option<Wish> {
        let page = isize::try_from(self.page.max(2) - 1).unwrap_or(1);
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('l') if control => return Some(Wish::Refresh),
            KeyCode::Char(' ') => return Some(Wish::Refresh),
            KeyCode::Up | KeyCode::Char('k') => self.go(snapshot, -1),
            KeyCode::Down | KeyCode::Char('j') => self.go(snapshot, 1),
            KeyCode::PageUp => self.go(snapshot, -page),
            KeyCode::PageDown => self.go(snapshot, page),
            KeyCode::Home | KeyCode::Char('g') => self.go(snapshot, isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(snapshot, isize::MAX),
            KeyCode::Tab => self.next_list(snapshot),
            KeyCode::Char('c' | 'h' | 'r' | 'w' | 'l') | KeyCode::Enter | KeyCode::Right => {
                return self.job_key(snapshot, code);
            }
            _ => {}
        }
        None
    }

    /// A key that does something to the chosen job.
    fn job_key(&mut self, snapshot: Option<&Snapshot>, code: KeyCode) -> Option<Wish> {
        let Some(id) = self.selected else {
            self.message = Some("there is no job to do that to".to_owned());
            return None;
        };
        let recent = snapshot.is_some_and(|all| all.recent.iter().any(|job| job.id == id));
        match code {
            KeyCode::Char('c' | 'h' | 'r') if recent => {
                self.message = Some(format!("job {id} has finished"));
                None
            }
            KeyCode::Char('c') => {
                self.mode = Mode::Confirm(id);
                None
            }
            KeyCode::Char('h') => Some(Wish::Hold(id)),
            KeyCode::Char('r') => Some(Wish::Release(id)),
            KeyCode::Char('w') => {
                self.mode = Mode::Why(id, None);
                Some(Wish::Why(id))
            }
            _ => {
                self.mode = Mode::Log(LogPane { id, note: "waiting for its output".to_owned(), ..LogPane::default() });
                Some(Wish::Log(id))
            }
        }
    }

    fn go(&mut self, snapshot: Option<&Snapshot>, by: isize) {
        let ids = snapshot.map(ids).unwrap_or_default();
        self.index = self.index.saturating_add_signed(by).min(ids.len().saturating_sub(1));
        self.selected = ids.get(self.index).copied();
    }

    /// To the first row of the list below, or of the first.
    fn next_list(&mut self, snapshot: Option<&Snapshot>) {
        let Some(snapshot) = snapshot else { return };
        let lengths = [snapshot.running.len(), snapshot.waiting.len(), snapshot.recent.len()];
        let (mut begin, mut begins) = (0, Vec::new());
        for length in lengths {
            begins.extend((length > 0).then_some(begin));
            begin += length;
        }
        let index = begins.iter().find(|begin| **begin > self.index).or(begins.first()).copied().unwrap_or(0);
        self.index = index;
        self.selected = ids(snapshot).get(index).copied();
    }
}

/// All rows in the order in which they are shown.
pub fn ids(snapshot: &Snapshot) -> Vec<u64> {
    let running = snapshot.running.iter().map(|row| row.job.id);
    running.chain(snapshot.waiting.iter().map(|job| job.id)).chain(snapshot.recent.iter().map(|job| job.id)).collect()
}

/// Seconds since a time of the API.
pub fn seconds_since(at: Option<&str>, now_ms: i64) -> Option<f64> {
    Some((now_ms - unix_ms(at?)?).max(0) as f64 / 1e3)
}
