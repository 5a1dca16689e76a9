//! `timex`: how well the kernel's clock is kept, from adjtimex(2), which the caller of this crate asks.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::options::ClockState;

/// adjtimex(2): the clock is not kept by anything.
const TIME_ERROR: i32 = 5;
/// adjtimex(2): offsets and jitter are nanoseconds.
const STA_NANO: i32 = 0x2000;
const MICRO: f64 = 1e6;
const NANO: f64 = 1e9;
/// The kernel's unit of frequencies: 2^-16 parts per million.
const PPM16: f64 = 65536.0 * 1e6;

pub(crate) struct Timex {
    ask: fn() -> std::io::Result<ClockState>,
}

impl Timex {
    pub(crate) fn new(ask: fn() -> std::io::Result<ClockState>) -> Self {
        Self { ask }
    }
}

impl Collector for Timex {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let clock = (self.ask)().map_err(|source| CollectError::System { call: "adjtimex", source })?;
        let second = if clock.status & STA_NANO != 0 { NANO } else { MICRO };
        let synced = f64::from(u8::from(clock.state != TIME_ERROR));
        let gauges = [
            ("sync_status", "Is clock synchronized to a reliable server (1 = yes, 0 = no).", synced),
            (
                "offset_seconds",
                "Time offset in between local system and reference clock.",
                clock.offset as f64 / second,
            ),
            ("frequency_adjustment_ratio", "Local clock frequency adjustment.", 1.0 + clock.frequency as f64 / PPM16),
            ("maxerror_seconds", "Maximum error in seconds.", clock.max_error as f64 / MICRO),
            ("estimated_error_seconds", "Estimated error in seconds.", clock.estimated_error as f64 / MICRO),
            ("status", "Value of the status array bits.", f64::from(clock.status)),
            ("loop_time_constant", "Phase-locked loop time constant.", clock.constant as f64),
            ("tick_seconds", "Seconds between clock ticks.", clock.tick as f64 / MICRO),
            ("pps_frequency_hertz", "Pulse per second frequency.", clock.pps_frequency as f64 / PPM16),
            ("pps_jitter_seconds", "Pulse per second jitter.", clock.pps_jitter as f64 / second),
            ("pps_shift_seconds", "Pulse per second interval duration.", f64::from(clock.pps_shift)),
            (
                "pps_stability_hertz",
                "Pulse per second stability, average of recent frequency changes.",
                clock.pps_stability as f64 / PPM16,
            ),
            ("tai_offset_seconds", "International Atomic Time (TAI) offset.", f64::from(clock.tai)),
        ];
        let counters = [
            ("pps_jitter_total", "Pulse per second count of jitter limit exceeded events.", clock.pps_jitter_count),
            ("pps_calibration_total", "Pulse per second count of calibration intervals.", clock.pps_calibration_count),
            ("pps_error_total", "Pulse per second count of calibration errors.", clock.pps_error_count),
            (
                "pps_stability_exceeded_total",
                "Pulse per second count of stability limit exceeded events.",
                clock.pps_stability_count,
            ),
        ];
        for (name, help, value) in gauges {
            out.gauge(format!("node_timex_{name}"), help).add(&[], value);
        }
        for (name, help, value) in counters {
            out.counter(format!("node_timex_{name}"), help).add(&[], value as f64);
        }
        Ok(())
    }
}
