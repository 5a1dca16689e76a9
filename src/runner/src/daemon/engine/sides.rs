//! The ways to the spawners, one for each executor that is in use, and those to former ones of native attempts.
//!
//! A lease says by its epoch whose it is, so that an attempt stays with the spawner that started it whatever the
//! configuration says of its pool by now. Each side is connected and listed by itself: nothing is concluded about an attempt
//! while its own side has not told what it has. With a former spawner nothing is started; `former.rs` lets go of it.

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

/// Which spawner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The configured one of native attempts.
    Native,
    /// The one of units.
    Systemd,
    /// One that open native attempts began with, before another was configured for them.
    Former(u8),
}

impl Way {
    /// How its attempts run.
    pub(super) fn executor(self) -> Executor {
        match self {
            Way::Native | Way::Former(_) => Executor::Native,
            Way::Systemd => Executor::Systemd,
        }
    }

    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Native | Way::Systemd => self.executor().name(),
            Way::Former(_) => "former native",
        }
    }

    pub(super) fn is_former(self) -> bool {
        matches!(self, Way::Former(_))
    }
}

impl From<Executor> for Way {
    fn from(executor: Executor) -> Self {
        match executor {
            Executor::Native => Way::Native,
            Executor::Systemd => Way::Systemd,
        }
    }
}

/// A spawner of native attempts that is not the configured one any more.
pub struct Former {
    /// Lives of its directory as open attempts name them; which of them is its own is known when it is connected.
    pub epochs: Vec<Epoch>,
    /// To it.
    pub link: Native,
}

/// One spawner.
pub(super) struct Side {
    pub(super) way: Way,
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
    /// Only of a former one: the epochs of its attempts, or of what may be.
    pub(super) owns: Vec<Epoch>,
}

impl Side {
    fn new(way: Way, link: Native, owns: Vec<Epoch>) -> Self {
        Self { way, link, epoch: None, listed: false, lists: 0, why_down: None, closed: None, enforces: None, owns }
    }

    /// A former spawner has told its epoch: attempts of others are not its own. True when there were some.
    pub(super) fn narrow(&mut self) -> bool {
        let before = self.owns.len();
        let epoch = self.epoch.clone();
        self.owns.retain(|owned| Some(owned) == epoch.as_ref());
        self.owns.len() < before
    }

    /// The epoch of what it starts now.
    pub(super) fn named_epoch(&self, epoch: &str) -> Epoch {
        match self.way.executor() {
            Executor::Native => Epoch::new(epoch),
            Executor::Systemd => Epoch::new(&format!("{SYSTEMD_PREFIX}{epoch}")),
        }
    }

    /// Whether it takes starts.
    pub(super) fn takes_starts(&self) -> bool {
        self.listed && self.closed.is_none() && !self.way.is_former()
    }

    /// As it is shown.
    pub(super) fn view(&self) -> SideView {
        let (connected, takes_starts) = (self.epoch.is_some(), self.takes_starts());
        let (executor, former) = (self.way.executor(), self.way.is_former());
        SideView { executor, former, connected, takes_starts, problem: self.problem() }
    }

    /// What people read while it starts nothing, or, of a former one, while it tells nothing.
    pub(super) fn problem(&self) -> Option<String> {
        if self.epoch.is_some() {
            if self.way.is_former() {
                return None;
            }
            let why = self.closed.as_ref()?;
            return Some(format!("nothing is started until the jobs that run now have ended: {why}"));
        }
        let why = self.why_down.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        Some(match self.way {
            Way::Native => format!("the spawner is not connected{why}: nothing can be started"),
            Way::Former(_) => format!(
                "the spawner that native attempts began with, before another was configured, is not connected{why}: they go \
                 on, but are not seen; start it again, as a rule by systemctl start ci-runner-jobs"
            ),
            Way::Systemd => format!(
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
    pub(super) fn new(links: Vec<(Executor, Native)>, former: Vec<Former>) -> Self {
        let current = links.into_iter().map(|(executor, link)| Side::new(executor.into(), link, Vec::new()));
        let former =
            (0..).zip(former).map(|(number, Former { epochs, link })| Side::new(Way::Former(number), link, epochs));
        Self { list: current.chain(former).collect() }
    }

    /// Whose attempts have this epoch.
    pub(super) fn way_of(&self, epoch: &Epoch) -> Way {
        let executor = executor_of(epoch);
        let former = || self.list.iter().find(|side| side.owns.contains(epoch)).map(|side| side.way);
        let former = if executor == Executor::Native { former() } else { None };
        former.unwrap_or(executor.into())
    }

    /// The former ones.
    pub(super) fn former(&self) -> impl Iterator<Item = &Side> {
        self.list.iter().filter(|side| side.way.is_former())
    }

    /// The configured spawner has said that this epoch is its own: no former one's attempts have it. Gives those that are not there and
    /// of which nothing is left to be wanted; they are gone.
    pub(super) fn disown(&mut self, epoch: &Epoch) -> Vec<Way> {
        for side in self.list.iter_mut().filter(|side| side.way.is_former()) {
            side.owns.retain(|owned| owned != epoch);
        }
        let is_void = |side: &Side| side.way.is_former() && side.owns.is_empty() && side.epoch.is_none();
        let void: Vec<Way> = self.list.iter().filter(|side| is_void(side)).map(|side| side.way).collect();
        self.list.retain(|side| !is_void(side));
        void
    }

    /// Closes the way to this one.
    pub(super) fn let_go(&mut self, way: Way) {
        self.list.retain(|side| side.way != way);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Side> {
        self.list.iter()
    }

    /// The side of an executor (the configured one); None when it came into use after the start of the daemon.
    pub(super) fn get(&self, way: impl Into<Way>) -> Option<&Side> {
        let way = way.into();
        self.list.iter().find(|side| side.way == way)
    }

    pub(super) fn get_mut(&mut self, way: Way) -> Option<&mut Side> {
        self.list.iter_mut().find(|side| side.way == way)
    }

    /// True when all are connected.
    pub(super) fn all_up(&self) -> bool {
        self.list.iter().all(|side| side.epoch.is_some())
    }

    /// True when this side has told all that it has.
    pub(super) fn listed(&self, way: Way) -> bool {
        self.get(way).is_some_and(|side| side.listed)
    }

    /// True when this epoch is the present one of its side.
    pub(super) fn is_present(&self, epoch: &Epoch) -> bool {
        self.get(self.way_of(epoch)).is_some_and(|side| side.epoch.as_ref() == Some(epoch))
    }

    /// Sends a command to a side.
    pub(super) fn send(&mut self, way: Way, request: Request) {
        if let Some(side) = self.get_mut(way) {
            side.link.send(request);
        }
    }

    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(|side| side.link.flush());
    }

    /// What was told together with the last [`Self::next`], without waiting.
    pub(super) fn buffered(&mut self) -> Option<(Way, Event)> {
        self.list.iter_mut().find_map(|side| Some((side.way, side.link.buffered()?)))
    }

    /// The next thing that any side tells. May be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> (Way, Event) {
        next_of(&mut self.list).await
    }
}

async fn next_of(sides: &mut [Side]) -> (Way, Event) {
    match sides {
        [] => std::future::pending().await,
        [side] => (side.way, side.link.next().await),
        [one, other] => tokio::select! {
            event = one.link.next() => (one.way, event),
            event = other.link.next() => (other.way, event),
        },
        [one, others @ ..] => tokio::select! {
            event = one.link.next() => (one.way, event),
            told = Box::pin(next_of(others)) => told,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::native::NativeOptions;
    use std::path::PathBuf;

    fn link() -> Native {
        let nowhere = || PathBuf::from("/nonexistent");
        Native::new(NativeOptions {
            program: nowhere(),
            runtime_dir: nowhere(),
            log_dir: nowhere(),
            tmp_dir: nowhere(),
            store: String::new(),
            generation: 1,
            linger: None,
            job_open_files: None,
            service: None,
            lifeline: None,
        })
    }

    /// A former service that never answers was taken for the owner of the attempts of the present one, which nobody then looked after.
    #[test]
    fn what_the_configured_spawner_calls_its_own_no_former_one_has() {
        let (own, other) = (Epoch::new("boot:1"), Epoch::new("boot:2"));
        let gone = || Former { epochs: vec![own.clone()], link: link() };
        let asked = || Former { epochs: vec![own.clone(), other.clone()], link: link() };
        let mut sides = Sides::new(vec![(Executor::Native, link())], vec![gone(), asked()]);
        assert_eq!(sides.way_of(&own), Way::Former(0), "the control: nobody has said whose it is");
        assert_eq!(sides.disown(&own), [Way::Former(0)], "of that one nothing is wanted any more");
        assert_eq!((sides.way_of(&own), sides.way_of(&other)), (Way::Native, Way::Former(1)));
        assert_eq!(sides.former().count(), 1);
    }
}
