//! How output looks: for whom, the present time and the time zone, all given, so that what is printed is a function of its
//! input.

use super::context::Color;
use crate::style::{Output, visible};
use anstyle::Style;

/// How to print.
#[derive(Clone, Debug)]
pub struct Look {
    /// For a person or a program.
    pub output: Output,
    /// The present time, Unix milliseconds.
    pub now_ms: i64,
    /// The reader's.
    pub zone: jiff::tz::TimeZone,
}

impl Look {
    /// For standard output. Colours that are asked for in a pipe come with the form for people.
    pub fn of_stdout(color: Color) -> Look {
        let output = match (Output::of_stdout(), color) {
            (Output::Terminal { columns, .. }, Color::Always) => Output::Terminal { columns, colour: true },
            (Output::Terminal { columns, .. }, Color::Never) => Output::Terminal { columns, colour: false },
            (Output::Plain, Color::Always) => Output::Terminal { columns: columns_of_pipe(), colour: true },
            (output, _) => output,
        };
        Look { output, now_ms: jiff::Timestamp::now().as_millisecond(), zone: jiff::tz::TimeZone::system() }
    }

    /// Whether a person reads.
    pub fn is_terminal(&self) -> bool {
        matches!(self.output, Output::Terminal { .. })
    }

    /// Columns, where a person reads.
    pub fn columns(&self) -> Option<usize> {
        match self.output {
            Output::Terminal { columns, .. } => Some(columns),
            Output::Plain => None,
        }
    }

    /// A text of ours in a style, where colours are wanted.
    pub fn paint(&self, style: Style, text: &str) -> String {
        self.output.paint(style, text)
    }

    /// A text of somebody else in a style, with nothing in it that a terminal obeys.
    pub fn paint_visible(&self, style: Style, text: &str) -> String {
        self.output.paint(style, &visible(text))
    }
}

/// What a pager behind the pipe has, if it says so.
fn columns_of_pipe() -> usize {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(80)
}
