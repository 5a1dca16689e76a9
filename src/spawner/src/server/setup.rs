//! From the command line to a listening spawner: options, directory, lock, epoch, socket, and the change into a background
//! process. The caller's process ends only when the socket listens (or with the reason why it does not).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::protocol::names;
use crate::{sys, wire};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Starts and watches the jobs of one ci-runner daemon; the daemon starts it by itself.

Usage: ci-runner-spawner --runtime-dir DIR --log-dir DIR --tmp-dir DIR [OPTIONS]
       ci-runner-spawner --policy FILE | --profiles

  --runtime-dir DIR  the spawner's socket and the attempts' directories are in DIR/spawner; best on a tmpfs
  --log-dir DIR      logs of jobs
  --tmp-dir DIR      temporary directories of jobs, one per slot
  --linger-ms N      end when for so long there was neither daemon nor job (2000)
  --die-with-daemon DIR  standard input is a pipe that the daemon holds: when its other end is closed, kill all jobs, end, and
                     remove DIR, in which the runtime directory is; never for a service, whose jobs outlive the daemon
  --job-open-files N soft limit of open files of jobs (the caller's own); the spawner raises its own to the hard one
  --policy FILE      be a service of root that starts jobs as systemd units, as FILE (JSON) allows; stays in the foreground
  --profiles         print the sandboxes that a policy can name, with a reason for each property

Example: ci-runner-spawner --runtime-dir /run/user/1000/ci-runner --log-dir ~/.local/state/ci-runner/logs \\
         --tmp-dir ~/.local/state/ci-runner/tmp
";

/// The spawner's own log is emptied when it is larger.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// How long a lock may be held by somebody who does not listen (a shim that was just forked, a spawner that just starts).
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) runtime_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) tmp_dir: PathBuf,
    pub(crate) linger_ms: u64,
    /// What is removed when the daemon is gone; None: jobs outlive the daemon.
    pub(crate) die_with_daemon: Option<PathBuf>,
    /// None: what the caller has.
    pub(crate) job_open_files: Option<u64>,
    /// Of a service: who may connect beside root. None: whoever started us.
    pub(crate) group: Option<u32>,
    /// Not in the help: makes jobs run without cgroups, to test what holds where there are none.
    pub(crate) no_cgroup: bool,
    /// Not in the help: makes jobs move into their cgroups, to test what is done where `clone3` is not to be had.
    pub(crate) no_clone3: bool,
}

impl Options {
    /// Parses; Ok(None) when help or version was asked for and printed.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut runtime_dir, mut log_dir, mut tmp_dir) = (None, None, None);
        let (mut linger_ms, mut job_open_files, mut die_with_daemon) = (2000, None, None);
        let (mut no_cgroup, mut no_clone3) = (false, false);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{} needs a value", word.display()));
            match word.to_str() {
                Some("--runtime-dir") => runtime_dir = Some(absolute(&value()?)?),
                Some("--log-dir") => log_dir = Some(absolute(&value()?)?),
                Some("--tmp-dir") => tmp_dir = Some(absolute(&value()?)?),
                Some("--linger-ms") => linger_ms = number("--linger-ms", &value()?)?,
                Some("--die-with-daemon") => die_with_daemon = Some(absolute(&value()?)?),
                Some("--job-open-files") => job_open_files = Some(number("--job-open-files", &value()?)?),
                Some("--no-cgroup") => no_cgroup = true,
                Some("--no-clone3") => no_clone3 = true,
                Some("--help" | "-h") => {
                    print!("{HELP}");
                    return Ok(None);
                }
                Some("--version" | "-V") => {
                    println!("ci-runner-spawner {}", env!("CARGO_PKG_VERSION"));
                    return Ok(None);
                }
                _ => return Err(format!("unknown option `{}`; --help lists all", word.display())),
            }
        }
        let runtime_dir = runtime_dir.ok_or("--runtime-dir is missing")?;
        if let Some(dir) = die_with_daemon.as_ref().filter(|dir| !is_in(&runtime_dir, dir)) {
            return Err(format!("--die-with-daemon: the runtime directory is not in {}", dir.display()));
        }
        Ok(Some(Self {
            runtime_dir,
            log_dir: log_dir.ok_or("--log-dir is missing")?,
            tmp_dir: tmp_dir.ok_or("--tmp-dir is missing")?,
            linger_ms,
            die_with_daemon,
            job_open_files,
            group: None,
            no_cgroup,
            no_clone3,
        }))
    }
}

fn number(option: &str, text: &OsString) -> Result<u64, String> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{option}: `{}` is no number", text.display()))
}

/// True when `inner` is truly in `outer`, by name.
fn is_in(inner: &Path, outer: &Path) -> bool {
    let plain = |path: &Path| !path.components().any(|part| part == std::path::Component::ParentDir);
    plain(inner) && plain(outer) && inner != outer && inner.starts_with(outer)
}

/// The working directory will be `/`.
fn absolute(path: &OsString) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// `<runtime-dir>/spawner`, held.
pub(crate) struct Home {
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) epoch: String,
    /// The attempts that are there are of another boot.
    pub(crate) other_boot: bool,
    pub(crate) lock: OwnedFd,
}

/// Why there is no home.
pub(crate) enum NoHome {
    /// Another spawner lives there and listens; its process id.
    Taken(String),
    /// Something is wrong.
    Fault(String),
}

impl From<String> for NoHome {
    fn from(why: String) -> Self {
        Self::Fault(why)
    }
}

impl Home {
    /// Makes and enters the spawner's directory.
    pub(crate) fn enter(options: &Options) -> Result<Self, NoHome> {
        let path = options.runtime_dir.join(names::SPAWNER_DIR);
        let fault = |what: &str, error: io::Error| format!("{}: {what}: {error}", path.display());
        let dir = private_dir(&path).map_err(|error| fault("cannot make the directory", error))?;
        let lock = open_lock(&dir).map_err(|error| fault("cannot open the lock", error))?;
        take_lock(&lock, &path)?;
        let pid = std::process::id().to_string();
        rustix::fs::ftruncate(&lock, 0).map_err(|error| fault("cannot write the lock", error.into()))?;
        rustix::io::pwrite(&lock, pid.as_bytes(), 0).map_err(|error| fault("cannot write the lock", error.into()))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| format!("cannot read the boot id: {error}"))?;
        let (epoch, other_boot) = epoch(&dir, boot.trim()).map_err(|error| fault("cannot write the epoch", error))?;
        Ok(Self { dir, path, epoch, other_boot, lock })
    }

    /// Makes and enters the directory of a service.
    pub(crate) fn of_service(path: &Path, group: u32) -> Result<Self, NoHome> {
        Ok(crate::unit::home::enter(path, group)?)
    }

    /// Something is wrong here.
    pub(crate) fn fault(&self, what: &str, error: io::Error) -> NoHome {
        NoHome::Fault(format!("{}: {what}: {error}", self.path.display()))
    }

    /// True while the path still leads to the directory that we hold.
    pub(crate) fn is_there(&self) -> bool {
        let there = rustix::fs::statat(CWD, self.path.join(names::SPAWNER_LOCK), AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.lock);
        matches!((there, ours), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    /// Listens. Any length of path will do.
    pub(crate) fn listen(&self) -> io::Result<OwnedFd> {
        match rustix::fs::unlinkat(&self.dir, names::SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let (address, _dir) = wire::address(&self.path.join(names::SOCKET))?;
        // The socket file is born 0600: nobody else can connect, not even before a chmod.
        let before = rustix::process::umask(Mode::from(0o177));
        let bound = rustix::net::bind(&socket, &address);
        rustix::process::umask(before);
        bound?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Takes the socket file away, when it is still ours.
    pub(crate) fn leave(&self) {
        if self.is_there() {
            let _ = rustix::fs::unlinkat(&self.dir, names::SOCKET, AtFlags::empty());
        }
    }
}

/// Makes (with its parents) and opens a directory that is ours alone.
fn private_dir(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let why = format!("it belongs to user {}", stat.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if stat.st_mode & 0o077 != 0 {
        rustix::fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}

pub(crate) fn open_lock(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, names::SPAWNER_LOCK, flags, Mode::RUSR | Mode::WUSR)?)
}

/// A held lock means a living spawner only if somebody answers: a shim holds it for a moment after its fork.
pub(crate) fn take_lock(lock: &OwnedFd, path: &Path) -> Result<(), NoHome> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(NoHome::Fault(format!("{}: cannot lock: {error}", path.display()))),
        }
        if crate::client::Client::connect(&path.join(names::SOCKET)).is_ok() {
            let mut holder = [0; 16];
            let got = rustix::io::pread(lock, &mut holder, 0).unwrap_or(0);
            return Err(NoHome::Taken(String::from_utf8_lossy(&holder[..got]).into_owned()));
        }
        if began.elapsed() > LOCK_PATIENCE {
            let why = format!("{}: the lock is held, but nobody listens on the socket", path.display());
            return Err(NoHome::Fault(why));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The epoch of the directory, made with it; true when an earlier one was of another boot.
pub(crate) fn epoch(dir: &OwnedFd, boot: &str) -> io::Result<(String, bool)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let before = match rustix::fs::openat(dir, names::EPOCH, flags, Mode::empty()) {
        Ok(file) => io::read_to_string(std::fs::File::from(file).take(256)).unwrap_or_default(),
        Err(Errno::NOENT) => String::new(),
        Err(error) => return Err(error.into()),
    };
    let random_part = before.trim().strip_prefix(boot).and_then(|rest| rest.strip_prefix('/'));
    if random_part.is_some_and(|hex| hex.len() == 32) {
        return Ok((before.trim().to_owned(), false));
    }
    let mut random = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let epoch = format!("{boot}/{hex}");
    replace(dir.as_fd(), names::EPOCH, epoch.as_bytes())?;
    // Without an epoch file there may be attempts all the same (a crash between the two): of unknown boot.
    Ok((epoch, true))
}

/// Replaces a small file in one step.
pub(crate) fn replace(dir: impl AsFd, name: &str, content: &[u8]) -> io::Result<()> {
    let aside = format!("{name}.tmp");
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, &aside, flags, Mode::RUSR | Mode::WUSR)?;
    std::fs::File::from(file).write_all(content)?;
    Ok(rustix::fs::renameat(&dir, &aside, &dir, name)?)
}

/// Goes on in a background process; what the caller must see is told through the [`Teller`]. Never returns in the
/// caller's process: that ends with the background process' word.
pub(crate) fn into_background() -> io::Result<Teller> {
    let (listener, teller) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if sys::fork()?.is_some() {
        drop(teller);
        let mut word = String::new();
        let _ = std::fs::File::from(listener).read_to_string(&mut word);
        match word.split_once(' ') {
            Some(("0", text)) => {
                let _ = write!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
                sys::exit_now(0)
            }
            Some((_, text)) => sys::say(format_args!("ci-runner-spawner: {}", text.trim_end())),
            None => sys::say(format_args!("ci-runner-spawner: the background process died while starting")),
        }
        sys::exit_now(1)
    }
    rustix::process::setsid()?;
    sys::own_signals();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::chdir("/")?;
    // Files of jobs' logs are for the group too; everything else has its mode named.
    rustix::process::umask(Mode::from(0o007));
    Ok(Teller(Some(teller)))
}

/// The way to the process that was called.
pub(crate) struct Teller(Option<OwnedFd>);

impl Teller {
    /// It ends, well (0) or not (1), with a line of text or none.
    pub(crate) fn tell(&mut self, code: u8, text: &str) {
        if let Some(pipe) = self.0.take() {
            let line = if text.is_empty() { format!("{code} ") } else { format!("{code} {text}\n") };
            let _ = rustix::io::write(&pipe, line.as_bytes());
        }
    }
}

/// Standard input and output to nowhere, errors to the spawner's log.
pub(crate) fn redirect(home: &Home) -> io::Result<()> {
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = rustix::fs::openat(&home.dir, "spawner.log", flags, Mode::RUSR | Mode::WUSR)?;
    rustix::stdio::dup2_stderr(&log)?;
    bound_log();
    Ok(())
}

/// Empties the spawner's log (now standard error) when it has grown too large.
pub(crate) fn bound_log() {
    let log = rustix::stdio::stderr();
    if rustix::fs::fstat(log).is_ok_and(|stat| stat.st_size as u64 > LOG_BYTES_MAX) {
        let _ = rustix::fs::ftruncate(log, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Options>, String> {
        Options::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_checked() {
        let good = ["--runtime-dir", "/r", "--log-dir", "/l", "--tmp-dir", "/t", "--linger-ms", "5"];
        let options = parse(&good).expect("parses").expect("options");
        assert_eq!((options.linger_ms, options.no_cgroup), (5, false));
        assert_eq!(options.tmp_dir, Path::new("/t"));
        assert!(parse(&good[2..]).is_err_and(|why| why.contains("--runtime-dir is missing")));
        assert_eq!(options.die_with_daemon, None, "never without being asked for");
        for outside in ["/r", "/r/..", "/other"] {
            let words = [&good[..], &["--die-with-daemon", outside]].concat();
            assert!(parse(&words).is_err_and(|why| why.contains("is not in")), "{outside}");
        }
        let words = [&["--runtime-dir", "/p/r"], &good[2..], &["--die-with-daemon", "/p"]].concat();
        assert_eq!(parse(&words).expect("parses").expect("options").die_with_daemon.as_deref(), Some(Path::new("/p")));
        assert!(parse(&["--linger-ms", "soon"]).is_err_and(|why| why.contains("`soon`")));
        assert_eq!(options.job_open_files, None);
        assert!(parse(&["--job-open-files", "-1"]).is_err_and(|why| why.contains("`-1`")));
        assert!(parse(&["--linger-ms"]).is_err_and(|why| why.contains("needs a value")));
        assert!(parse(&["--lingerms"]).is_err_and(|why| why.contains("`--lingerms`")));
    }

    #[test]
    fn an_epoch_is_made_once_and_anew_after_a_boot() {
        let dir = tempfile::tempdir().expect("a directory");
        let fd: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
        let (first, other) = epoch(&fd, "boot-1").expect("made");
        assert!(other && first.starts_with("boot-1/") && first.len() == 7 + 32);
        assert_eq!(epoch(&fd, "boot-1").expect("read"), (first.clone(), false));
        let (second, other) = epoch(&fd, "boot-2").expect("made");
        assert!(other && second != first);
        std::fs::write(dir.path().join(names::EPOCH), "boot-2/torn").expect("written");
        assert!(epoch(&fd, "boot-2").is_ok_and(|(_, other)| other));
    }
}
