//! Places of connections: how many there are at once, and who yields one when all are taken.
//!
//! A connection holds its place for good only while it is served: its request has arrived whole and the answer is under way.
//! One that says nothing, or is still sending, keeps its place for as long as nobody else wants it; then the one that has
//! been at it for the longest yields, first of those without a head, then of those without the whole body. So neither
//! half-sent requests nor idle connections can shut anybody out, however many come. Nobody waits in the kernel's queue: who
//! gets no place is told at once.
//!
//! Invariant: at most `max` connections have a place, and at most `max` more are on their way out.

use super::unasked::Turn;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio_util::sync::CancellationToken;

/// How far a connection has come. Who is least far yields first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// There is no request, or not all of its head.
    Silent,
    /// The body is still arriving.
    Sending,
    /// It is being answered.
    Served,
}

/// All places.
#[derive(Clone)]
pub(super) struct Places(Arc<Mutex<Table>>);

struct Table {
    max: usize,
    /// Connections so far: their names.
    last_id: u64,
    /// Steps so far: who has made none for the longest is the oldest.
    last_step: u64,
    /// Those that have a place.
    held: HashMap<u64, Member>,
    /// Those of them that would yield, in order.
    yielding: BTreeMap<(Stage, u64), u64>,
    /// Those that have yielded and are not gone yet.
    leaving: HashMap<u64, Stage>,
}

struct Member {
    stage: Stage,
    step: u64,
    leave: CancellationToken,
}

impl Places {
    /// So many.
    pub fn new(max: usize) -> Self {
        let (held, yielding, leaving) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self(Arc::new(Mutex::new(Table { max, last_id: 0, last_step: 0, held, yielding, leaving })))
    }

    /// A place for a new connection; None: all are taken by connections that are served.
    pub fn take(&self) -> Option<Place> {
        let mut table = self.table();
        if table.held.len() >= table.max && (table.leaving.len() >= table.max || !table.make_room()) {
            return None;
        }
        let leave = CancellationToken::new();
        table.last_id += 1;
        let id = table.last_id;
        table.held.insert(id, Member { stage: Stage::Served, step: 0, leave: leave.clone() });
        table.set(id, Stage::Silent);
        drop(table);
        Some(Place { seat: Seat { places: self.clone(), id, turn: Turn::default() }, leave })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Lets the first of those that yield go.
    fn make_room(&mut self) -> bool {
        let Some((_, id)) = self.yielding.pop_first() else { return false };
        if let Some(member) = self.held.remove(&id) {
            self.leaving.insert(id, member.stage);
            member.leave.cancel();
        }
        true
    }

    fn set(&mut self, id: u64, stage: Stage) {
        self.last_step += 1;
        let step = self.last_step;
        match self.held.get_mut(&id) {
            Some(member) => {
                self.yielding.remove(&(member.stage, member.step));
                (member.stage, member.step) = (stage, step);
                if stage != Stage::Served {
                    self.yielding.insert((stage, step), id);
                }
            }
            None => {
                self.leaving.insert(id, stage);
            }
        }
    }

    fn forget(&mut self, id: u64) {
        match self.held.remove(&id) {
            Some(member) => {
                self.yielding.remove(&(member.stage, member.step));
            }
            None => {
                self.leaving.remove(&id);
            }
        }
    }
}

/// The place of one connection; given back when dropped.
pub(super) struct Place {
    /// What its requests report to.
    pub seat: Seat,
    /// Told when it has to yield.
    pub leave: CancellationToken,
}

impl Place {
    /// Whether a request has arrived whole and its answer is under way.
    pub fn is_served(&self) -> bool {
        let table = self.seat.places.table();
        let held = table.held.get(&self.seat.id).map(|member| member.stage);
        held.or_else(|| table.leaving.get(&self.seat.id).copied()) == Some(Stage::Served)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.places.table().forget(self.seat.id);
    }
}

/// Where requests report how far they have come. No longer than its [`Place`] lives.
#[derive(Clone)]
pub(super) struct Seat {
    places: Places,
    id: u64,
    /// The same, for the stream.
    pub turn: Turn,
}

impl Seat {
    /// A head has arrived.
    pub fn request(&self, body: Body) -> Body {
        self.turn.asked();
        let whole = body.is_end_stream();
        self.set(if whole { Stage::Served } else { Stage::Sending });
        if whole { body } else { Body::new(Arriving { body, seat: self.clone() }) }
    }

    /// An answer is under way.
    pub fn response(&self, body: Body) -> Body {
        Body::new(Leaving { body, seat: self.clone() })
    }

    fn set(&self, stage: Stage) {
        let mut table = self.places.table();
        // A body may be dropped behind its connection.
        if table.held.contains_key(&self.id) || table.leaving.contains_key(&self.id) {
            table.set(self.id, stage);
        }
    }
}

/// The body of a request: once it is there, the connection is served.
struct Arriving {
    body: Body,
    seat: Seat,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.seat.set(Stage::Served);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer: behind it the connection waits for the next request.
struct Leaving {
    body: Body,
    seat: Seat,
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.seat.turn.made();
        self.seat.set(Stage::Silent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_served_stays_and_who_is_silent_for_longest_yields() {
        let places = Places::new(3);
        let (first, second, third) = (places.take().unwrap(), places.take().unwrap(), places.take().unwrap());
        first.seat.set(Stage::Served);
        second.seat.set(Stage::Sending);
        let fourth = places.take().expect("the third one has no head");
        assert!(third.leave.is_cancelled() && !second.leave.is_cancelled() && !first.leave.is_cancelled());
        drop(third);
        fourth.seat.set(Stage::Served);
        let fifth = places.take().expect("the second one has no whole body");
        assert!(second.leave.is_cancelled() && !first.leave.is_cancelled());
        fifth.seat.set(Stage::Served);
        assert!(places.take().is_none(), "all are served");
        drop(second);
        assert!(places.take().is_none(), "it had yielded its place already");
        drop(fourth);
        assert!(places.take().is_some());
        first.seat.set(Stage::Silent);
        drop((first, fifth));
        let table = places.table();
        assert!(table.held.is_empty() && table.yielding.is_empty() && table.leaving.is_empty(), "nothing is left");
    }

    #[test]
    fn those_on_their_way_out_are_bounded_too() {
        let places = Places::new(2);
        let all: Vec<Place> = (0..4).map(|_| places.take().unwrap()).collect();
        assert!(places.take().is_none(), "two are there and two are leaving");
        drop(all);
        assert!(places.take().is_some());
    }
}
