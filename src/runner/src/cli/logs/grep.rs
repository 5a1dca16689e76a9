//! `logs --grep`: lines of many logs that match a pattern.
//!
//! The daemon searches and sends what it finds as it finds it; here it is printed. An answer that is not whole is an error,
//! whatever was printed before.

use super::super::client::{Client, with_query};
use super::super::context::Context;
use super::super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure};
use super::super::list::range;
use super::super::look::Look;
use super::LogsArgs;
use super::printer::{bytes_of, time_of, write_out};
use crate::api::{FoundView, SearchLine, Searched};
use crate::style::{dim, heading, visible};
use ci_runner_spawner::joblog::{Defuse, defuse};
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;

/// A line of the answer has a part of a line of the log, of 64 KiB at most.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Searches, and prints what is found.
pub(super) fn grep(context: &Context<'_>, args: &LogsArgs, pattern: &str) -> Ended {
    let query = with_query("/api/v1/logs", &pairs(args, pattern)?);
    let look = context.look();
    let mut print = |json: &[u8], found: FoundView| {
        if context.is_json() {
            write_out(&[json, b"\n"].concat())
        } else {
            write_out(&line(&found, args.times, &look)?)
        }
    };
    let searched = read(&context.client, &query, &mut print)?;
    tell(context, searched, args.pattern.limit.is_some());
    Ok(if searched.lines > 0 { EXIT_DONE } else { ExitCode::from(EXIT_ERROR) })
}

fn pairs(args: &LogsArgs, pattern: &str) -> Result<Vec<(&'static str, String)>, Failure> {
    let chosen = &args.pattern;
    let mut pairs = vec![("grep", pattern.to_owned())];
    for (name, set) in [("fixed", chosen.fixed), ("ignore_case", chosen.ignore_case)] {
        pairs.extend(set.then(|| (name, "true".to_owned())));
    }
    let list = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
    let ids: Vec<String> = args.ids.iter().map(u64::to_string).collect();
    for (name, value) in [
        ("job", list(&ids)),
        ("name", chosen.name.clone()),
        ("pool", chosen.pool.clone()),
        ("outcome", list(&chosen.outcome)),
        ("limit", chosen.limit.map(|limit| limit.to_string())),
    ] {
        pairs.extend(value.map(|value| (name, value)));
    }
    let (since, until) = range(args.since.as_deref(), chosen.until.as_deref())?;
    pairs.extend(since.map(|since| ("since", since)));
    pairs.extend(until.map(|until| ("until", until)));
    Ok(pairs)
}

/// Gives each line found, as it came and understood, to `each`; returns what was searched.
fn read(
    client: &Client,
    query: &str,
    each: &mut impl FnMut(&[u8], FoundView) -> Result<(), Failure>,
) -> Result<Searched, Failure> {
    let broken = || Failure::Temporary("the search broke off, so this is not all; try again".to_owned());
    let mut body = BufReader::new(client.stream(query)?.body);
    let mut json = Vec::new();
    loop {
        json.clear();
        let read = (&mut body).take(LINE_BYTES_MAX).read_until(b'\n', &mut json);
        if read.is_err() || json.pop() != Some(b'\n') {
            return Err(broken());
        }
        match serde_json::from_slice(&json) {
            Ok(SearchLine::Found(found)) => each(&json, found)?,
            Ok(SearchLine::Searched(end)) => return Ok(end.searched),
            Err(error) => return Err(Failure::Error(format!("the daemon's answer is not understood: {error}"))),
        }
    }
}

/// A line for a person, or cells in a pipe: `JOB.ATTEMPT`, the time if asked for, the bytes.
fn line(found: &FoundView, times: bool, look: &Look) -> Result<Vec<u8>, Failure> {
    let FoundView { job, attempt, name, line } = found;
    let bytes = bytes_of(line)?;
    if !look.is_terminal() {
        let time = if times { format!("{}\t", line.at) } else { String::new() };
        return Ok([format!("{job}.{attempt}\t{time}").as_bytes(), &bytes, b"\n"].concat());
    }
    let mut text = look.paint(heading(), &format!("{job}.{attempt}"));
    if let Some(name) = name {
        text.push_str(&look.paint(dim(), &format!(" {}", visible(name))));
    }
    if times {
        text.push_str(&look.paint(dim(), &format!(" {}", time_of(line, look))));
    }
    text.push_str("  ");
    // Each line by itself: a colour that one leaves on is not the next one's.
    let mut state = Defuse::default();
    let harmless = defuse(&mut state, &bytes);
    Ok([text.as_bytes(), &harmless, &state.finish(), b"\n"].concat())
}

/// What else there is to know, on standard error.
fn tell(context: &Context<'_>, searched: Searched, limited: bool) {
    let Searched { logs, lines, removed, unreadable, more, .. } = searched;
    if lines == 0 {
        context.note(&format!("no line matches (logs searched: {logs}, removed before: {removed})"));
    }
    if unreadable > 0 {
        context.note(&format!("logs that could not be read: {unreadable}"));
    }
    if more && !limited {
        context.note(&format!(
            "these are {lines} lines; there may be more: --limit N, or fewer jobs by --name or --since"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{Look, line};
    use crate::api::{FoundView, LineView};
    use crate::style::Output;
    use jiff::tz::TimeZone;

    fn found(text: &str) -> FoundView {
        let line = LineView {
            offset: 0,
            next: 9,
            at: "2026-11-21T12:00:00.250Z".to_owned(),
            text: Some(text.to_owned()),
            base64: None,
            continues: false,
            unfinished: false,
        };
        FoundView { job: 7, attempt: 2, name: Some("n\x1b]0;x".to_owned()), line }
    }

    fn shown(found: &FoundView, times: bool, output: Output) -> String {
        let look = Look { output, now_ms: 0, zone: TimeZone::UTC };
        String::from_utf8_lossy(&line(found, times, &look).unwrap()).into_owned()
    }

    #[test]
    fn a_pipe_gets_cells_and_the_bytes() {
        let text = "a\x1b[31mred\x1b]0;title\x07";
        assert_eq!(shown(&found(text), false, Output::Plain), format!("7.2\t{text}\n"));
        assert_eq!(shown(&found("b"), true, Output::Plain), "7.2\t2026-11-21T12:00:00.250Z\tb\n");
        let mut bytes = found("");
        (bytes.line.text, bytes.line.base64) = (None, Some("Yv9k".to_owned()));
        let look = Look { output: Output::Plain, now_ms: 0, zone: TimeZone::UTC };
        assert_eq!(line(&bytes, false, &look).unwrap(), b"7.2\tb\xffd\n");
        bytes.line.base64 = Some("!".to_owned());
        assert!(line(&bytes, false, &look).is_err());
    }

    #[test]
    fn a_terminal_obeys_neither_line_nor_name() {
        let screen = Output::Terminal { columns: 80, colour: false };
        let text = shown(&found("a\x1b[31mred\x1b]0;title\x07"), true, screen);
        assert!(text.starts_with("7.2 n") && text.contains(" 2026-11-21 12:00:00.250  a\x1b[31mred"), "{text:?}");
        assert!(!text.contains("\x1b]") && !text.contains("title"), "{text:?}");
        assert!(text.ends_with("\x1b[0m\n"), "{text:?}");
    }
}
