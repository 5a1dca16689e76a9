//! `sockstat`: sockets by protocol and state, from `/proc/net/sockstat` and `sockstat6`.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

pub(crate) struct Sockstat {
    procfs: PathBuf,
}

impl Sockstat {
    pub(crate) fn new(options: &Options) -> Self {
        Self { procfs: options.procfs.clone() }
    }
}

impl Collector for Sockstat {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        for name in ["net/sockstat", "net/sockstat6"] {
            let path = self.procfs.join(name);
            let Some(text) = files::read_if_there(&path)? else { continue };
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let (protocol, rest) = line.split_once(':').ok_or_else(|| files::malformed(&path, line))?;
                let words: Vec<&str> = rest.split_whitespace().collect();
                for pair in words.chunks(2) {
                    let [state, value] = pair else { return Err(files::malformed(&path, line)) };
                    let value = files::parse(value, &path)?;
                    if protocol == "sockets" && *state == "used" {
                        out.gauge("node_sockstat_sockets_used", "Number of IPv4 sockets in use.").add(&[], value);
                        continue;
                    }
                    let mut add = |state: &str, value: f64| {
                        let help = format!("Number of {protocol} sockets in state {state}.");
                        out.gauge(format!("node_sockstat_{protocol}_{state}"), help).add(&[], value);
                    };
                    add(state, value);
                    if *state == "mem" {
                        add("mem_bytes", value * rustix::param::page_size() as f64);
                    }
                }
            }
        }
        Ok(())
    }
}
