//! The verdict file of an attempt: how its unit ended, from the spawner to the shim and to every later spawner.
//!
//! Written once PID 1 has said how the main process ended; a result that was seen is not lost with whoever saw it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::attempts::Attempts;
use crate::protocol::{AttemptKey, ExitRecord, ExitResult, Used, names};
use crate::shim::clock::Started;
use crate::sys;

/// A verdict is no larger: its only long part is a cause.
const BYTES_MAX: usize = 4 * 1024;

/// How a unit ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ending {
    /// None: nobody can say.
    pub(super) result: Option<ExitResult>,
    /// Wall clock at the end of the main process, milliseconds since 1970.
    pub(super) ended_wall_ms: i64,
    /// CLOCK_BOOTTIME at the end of the main process, microseconds; 0: it never was.
    pub(super) ended_boot_us: u64,
    /// CPU time in user mode, microseconds.
    pub(super) cpu_user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub(super) cpu_system_us: u64,
    /// Most memory of the unit, bytes; 0 where nobody counts it.
    pub(super) peak_memory_bytes: u64,
    /// Processes that were alive when the main process had ended.
    pub(super) leftovers: u32,
    /// What else its cgroup or PID 1 told, where anybody counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<Box<Used>>,
}

impl Ending {
    /// Of a unit that never had a main process, or of which nothing is known.
    pub(super) fn never() -> Self {
        Self {
            result: None,
            ended_wall_ms: 0,
            ended_boot_us: 0,
            cpu_user_us: 0,
            cpu_system_us: 0,
            peak_memory_bytes: 0,
            leftovers: 0,
            used: None,
        }
    }

    /// The record of an attempt that was handed over at `started`.
    pub(super) fn record(&self, key: &AttemptKey, result: ExitResult, started: Started) -> ExitRecord {
        let ended = self.ended_boot_us != 0;
        ExitRecord {
            ended_wall_ms: if ended { self.ended_wall_ms.max(started.wall_ms()) } else { sys::wall_ms() },
            run_us: if ended { started.until_us(self.ended_boot_us) } else { 0 },
            cpu_user_us: self.cpu_user_us,
            cpu_system_us: self.cpu_system_us,
            peak_memory_bytes: self.peak_memory_bytes,
            leftovers: self.leftovers,
            used: self.used.clone(),
            ..started.record(key, result)
        }
    }
}

/// Writes it in one step; an earlier one stays.
pub(super) fn write(attempts: &Attempts, key: &AttemptKey, ending: &Ending) -> io::Result<()> {
    if read(attempts, key)?.is_some() {
        return Ok(());
    }
    attempts.write_small(key, names::VERDICT, &serde_json::to_vec(ending)?)
}

/// Reads it; None when there is certainly none. It was renamed into place by the spawner, so that it is whole or not there.
pub(super) fn read(attempts: &Attempts, key: &AttemptKey) -> io::Result<Option<Ending>> {
    let text = attempts.read_small(key, names::VERDICT, BYTES_MAX)?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
