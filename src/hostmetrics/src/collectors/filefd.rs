//! `filefd`: open files of the whole host, from `/proc/sys/fs/file-nr`.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

pub(crate) struct Filefd {
    file: PathBuf,
}

impl Filefd {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("sys/fs/file-nr") }
    }
}

impl Collector for Filefd {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let [allocated, _, maximum] = words[..] else { return Err(files::malformed(&self.file, &text)) };
        let allocated = files::parse(allocated, &self.file)?;
        out.gauge("node_filefd_allocated", "File descriptor statistics: allocated.").add(&[], allocated);
        let maximum = files::parse(maximum, &self.file)?;
        out.gauge("node_filefd_maximum", "File descriptor statistics: maximum.").add(&[], maximum);
        Ok(())
    }
}
