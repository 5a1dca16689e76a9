//! Limits in the words of a request: sizes, cores, numbers.

use super::fault;
use crate::api::JobRequest;
use ci_runner_core::job::Fault;
use ci_runner_core::limits::Limits;

/// The limits of a request; whether they make sense is the core's to say.
pub(super) fn parse(request: &JobRequest) -> Result<Limits, Fault> {
    let cpu_milli = match request.cpu {
        None => None,
        Some(cores) => Some(milli_cores(cores).or_else(|why| fault("cpu", why))?),
    };
    Ok(Limits {
        memory_bytes: request.memory.map(|size| size.0),
        cpu_milli,
        pids: request.pids.map(|pids| u32::try_from(pids).unwrap_or(u32::MAX)),
    })
}

/// Cores as the program counts them, in thousandths.
///
/// # Errors
/// No number of cores, in words.
pub fn milli_cores(cores: f64) -> Result<u32, String> {
    let milli = (cores * 1000.0).round();
    if !(0.0..=f64::from(u32::MAX)).contains(&milli) {
        return Err(format!("{cores} is no number of cores; give one between 0.01 and 4096, as in 1.5"));
    }
    Ok(milli as u32)
}

/// How memory grows, in hundredths.
pub(super) fn parse_factor(factor: Option<f64>) -> Result<Option<u16>, Fault> {
    let Some(factor) = factor else { return Ok(None) };
    let hundredths = (factor * 100.0).round();
    if !(0.0..=f64::from(u16::MAX)).contains(&hundredths) {
        return fault("oom_memory_factor", format!("{factor} is no factor; give one from 1.01 to 10, as in 2"));
    }
    Ok(Some(hundredths as u16))
}
