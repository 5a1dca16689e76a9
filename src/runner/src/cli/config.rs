//! `config check` and `config show`: the configuration without the daemon.

use super::context::{Context, print};
use super::daemon::DaemonArgs;
use super::fail::{Ended, Failure};
use crate::config::{Config, ConfigOverrides};
use crate::daemon::settings::settings;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `config check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Reads a file as the daemon would.
pub fn check(context: &Context<'_>, args: CheckArgs) -> Ended {
    let checked = Config::load(Some(&args.file), &ConfigOverrides::default()).and_then(|config| settings(&config));
    if context.is_json() {
        let problems: Vec<_> =
            checked.as_ref().err().map(|error| &error.problems[..]).unwrap_or_default().iter().collect();
        let problems: Vec<_> = problems
            .iter()
            .map(|problem| json!({ "line": problem.line, "key": problem.key, "text": problem.text }))
            .collect();
        context.print_json(&json!({ "file": args.file, "problems": problems }))?;
        return Ok(if problems.is_empty() { super::EXIT_DONE } else { super::EXIT_USAGE.into() });
    }
    match checked {
        Ok(_) => print(&format!("{}: ok\n", args.file.display())),
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

/// Prints the resolved configuration.
pub fn show(context: &Context<'_>, args: DaemonArgs) -> Ended {
    let config = args.config(context.socket())?;
    if context.is_json() {
        return context.print_json(&json!({ "toml": config.show() }));
    }
    print(&config.show())
}
