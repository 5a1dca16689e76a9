//! Tells people and programs what happened: a program, an HTTP POST, a mail.
//!
//! Whoever has something to tell puts it into the [`Outbox`], a small database of its own beside the store: so nothing here
//! can hold up a commit, and what was not delivered is still there after a crash. Each notifier has a thread of its own (a
//! [`Couriers`] entry) that takes what is due, tries, and notes how it went; one that hangs holds up nobody else.
//!
//! Delivered at least once: a crash between a delivery and its note brings it again, under the same id. Tried again with
//! growing pauses, up to a bound; the number that may wait is bounded, and what does not fit is counted. No secret is in
//! an event, an error or the database.

mod courier;
mod delivery;
mod event;
mod mail;
mod outbox;
mod post;
mod program;
mod sign;
mod tls;

pub use courier::{Couriers, Probe, Step, Tally};
pub use delivery::{Source, deliver};
pub use event::Event;
pub use outbox::{Batch, Cursor, KeptAlarm, Outbox, OutboxError, Waiting};
pub use sign::{Secret, signature};

use crate::config::{NotifierConfig, NotifierKind};

/// What would keep a notifier from working, as far as it can be seen without telling anybody: for `doctor`.
pub fn check(config: &NotifierConfig) -> Result<(), String> {
    match &config.kind {
        NotifierKind::Command { argv } => program::check(argv),
        NotifierKind::Email { sendmail, .. } => program::check(sendmail),
        NotifierKind::Http { url, secret, ca_file } => {
            if let Some(place) = secret {
                Secret::read(place)?;
            }
            if url.starts_with("https:") {
                tls::client(ca_file.as_deref())?;
            }
            Ok(())
        }
    }
}
