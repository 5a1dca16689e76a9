//! What `src/hostmetrics` cannot ask by itself: system calls without a safe wrapper.

use ci_runner_hostmetrics::ClockState;

/// The kernel's view of its clock, for the collector `timex`.
///
/// # Errors
/// The system's.
pub fn clock_state() -> std::io::Result<ClockState> {
    let (state, clock) = ci_runner_spawner::clock::read_clock()?;
    Ok(ClockState {
        state,
        offset: clock.offset,
        frequency: clock.freq,
        max_error: clock.maxerror,
        estimated_error: clock.esterror,
        status: clock.status,
        constant: clock.constant,
        tick: clock.tick,
        pps_frequency: clock.ppsfreq,
        pps_jitter: clock.jitter,
        pps_shift: clock.shift,
        pps_stability: clock.stabil,
        pps_jitter_count: clock.jitcnt,
        pps_calibration_count: clock.calcnt,
        pps_error_count: clock.errcnt,
        pps_stability_count: clock.stbcnt,
        tai: clock.tai,
    })
}
