//! `netstat`: chosen counters of the network protocols, from `/proc/net/netstat`, `snmp` and `snmp6`.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use std::path::{Path, PathBuf};

pub(crate) struct Netstat {
    procfs: PathBuf,
    fields: Matcher,
}

impl Netstat {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { procfs: options.procfs.clone(), fields: options.netstat_fields.compile()? })
    }

    fn field(&mut self, out: &mut Families, path: &Path, field: [&str; 2], value: &str) -> Result<(), CollectError> {
        let [protocol, name] = field;
        let key = format!("{protocol}_{name}");
        if self.fields.takes(&key) {
            let help = format!("Statistic {protocol}{name}.");
            let value = files::parse(value, path)?;
            out.family(format!("node_netstat_{key}"), Kind::Untyped, help).add(&[], value);
        }
        Ok(())
    }

    /// Pairs of lines: `Protocol: names…`, `Protocol: values…`.
    fn pairs(&mut self, out: &mut Families, path: &Path) -> Result<(), CollectError> {
        let text = files::read(path)?;
        let mut lines = text.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let (protocol, names) = names.split_once(':').ok_or_else(|| files::malformed(path, names))?;
            let values = values.strip_prefix(protocol).and_then(|rest| rest.strip_prefix(':'));
            let values = values.ok_or_else(|| files::malformed(path, names))?;
            let (names, values) = (names.split_whitespace(), values.split_whitespace());
            if names.clone().count() != values.clone().count() {
                return Err(files::malformed(path, protocol));
            }
            for (name, value) in names.zip(values) {
                self.field(out, path, [protocol, name], value)?;
            }
        }
        Ok(())
    }
}

impl Collector for Netstat {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        self.pairs(out, &self.procfs.join("net/netstat"))?;
        self.pairs(out, &self.procfs.join("net/snmp"))?;
        let path = self.procfs.join("net/snmp6");
        // Not there where IPv6 is switched off.
        let text = files::read_if_there(&path)?.unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
            if let Some(six) = key.find('6') {
                let (protocol, name) = key.split_at(six + 1);
                self.field(out, &path, [protocol, name], value)?;
            }
        }
        Ok(())
    }
}
