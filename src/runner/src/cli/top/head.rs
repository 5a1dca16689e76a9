//! The lines around the lists of `top`: the host above, the keys below. Drawing only.

use super::super::list::seconds;
use super::data::Snapshot;
use super::draw::Paint;
use super::ui::{Mode, Ui};
use crate::api::{HostUsage, PressureUsage};
use crate::quantity::show_size;
use crate::style::{clip, visible, width};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// Problems and limits that are shown at most.
const TROUBLE_LINES_MAX: usize = 3;

/// The host: what it is, how it is, what is wrong.
pub fn head(snapshot: Option<&Snapshot>, ui: &Ui, paint: &Paint, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let clock = paint.clock(paint.now_ms);
    let mut first = vec![Span::styled("ci-runner", bold)];
    if let Some(Snapshot { status, .. }) = snapshot {
        let version = format!(" {}  ", visible(&status.version));
        first.push(Span::raw(version));
        first.push(Span::styled(status.state.clone(), paint.of_word(&status.state).add_modifier(Modifier::BOLD)));
        first.push(Span::raw(format!("  up {}", seconds(status.uptime_seconds))));
    }
    let taken: usize = first.iter().map(|span| width(&span.content)).sum();
    if taken + clock.len() < columns {
        first.push(Span::raw(" ".repeat(columns - taken - clock.len())));
        first.push(Span::styled(clock, paint.dim()));
    }
    let mut lines = vec![Line::from(first)];
    if let Some((since, why)) = &ui.away {
        let text = format!(" daemon away since {}: {} ", paint.clock(*since), visible(why));
        let style = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
        lines.push(Line::styled(clip(&text, columns).into_owned(), style));
    }
    let Some(snapshot) = snapshot else {
        if ui.away.is_none() {
            lines.push(Line::raw("asking the daemon"));
        }
        return lines;
    };
    if rows >= 14 {
        lines.push(Line::raw(clip(&host_line(&snapshot.usage.host, columns), columns).into_owned()));
    }
    lines.push(slots_line(snapshot, columns));
    if snapshot.pools.len() > 1 && rows >= 16 {
        lines.push(Line::raw(clip(&pools_line(snapshot), columns).into_owned()));
    }
    lines.extend(trouble(snapshot, paint, columns));
    lines
}

fn host_line(host: &HostUsage, columns: usize) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let wide = columns >= 76;
    let mut text = format!("load {}", number(host.load1));
    if wide {
        text.push_str(&format!(" {} {}", number(host.load5), number(host.load15)));
    }
    text.push_str(&format!(" of {}", host.cpus));
    if let (Some(total), Some(free)) = (host.memory_total_bytes.filter(|total| *total > 0), host.memory_available_bytes)
    {
        let share = total.saturating_sub(free) as f64 / total as f64 * 100.0;
        text.push_str(&format!(" · mem {share:.0} %"));
        if wide {
            text.push_str(&format!(" of {}", show_size(total)));
        }
    }
    let share = |pressure: Option<PressureUsage>| match pressure {
        Some(pressure) => format!("{:.0}", pressure.some_percent),
        None => "-".to_owned(),
    };
    let pressure = [host.cpu_pressure, host.memory_pressure, host.io_pressure];
    if pressure.iter().all(Option::is_none) {
        text.push_str(" · no pressure figures");
    } else {
        let [cpu, memory, io] = pressure.map(share);
        text.push_str(&format!(" · pressure cpu {cpu} mem {memory} io {io} %"));
    }
    text
}

fn slots_line(snapshot: &Snapshot, columns: usize) -> Line<'static> {
    let status = &snapshot.status;
    let (used, total) = (status.slots.used as usize, status.slots.total as usize);
    let mut text = String::from("slots ");
    let bar = if columns >= 60 { total.min(12) } else { 0 };
    if bar > 0 {
        let full = (used.min(total) * bar).div_ceil(total.max(1));
        text.push_str(&format!("[{}{}] ", "#".repeat(full), "-".repeat(bar - full)));
    }
    text.push_str(&format!("{used}/{total} · queue {}", status.jobs.queued));
    if let Some(oldest) = status.oldest_queued_seconds.filter(|_| status.jobs.queued > 0) {
        text.push_str(&format!(", oldest {}", seconds(oldest)));
    }
    let jobs = &status.jobs;
    let ended = [
        (jobs.succeeded, "ok"),
        (jobs.failed, "failed"),
        (jobs.timed_out, "timed out"),
        (jobs.cancelled + jobs.superseded + jobs.expired, "dropped"),
    ];
    for (index, (count, what)) in ended.iter().enumerate().filter(|(index, (count, _))| *index == 0 || *count > 0) {
        let part = format!("{}{count} {what}", if index == 0 { " · " } else { ", " });
        if width(&text) + width(&part) > columns {
            break;
        }
        text.push_str(&part);
    }
    Line::raw(clip(&text, columns).into_owned())
}

fn pools_line(snapshot: &Snapshot) -> String {
    let pool = |pool: &crate::api::PoolInfo| {
        let waiting = if pool.queued > 0 { format!(" +{}", pool.queued) } else { String::new() };
        format!("{} {}/{}{waiting}", visible(&pool.name), pool.used, pool.slots)
    };
    format!("pools {}", snapshot.pools.iter().map(pool).collect::<Vec<_>>().join(" · "))
}

fn trouble(snapshot: &Snapshot, paint: &Paint, columns: usize) -> Vec<Line<'static>> {
    let status = &snapshot.status;
    let mut texts: Vec<String> = status.problems.clone();
    texts.extend(status.busy.iter().map(|busy| format!("nothing starts: {busy}")));
    if let Some(pause) = &status.paused {
        let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
        texts.push(format!("{} by {}{why}", if pause.drain { "draining" } else { "paused" }, pause.by));
    }
    let more = texts.len().saturating_sub(TROUBLE_LINES_MAX);
    texts.truncate(TROUBLE_LINES_MAX);
    if let Some(last) = texts.last_mut().filter(|_| more > 0) {
        last.push_str(&format!(" (and {more} more: ci-runner status)"));
    }
    let line = |text: String| Line::styled(clip(&format!("! {}", visible(&text)), columns).into_owned(), paint.alarm());
    texts.into_iter().map(line).collect()
}

/// The keys, or what just happened.
pub fn foot(ui: &Ui, paint: &Paint, columns: usize) -> Line<'static> {
    if let Some(message) = &ui.message {
        let style = Style::new().add_modifier(Modifier::BOLD);
        return Line::styled(clip(&visible(message), columns).into_owned(), style);
    }
    let keys = match &ui.mode {
        Mode::Log(_) => "esc back  up/down pgup/pgdn home scroll  end follow",
        Mode::Help | Mode::Why(..) => "any key: back",
        Mode::Confirm(_) => "y: cancel it  any other key: let it go on",
        Mode::Lists => "",
    };
    if !keys.is_empty() {
        return Line::styled(clip(keys, columns).into_owned(), paint.dim());
    }
    let keys = [
        "? help".to_owned(),
        "q quit".to_owned(),
        "enter log".to_owned(),
        "w why".to_owned(),
        "c cancel".to_owned(),
        "h hold".to_owned(),
        "r release".to_owned(),
        format!("s sort: {}", ui.sort.word()),
        "tab next list".to_owned(),
    ];
    let mut text = String::new();
    for key in keys {
        if width(&text) + key.len() + 2 > columns {
            break;
        }
        text.push_str(if text.is_empty() { "" } else { "  " });
        text.push_str(&key);
    }
    Line::styled(text, paint.dim())
}
