//! To the socket of a spawner: connects, starts one where none answers, says hello. Blocks.

use super::options::NativeOptions;
use super::pulse::Pulse;
use ci_runner_spawner::client::Client;
use ci_runner_spawner::dirs::can_be_told;
use ci_runner_spawner::protocol::{Enforces, PROTOCOL_VERSION, Reply, Request, names};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `welcome` told.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) epoch: String,
    pub(super) cgroup: bool,
    pub(super) enforces: Enforces,
    pub(super) pulse: Pulse,
    /// Where it puts logs instead, as far as can be seen, when it is too old to be told where.
    pub(super) logs_elsewhere: Option<PathBuf>,
}

/// A spawner that does not say hello within this is treated as gone.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the spawner, starting one where none answers, and says hello. Blocks.
pub(super) fn connect(options: &NativeOptions) -> io::Result<Connected> {
    let own = || options.runtime_dir.join(names::SPAWNER_DIR).join(names::SOCKET);
    let socket = options.service.clone().unwrap_or_else(own);
    let mut client = match Client::connect(&socket) {
        Ok(client) => client,
        Err(error) if options.service.is_some() => {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", socket.display())));
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            launch(options)?;
            Client::connect(&socket)?
        }
        Err(error) => return Err(error),
    };
    let hello =
        Request::Hello { protocol: PROTOCOL_VERSION, store: options.store.clone(), generation: options.generation };
    client.send(&[hello])?;
    let until = std::time::Instant::now() + HELLO_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the spawner does not answer"));
        }
        client.wait(left)?;
        match client.recv() {
            Ok(replies) => {
                for reply in replies {
                    match reply {
                        Reply::Welcome { epoch, cgroup, pid, pings, dirs, enforces, .. } => {
                            let logs_elsewhere = tell_dirs(&mut client, options, dirs, pid)?;
                            let pulse = Pulse::new(pid, pings);
                            return Ok(Connected { client, epoch, cgroup, enforces, pulse, logs_elsewhere });
                        }
                        Reply::Refused { why } => return Err(io::Error::other(why)),
                        _ => {}
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A private spawner may have been started for other directories than ours. One of an earlier version cannot be told: then, where
/// it puts logs, if that is elsewhere.
fn tell_dirs(client: &mut Client, options: &NativeOptions, takes: bool, pid: u32) -> io::Result<Option<PathBuf>> {
    if options.service.is_some() {
        return Ok(None);
    }
    let path = |path: &Path| path.to_str().filter(|path| can_be_told(path)).map(str::to_owned);
    if let (true, Some(log_dir), Some(tmp_dir)) = (takes, path(&options.log_dir), path(&options.tmp_dir)) {
        client.send(&[Request::Dirs { log_dir, tmp_dir }])?;
        return Ok(None);
    }
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0);
    let theirs = words.find(|word| *word == b"--log-dir").and_then(|_| words.next());
    Ok(theirs.map(|path| PathBuf::from(OsStr::from_bytes(path))).filter(|path| *path != options.log_dir))
}

/// Starts a spawner; returns when its socket is open (it puts itself into the background). All that it needs of our environment
/// is the path: what else is there may be secret, and every job could read it of its parents.
fn launch(options: &NativeOptions) -> io::Result<()> {
    let linger = options.linger.map(|linger| ["--linger-ms".to_owned(), linger.as_millis().to_string()]);
    let open_files = options.job_open_files.map(|number| ["--job-open-files".to_owned(), number.to_string()]);
    let mut command = Command::new(&options.program);
    let kept = |name: &&str| std::env::var_os(name).map(|value| ((*name).to_owned(), value));
    let variables = ["PATH"].iter().chain(ci_runner_spawner::failpoint::VARIABLES);
    command.env_clear().envs(variables.filter_map(kept)).stdin(Stdio::null());
    if let Some(lifeline) = &options.lifeline {
        command.arg("--die-with-daemon").arg(&lifeline.dir).stdin(lifeline.theirs.try_clone()?);
    }
    let done = command
        .args(linger.into_iter().chain(open_files).flatten())
        .arg("--runtime-dir")
        .arg(&options.runtime_dir)
        .arg("--log-dir")
        .arg(&options.log_dir)
        .arg("--tmp-dir")
        .arg(&options.tmp_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {}: {error}", options.program.display())))?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{} did not start ({}): {}", options.program.display(), done.status, why.trim())))
}
