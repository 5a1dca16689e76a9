//! `uname`: what the system calls itself.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;

pub(crate) struct Uname;

impl Collector for Uname {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let uname = rustix::system::uname();
        out.gauge("node_uname_info", "Labeled system information as provided by the uname system call.").add(
            &[
                ("sysname", &uname.sysname().to_string_lossy()),
                ("release", &uname.release().to_string_lossy()),
                ("version", &uname.version().to_string_lossy()),
                ("machine", &uname.machine().to_string_lossy()),
                ("nodename", &uname.nodename().to_string_lossy()),
                ("domainname", &uname.domainname().to_string_lossy()),
            ],
            1.0,
        );
        Ok(())
    }
}
