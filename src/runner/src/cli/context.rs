//! What every verb is given: the options all of them take, the way to the daemon, and where to print.

use super::Hooks;
use super::client::Client;
use super::fail::{EXIT_DONE, Ended, Failure};
use super::look::Look;
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Options every verb takes.
#[derive(Args, Clone, Debug)]
pub struct Globals {
    /// The daemon's socket [env, of clients: CI_RUNNER_SOCKET] [default: the first of the usual places that answers]
    #[arg(long, value_name = "PATH", global = true, help_heading = "Common options")]
    pub socket: Option<PathBuf>,
    /// How to print: for people (a table on a terminal, plain lines in a pipe) or as JSON
    #[arg(
        long,
        value_name = "FORMAT",
        global = true,
        default_value = "text",
        help_heading = "Common options",
        hide_default_value = true
    )]
    pub output: Output,
    /// Colours; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        value_name = "WHEN",
        global = true,
        default_value = "auto",
        help_heading = "Common options",
        hide_default_value = true
    )]
    pub color: Color,
    /// No hints and notes, only what was asked for
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub quiet: bool,
    /// Say on standard error which sockets are tried
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = "Common options")]
    pub verbose: bool,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people and simple scripts.
    Text,
    /// For programs.
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Also in a pipe.
    Always,
    /// Not at all.
    Never,
}

/// Whether a terminal can do more than print line after line. One that does not say what it is may not.
pub fn is_drawable() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

impl Color {
    /// Whether to colour something that goes to a terminal or not.
    pub fn on(self, terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                terminal && !set("NO_COLOR") && is_drawable()
            }
        }
    }
}

/// What a verb works with.
pub struct Context<'a> {
    /// The way to the daemon.
    pub client: Client,
    /// As given.
    pub globals: Globals,
    /// The parts that the command line only starts.
    pub hooks: &'a Hooks,
}

impl<'a> Context<'a> {
    /// From the matches of the verb that was called: global options are in there too.
    ///
    /// # Errors
    /// None that clap has not reported before.
    pub fn new(matches: &ArgMatches, hooks: &'a Hooks) -> Result<Context<'a>, Failure> {
        let globals = Globals::from_arg_matches(matches)?;
        let client = Client::new(globals.socket.as_deref()).verbose(globals.verbose);
        Ok(Context { client, globals, hooks })
    }

    /// The socket that was named on the command line.
    pub fn socket(&self) -> Option<&Path> {
        self.globals.socket.as_deref()
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.globals.output == Output::Json
    }

    /// How to print on standard output.
    pub fn look(&self) -> Look {
        Look::of_stdout(self.globals.color)
    }

    /// Prints a value as JSON, on one line; on a terminal indented.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn print_json(&self, value: &impl Serialize) -> Ended {
        let text = match std::io::stdout().is_terminal() {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        let text = text.map_err(|error| Failure::Error(format!("cannot write this as JSON: {error}")))?;
        print(&format!("{text}\n"))
    }

    /// A remark on standard error, unless `-q`.
    pub fn note(&self, text: &str) {
        if !self.globals.quiet {
            // Nobody may listen there.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Prints a text whole.
///
/// # Errors
/// Standard output is closed or full.
pub fn print(text: &str) -> Ended {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(EXIT_DONE)
}
