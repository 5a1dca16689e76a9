//! The ways to the spawners, one for each executor that is in use.
//!
//! A lease says by its epoch whose it is, so that an attempt stays with the spawner that started it whatever the
//! configuration says of its pool by now. Each side is connected and listed by itself: nothing is concluded about an attempt
//! while its own side has not told what it has.

use crate::config::Executor;
use crate::daemon::handle::SideView;
use crate::executor::native::{Event, Native};
use ci_runner_core::id::Epoch;
use ci_runner_spawner::protocol::{Enforces, Request};

/// Begins the epochs of attempts that are units.
const SYSTEMD_PREFIX: &str = "systemd:";

/// Whose attempts have this epoch.
pub fn executor_of(epoch: &Epoch) -> Executor {
    if epoch.0.starts_with(SYSTEMD_PREFIX) { Executor::Systemd } else { Executor::Native }
}

/// One spawner.
pub(super) struct Side {
    pub(super) executor: Executor,
    pub(super) link: Native,
    /// Life of its directory, while it is connected.
    pub(super) epoch: Option<Epoch>,
    /// It has told all that it has.
    pub(super) listed: bool,
    /// Lists that are wanted; only one is on its way.
    pub(super) lists: u32,
    /// Why it is not connected.
    pub(super) why_down: Option<String>,
    /// Why it starts nothing any more: it ends with its last job, and another takes its place.
    pub(super) closed: Option<String>,
    /// Which limits it can make attempts keep to, as it last said.
    pub(super) enforces: Option<Enforces>,
}

impl Side {
    /// The epoch of what it starts now.
    pub(super) fn named_epoch(&self, epoch: &str) -> Epoch {
        match self.executor {
            Executor::Native => Epoch::new(epoch),
            Executor::Systemd => Epoch::new(&format!("{SYSTEMD_PREFIX}{epoch}")),
        }
    }

    /// Whether it takes starts.
    pub(super) fn takes_starts(&self) -> bool {
        self.listed && self.closed.is_none()
    }

    /// As it is shown.
    pub(super) fn view(&self) -> SideView {
        let (connected, takes_starts) = (self.epoch.is_some(), self.takes_starts());
        SideView { executor: self.executor, connected, takes_starts, problem: self.problem() }
    }

    /// What people read while it starts nothing.
    pub(super) fn problem(&self) -> Option<String> {
        if self.epoch.is_some() {
            let why = self.closed.as_ref()?;
            return Some(format!("nothing is started until the jobs that run now have ended: {why}"));
        }
        let why = self.why_down.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        Some(match self.executor {
            Executor::Native => format!("the spawner is not connected{why}: nothing can be started"),
            Executor::Systemd => format!(
                "the spawner of units is not connected{why}: nothing can be started in pools with executor systemd; \
                 systemctl status ci-runner-spawner says more"
            ),
        })
    }
}

/// All of them.
pub(super) struct Sides {
    list: Vec<Side>,
}

impl Sides {
    pub(super) fn new(links: Vec<(Executor, Native)>) -> Self {
        let side = |(executor, link)| Side {
            executor,
            link,
            epoch: None,
            listed: false,
            lists: 0,
            why_down: None,
            closed: None,
            enforces: None,
        };
        Self { list: links.into_iter().map(side).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Side> {
        self.list.iter()
    }

    /// The side of an executor; None when it came into use after the start of the daemon.
    pub(super) fn get(&self, executor: Executor) -> Option<&Side> {
        self.list.iter().find(|side| side.executor == executor)
    }

    pub(super) fn get_mut(&mut self, executor: Executor) -> Option<&mut Side> {
        self.list.iter_mut().find(|side| side.executor == executor)
    }

    /// True when all are connected.
    pub(super) fn all_up(&self) -> bool {
        self.list.iter().all(|side| side.epoch.is_some())
    }

    /// True when this executor's side has told all that it has.
    pub(super) fn listed(&self, executor: Executor) -> bool {
        self.get(executor).is_some_and(|side| side.listed)
    }

    /// True when this epoch is the present one of its side.
    pub(super) fn is_present(&self, epoch: &Epoch) -> bool {
        self.get(executor_of(epoch)).is_some_and(|side| side.epoch.as_ref() == Some(epoch))
    }

    /// Sends a command to the side of an executor.
    pub(super) fn send(&mut self, executor: Executor, request: Request) {
        if let Some(side) = self.get_mut(executor) {
            side.link.send(request);
        }
    }

    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(|side| side.link.flush());
    }

    /// What was told together with the last [`Self::next`], without waiting.
    pub(super) fn buffered(&mut self) -> Option<(Executor, Event)> {
        self.list.iter_mut().find_map(|side| Some((side.executor, side.link.buffered()?)))
    }

    /// The next thing that any side tells. May be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> (Executor, Event) {
        match self.list.as_mut_slice() {
            [] => std::future::pending().await,
            [side] => (side.executor, side.link.next().await),
            [one, other, ..] => tokio::select! {
                event = one.link.next() => (one.executor, event),
                event = other.link.next() => (other.executor, event),
            },
        }
    }
}
