//! Prints a log: bytes as they are, defused for a terminal, or lines with times.
//!
//! Counts how far it got in the log itself, so that reading can go on from there.

use super::super::context::Context;
use super::super::fail::Failure;
use super::super::list::unix_ms;
use super::super::look::Look;
use crate::api::LineView;
use crate::style::dim;
use base64::Engine as _;
use ci_runner_spawner::joblog::{Defuse, defuse};
use std::io::Write;

/// A line of the daemon's answer may have so many bytes; a longer log line comes in pieces.
const HALF_LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a log is printed.
pub struct Printer {
    look: Look,
    form: Form,
    /// Defuse what is printed.
    defuse: Option<Defuse>,
    /// Lines of the answer that are not whole.
    half: Vec<u8>,
    /// The last byte printed was a line end, or none was printed.
    at_line_start: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bytes,
    Times,
    Json,
}

impl Printer {
    /// For standard output.
    pub fn new(context: &Context<'_>, times: bool, raw: bool) -> Printer {
        let look = context.look();
        let form = match (context.is_json(), times) {
            (true, _) => Form::Json,
            (false, true) => Form::Times,
            (false, false) => Form::Bytes,
        };
        let defuse = (look.is_terminal() && !raw && form != Form::Json).then(Defuse::default);
        Printer { look, form, defuse, half: Vec::new(), at_line_start: true }
    }

    /// Whether the daemon is to send lines with times.
    pub fn wants_lines(&self) -> bool {
        self.form != Form::Bytes
    }

    /// Whether this is a terminal that is protected.
    pub fn is_defusing(&self) -> bool {
        self.defuse.is_some()
    }

    /// Prints a piece of the answer that begins at `offset` of the log (for bytes) and says where the log stands after it.
    ///
    /// # Errors
    /// Standard output is closed or full, or the daemon sent nonsense.
    pub fn take(&mut self, piece: &[u8], offset: u64) -> Result<u64, Failure> {
        if self.form == Form::Bytes {
            self.print(piece)?;
            return Ok(offset + piece.len() as u64);
        }
        self.half.extend_from_slice(piece);
        if self.half.len() > HALF_LINE_BYTES_MAX {
            return Err(Failure::Error("the daemon sent a line of the log without end".to_owned()));
        }
        let mut offset = offset;
        let Some(end) = self.half.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(offset);
        };
        let rest = self.half.split_off(end + 1);
        let whole = std::mem::replace(&mut self.half, rest);
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            offset = self.line(line)?;
        }
        Ok(offset)
    }

    fn line(&mut self, json: &[u8]) -> Result<u64, Failure> {
        let line: LineView = serde_json::from_slice(json).map_err(|error| garbled(&error))?;
        let mut bytes = bytes_of(&line)?;
        if !line.unfinished {
            bytes.push(b'\n');
        }
        if self.form == Form::Json {
            self.write(json)?;
            self.write(b"\n")?;
            return Ok(line.next);
        }
        // After a restart of the daemon a line may come in two parts.
        if !line.continues || self.at_line_start {
            let time = format!("{:23} ", time_of(&line, &self.look));
            let time = self.look.paint(dim(), &time);
            self.write(time.as_bytes())?;
        }
        self.print(&bytes)?;
        Ok(line.next)
    }

    /// The answer broke off: the rest of a line that is not whole comes again.
    pub fn forget_half_line(&mut self) {
        self.half.clear();
    }

    /// A remark between two attempts: on a terminal in its place, in a pipe on standard error, so that the pipe has
    /// nothing but the job's bytes.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn between(&mut self, text: &str) -> Result<(), Failure> {
        if !self.look.is_terminal() {
            let _ = writeln!(std::io::stderr(), "{text}");
            return Ok(());
        }
        self.settle()?;
        let line = format!("{}\n", self.look.paint(dim(), text));
        self.write(line.as_bytes())
    }

    /// The log is at its end.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.settle()
    }

    /// On a terminal: own colours and the start of a line.
    fn settle(&mut self) -> Result<(), Failure> {
        if let Some(defuse) = &mut self.defuse {
            let rest = defuse.finish();
            self.write(&rest)?;
            if !self.at_line_start {
                self.write(b"\n")?;
            }
        }
        self.at_line_start = true;
        Ok(())
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        match &mut self.defuse {
            Some(state) => {
                let harmless = defuse(state, bytes);
                self.write(&harmless)
            }
            None => self.write(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        write_out(bytes)
    }
}

fn garbled(error: &dyn std::fmt::Display) -> Failure {
    Failure::Error(format!("a line of the log is not understood: {error}"))
}

/// What the job wrote.
///
/// # Errors
/// The daemon sent nonsense.
pub fn bytes_of(line: &LineView) -> Result<Vec<u8>, Failure> {
    match (&line.text, &line.base64) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| garbled(&error)),
        (None, None) => Ok(Vec::new()),
    }
}

/// When it was written, in the reader's time zone.
pub fn time_of(line: &LineView, look: &Look) -> String {
    let at = unix_ms(&line.at).and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.to_zoned(look.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()).unwrap_or_default()
}

/// Writes to standard output, at once.
///
/// # Errors
/// It is closed or full.
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
