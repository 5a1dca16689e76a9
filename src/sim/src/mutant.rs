//! Deliberate bugs. Each is one wrong line somewhere in a daemon or a spawner; none of them is in `core`.

/// The enum and the list of its variants, so that neither can lack one of the other.
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $($(#[$doc])* $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

mutants! {
    /// `start` is sent as soon as the claim is decided.
    ActBeforeCommit,
    /// A client is answered as soon as its job is in memory.
    AckBeforeCommit,
    /// The directory of an ended attempt is removed before the end is on disk.
    ForgetBeforeCommit,
    /// Listeners are told what is not on disk.
    TellBeforeCommit,
    /// After a refused commit the record in memory is kept.
    KeepRecordAfterRefusal,
    /// The spawner goes on reading older connections after a newer `hello`.
    SkipGenerationCheck,
    /// An attempt that began is told as one that did not.
    IgnoreBegan,
    /// A second `start` runs a second shim.
    IgnoreStartLock,
    /// What another life of the directory left is taken for this one's.
    IgnoreEpoch,
    /// A claim whose `start` was sent is given back without `void`.
    SkipVoid,
    /// A claim whose start was refused is given back without `void`: the spawner knows of it.
    ReleaseRefused,
    /// An attempt that did not begin after all is started again, and called running meanwhile.
    KeepCallingItRunning,
    /// `void` leaves no mark.
    ForgetVoid,
    /// An attempt whose shim is gone is lost, although its processes live.
    LostWhileAlive,
    /// Processes that a job leaves behind are not killed.
    IgnoreLeftovers,
    /// No exit record counts as exit 0.
    SuccessWithoutRecord,
    /// An end is taken for the open attempt, whatever its number.
    AcceptStaleEnd,
    /// A job that is starting does not hold its group.
    GroupFreeWhileStarting,
    /// A job that is stopping does not hold its slot.
    SlotFreeWhileStopping,
    /// One attempt too many in a pool.
    SlotsOffByOne,
    /// One retry too many.
    RetriesOffByOne,
    /// A job that was told to stop is retried.
    RetryStopped,
    /// A dependency counts as fulfilled when the other job was claimed.
    DependencyReleasedOnClaim,
    /// A newcomer that asks for `latest` is dropped instead of those before it.
    LatestDropsNewest,
    /// The youngest job goes first.
    YoungestFirst,
    /// Labels do not matter.
    IgnoreLabels,
    /// Jobs on hold are claimed.
    IgnoreHold,
    /// Claims made before a pause are sent after it.
    IgnorePauseForClaims,
    /// The daemon does not wake for times.
    DropWakeUps,
    /// The daemon never asks what runs.
    SkipList,
    /// The rest of the answer to an older `list` is taken for the answer to the last one.
    TrustOldList,
    /// A repeated idempotency key makes a second job.
    ForgetKeys,
    /// Nothing is killed when the grace is over.
    NeverKill,
    /// Memory that was promised is promised again.
    PromiseTwice,
    /// Jobs that fit pass one that does not for ever.
    LetOthersPass,
    /// `Started` is written twice, the second time past the record.
    StartedTwice,
    /// A cancel of a job that has ended is written.
    CancelEnded,
    /// After a start, ids go on behind those of open jobs.
    ForgetLastId,
    /// One retry too few.
    GiveUpEarly,
    /// Jobs expire half a minute too early.
    ExpireEarly,
    /// A job on hold is dropped as one that was cancelled.
    DropHeld,
    /// Delays and dates do not matter.
    IgnoreTime,
    /// An attempt that nobody submitted is killed.
    KillUnknown,
    /// Listeners are not told that they missed something.
    IgnoreGap,
    /// Those who wait for a commit that fails are told nothing.
    LeaveUnanswered,
    /// A daemon that connects again is taken for an older one.
    RefuseSameGeneration,
    /// A new priority is written, and the record is not told.
    ForgetPriority,
    /// The record keeps the old settings after a reload.
    KeepOldSettings,
    /// A record that is built anew knows of no expiry.
    ForgetExpiries,
    /// A turn is decided by the time that was read before the daemon slept.
    DecideByOldTime,
    /// A newcomer that asks for `latest` stops what runs, as one that asks for `cancel` does.
    LatestStopsRunning,
    /// What a job ends with counts, although it was told to stop.
    ForgetWhoStopped,
    /// Who is stopped for a newer job counts as cancelled.
    ForgetTheNewer,
    /// A job that passed its deadline counts as one that failed.
    ForgetTheDeadline,
    /// A retry does not wait.
    RetryAtOnce,
    /// The delay of a retry doubles once too often.
    DoubleTooOften,
    /// The delay of a retry doubles for ever.
    DoubleForEver,
    /// A job that succeeded counts as ended by who wanted its end or its place, although it was not told to stop.
    CancelASuccess,
    /// The record is not told which slots are shut.
    ForgetShut,
    /// The record is not told where memory is not enforced.
    ForgetLoose,
    /// Claims are made where no executor is.
    ForgetDown,
    /// A record that is built anew after a failed commit is told nothing of the host.
    ForgetPlaces,
}

impl Mutant {
    /// True for bugs that leave the record wrong: they are to fall by the checkers that look at the record itself. Those look at no other
    /// mutant, which is to fall by what it does.
    pub(crate) fn spoils_the_record(self) -> bool {
        matches!(self, Self::ForgetPriority | Self::KeepOldSettings | Self::ForgetExpiries | Self::DecideByOldTime)
    }
}
