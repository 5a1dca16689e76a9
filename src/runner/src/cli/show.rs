//! `show`: everything about a job, for people in sections.

use super::client::ClientError;
use super::context::{Context, print};
use super::fail::Ended;
use super::list::{seconds, unix_ms, word};
use super::look::Look;
use super::receipt;
use super::watch::job;
use crate::api::{AttemptView, JobView};
use crate::quantity::{show_local, show_relative, show_size};
use crate::style::{Output, dim, heading, state_style, visible, width};
use crate::table::{Cell, Column, Table};
use clap::Args;

/// Arguments of `show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Jobs
    #[arg(required = true, value_name = "ID", value_parser = super::job_options::job_id)]
    ids: Vec<u64>,
}

/// Shows jobs.
pub fn show(context: &Context<'_>, args: ShowArgs) -> Ended {
    let jobs = args.ids.iter().map(|id| job(&context.client, *id)).collect::<Result<Vec<JobView>, ClientError>>()?;
    if context.is_json() {
        return match jobs.as_slice() {
            [one] => context.print_json(one),
            many => context.print_json(&many),
        };
    }
    let look = context.look();
    let text = jobs.iter().map(|job| page(job, &look)).collect::<Vec<_>>().join("\n");
    print(&text)
}

/// One job on one line, for `wait`: `7  succeeded  4.2s  make test`.
pub fn outcome_line(job: &JobView, look: &Look) -> String {
    let word = word(job);
    let mut parts = vec![job.id.to_string(), look.paint(state_style(word), word)];
    parts.push(job.run_seconds.map(seconds).unwrap_or_else(|| "-".to_owned()));
    parts.push(visible(job.name.as_deref().unwrap_or(&job.summary)).into_owned());
    if word != "succeeded"
        && let Some(cause) = &job.cause
    {
        parts.push(format!("({})", visible(cause)));
    }
    parts.join(if look.is_terminal() { "  " } else { "\t" })
}

/// A job on a page.
pub fn page(job: &JobView, look: &Look) -> String {
    let mut page = Page { look, text: String::new() };
    let word = word(job);
    let title = match &job.name {
        Some(name) => format!("Job {} · {}", job.id, visible(name)),
        None => format!("Job {}", job.id),
    };
    let shown = look.paint(state_style(word), &word.replace('_', " "));
    page.line(&format!("{}  {shown}", look.paint(heading(), &title)));
    if let Some(cause) = &job.cause {
        page.field("cause", cause);
    }
    if let Some(reason) = &job.reason {
        page.field("why", reason);
    }
    page.section("Work");
    match (&job.command, &job.shell) {
        (Some(words), _) => page.field("command", &words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
        (None, Some(shell)) => page.block("shell", shell),
        (None, None) => page.field("command", &job.summary),
    }
    page.optional("dir", job.dir.as_deref());
    page.list("env", &job.env_names);
    page.optional("timeout", job.timeout_seconds.map(seconds).as_deref());
    page.optional("soft timeout", job.soft_timeout_seconds.map(seconds).as_deref());
    page.optional("limits", receipt::limits(job).as_deref());
    page.section("Place");
    page.optional("pool", job.pool.as_deref());
    page.optional("profile", job.profile.as_deref());
    page.list("labels", &job.labels);
    if let Some(group) = &job.group {
        let limit = group.limit.map(|limit| format!(" (limit {limit})")).unwrap_or_default();
        page.field("group", &format!("{}{limit}", group.name));
    }
    if !job.after.is_empty() {
        let after = |part: &crate::api::AfterParts| format!("{}:{}", part.id, part.on.as_deref().unwrap_or("success"));
        page.field("after", &job.after.iter().map(after).collect::<Vec<_>>().join(" "));
    }
    page.field("priority", &job.priority.to_string());
    page.field("retries", &job.retry.to_string());
    page.optional("held by", job.held_by.as_deref());
    page.section("Times");
    page.time("submitted", Some(&job.submitted_at), &format!(" by {}", job.submitter));
    page.time("started", job.started_at.as_deref(), &format!(", {} in the queue", seconds(job.queue_seconds)));
    page.time("finished", job.finished_at.as_deref(), "");
    page.field("correlation", &job.correlation);
    if let Some(attempts) = job.attempts.as_deref().filter(|attempts| !attempts.is_empty()) {
        page.section("Attempts");
        page.text.push_str(&attempts_table(attempts, look));
        let receipts: Vec<String> = attempts.iter().filter_map(receipt::receipt).collect();
        for (index, text) in receipts.iter().enumerate() {
            page.field(if index == 0 { "used" } else { "" }, text);
        }
        let degraded: Vec<String> = attempts.iter().filter_map(receipt::degraded).collect();
        for (index, text) in degraded.iter().enumerate() {
            page.field(if index == 0 { "sandbox" } else { "" }, text);
        }
    }
    page.text
}

fn attempts_table(attempts: &[AttemptView], look: &Look) -> String {
    let mut table = Table::new([
        Column::right("#"),
        Column::left("RESULT").shrinks_to(12),
        Column::left("PLACE").importance(2),
        Column::left("STARTED").importance(1),
        Column::right("TIME"),
        Column::right("CPU").importance(4),
        Column::right("MEMORY").importance(5),
        Column::right("LOG").importance(3),
    ]);
    attempts.iter().for_each(|attempt| table.push(attempt_row(attempt, look)));
    // A page is for people also in a pipe: programs take --output json.
    let output = match look.output {
        Output::Plain => Output::Terminal { columns: usize::MAX, colour: false },
        terminal => terminal,
    };
    table.render(output)
}

fn attempt_row(attempt: &AttemptView, look: &Look) -> [Cell; 8] {
    // Claimed, and not begun, is not running.
    let open = if attempt.started_at.is_some() { "running" } else { "starting" };
    let result = attempt.result.as_deref().unwrap_or(open);
    let mut text = match (result, attempt.exit_code, attempt.signal) {
        ("exited", Some(code), _) => format!("exit {code}"),
        ("signaled", _, Some(signal)) => format!("signal {signal}"),
        (word, ..) => word.replace('_', " "),
    };
    // Code and signal say it already.
    let told = matches!(result, "exited" | "signaled");
    if let Some(cause) = attempt.cause.as_deref().filter(|cause| !cause.is_empty() && !told) {
        // Some causes begin with the result.
        text = if cause.starts_with(&text) { cause.to_owned() } else { format!("{text}: {cause}") };
    }
    if let Some(count @ 1..) = attempt.leftover_processes {
        text.push_str(&format!("; {count} processes left behind were killed"));
    }
    let style = match (result, attempt.exit_code) {
        ("exited", Some(0)) => state_style("succeeded"),
        ("running" | "starting", _) => state_style("running"),
        ("released", _) => dim(),
        _ => state_style("failed"),
    };
    let cpu = attempt.cpu_user_seconds.zip(attempt.cpu_system_seconds).map(|(user, system)| seconds(user + system));
    let mut log = attempt.log_bytes.map(show_size).unwrap_or_default();
    if attempt.log_dropped_bytes.is_some_and(|bytes| bytes > 0) {
        log.push_str(if attempt.log_bytes == Some(0) { " (lost)" } else { " (truncated)" });
    }
    [
        attempt.number.to_string().into(),
        Cell::styled(text, style),
        Cell::styled(format!("{}/{}", attempt.pool, attempt.slot), dim()),
        Cell::styled(attempt.started_at.as_deref().map(|at| local(at, look)).unwrap_or_default(), dim()),
        attempt.run_seconds.map(seconds).unwrap_or_default().into(),
        cpu.unwrap_or_default().into(),
        attempt.peak_memory_bytes.map(show_size).unwrap_or_default().into(),
        log.into(),
    ]
}

/// A word as a shell would want it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%^".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A time of the API in the reader's zone.
pub fn local(text: &str, look: &Look) -> String {
    unix_ms(text).map_or_else(|| text.to_owned(), |at| show_local(at, &look.zone))
}

struct Page<'a> {
    look: &'a Look,
    text: String,
}

/// Names of fields are as wide as the longest.
const NAME_WIDTH: usize = 13;

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.line("");
        self.line(&self.look.paint(heading(), title));
    }

    /// A name and a value; long values go on under themselves, broken at blanks.
    fn field(&mut self, name: &str, value: &str) {
        let room = self.look.columns().map_or(usize::MAX, |columns| columns.saturating_sub(NAME_WIDTH + 2).max(20));
        for (index, line) in wrapped(&visible(value), room).iter().enumerate() {
            let name = self.look.paint(dim(), &format!("{:<NAME_WIDTH$}", if index == 0 { name } else { "" }));
            self.line(&format!("  {name}{line}"));
        }
    }

    fn block(&mut self, name: &str, value: &str) {
        for (index, line) in value.lines().enumerate() {
            self.field(if index == 0 { name } else { "" }, line);
        }
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    fn list(&mut self, name: &str, words: &[String]) {
        if !words.is_empty() {
            self.field(name, &words.join(" "));
        }
    }

    fn time(&mut self, name: &str, value: Option<&str>, rest: &str) {
        if let Some(value) = value {
            let ago =
                unix_ms(value).map(|at| format!(" ({})", show_relative(at, self.look.now_ms))).unwrap_or_default();
            self.field(name, &format!("{}{ago}{rest}", local(value, self.look)));
        }
    }
}

/// Lines of at most `room`, broken at blanks; longer words stay whole.
pub fn wrapped(text: &str, room: usize) -> Vec<String> {
    // Colours are no part of the length.
    let width = |text: &str| width(&anstream::adapter::strip_str(text).to_string());
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if width(line) + 1 + width(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
