//! `ci-runner-bench`: measures the real programs from outside and prints a table, and JSON if asked to.
//!
//! It starts daemons in private directories (runtime directory in memory, state directory on disk, TCP and metrics off),
//! measures, and leaves no process and no file behind, also after an error or Ctrl-C. It judges nothing: a missed figure is
//! printed and the exit code is 0; 1 means that something could not be measured.
//!
//! Figures of speed are ratios: every round measures a bare `posix_spawn` loop of `/bin/true` right before and after, because
//! the machine's own speed changes from minute to minute.

mod api;
mod clean;
mod helpers;
mod home;
mod load;
mod measure;
mod peers;
mod procfs;
mod raw;
mod report;
mod stats;

use anyhow::{Context as _, Result, bail};
use measure::{Bench, MEASUREMENTS};
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: ci-runner-bench [--short] [--json FILE] [--bin DIR] [NAME…]

Measures ci-runner from outside and prints a table.

  --short      two minutes at most, with fewer rounds and without the queues of a million
  --json FILE  also writes the figures there
  --bin DIR    where ci-runner and ci-runner-spawner are [default: beside this program]
  --list       prints the names of the measurements

Example:
  ci-runner-bench --short dispatch start
";

/// What the command line asks for.
#[derive(Default)]
struct Asked {
    short: bool,
    json: Option<PathBuf>,
    bin: Option<PathBuf>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The first thing, because a job that is timed may be this program.
    if let Some(code) = helpers::run(&words) {
        return code;
    }
    match bench(words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            clean::everything();
            eprintln!("ci-runner-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(words: Vec<String>) -> Result<Option<Asked>> {
    let mut asked = Asked::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => {
                print!("{USAGE}");
                return Ok(None);
            }
            "--list" => {
                MEASUREMENTS.iter().for_each(|(name, what, _)| println!("{name:<16} {what}"));
                return Ok(None);
            }
            "--short" => asked.short = true,
            "--json" => asked.json = Some(words.next().context("--json needs a file")?.into()),
            "--bin" => asked.bin = Some(words.next().context("--bin needs a directory")?.into()),
            name if MEASUREMENTS.iter().any(|(known, ..)| *known == name) => asked.names.push(word),
            other => bail!("'{other}' is no option and no measurement; --list tells their names"),
        }
    }
    Ok(Some(asked))
}

/// False: something could not be measured.
fn bench(words: Vec<String>) -> Result<bool> {
    let Some(asked) = read(words)? else { return Ok(true) };
    let bin = match asked.bin {
        Some(bin) => bin,
        None => std::env::current_exe()?.parent().context("this program is in no directory")?.to_owned(),
    };
    clean::adopt_and_watch()?;
    let bench = Bench::new(&bin, asked.short)?;
    let mut report = Report::new(&bench)?;
    println!("{}", report.machine());
    let mut complete = true;
    for (name, _, measure) in MEASUREMENTS {
        if !asked.names.is_empty() && !asked.names.iter().any(|asked| asked == name) {
            continue;
        }
        eprintln!("measuring {name} …");
        if let Err(error) = measure(&bench, &mut report) {
            report.failed(name, &format!("{error:#}"));
            complete = false;
        }
        clean::everything();
    }
    print!("{}", report.table());
    if let Some(file) = asked.json {
        std::fs::write(&file, report.json()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(complete)
}
