//! Figures of the host (`node_*`), with the names, labels, types and help texts of node_exporter.
//!
//! One collector reads one corner of procfs or sysfs and fills in [`exposition`] families. [`HostMetrics`] runs the
//! enabled ones, gives each its own time limit, remembers what hangs, and writes the whole as text. What differs from
//! node_exporter, and why, is listed in `docs/reference/metrics.md`; a test compares with the real program and with that
//! list.
//!
//! It may not: talk to the network, start a program, write a file, use `unsafe`, or know anything about jobs.
//!
//! ```
//! use ci_runner_hostmetrics::{Format, HostMetrics, Options};
//!
//! let mut host = HostMetrics::new(Options { enabled: Some(vec!["loadavg".into()]), ..Options::default() })?;
//! let text = host.collect_to_string(Format::Text);
//! assert!(text.contains("node_load1 "));
//! # Ok::<(), ci_runner_hostmetrics::Error>(())
//! ```

mod collectors;
mod crew;
mod error;
pub mod exposition;
mod files;
mod options;
mod pattern;
mod scrape;
mod textformat;
mod timezone;

pub use collectors::{AskUnits, names as collector_names};
pub use error::{CollectError, Error};
pub use exposition::Format;
pub use options::{ClockState, FILTERS, Options, SystemUnit, SystemUnits};
pub use pattern::Filter;
pub use scrape::{CollectorReport, Hanging, HostMetrics};
