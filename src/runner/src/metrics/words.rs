//! Label values that are enums: in the order of their names.

/// How a job ended; the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    /// `succeeded`
    Succeeded,
    /// `failed`
    Failed,
    /// `timed_out`
    TimedOut,
    /// `cancelled`
    Cancelled,
    /// `superseded`
    Superseded,
    /// `expired`
    Expired,
}

/// Why an attempt was tried again; the label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// A non-zero exit.
    Exit,
    /// A signal.
    Signal,
    /// Host, spawner or shim was lost.
    Lost,
    /// The hard timeout.
    Timeout,
    /// Out of memory.
    Oom,
    /// It could not be started.
    Start,
}

/// Why an attempt was lost; the label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// The host went down.
    Host,
    /// What watched over it was gone.
    Executor,
    /// Somebody stopped its unit by hand.
    Stopped,
}

/// Where an open job stands; the label `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// `queued`
    Queued,
    /// `starting`
    Starting,
    /// `running`
    Running,
    /// `stopping`
    Stopping,
}

impl JobOutcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Succeeded, Self::Failed, Self::TimedOut, Self::Cancelled, Self::Superseded, Self::Expired];
    /// Their words.
    pub const NAMES: [&'static str; 6] = ["succeeded", "failed", "timed_out", "cancelled", "superseded", "expired"];
}

impl RetryCause {
    pub(super) const NAMES: [&'static str; 6] = ["exit", "signal", "lost", "timeout", "oom", "start"];
}

impl LossCause {
    pub(super) const NAMES: [&'static str; 3] = ["host", "executor", "stopped"];
}

impl JobState {
    pub(super) const NAMES: [&'static str; 4] = ["queued", "starting", "running", "stopping"];
}
