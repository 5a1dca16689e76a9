//! What must still be told to those who listen: event streams and waiting clients today, forges and webhooks with them.

use crate::record::{News, Record};

/// What a listener gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A job is in a new state.
    Job(News),
    /// Some were missed for good: look at everything again. Carries the number to go on from.
    Gap(u64),
}

/// What a listener gets at once: who comes back after long asks again for the rest.
pub const ANNOUNCED_MAX: usize = 1_000;

/// What a listener who knows of `told` has not heard, up to number `committed`: what is not on disk is not told. The first
/// [`ANNOUNCED_MAX`] of it.
pub fn announce(record: &Record, told: u64, committed: u64) -> Vec<Announcement> {
    match record.news_after(told) {
        None => vec![Announcement::Gap(committed)],
        Some(news) => {
            let news = news.take_while(|news| news.seq <= committed).take(ANNOUNCED_MAX);
            news.cloned().map(Announcement::Job).collect()
        }
    }
}
