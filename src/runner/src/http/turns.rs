//! Turns at long readings of the store: one reads, the others wait in the order in which they came, and so many only. The
//! store has few connections for all who ask, and what takes one of them in a moment must not wait behind a crowd.
//!
//! Invariant: a [`Turn`] goes where the reading goes. Who dropped it with a request that was given up, while its thread reads
//! on, would let in more than one.

use super::problem::Fail;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Requests that wait for their turn.
const WAITING_MAX: usize = 64;
/// A turn comes within this, or is given up: half a minute is more than ten long readings.
const PATIENCE: Duration = Duration::from_secs(30);
/// When to come back.
const RETRY_SECONDS: u32 = 2;

/// Turns at one kind of reading.
pub(super) struct Turns {
    /// In words, as in "requests for figures".
    what: &'static str,
    turn: Arc<Semaphore>,
    waiting: Semaphore,
    patience: Duration,
}

/// While it lives, nobody else reads.
pub(super) type Turn = OwnedSemaphorePermit;

impl Turns {
    /// One at a time.
    pub fn new(what: &'static str) -> Self {
        Self::with(what, WAITING_MAX, PATIENCE)
    }

    fn with(what: &'static str, waiting: usize, patience: Duration) -> Self {
        Self { what, turn: Arc::new(Semaphore::new(1)), waiting: Semaphore::new(waiting), patience }
    }

    /// Waits for a turn; 503 where too many wait already, or it does not come in time.
    pub async fn take(&self) -> Result<Turn, Fail> {
        if let Ok(turn) = self.turn.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let busy = || Fail::busy(format!("too many {} at once; try again", self.what), RETRY_SECONDS);
        let _place = self.waiting.try_acquire().map_err(|_| busy())?;
        match timeout(self.patience, self.turn.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[tokio::test]
    async fn one_reads_some_wait_in_order_and_the_rest_is_told_to_come_back() {
        let turns = Arc::new(Turns::with("tests", 2, PATIENCE));
        let first = turns.take().await.unwrap();
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 1..=2 {
            let (turns, told) = (turns.clone(), told.clone());
            tokio::spawn(async move {
                let turn = turns.take().await.unwrap();
                told.send(number).unwrap();
                drop(turn);
            });
        }
        while turns.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = turns.take().await.unwrap_err();
        let raw = String::from_utf8(refused.raw()).unwrap();
        assert!(raw.starts_with("HTTP/1.1 503") && raw.contains("\r\nretry-after: 2\r\n"), "{raw}");
        drop(first);
        assert_eq!((order.recv().await, order.recv().await), (Some(1), Some(2)));
        drop(turns.take().await.expect("nobody is left"));
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_given_up() {
        let turns = Turns::with("tests", 1, Duration::from_millis(1));
        let _held = turns.take().await.unwrap();
        let refused = turns.take().await.unwrap_err();
        assert_eq!(refused.document().status, StatusCode::SERVICE_UNAVAILABLE.as_u16());
        assert_eq!(turns.waiting.available_permits(), 1, "who went leaves the place to others");
    }
}
