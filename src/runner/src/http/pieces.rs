//! Large answers on their way out: what they hold is given back when they are taken, or cut.

use super::BODY_BYTES_SMALL;
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The parts of a large answer. Its share is given back with the last of them, by whoever drops the rest, or at the deadline: a client that
/// does not read must not hold what others wait for.
pub(super) fn pieces(
    share: OwnedSemaphorePermit,
    json: Vec<u8>,
    deadline: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let held = Arc::new(Mutex::new(Some((Bytes::from(json), share))));
    let (late, done) = (Arc::downgrade(&held), CancellationToken::new());
    let taken = done.clone();
    // Of its own: nobody asks for a piece while the client reads none.
    tokio::spawn(async move {
        if timeout(deadline, taken.cancelled()).await.is_err()
            && let Some(late) = late.upgrade()
        {
            drop(late.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    });
    unfold((held, done.drop_guard()), |(held, done)| async move {
        let piece = match held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some((rest, _)) if rest.is_empty() => return None,
            Some((rest, _)) => Ok(rest.split_to(rest.len().min(BODY_BYTES_SMALL))),
            None => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        Some((piece, (held, done)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use std::pin::pin;
    use tokio::sync::Semaphore;

    const LONG: Duration = Duration::from_secs(60);

    async fn answer(kib: &Arc<Semaphore>, deadline: Duration) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let share = kib.clone().acquire_many_owned(200).await.unwrap();
        pieces(share, vec![b'x'; 200 * 1024], deadline)
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_cut_and_gives_its_share_back() {
        let kib = Arc::new(Semaphore::new(200));
        let mut untaken = pin!(answer(&kib, Duration::from_millis(20)).await);
        assert!(untaken.next().await.unwrap().is_ok());
        // Nobody asks for the next piece: the share comes back all the same.
        drop(timeout(LONG, kib.acquire_many(200)).await.expect("it is given back").unwrap());
        let cut = untaken.next().await.unwrap();
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::TimedOut, "what came is not taken for all of it");
        // The control: one that is taken is whole, and holds its share until then.
        let mut bytes = 0;
        {
            let mut taken = pin!(answer(&kib, LONG).await);
            while let Some(piece) = taken.next().await {
                assert_eq!(kib.available_permits(), 0);
                bytes += piece.unwrap().len();
            }
            assert_eq!((bytes, kib.available_permits()), (200 * 1024, 200));
        }
        drop(answer(&kib, LONG).await);
        assert_eq!(kib.available_permits(), 200, "whoever goes away holds nothing");
    }
}
