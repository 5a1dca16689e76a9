//! How output looks: what the standard output is, colours of states, the width of text.
//!
//! Whatever came from a job or a user (names, messages) goes through [`visible`] before it reaches a terminal:
//! control characters and invisible direction marks are shown instead of obeyed.

use std::borrow::Cow;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Width where a terminal does not tell its own.
const COLUMNS_FALLBACK: usize = 80;

/// Who reads the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// A person.
    Terminal {
        /// Columns.
        columns: usize,
        /// Whether colours are wanted.
        colour: bool,
    },
    /// A program: no colours, no header, nothing cut.
    Plain,
}

impl Output {
    /// What the standard output of this process is. `NO_COLOR` (not empty) and `TERM=dumb` turn colours off.
    pub fn of_stdout() -> Output {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Output::Plain;
        }
        let told = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        Output::terminal(told, |name| std::env::var(name).ok())
    }

    fn terminal(told: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> Output {
        let columns = told.filter(|columns| *columns > 0);
        let columns = columns.or_else(|| variable("COLUMNS")?.parse().ok()).unwrap_or(COLUMNS_FALLBACK);
        let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|term| term == "dumb");
        Output::Terminal { columns, colour: !refused && !dumb }
    }

    /// The text with the style around it, where colours are wanted.
    pub fn paint(self, style: Style, text: &str) -> String {
        match self {
            Output::Terminal { colour: true, .. } if style != Style::new() && !text.is_empty() => {
                format!("{style}{text}{style:#}")
            }
            _ => text.to_owned(),
        }
    }
}

/// The style of a state or outcome as interfaces name it (`running`, `succeeded`, …); plain for other words.
pub fn state_style(word: &str) -> Style {
    let coloured = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match word {
        "succeeded" => coloured(AnsiColor::Green),
        "failed" | "timed_out" | "lost" | "oom_killed" | "failed_to_start" => coloured(AnsiColor::Red),
        "running" | "starting" => coloured(AnsiColor::Cyan),
        "stopping" | "held" | "paused" | "flaky" => coloured(AnsiColor::Yellow),
        "cancelled" | "superseded" | "expired" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// The style of headings.
pub fn heading() -> Style {
    Style::new().bold()
}

/// The style of what matters less.
pub fn dim() -> Style {
    Style::new().dimmed()
}

/// The text in one line with everything that a terminal would obey made visible: `\u{1b}`, `\n`. Tabs become
/// blanks. Letters of every script stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\t' => shown.push(' '),
            c if is_obeyed(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Control characters, and marks that turn the direction of text around (what is read is not what it says).
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of a text in at most `columns`, with `…` where something is left out.
pub fn clip(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let Some(room) = columns.checked_sub(1) else { return Cow::Borrowed("") };
    let mut end = 0;
    let mut taken = 0;
    for (index, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > room {
            break;
        }
        end = index + c.len_utf8();
    }
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_terminal_is_asked_before_the_environment() {
        let output = |told, pairs: &[(&str, &str)]| {
            Output::terminal(told, |name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
            })
        };
        let term = ("TERM", "xterm");
        let terminal = |columns, colour| Output::Terminal { columns, colour };
        assert_eq!(output(Some(120), &[term, ("COLUMNS", "40")]), terminal(120, true));
        assert_eq!(output(Some(0), &[term, ("COLUMNS", "40")]), terminal(40, true));
        assert_eq!(output(None, &[term, ("COLUMNS", "x")]), terminal(80, true));
        assert_eq!(output(None, &[term, ("NO_COLOR", "1")]), terminal(80, false));
        assert_eq!(output(None, &[term, ("NO_COLOR", "")]), terminal(80, true));
        assert_eq!(output(None, &[("TERM", "dumb")]), terminal(80, false));
        assert_eq!(output(None, &[]), terminal(80, false));
    }

    #[test]
    fn colours_only_where_wanted() {
        let red = state_style("failed");
        let coloured = Output::Terminal { columns: 80, colour: true };
        assert_eq!(coloured.paint(red, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(coloured.paint(Style::new(), "x"), "x");
        assert_eq!(Output::Terminal { columns: 80, colour: false }.paint(red, "x"), "x");
        assert_eq!(Output::Plain.paint(red, "x"), "x");
    }

    #[test]
    fn nothing_is_obeyed() {
        assert_eq!(visible("a\u{1b}[2Jb\nc\td\u{202e}e\u{9b}"), "a\\u{1b}[2Jb\\nc d\\u{202e}e\\u{9b}");
        assert_eq!(visible("größe 漢字 🦀"), "größe 漢字 🦀");
    }

    #[test]
    fn wide_text_is_cut_by_columns() {
        assert_eq!(clip("漢字漢字", 5), "漢字…");
        assert_eq!(clip("漢字漢字", 4), "漢…");
        assert_eq!(clip("漢字", 4), "漢字");
        assert_eq!(clip("abc", 1), "…");
        assert_eq!(clip("abc", 0), "");
    }

    proptest! {
        #[test]
        fn clipped_text_fits(text in "\\PC*", columns in 0usize..40) {
            // A joined emoji may be narrower than its parts, never wider.
            prop_assert!(width(&clip(&text, columns)) <= columns);
        }

        #[test]
        fn shown_text_is_one_line(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(is_obeyed));
        }
    }
}
