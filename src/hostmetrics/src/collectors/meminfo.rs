//! `meminfo`: every line of `/proc/meminfo`, also those that are new. (`procfs-core` keeps only the lines it knows.)

use super::Collector;
use crate::error::CollectError;
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

pub(crate) struct Meminfo {
    file: PathBuf,
}

impl Meminfo {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("meminfo") }
    }
}

impl Collector for Meminfo {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (key, value, unit) = match words[..] {
                [key, value] => (key, value, None),
                [key, value, _] => (key, value, Some("_bytes")),
                _ => return Err(files::malformed(&self.file, line)),
            };
            let value = files::parse(value, &self.file)? * unit.map_or(1.0, |_| 1024.0);
            let key = key.trim_end_matches(':').replace('(', "_").replace(')', "");
            let field = format!("{key}{}", unit.unwrap_or_default());
            let kind = if field.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            let help = format!("Memory information field {field}.");
            out.family(format!("node_memory_{field}"), kind, help).add(&[], value);
        }
        Ok(())
    }
}
