//! `vmstat`: chosen fields of `/proc/vmstat`.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use std::path::PathBuf;

pub(crate) struct Vmstat {
    file: PathBuf,
    fields: Matcher,
}

impl Vmstat {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { file: options.procfs.join("vmstat"), fields: options.vmstat_fields.compile()? })
    }
}

impl Collector for Vmstat {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines() {
            let Some((field, value)) = line.split_once(' ') else { return Err(files::malformed(&self.file, line)) };
            if self.fields.takes(field) {
                let help = format!("/proc/vmstat information field {field}.");
                let value = files::parse(value.trim(), &self.file)?;
                out.family(format!("node_vmstat_{field}"), Kind::Untyped, help).add(&[], value);
            }
        }
        Ok(())
    }
}
