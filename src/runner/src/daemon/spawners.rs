//! The ways to the spawners that a daemon needs: of the executors that are configured, and of attempts that are open.

use super::engine::{self, Former, HostSettings};
use super::former;
use super::runtime_dir::{self, RuntimeDir};
use super::service::spawner_program;
use crate::config::{Config, Executor};
use crate::executor::native::{Native, NativeOptions};
use crate::store::Loaded;
use anyhow::{Context, Result};
use ci_runner_core::id::Epoch;
use ci_runner_core::record::Record;

/// All of them, not connected yet.
pub(super) struct Spawners {
    /// Of executors.
    pub(super) sides: Vec<(Executor, Native)>,
    /// Of attempts that began with another spawner than the configured one.
    pub(super) former: Vec<Former>,
    /// Where the daemon's own one is.
    pub(super) runtime_dir: RuntimeDir,
}

/// Where spawners are whose attempts are open, or may be.
pub(super) struct Whereabouts {
    /// Of the daemon's own one.
    pub(super) runtime_dir: RuntimeDir,
    former: Vec<former::Former>,
}

impl Whereabouts {
    /// As the open attempts and the notes of earlier lives tell.
    pub(super) fn find(config: &Config, record: &Record) -> Result<Self> {
        let native = record.leases().map(|(_, lease)| &lease.epoch);
        let native: Vec<Epoch> =
            native.filter(|epoch| engine::executor_of(epoch) == Executor::Native).cloned().collect();
        let service = config.jobs_socket.as_deref();
        let services = service.is_some() || !former::services(&config.state_dir, service).is_empty();
        let runtime_dir = runtime_dir::choose(config, &native, services)?;
        let former = former::find(&config.state_dir, service, &runtime_dir.dir, &native)
            .context("cannot find out where native attempts began")?;
        Ok(Self { runtime_dir, former })
    }
}

impl Spawners {
    /// Those that are needed.
    pub(super) fn new(
        whereabouts: Whereabouts,
        config: &Config,
        host: &HostSettings,
        record: &Record,
        loaded: &Loaded,
    ) -> Result<Self> {
        let Whereabouts { runtime_dir, former } = whereabouts;
        let options = NativeOptions {
            program: spawner_program()?,
            runtime_dir: runtime_dir.dir.clone(),
            log_dir: host.log_dir.clone(),
            tmp_dir: host.tmp_dir.clone(),
            store: loaded.store_id.clone(),
            generation: loaded.generation,
            linger: None,
            job_open_files: raise_open_files(),
            service: None,
            lifeline: None,
        };
        let link = |service| Native::new(NativeOptions { service, ..options.clone() });
        let open: Vec<Executor> = record.leases().map(|(_, lease)| engine::executor_of(&lease.epoch)).collect();
        let needed = |executor: &Executor| config.uses(*executor) || open.contains(executor);
        let side = |executor| {
            let service = match executor {
                Executor::Systemd => Some(config.spawner_socket.clone()),
                Executor::Native => config.jobs_socket.clone(),
            };
            (executor, link(service))
        };
        let sides = Executor::ALL.into_iter().filter(needed).map(side).collect();
        let former = former.into_iter().map(|former| Former { epochs: former.epochs, link: link(former.service) });
        Ok(Self { sides, former: former.collect(), runtime_dir })
    }
}

/// Raises our own soft limit of open files to the hard one: each follower takes descriptors. Tells the one before, which jobs
/// are to have; None: it stays.
fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    if before.current == before.maximum {
        return None;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    raised.inspect_err(|error| log::warn!("the limit of open files cannot be raised: {error}")).ok()?;
    before.current
}
