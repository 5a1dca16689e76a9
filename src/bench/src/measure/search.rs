//! How fast logs are searched that are in the page cache: plain text without a match, so that nothing but searching is timed.

use super::Bench;
use crate::report::{Limit, Report, Row};
use crate::stats::median;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// Lines of a log: about 56 MB, below the usual cap of 64 MiB.
const LINES: u32 = 850_000;
/// What is looked for, and how: a text, a choice of words, and one that needs an automaton for every byte.
const PATTERNS: [(&str, &[&str]); 3] = [
    ("a text", &["--fixed", "--grep", "No space left on device"]),
    ("two words", &["--grep", "segfault|panicked"]),
    ("a text, upper and lower case", &["--ignore-case", "--grep", "permission denied"]),
];

/// Several jobs that say much, then the whole call of the client, from the start of its process to its end.
pub fn search(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(2)?;
    let mut api = home.api()?;
    let line = "[12:00:00] compiling unit %.0f of src/lib/things.rs: ok";
    let mut ids = Vec::new();
    for _ in 0..bench.pick(4, 18) {
        let job = json!({"command": ["seq", "-f", line, LINES.to_string()], "retry": 0});
        ids.push(api.submit(&job)?.to_string());
    }
    let mut wait = home.client(&["wait"]);
    ensure!(wait.args(&ids).status()?.success(), "a job that writes a log failed");
    let bytes = length_below(&home.state().join("s/logs"))?;
    ensure!(bytes > 40_000_000 * ids.len() as u64, "the logs have {bytes} bytes only");
    for (name, words) in PATTERNS {
        let mut rates = Vec::new();
        for _ in 0..bench.pick(3, 9) {
            let begin = Instant::now();
            let mut client = home.client(&["logs", "--quiet"]);
            let status = client.args(words).stdout(Stdio::null()).status()?;
            let took = begin.elapsed().as_secs_f64();
            ensure!(status.code() == Some(1), "a search for nothing ended with {status}");
            rates.push(bytes as f64 / 1e9 / took);
        }
        let rate = median(&rates);
        report.add(Row {
            name: format!("`logs --grep` on plain text, {name}"),
            limit: if name == "a text" { Limit::AtLeast(1.0) } else { Limit::Nothing },
            judged: rate,
            unit: "GB/s",
            measured: format!("{rate:.2} GB/s, {:.2} GB in {} logs", bytes as f64 / 1e9, ids.len()),
            ratio: None,
        });
    }
    Ok(())
}

/// The length of all logs.
fn length_below(dir: &Path) -> Result<u64> {
    let mut length = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            length += length_below(&entry.path())?;
        } else if entry.path().extension().is_some_and(|suffix| suffix == "log") {
            length += entry.metadata()?.len();
        }
    }
    Ok(length)
}
