//! Lines of a log as objects.

use base64::Engine as _;
use ci_runner_spawner::joblog::{Line, LogReader, Partial};
use std::io;

use crate::api::LineView;
use crate::quantity::rfc3339_utc;

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

/// The next line, or the next part of a very long one, and when it was written, Unix milliseconds.
pub(in crate::http::api) fn next_line_view(
    reader: &mut LogReader,
    partial: Partial,
) -> io::Result<Option<(LineView, i64)>> {
    Ok(reader.next_line(partial)?.map(|line| (view_of(line), line.wall_ms)))
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
