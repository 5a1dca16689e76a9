//! The body of a log: reads, and where it is followed, waits for more.
//!
//! The end of an attempt is recorded after its last byte was written. So: look whether it has ended, *then* read to the end
//! of the file, then stop. No byte is lost by that and none is sent twice, since the cursor is the offset.

use super::growth::Growth;
use super::lines::push_lines;
use super::{Opened, Watch};
use crate::http::App;
use bytes::Bytes;
use ci_runner_core::id::JobId;
use ci_runner_spawner::joblog::{LogReader, Partial};
use std::io;

/// Bytes of one piece: large enough to keep a reader busy, small enough that a thousand of them fit.
const PIECE_BYTES: usize = 128 * 1024;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The bytes.
    Raw,
    /// An object for each line.
    Lines,
}

impl Shape {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Raw => "application/octet-stream",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// The state of a body between two pieces.
pub struct Follow {
    app: App,
    job: JobId,
    attempt: u32,
    /// None only while it is read from.
    reader: Option<LogReader>,
    offset: u64,
    /// Where an unfollowed log ends.
    end: u64,
    shape: Shape,
    /// None: not followed.
    watch: Option<Watch>,
    growth: Growth,
    /// The attempt must be looked at.
    look: bool,
    /// It has ended: what is in the file now is all there will be.
    ended: bool,
}

type Piece = Option<(Bytes, Follow)>;

impl Follow {
    pub fn new(app: App, job: JobId, attempt: u32, opened: Opened, shape: Shape, watch: Option<Watch>) -> Self {
        Self {
            app,
            job,
            attempt,
            reader: Some(opened.reader),
            offset: opened.offset,
            end: opened.end,
            shape,
            growth: Growth::new(opened.path),
            look: watch.is_some(),
            ended: watch.is_none(),
            watch,
        }
    }

    /// The next piece; None: complete.
    pub async fn next(mut self) -> io::Result<Piece> {
        loop {
            // What was known before the reading decides whether it was the last.
            let ended = self.ended;
            let bytes = self.read().await?;
            if !bytes.is_empty() {
                self.growth.grew();
                return Ok(Some((bytes, self)));
            }
            if ended {
                return Ok(None);
            }
            if std::mem::take(&mut self.look) && self.has_ended().await? {
                self.ended = true;
                continue;
            }
            self.wait().await?;
        }
    }

    async fn read(&mut self) -> io::Result<Bytes> {
        let Some(mut reader) = self.reader.take() else { return Ok(Bytes::new()) };
        let limit = if self.watch.is_none() { self.end } else { u64::MAX };
        let (shape, offset, ended) = (self.shape, self.offset, self.ended);
        let work = move || {
            let bytes = match shape {
                Shape::Raw => raw(&mut reader, offset, limit),
                Shape::Lines => {
                    let partial = if ended { Partial::Give } else { Partial::Leave };
                    push_lines(&mut reader, partial, limit, PIECE_BYTES)
                }
            };
            (reader, bytes)
        };
        let (reader, bytes) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        let bytes = bytes?;
        if shape == Shape::Raw {
            self.offset += bytes.len() as u64;
        }
        self.reader = Some(reader);
        Ok(bytes.into())
    }

    async fn has_ended(&self) -> io::Result<bool> {
        let (reader, job) = (self.app.context.handle.reader.clone(), self.job);
        let attempts = tokio::task::spawn_blocking(move || reader.attempts(job)).await.map_err(io::Error::other)?;
        let attempts = attempts.map_err(io::Error::other)?;
        let open = |attempt: &crate::store::AttemptRow| attempt.result.is_none() && !attempt.released;
        // One that is not there any more was removed with its job.
        Ok(!attempts.iter().any(|attempt| attempt.number.0 == self.attempt && open(attempt)))
    }

    /// Until the file has grown, or the attempt may have ended.
    async fn wait(&mut self) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, "the daemon is going away");
        let Some(watch) = &mut self.watch else { return Ok(()) };
        tokio::select! {
            () = self.app.shutdown.cancelled() => Err(gone()),
            changed = watch.changed() => {
                self.look = true;
                changed.map_err(|_| gone())
            }
            () = self.growth.more() => Ok(()),
        }
    }
}

fn raw(reader: &mut LogReader, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
    let left = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(PIECE_BYTES)];
    let read = reader.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}
