//! `daemon`: its options. The service itself is [`super::Hooks::daemon`].

use super::Origin;
use super::context::Context;
use super::fail::{Ended, Failure};
use crate::config::{Config, ConfigOverrides};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `daemon`. The socket is the common option.
#[derive(Args, Debug)]
pub struct DaemonArgs {
    /// TOML file; options win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database, logs [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/ci-runner]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Attempts, sockets [default: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/ci-runner where you linger, else in the state]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// API on TCP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT|off")]
    http: Option<String>,
    /// Metrics [default: 127.0.0.1:9100]
    #[arg(long, value_name = "ADDR:PORT|off")]
    metrics: Option<String>,
    /// Slots of the default pool [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_parallel_jobs: Option<i64>,
    /// Tries after the first one that failed, for jobs that do not say [default: 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retry_attempts: Option<i64>,
    /// Pause before the next try [default: 5s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    retry_delay: Option<String>,
    /// error, warn, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How the log looks: text, or json: one object a line on standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How jobs of the default pool run [default: native]
    #[arg(long, value_name = "NAME")]
    executor: Option<String>,
}

impl DaemonArgs {
    /// The configuration these options and their file make.
    ///
    /// # Errors
    /// All problems at once.
    pub fn config(self, socket: Option<&Path>) -> Result<Config, Failure> {
        let origin = self.origin(socket);
        Config::load(origin.file.as_deref(), &origin.overrides).map_err(|error| Failure::Usage(error.to_string()))
    }

    fn origin(self, socket: Option<&Path>) -> Origin {
        let overrides = ConfigOverrides {
            state_dir: self.state_dir,
            runtime_dir: self.runtime_dir,
            socket: socket.map(Path::to_path_buf),
            http: self.http,
            metrics: self.metrics,
            max_parallel_jobs: self.max_parallel_jobs,
            retry_attempts: self.retry_attempts,
            retry_delay: self.retry_delay,
            log_level: self.log_level,
            log_format: self.log_format,
            executor: self.executor,
            exporter: Default::default(),
        };
        Origin { file: self.config, overrides }
    }
}

/// Runs the service; the process ends with what it returns.
pub fn daemon(context: &Context<'_>, args: DaemonArgs) -> Ended {
    // A job may start a daemon of its own: the variable names the one it was started by, whose socket is not to be taken.
    if context.socket().is_none()
        && let Some(path) = std::env::var_os("CI_RUNNER_SOCKET")
    {
        let path = path.to_string_lossy();
        eprintln!("ci-runner: $CI_RUNNER_SOCKET ({path}) is for clients; a daemon listens where --socket says");
    }
    Ok((context.hooks.daemon)(args.origin(context.socket())))
}
