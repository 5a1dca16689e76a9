//! Lines of a log as objects.

use base64::Engine as _;
use ci_runner_spawner::joblog::{Line, LogReader, Partial};
use serde::{Deserialize, Serialize};
use std::io;
use utoipa::ToSchema;

use crate::quantity::rfc3339_utc;

/// A line, or a part of a very long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineView {
    /// Where in the log it begins, bytes.
    pub offset: u64,
    /// Where the next one begins: the cursor to go on.
    pub next: u64,
    /// When its first byte was written.
    pub at: String,
    /// The line without its newline, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// True for bytes that go on with the line before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// True where no newline follows: more of the line comes, or the log ends here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

fn view_of(line: Line<'_>) -> LineView {
    let (text, base64) = match std::str::from_utf8(line.bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(base64::engine::general_purpose::STANDARD.encode(line.bytes))),
    };
    LineView {
        offset: line.offset,
        next: line.offset + line.bytes.len() as u64 + u64::from(line.terminated),
        at: rfc3339_utc(line.wall_ms),
        text,
        base64,
        continues: !line.begins,
        unfinished: !line.terminated,
    }
}

/// The next lines, about `bytes` of them, up to offset `end`, as newline-delimited JSON.
pub(super) fn push_lines(reader: &mut LogReader, partial: Partial, end: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    while output.len() < bytes && reader.offset() < end {
        let Some(line) = reader.next_line(partial)? else { break };
        serde_json::to_writer(&mut output, &view_of(line))?;
        output.push(b'\n');
    }
    Ok(output)
}
