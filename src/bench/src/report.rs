//! What was asked, what was measured: as a table for people and as JSON for programs.

use crate::measure::Bench;
use crate::stats;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// A limit that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Nothing: for comparison.
    Nothing,
}

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What was asked of `judged`.
    pub limit: Limit,
    /// The figure that is judged.
    pub judged: f64,
    /// Unit of `judged` and the limit.
    pub unit: &'static str,
    /// The whole measurement in words.
    pub measured: String,
    /// Against the machine's own limit in the same rounds, where there is one.
    pub ratio: Option<f64>,
}

struct Failed {
    name: String,
    why: String,
}

/// All lines.
pub struct Report {
    machine: String,
    short: bool,
    rows: Vec<Row>,
    failed: Vec<Failed>,
}

impl Row {
    fn verdict(&self) -> &'static str {
        let kept = match self.limit {
            Limit::Nothing => return "-",
            Limit::AtLeast(limit) => self.judged >= limit,
            Limit::AtMost(limit) => self.judged <= limit,
        };
        if kept { "ok" } else { "missed" }
    }

    fn asked(&self) -> String {
        let unit = self.unit;
        match self.limit {
            Limit::Nothing => "-".to_owned(),
            Limit::AtLeast(limit) => format!("≥ {} {unit}", short(limit)),
            Limit::AtMost(limit) => format!("≤ {} {unit}", short(limit)),
        }
    }
}

/// At most two digits after the point, and none that say nothing.
fn short(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

impl Report {
    /// An empty one; looks at the machine.
    pub fn new(bench: &Bench) -> Result<Self> {
        Ok(Self { machine: machine(bench)?, short: bench.short, rows: Vec::new(), failed: Vec::new() })
    }

    /// The machine in words.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Takes a line, and shows it at once: a long run is watched.
    pub fn add(&mut self, row: Row) {
        eprintln!("  {}: {} {}", row.name, row.measured, row.verdict());
        self.rows.push(row);
    }

    /// Something could not be measured.
    pub fn failed(&mut self, name: &str, why: &str) {
        eprintln!("  {name}: not measured: {why}");
        self.failed.push(Failed { name: name.to_owned(), why: why.to_owned() });
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut cells = vec![["measurement", "asked", "measured", "ratio", "verdict"].map(str::to_owned)];
        for row in &self.rows {
            let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            cells.push([row.name.clone(), row.asked(), row.measured.clone(), ratio, row.verdict().to_owned()]);
        }
        for failed in &self.failed {
            let dash = "-".to_owned();
            cells.push([failed.name.clone(), dash.clone(), failed.why.clone(), dash, "not measured".to_owned()]);
        }
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..5).map(width).collect();
        let mut text = String::from("\n");
        for row in &cells {
            let line: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (at_least, at_most) = match row.limit {
                    Limit::AtLeast(limit) => (Some(limit), None),
                    Limit::AtMost(limit) => (None, Some(limit)),
                    Limit::Nothing => (None, None),
                };
                json!({"name": row.name, "at_least": at_least, "at_most": at_most, "value": row.judged, "unit": row.unit,
                    "measured": row.measured, "ratio": row.ratio, "verdict": row.verdict()})
            })
            .collect();
        let failed: Vec<Value> =
            self.failed.iter().map(|failed| json!({"name": failed.name, "why": failed.why})).collect();
        let all = json!({"machine": self.machine, "short": self.short, "rows": rows, "not_measured": failed});
        format!("{all:#}\n")
    }
}

/// Cores, memory, kernel, file systems, and what one durable append costs.
fn machine(bench: &Bench) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: f64 = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let uname = rustix::system::uname();
    let append = durable_append_ms(&std::env::temp_dir())?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(format!(
        "{cores} cores ({model}), {:.0} GiB, Linux {}, runtime directory on {}, state on {}, durable append {append:.2} ms, \
         load {}{}",
        kib / 1024.0 / 1024.0,
        uname.release().to_string_lossy(),
        file_system(&crate::home::runtime_base()),
        file_system(&std::env::temp_dir()),
        load.split_whitespace().next().unwrap_or("?"),
        if bench.short { ", short run" } else { "" },
    ))
}

fn file_system(path: &Path) -> String {
    const TMPFS: i64 = 0x0102_1994;
    const EXT4: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    const OVERLAY: i64 = 0x794c_7630;
    match rustix::fs::statfs(path).map(|found| found.f_type) {
        Ok(TMPFS) => "tmpfs".to_owned(),
        Ok(EXT4) => "ext4".to_owned(),
        Ok(XFS) => "xfs".to_owned(),
        Ok(BTRFS) => "btrfs".to_owned(),
        Ok(OVERLAY) => "overlay".to_owned(),
        Ok(other) => format!("file system {other:#x}"),
        Err(_) => "an unknown file system".to_owned(),
    }
}

/// Writes 4 KiB and flushes: the least that anything durable costs. Median.
fn durable_append_ms(dir: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let begin = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(stats::ms(begin.elapsed()));
    }
    Ok(stats::median(&times))
}
