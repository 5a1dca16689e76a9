//! `top`: a live screen of the host: what runs, waits and ended, and how busy the host is.
//!
//! Three kinds of threads, which talk through channels: one draws and takes keys and never waits for the daemon; one looks at
//! the daemon every `--interval`; one for each thing that was asked for (an action, a log). A daemon that goes away is told
//! with the time, and asked again; what was seen last stays.
//!
//! - `data.rs`: what is asked. `ui.rs`: what keys do. `draw.rs`, `head.rs`, `panes.rs`: the picture, pure. `screen.rs`: the terminal.

mod data;
mod draw;
mod head;
mod panes;
mod screen;
#[cfg(test)]
mod tests;
mod ui;

use super::client::Client;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure};
use super::logs::tail::{Begin, Tail, Told};
use crate::api::{ActedView, LineView, WhyView};
use crate::quantity::parse_duration;
use crate::style::{visible, width};
use ci_runner_spawner::joblog::{Defuse, defuse};
use clap::Args;
use data::{Snapshot, Source};
use draw::{Paint, draw};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{Event as TerminalEvent, KeyEventKind, poll, read};
use ratatui::layout::Rect;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};
use ui::{Mode, Ui, Wish};

/// The daemon is looked at no more often: each look is six short questions.
const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// And no less often: the figures would be from another time than the screen's clock.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// A daemon that does not answer within this counts as away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys and news are taken so often.
const TICK: Duration = Duration::from_millis(100);
/// How long a message stands in the place of the keys.
const MESSAGE_TIME: Duration = Duration::from_secs(6);
/// News that wait for the screen: a log that floods is slowed down, not remembered.
const NEWS_MAX: usize = 4_096;
/// Lines of a log that are shown at first.
const LOG_TAIL: u64 = 500;
/// `--once`: between the two looks that CPU use needs.
const BETWEEN_LOOKS: Duration = Duration::from_millis(600);
/// `--once` in a pipe.
const ONCE_COLUMNS: u16 = 100;
/// `--once`: rows, of which the head and three titles take a dozen.
const ONCE_ROWS: u16 = 60;

/// Arguments of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Between two looks at the daemon, 0.5s to 1h
    #[arg(short = 'n', long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Print one look and end; needs no terminal
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    // A bare number is seconds, as everywhere.
    let asked = parse_duration(text).map_err(|error| error.to_string())?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&asked) { Ok(asked) } else { Err("between 0.5s and 1h".to_owned()) }
}

/// What the drawing thread is told.
enum News {
    Looked(Box<Snapshot>),
    Away(String),
    /// Something that was wished was done, or not.
    Done(String),
    Why(u64, String),
    Log(u64, LogNews),
}

enum LogNews {
    Line(String),
    Note(String),
}

/// Shows the screen, or one look.
pub fn top(context: &Context<'_>, args: TopArgs) -> Ended {
    if args.once || context.is_json() {
        return once(context);
    }
    let client = context.client.clone().patience(PATIENCE).verbose(false);
    let paint = Paint { colour: context.globals.color.on(true), now_ms: 0, zone: jiff::tz::TimeZone::system() };
    // Before the terminal is taken: a socket that nobody may use is an error on a line of its own.
    let screen = screen::Screen::take()?;
    let ended = screen::watch_signals();
    let (news, told) = sync_channel(NEWS_MAX);
    let (poke, poked) = channel();
    let looking = (client.clone(), news.clone(), args.interval);
    spawn("look", move || look(&looking.0, &looking.1, &poked, looking.2))?;
    let top = Top { client, screen, paint, news, told, poke, ui: Ui::default(), shown: None, log: None, message: None };
    top.run(&ended)
}

fn once(context: &Context<'_>) -> Ended {
    let mut source = Source::default();
    let mut snapshot = source.look(&context.client)?;
    if !snapshot.running.is_empty() {
        std::thread::sleep(BETWEEN_LOOKS);
        snapshot = source.look(&context.client)?;
    }
    ui::Sort::default().apply(&mut snapshot.running);
    if context.is_json() {
        return context.print_json(&snapshot);
    }
    let look = context.look();
    let columns = look.columns().and_then(|columns| u16::try_from(columns).ok()).unwrap_or(ONCE_COLUMNS);
    let ui = Ui { index: usize::MAX, ..Ui::default() };
    print(&page(&snapshot, &ui, &Paint { colour: false, now_ms: look.now_ms, zone: look.zone }, columns))
}

/// One look as lines: as high as it needs, without the line of keys.
fn page(snapshot: &Snapshot, ui: &Ui, paint: &Paint, columns: u16) -> String {
    let area = Rect::new(0, 0, columns.max(1), ONCE_ROWS);
    let mut buffer = Buffer::empty(area);
    draw(area, &mut buffer, Some(snapshot), ui, paint);
    let row = |row: u16| {
        let (mut line, mut column) = (String::new(), 0);
        while column < area.width {
            let symbol = buffer[(column, row)].symbol();
            line.push_str(symbol);
            // Behind a wide character stands an empty cell that is part of it.
            column += u16::try_from(width(symbol)).unwrap_or(1).max(1);
        }
        line
    };
    let mut lines: Vec<String> = (0..area.height - 1).map(|at| row(at).trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Failure::Error(format!("cannot start a thread: {error}")))
}

/// Looks again and again, until nobody listens.
fn look(client: &Client, news: &SyncSender<News>, poked: &Receiver<()>, interval: Duration) {
    let mut source = Source::default();
    loop {
        let told = match source.look(client) {
            Ok(snapshot) => News::Looked(Box::new(snapshot)),
            Err(error) => News::Away(error.in_one_line()),
        };
        if news.send(told).is_err() {
            return;
        }
        if matches!(poked.recv_timeout(interval), Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        while poked.try_recv().is_ok() {}
    }
}

/// The drawing thread.
struct Top {
    client: Client,
    screen: screen::Screen,
    paint: Paint,
    news: SyncSender<News>,
    told: Receiver<News>,
    poke: Sender<()>,
    ui: Ui,
    shown: Option<Snapshot>,
    /// Ends the thread that follows a log.
    log: Option<Arc<AtomicBool>>,
    /// What is shown instead of the keys, and since when.
    message: Option<(String, Instant)>,
}

impl Top {
    fn run(mut self, ended: &screen::Ended) -> Ended {
        let broken = |error: std::io::Error| Failure::Error(format!("the terminal went away: {error}"));
        loop {
            if let Some(signal) = ended.signal() {
                return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)));
            }
            while let Ok(news) = self.told.try_recv() {
                self.hear(news);
            }
            self.paint.now_ms = jiff::Timestamp::now().as_millisecond();
            self.forget_message();
            let Self { screen, shown, ui, paint, .. } = &mut self;
            let mut rows = 0;
            let drawn = screen.terminal.draw(|frame| {
                let area = frame.area();
                rows = draw(area, frame.buffer_mut(), shown.as_ref(), ui, paint);
            });
            drawn.map_err(broken)?;
            self.ui.page = rows;
            if !poll(TICK).map_err(broken)? {
                continue;
            }
            if let TerminalEvent::Key(key) = read().map_err(broken)?
                && key.kind != KeyEventKind::Release
                && let Some(wish) = self.ui.key(self.shown.as_ref(), key)
                && !self.wish(wish)?
            {
                return Ok(EXIT_DONE);
            }
            if let Some(shown) = &mut self.shown {
                self.ui.sort.apply(&mut shown.running);
                self.ui.settle(shown);
            }
        }
    }

    /// A message goes after a while: the keys are below it.
    fn forget_message(&mut self) {
        if self.ui.message != self.message.as_ref().map(|(text, _)| text.clone()) {
            self.message = self.ui.message.clone().map(|text| (text, Instant::now()));
        }
        if self.message.as_ref().is_some_and(|(_, at)| at.elapsed() >= MESSAGE_TIME) {
            (self.message, self.ui.message) = (None, None);
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Looked(mut snapshot) => {
                self.ui.away = None;
                self.ui.sort.apply(&mut snapshot.running);
                self.ui.settle(&snapshot);
                self.shown = Some(*snapshot);
            }
            News::Away(why) => {
                let since = self.ui.away.take().map_or(jiff::Timestamp::now().as_millisecond(), |(since, _)| since);
                self.ui.away = Some((since, why));
            }
            News::Done(text) => self.ui.message = Some(text),
            News::Why(id, text) => {
                if matches!(&self.ui.mode, Mode::Why(asked, _) if *asked == id) {
                    self.ui.mode = Mode::Why(id, Some(text));
                }
            }
            News::Log(id, news) => {
                let Mode::Log(pane) = &mut self.ui.mode else { return };
                if pane.id != id {
                    return;
                }
                match news {
                    LogNews::Line(line) => pane.push(line),
                    LogNews::Note(note) => pane.note = note,
                }
            }
        }
    }

    /// False: the end.
    fn wish(&mut self, wish: Wish) -> Result<bool, Failure> {
        match wish {
            Wish::Quit => return Ok(false),
            Wish::Refresh => drop(self.poke.send(())),
            Wish::Cancel(id) => self.act(id, "cancel", "cancelled")?,
            Wish::Hold(id) => self.act(id, "hold", "held")?,
            Wish::Release(id) => self.act(id, "release", "released")?,
            Wish::Why(id) => {
                let (client, news) = (self.client.clone(), self.news.clone());
                spawn("why", move || {
                    let text = match client.get::<WhyView>(&format!("/api/v1/jobs/{id}/why")) {
                        Ok(why) if why.reasons.is_empty() => format!("job {id} is {}", why.state),
                        Ok(why) => why.reasons.into_iter().map(|reason| reason.text).collect::<Vec<_>>().join("\n"),
                        Err(error) => error.in_one_line(),
                    };
                    // Nobody may listen any more.
                    let _ = news.send(News::Why(id, text));
                })?;
            }
            Wish::Log(id) => {
                self.close_log();
                let stop = Arc::new(AtomicBool::new(false));
                self.log = Some(stop.clone());
                let tail = Tail { client: self.client.clone(), id, begin: Begin::Latest(Some(LOG_TAIL)), stop };
                let news = self.news.clone();
                spawn("log", move || follow(&tail, &news))?;
            }
            Wish::CloseLog => self.close_log(),
        }
        Ok(true)
    }

    fn close_log(&mut self) {
        if let Some(stop) = self.log.take() {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn act(&self, id: u64, action: &'static str, done: &'static str) -> Result<(), Failure> {
        let (client, news, poke) = (self.client.clone(), self.news.clone(), self.poke.clone());
        spawn(action, move || {
            let body = if action == "hold" { json!({ "reason": "held in top" }) } else { json!({}) };
            let told = client.post::<ActedView>(&format!("/api/v1/jobs/{id}/{action}"), &body);
            let text = match told {
                Ok(acted) if acted.ids.is_empty() => format!("job {id} had finished before"),
                Ok(acted) if !acted.running.is_empty() => {
                    format!("job {id}: {done}, for its next attempt; the one under way goes on")
                }
                Ok(_) => format!("job {id}: {done}"),
                Err(error) => format!("job {id}: {}", error.in_one_line()),
            };
            // Nobody may listen any more.
            let _ = news.send(News::Done(text));
            let _ = poke.send(());
        })
    }
}

/// Follows a log, and makes each line harmless.
fn follow(tail: &Tail, news: &SyncSender<News>) {
    let send = |told| news.send(News::Log(tail.id, told)).is_ok();
    tail.run(&mut |told| match told {
        Told::Attempt(number) => send(LogNews::Note(format!("attempt {number}"))),
        Told::Line(line) => send(LogNews::Line(harmless(&line))),
        Told::Away => send(LogNews::Note("daemon away".to_owned())),
        Told::Back => send(LogNews::Note("daemon back".to_owned())),
        Told::Finished(job) => send(LogNews::Note(format!("finished: {}", super::list::word(&job).replace('_', " ")))),
        Told::Failed(why) => send(LogNews::Note(why)),
    });
}

/// A line without anything that a terminal obeys, colours among it: it is drawn letter by letter.
fn harmless(line: &LineView) -> String {
    let bytes = super::logs::bytes_of(line).unwrap_or_default();
    let mut state = Defuse::default();
    let mut harmless = defuse(&mut state, &bytes);
    harmless.extend(state.finish());
    let text = String::from_utf8_lossy(&harmless);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    // Of all sequences only colours are left.
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    visible(&plain.replace('\n', " ").replace('\t', "    ")).trim_end().to_owned()
}
