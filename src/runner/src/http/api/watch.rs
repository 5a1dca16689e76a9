//! Waiting for a job's next state.
//!
//! A wake-up carries no meaning: whoever is woken looks at the store. A busy host has thousands of facts a second, so a
//! watcher asks for them at most every [`QUIET`], and looks by itself every [`LOOK_AGAIN`].

use crate::daemon::handle::News;
use ci_runner_core::announce::Announcement;
use ci_runner_core::id::JobId;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Between two questions for facts.
pub(in crate::http) const QUIET: Duration = Duration::from_millis(25);
/// The longest silence.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The daemon is going away.
pub(in crate::http) struct Gone;

/// A watcher of one job.
pub(in crate::http) struct Watch {
    news: News,
    told: u64,
    job: JobId,
    quiet_until: Instant,
}

impl Watch {
    /// From now on. To be made before the first look at the job.
    pub fn new(news: News, job: JobId) -> Self {
        let told = news.latest();
        Self { news, told, job, quiet_until: Instant::now() }
    }

    /// Returns when the job may be in another state. May be dropped and called again without missing one.
    pub async fn changed(&mut self) -> Result<(), Gone> {
        let deadline = Instant::now() + LOOK_AGAIN;
        loop {
            sleep_until(self.quiet_until).await;
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(facts) = timeout(left, self.news.after(self.told)).await else { return Ok(()) };
            self.quiet_until = Instant::now() + QUIET;
            if facts.is_empty() {
                return Err(Gone);
            }
            let mut ours = false;
            for fact in facts {
                match fact {
                    Announcement::Job(news) => {
                        self.told = news.seq;
                        ours |= news.job == self.job;
                    }
                    Announcement::Gap(seq) => {
                        self.told = seq;
                        ours = true;
                    }
                }
            }
            if ours {
                return Ok(());
            }
        }
    }
}
