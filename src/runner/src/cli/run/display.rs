//! What `run` shows: the jobs' output, and on a terminal a line for each that runs.
//!
//! Output goes to standard output, everything of ours to standard error. One job in a pipe: its bytes, unchanged. Several:
//! whole lines, each behind its job's name. On a terminal all output is defused.

use super::super::context::{Context, is_drawable, print};
use super::super::fail::Failure;
use super::super::list::seconds;
use super::super::look::Look;
use super::{Event, JobResult};
use crate::api::JobRequest;
use crate::quantity::{exact_size, show_size};
use crate::style::{Output, clip, dim, state_style, visible, width};
use ci_runner_core::job::Command;
use ci_runner_spawner::joblog::{Defuse, defuse};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Write};

/// A name before lines of output is cut to this.
const NAME_WIDTH_MAX: usize = 24;
/// A line without end is shown in pieces of this size.
const LINE_BYTES_MAX: usize = 64 * 1024;

struct Shown {
    name: String,
    half: Vec<u8>,
    defuse: Defuse,
    bar: Option<ProgressBar>,
    result: Option<JobResult>,
}

/// The display.
pub struct Display {
    /// Standard output.
    look: Look,
    /// Standard error.
    own: Output,
    jobs: Vec<Shown>,
    name_width: usize,
    /// Lines of ours are wanted.
    talks: bool,
    json: bool,
    live: Option<MultiProgress>,
    total: Option<ProgressBar>,
}

impl Display {
    /// For these jobs.
    pub fn new(context: &Context<'_>, requests: &[JobRequest]) -> Display {
        let look = context.look();
        // Lines of ours go to standard error, whatever standard output is.
        let colour = context.globals.color.on(std::io::stderr().is_terminal());
        let own = Output::Terminal { columns: usize::MAX, colour };
        let jobs: Vec<Shown> = requests
            .iter()
            .map(|request| Shown {
                name: clip(&visible(&name(request)), NAME_WIDTH_MAX).into_owned(),
                half: Vec::new(),
                defuse: Defuse::default(),
                bar: None,
                result: None,
            })
            .collect();
        let talks = !context.globals.quiet;
        let live = (talks && std::io::stderr().is_terminal() && is_drawable())
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let total = live.as_ref().filter(|_| jobs.len() > 1).map(|live| {
            let bar = live.add(ProgressBar::new(jobs.len() as u64));
            bar.set_style(style("{bar:24} {pos}/{len} finished · {elapsed}"));
            bar
        });
        let name_width = jobs.iter().map(|job| width(&job.name)).max().unwrap_or(0);
        Display { look, own, jobs, name_width, talks, json: context.is_json(), live, total }
    }

    /// Whether it is drawn anew from time to time.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Draws times and spinners anew.
    pub fn tick(&self) {
        for bar in self.jobs.iter().filter_map(|job| job.bar.as_ref()).chain(&self.total) {
            bar.tick();
        }
    }

    /// Whether every job succeeded.
    pub fn all_succeeded(&self) -> bool {
        self.jobs.iter().all(|job| job.result.as_ref().is_some_and(|result| result.outcome == "succeeded"))
    }

    /// Whether standard output has all that they wrote.
    pub fn is_complete(&self) -> bool {
        self.jobs.iter().all(|job| job.result.as_ref().is_none_or(|result| result.log_dropped_bytes == 0))
    }

    /// Shows an event.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn show(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Waiting { index, text } => self.about(index, "queued", &text),
            Event::Started { index, attempt, .. } => self.started(index, attempt),
            Event::Output { index, bytes } => self.output(index, &bytes)?,
            Event::Retrying { index, cause, delay } => {
                self.end_of_attempt(index)?;
                let text = format!("{}; next try in {}", visible(&cause), seconds(delay.as_secs_f64()));
                self.about(index, "retrying", &text);
            }
            Event::Finished { index, result } => self.finished(index, result)?,
        }
        Ok(())
    }

    fn started(&mut self, index: usize, attempt: u32) {
        let Some(job) = self.jobs.get_mut(index) else { return };
        if let Some(live) = &self.live {
            let bar = match &self.total {
                Some(total) => live.insert_before(total, ProgressBar::new_spinner()),
                None => live.add(ProgressBar::new_spinner()),
            };
            bar.set_style(style("{spinner} {prefix} {elapsed} {msg}"));
            bar.set_prefix(job.name.clone());
            if attempt > 1 {
                bar.set_message(format!("attempt {attempt}"));
            }
            job.bar = Some(bar);
        }
    }

    fn output(&mut self, index: usize, bytes: &[u8]) -> Result<(), Failure> {
        let several = self.jobs.len() > 1;
        let Some(job) = self.jobs.get_mut(index) else { return Ok(()) };
        let terminal = self.look.is_terminal();
        // Beside live bars only whole lines can be written: the bars stand on lines of their own.
        if !several && self.live.is_none() {
            let harmless = if terminal { defuse(&mut job.defuse, bytes) } else { bytes.to_vec() };
            return self.write(&harmless);
        }
        job.half.extend_from_slice(bytes);
        let end = match job.half.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if job.half.len() > LINE_BYTES_MAX => job.half.len(),
            None => return Ok(()),
        };
        let rest = job.half.split_off(end);
        let whole = std::mem::replace(&mut job.half, rest);
        self.lines(index, &whole)
    }

    fn lines(&mut self, index: usize, whole: &[u8]) -> Result<(), Failure> {
        let several = self.jobs.len() > 1;
        let prefix = self.prefix(index);
        let terminal = self.look.is_terminal();
        let Some(job) = self.jobs.get_mut(index) else { return Ok(()) };
        let mut out = Vec::new();
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            if several {
                out.extend_from_slice(prefix.as_bytes());
            }
            match terminal {
                true => out.extend(defuse(&mut job.defuse, line)),
                false => out.extend_from_slice(line),
            }
            if !line.ends_with(b"\n") {
                out.push(b'\n');
            }
        }
        self.write(&out)
    }

    fn prefix(&self, index: usize) -> String {
        let name = self.jobs.get(index).map_or("", |job| job.name.as_str());
        let blanks = " ".repeat(self.name_width.saturating_sub(width(name)));
        self.look.paint(dim(), &format!("{name}{blanks} │ "))
    }

    /// Writes output of a job, above the bars if there are any. With JSON, standard output is for the results alone.
    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let write = || {
            if self.json {
                return std::io::stderr().write_all(bytes);
            }
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        };
        match &self.live {
            Some(live) => live.suspend(write)?,
            None => write()?,
        }
        Ok(())
    }

    /// Half a line that will never be whole, and the terminal's own colours.
    fn end_of_attempt(&mut self, index: usize) -> Result<(), Failure> {
        let Some(job) = self.jobs.get_mut(index) else { return Ok(()) };
        let half = std::mem::take(&mut job.half);
        if let Some(bar) = job.bar.take() {
            bar.finish_and_clear();
        }
        if !half.is_empty() {
            self.lines(index, &half)?;
        }
        let Some(job) = self.jobs.get_mut(index) else { return Ok(()) };
        let reset = job.defuse.finish();
        match self.look.is_terminal() && !reset.is_empty() {
            true => self.write(&reset),
            false => Ok(()),
        }
    }

    fn finished(&mut self, index: usize, result: JobResult) -> Result<(), Failure> {
        self.end_of_attempt(index)?;
        let mut text = result.run_seconds.map(seconds).unwrap_or_default();
        match (&result.cause, result.exit_code) {
            _ if result.outcome == "succeeded" => {}
            (Some(cause), _) => text.push_str(&format!(" {}", visible(cause))),
            (None, Some(code)) => text.push_str(&format!(" exit {code}")),
            (None, None) => {}
        }
        if result.attempt_count > 1 {
            text.push_str(&format!(" after {} attempts", result.attempt_count));
        }
        self.about(index, &result.outcome.clone(), text.trim());
        if result.log_dropped_bytes > 0 {
            // Whoever reads our output takes it for the job's, so this is said even to `-q`.
            let name = self.jobs.get(index).map_or("", |job| job.name.as_str());
            let (dropped, cap) = (exact_size(result.log_dropped_bytes), show_size(result.log_max));
            self.say(&format!("{name}: {dropped} of its output beyond {cap} were dropped; --log-max SIZE raises that"));
        }
        if let Some(job) = self.jobs.get_mut(index) {
            job.result = Some(result);
        }
        if let Some(total) = &self.total {
            total.inc(1);
        }
        Ok(())
    }

    /// A line of ours about a job.
    fn about(&self, index: usize, word: &str, text: &str) {
        let name = self.jobs.get(index).map_or("", |job| job.name.as_str());
        let word = self.own.paint(state_style(word), &word.replace('_', " "));
        self.remark(&format!("{name}: {word} {text}"));
    }

    /// A line of ours.
    pub fn remark(&self, text: &str) {
        if self.talks {
            self.say(text);
        }
    }

    /// A line that nobody may miss.
    fn say(&self, text: &str) {
        // Nobody may listen on standard error; the jobs go on all the same.
        let write = || drop(writeln!(std::io::stderr(), "{text}"));
        match &self.live {
            Some(live) => live.suspend(write),
            None => write(),
        }
    }

    /// All is over: takes the bars away; with JSON prints the results.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn finish(&mut self, context: &Context<'_>) -> Result<(), Failure> {
        if let Some(total) = self.total.take() {
            total.finish_and_clear();
        }
        if self.json {
            let results: Vec<_> =
                self.jobs.iter().map(|job| json!({ "name": job.name, "result": job.result })).collect();
            context.print_json(&results)?;
        } else if self.jobs.len() > 1 {
            let succeeded =
                self.jobs.iter().filter(|job| job.result.as_ref().is_some_and(|it| it.outcome == "succeeded"));
            let (succeeded, all) = (succeeded.count(), self.jobs.len());
            let word = if succeeded == all { "succeeded" } else { "failed" };
            self.remark(&self.own.paint(state_style(word), &format!("{succeeded} of {all} succeeded")));
        }
        print("")?;
        Ok(())
    }
}

fn name(request: &JobRequest) -> String {
    let command = match (&request.name, &request.command, &request.shell) {
        (Some(name), ..) => return name.clone(),
        (None, Some(words), _) => Command::Argv(words.clone()),
        (None, None, shell) => Command::Shell(shell.clone().unwrap_or_default()),
    };
    command.summary(NAME_WIDTH_MAX * 4)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
