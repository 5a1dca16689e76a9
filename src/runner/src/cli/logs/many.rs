//! `logs -f` of many jobs at once: every line with the job in front of it.
//!
//! One thread finds jobs ([`super::discover`]), one follows each log ([`super::tail`]), and this one prints: a line is never
//! torn, and a slow reader slows all down instead of filling memory. At most [`FOLLOWS_MAX`] logs are followed at once; a job
//! beyond that waits for a place and is then printed from its beginning.

use super::super::client::Client;
use super::super::context::Context;
use super::super::fail::{EXIT_DONE, Ended, Failure};
use super::super::interrupt::exit_on_ctrl_c;
use super::super::look::Look;
use super::LogsArgs;
use super::discover::{Discovery, Filter, Found};
use super::printer::{bytes_of, time_of, write_out};
use super::tail::{Begin, Tail, Told};
use crate::api::{FoundView, JobView, LineView};
use crate::style::{clip, dim, visible, width};
use anstyle::{AnsiColor, Style};
use ci_runner_spawner::joblog::{Defuse, defuse};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Logs followed at once: each takes a connection and a thread here, and one of the daemon's places for followers.
const FOLLOWS_MAX: usize = 64;
/// Lines on their way to the printer.
const LINES_MAX: usize = 1_024;
/// Written at once, at most.
const PENDING_BYTES: usize = 64 * 1024;
/// A follower's stack: it reads and parses, no more.
const STACK_BYTES: usize = 512 * 1024;
/// A name in front of a line.
const NAME_COLUMNS: usize = 20;
/// Colours that are told apart on dark and on light.
const COLOURS: [AnsiColor; 6] =
    [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Yellow, AnsiColor::Blue, AnsiColor::Red];

enum Event {
    Found(Found),
    Told(u64, Told),
}

/// Follows all that match, until Ctrl-C; those that are named, until the last has finished.
pub(super) fn follow(context: &Context<'_>, args: &LogsArgs) -> Ended {
    if args.raw || args.attempt.is_some() || args.since.is_some() {
        let why = "--raw, --attempt and --since are for one job; of many jobs --tail N chooses what is shown first";
        return Err(Failure::Usage(why.to_owned()));
    }
    let chosen = &args.pattern;
    let filter = Filter {
        name: chosen.name.clone(),
        pool: chosen.pool.clone(),
        label: chosen.label.clone(),
        group: chosen.group.clone(),
        ids: args.ids.clone(),
    };
    let look = context.look();
    exit_on_ctrl_c(look.is_terminal());
    let (sender, events) = sync_channel(LINES_MAX);
    let mut many = Many {
        context,
        client: context.client.clone().verbose(false),
        printer: Prefixed { look, times: args.times, json: context.is_json(), columns: 0, pending: Vec::new() },
        sender: sender.clone(),
        jobs: HashMap::new(),
        known: HashSet::new(),
        waiting: VecDeque::new(),
        open_ended: filter.ids.is_empty(),
        told_full: false,
    };
    many.named(&filter, args.tail)?;
    if !many.open_ended && many.jobs.is_empty() {
        return Ok(EXIT_DONE);
    }
    if many.open_ended {
        let (client, tail) = (context.client.clone().verbose(false), args.tail);
        spawn(move || {
            let mut tell = |found| sender.send(Event::Found(found)).is_ok();
            Discovery { client: &client, filter, tail, tell: &mut tell }.run();
        })?;
    }
    many.run(&events)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name("follow".to_owned()).stack_size(STACK_BYTES).spawn(work);
    spawned.map(drop).map_err(|error| Failure::Error(format!("cannot start a thread: {error}")))
}

struct Many<'a> {
    context: &'a Context<'a>,
    client: Client,
    printer: Prefixed,
    sender: SyncSender<Event>,
    /// Those that are followed now.
    jobs: HashMap<u64, Source>,
    /// Those that were found ever.
    known: HashSet<u64>,
    waiting: VecDeque<Box<JobView>>,
    /// More may be found: no job was named.
    open_ended: bool,
    told_full: bool,
}

/// A job that is followed.
struct Source {
    name: Option<String>,
    attempt: u32,
}

impl Many<'_> {
    /// Jobs that were named on the command line: each must be there.
    fn named(&mut self, filter: &Filter, tail: Option<u64>) -> Result<(), Failure> {
        for id in &filter.ids {
            let view = super::super::watch::job(&self.client, *id)?;
            let other = Filter { ids: Vec::new(), ..filter.clone() };
            if other.matches(&view) {
                let begin = if view.attempt_count > 0 { Begin::Latest(tail) } else { Begin::First };
                self.found(Box::new(view), begin)?;
            }
        }
        Ok(())
    }

    fn run(mut self, events: &Receiver<Event>) -> Ended {
        loop {
            let event = match events.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) => {
                    self.printer.flush()?;
                    let Ok(event) = events.recv() else { return Ok(EXIT_DONE) };
                    event
                }
                Err(TryRecvError::Disconnected) => return Ok(EXIT_DONE),
            };
            match event {
                Event::Found(Found::Job(job, begin)) => self.found(job, begin)?,
                Event::Found(Found::Away) => self.context.note("the daemon is away; waiting for it to come back"),
                Event::Found(Found::Back) => self.context.note("the daemon is back"),
                Event::Found(Found::Failed(error)) => return Err(error.into()),
                Event::Told(id, told) => {
                    if self.told(id, told)? {
                        self.printer.flush()?;
                        return Ok(EXIT_DONE);
                    }
                }
            }
        }
    }

    fn found(&mut self, job: Box<JobView>, begin: Begin) -> Result<(), Failure> {
        if !self.known.insert(job.id) {
            return Ok(());
        }
        if self.jobs.len() < FOLLOWS_MAX {
            return self.start(*job, begin);
        }
        self.waiting.push_back(job);
        if !self.told_full {
            self.told_full = true;
            self.context.note(&format!(
                "{FOLLOWS_MAX} logs are followed, the most at once: further jobs wait until one has finished, and are then \
                 printed from their beginning"
            ));
        }
        Ok(())
    }

    fn start(&mut self, job: JobView, begin: Begin) -> Result<(), Failure> {
        let id = job.id;
        self.jobs.insert(id, Source { name: job.name, attempt: 0 });
        let tail = Tail { client: self.client.clone(), id, begin, stop: Arc::new(AtomicBool::new(false)) };
        let sender = self.sender.clone();
        spawn(move || tail.run(&mut |told| sender.send(Event::Told(id, told)).is_ok()))
    }

    /// True: nothing more can come.
    fn told(&mut self, id: u64, told: Told) -> Result<bool, Failure> {
        match told {
            Told::Attempt(number) => {
                if let Some(source) = self.jobs.get_mut(&id) {
                    source.attempt = number;
                }
                return Ok(false);
            }
            Told::Line(line) => {
                if let Some(source) = self.jobs.get(&id) {
                    self.printer.print(id, source, line)?;
                }
                return Ok(false);
            }
            // Who finds jobs says so, once for all.
            Told::Away | Told::Back => return Ok(false),
            Told::Finished(job) => self.printer.finished(self.context, &job)?,
            Told::Failed(why) => self.context.note(&format!("job {id}: {}", visible(&why))),
        }
        self.jobs.remove(&id);
        if let Some(job) = self.waiting.pop_front() {
            self.start(*job, Begin::First)?;
        }
        Ok(!self.open_ended && self.jobs.is_empty())
    }
}

/// Prints lines with their job in front.
struct Prefixed {
    look: Look,
    times: bool,
    json: bool,
    /// Columns of the widest prefix so far.
    columns: usize,
    /// What is written at once, when it is enough or nothing more comes.
    pending: Vec<u8>,
}

impl Prefixed {
    fn print(&mut self, id: u64, source: &Source, line: LineView) -> Result<(), Failure> {
        let bytes = self.bytes(id, source, line)?;
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() >= PENDING_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        write_out(&std::mem::take(&mut self.pending))
    }

    /// The line as it is written.
    fn bytes(&mut self, id: u64, source: &Source, line: LineView) -> Result<Vec<u8>, Failure> {
        let Source { name, attempt } = source;
        if self.json {
            let found = FoundView { job: id, attempt: *attempt, name: name.clone(), line };
            let json = serde_json::to_vec(&found);
            let mut json = json.map_err(|error| Failure::Error(format!("cannot write this as JSON: {error}")))?;
            json.push(b'\n');
            return Ok(json);
        }
        let bytes = bytes_of(&line)?;
        if !self.look.is_terminal() {
            let time = if self.times { format!("{}\t", line.at) } else { String::new() };
            return Ok([format!("{id}.{attempt}\t{time}").as_bytes(), &bytes, b"\n"].concat());
        }
        let name = name.as_deref().map(visible).unwrap_or_default();
        let prefix = format!("{id} {}", clip(&name, NAME_COLUMNS));
        let prefix = prefix.trim_end();
        self.columns = self.columns.max(width(prefix));
        let blanks = " ".repeat(self.columns - width(prefix));
        let colour = COLOURS[usize::try_from(id % COLOURS.len() as u64).unwrap_or(0)];
        let mut text = self.look.paint(Style::new().fg_color(Some(colour.into())), &format!("{prefix}{blanks} |"));
        if self.times {
            text.push_str(&self.look.paint(dim(), &format!(" {}", time_of(&line, &self.look))));
        }
        // Each line by itself: a colour that one leaves on is not the next one's.
        let mut state = Defuse::default();
        let harmless = defuse(&mut state, &bytes);
        Ok([text.as_bytes(), b" ", &harmless, &state.finish(), b"\n"].concat())
    }

    /// A job has finished: on a terminal in its place, in a pipe on standard error.
    fn finished(&mut self, context: &Context<'_>, job: &JobView) -> Result<(), Failure> {
        for lost in job.attempts.iter().flatten().filter_map(super::notes::lost) {
            context.note(&format!("job {}, {lost}", job.id));
        }
        let text = format!("job {} {}", job.id, super::super::list::word(job).replace('_', " "));
        if !self.look.is_terminal() || self.json {
            context.note(&text);
            return Ok(());
        }
        let line = format!("{}\n", self.look.paint(dim(), &format!("── {text} ──")));
        self.pending.extend_from_slice(line.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{LineView, Look, Prefixed, Source};
    use crate::style::Output;
    use jiff::tz::TimeZone;

    fn shown(printer: &mut Prefixed, id: u64, name: &str, text: &str) -> String {
        let line = LineView {
            offset: 0,
            next: 9,
            at: "2026-11-21T12:00:00.250Z".to_owned(),
            text: Some(text.to_owned()),
            base64: None,
            continues: false,
            unfinished: false,
        };
        let source = Source { name: Some(name.to_owned()), attempt: 2 };
        String::from_utf8(printer.bytes(id, &source, line).unwrap()).unwrap()
    }

    fn printer(output: Output, times: bool, json: bool) -> Prefixed {
        Prefixed { look: Look { output, now_ms: 0, zone: TimeZone::UTC }, times, json, columns: 0, pending: Vec::new() }
    }

    #[test]
    fn lines_are_aligned_and_harmless_on_a_terminal_and_as_they_are_in_a_pipe() {
        let mut screen = printer(Output::Terminal { columns: 80, colour: false }, false, false);
        assert_eq!(shown(&mut screen, 12, "build\x1b[2J", "a\x1b]0;t\x07b"), "12 build\\u{1b}[2J | ab\n");
        assert_eq!(shown(&mut screen, 7, "b", "x"), "7 b               | x\n");
        let mut pipe = printer(Output::Plain, false, false);
        assert_eq!(shown(&mut pipe, 7, "b", "a\x1b]0;t\x07"), "7.2\ta\x1b]0;t\x07\n");
        let mut times = printer(Output::Plain, true, false);
        assert_eq!(shown(&mut times, 7, "b", "x"), "7.2\t2026-11-21T12:00:00.250Z\tx\n");
        let json = shown(&mut printer(Output::Plain, false, true), 7, "b", "x");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["job"], &json["attempt"], &json["text"]), (&7.into(), &2.into(), &"x".into()));
    }
}
