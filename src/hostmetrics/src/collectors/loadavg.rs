//! `loadavg`: the three load averages. (`procfs-core` keeps them in 32 bits, which shows as 0.11999999731779099.)

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

const LOADS: [(&str, &str); 3] =
    [("node_load1", "1m load average."), ("node_load5", "5m load average."), ("node_load15", "15m load average.")];

pub(crate) struct Loadavg {
    file: PathBuf,
}

impl Loadavg {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("loadavg") }
    }
}

impl Collector for Loadavg {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        let mut words = text.split_whitespace();
        for (name, help) in LOADS {
            let word = words.next().ok_or_else(|| files::malformed(&self.file, &text))?;
            out.gauge(name, help).add(&[], files::parse(word, &self.file)?);
        }
        Ok(())
    }
}
