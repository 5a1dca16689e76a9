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

/// Everything a listener who knows of `told` has not heard, up to number `committed`: what is not on disk is not told.
pub fn announce(record: &Record, told: u64, committed: u64) -> Vec<Announcement> {
    match record.news_after(told) {
        None => vec![Announcement::Gap(committed)],
        Some(news) => news.take_while(|news| news.seq <= committed).cloned().map(Announcement::Job).collect(),
    }
}
