//! `entropy`: the random number generator's pool.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

pub(crate) struct Entropy {
    dir: PathBuf,
}

impl Entropy {
    pub(crate) fn new(options: &Options) -> Self {
        Self { dir: options.procfs.join("sys/kernel/random") }
    }
}

impl Collector for Entropy {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let available = files::number(&self.dir.join("entropy_avail"))?;
        out.gauge("node_entropy_available_bits", "Bits of available entropy.").add(&[], available);
        let size = files::number(&self.dir.join("poolsize"))?;
        out.gauge("node_entropy_pool_size_bits", "Bits of entropy pool.").add(&[], size);
        Ok(())
    }
}
