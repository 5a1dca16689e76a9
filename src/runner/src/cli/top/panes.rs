//! What lies over the lists of `top`: help, a question, an explanation, a log. Drawing only.

use super::draw::{Paint, put};
use super::ui::{LogPane, Mode, Ui};
use crate::style::{clip, visible, width};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

/// What the keys do.
const KEYS: [(&str, &str); 13] = [
    ("up down j k", "move; page up and down, home, end"),
    ("tab", "the next list"),
    ("enter l", "follow the job's log"),
    ("w", "why the job is where it is"),
    ("c", "cancel the job; asks first"),
    ("h", "hold a queued job"),
    ("r", "release a held job"),
    ("s", "order running jobs by time, CPU, memory, id"),
    ("space", "look again now"),
    ("q esc", "close what is open, else leave"),
    ("CPU", "of one processor, since the last look"),
    ("MEMORY", "now, of all its processes"),
    ("pressure", "share of 10 s in which tasks waited"),
];

/// Draws what lies over the lists, if something does.
pub fn over(buffer: &mut Buffer, area: Rect, ui: &Ui, paint: &Paint) {
    match &ui.mode {
        Mode::Lists | Mode::Log(_) => {}
        Mode::Help => {
            let line = |(key, what): &(&str, &str)| format!("{key:<12} {what}");
            boxed(buffer, area, "keys", &KEYS.iter().map(line).collect::<Vec<_>>(), paint);
        }
        Mode::Confirm(id) => {
            let lines = [
                format!("Cancel job {id}? What runs of it is ended."),
                String::new(),
                "y: yes   any other key: no".to_owned(),
            ];
            boxed(buffer, area, "cancel", &lines, paint);
        }
        Mode::Why(id, text) => {
            let text = text.as_deref().unwrap_or("asking the daemon");
            let columns = usize::from(area.width).saturating_sub(6).clamp(10, 90);
            let lines: Vec<String> = text.lines().flat_map(|line| wrapped(&visible(line), columns)).collect();
            boxed(buffer, area, &format!("why job {id}"), &lines, paint);
        }
    }
}

/// A box in the middle, as large as its text.
fn boxed(buffer: &mut Buffer, area: Rect, title: &str, lines: &[String], paint: &Paint) {
    let inner = lines.iter().map(|line| width(line)).max().unwrap_or(0).max(width(title) + 2);
    let columns = (inner + 4).min(usize::from(area.width));
    let rows = (lines.len() + 2).min(usize::from(area.height));
    let clamp = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let (width_, height) = (clamp(columns), clamp(rows));
    let place =
        Rect { x: area.x + (area.width - width_) / 2, y: area.y + (area.height - height) / 2, width: width_, height };
    let _ = paint;
    let inner = columns.saturating_sub(4);
    let line = |text: &str| {
        let text = clip(text, inner);
        let blanks = " ".repeat(inner.saturating_sub(width(&text)));
        Line::raw(format!("│ {text}{blanks} │"))
    };
    let rule = "─".repeat(columns.saturating_sub(width(title) + 5));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    buffer.set_style(place, Style::reset());
    put(buffer, place, 0, Line::styled(format!("╭─ {title} {rule}╮"), bold));
    for (row, text) in lines.iter().take(rows.saturating_sub(2)).enumerate() {
        put(buffer, place, row + 1, line(text));
    }
    put(buffer, place, rows.saturating_sub(1), Line::raw(format!("╰{}╯", "─".repeat(columns.saturating_sub(2)))));
}

/// A text in lines of at most so many columns, broken between words where that can be.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        loop {
            let line = lines.last_mut().expect("there is always one");
            let gap = usize::from(!line.is_empty());
            if width(line) + gap + width(word) <= columns {
                line.push_str(&" ".repeat(gap));
                line.push_str(word);
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            // A word that is longer than a line.
            let at = word.char_indices().map(|(at, _)| at).take_while(|at| width(&word[..*at]) <= columns).last();
            let at = at.filter(|at| *at > 0).unwrap_or(word.len());
            line.push_str(&word[..at]);
            word = &word[at..];
            if word.is_empty() {
                break;
            }
            lines.push(String::new());
        }
    }
    lines
}

/// The end of a log, or the part that was scrolled to.
pub fn log(buffer: &mut Buffer, area: Rect, pane: &LogPane, paint: &Paint) {
    let columns = usize::from(area.width);
    let rows = usize::from(area.height).saturating_sub(1);
    let note = if pane.note.is_empty() { String::new() } else { format!(" · {}", visible(&pane.note)) };
    let place = if pane.back > 0 { format!(" · {} lines below", pane.back) } else { String::new() };
    let title = format!("LOG of job {}{note}{place}", pane.id);
    let title = clip(&title, columns).into_owned();
    let blanks = " ".repeat(columns.saturating_sub(width(&title)));
    let style = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    put(buffer, area, 0, Line::styled(format!("{title}{blanks}"), style));
    let end = pane.lines.len().saturating_sub(pane.back);
    let begin = end.saturating_sub(rows);
    for (row, line) in pane.lines.range(begin..end).enumerate() {
        let line = clip(line, columns).into_owned();
        let style = if line.starts_with(ci_runner_spawner::joblog::MARK_PREFIX) { paint.dim() } else { Style::new() };
        put(buffer, area, row + 1, Line::styled(line, style));
    }
}
