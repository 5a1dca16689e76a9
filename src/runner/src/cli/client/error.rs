//! What can go wrong between the client and the daemon, and what a person is told.

use crate::api::Problem;
use crate::cli::fail::Failure;
use crate::http::SOCKET_PATH_BYTES_MAX;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Why a request got no good answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens on any socket; each path with its reason.
    Unreachable {
        /// Path and reason.
        tried: Vec<(PathBuf, io::Error)>,
    },
    /// The connection broke or took too long.
    Broken {
        /// The socket.
        path: PathBuf,
        /// When: "before an answer came".
        when: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What came is not what a daemon sends.
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The daemon said no.
    Refused {
        /// In its words.
        problem: Box<Problem>,
        /// When to try again, in seconds.
        retry_after: Option<u64>,
    },
}

impl ClientError {
    pub(super) fn broken(path: &Path, when: &'static str, source: io::Error) -> ClientError {
        ClientError::Broken { path: path.to_owned(), when, source }
    }

    /// Whether the daemon took nothing because it is going away.
    pub fn is_stopping(&self) -> bool {
        matches!(self, ClientError::Refused { problem, .. } if problem.status == 503 && problem.kind.ends_with("stopping"))
    }

    /// Whether the daemon may be restarting: worth another try.
    pub fn is_passing(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Broken { .. } => true,
            ClientError::Garbled { .. } => false,
            ClientError::Refused { problem, .. } => matches!(problem.status, 429 | 502 | 503 | 504),
        }
    }

    /// Whether the daemon took nothing because it has too much to do at this moment.
    pub fn is_busy(&self) -> bool {
        matches!(self, ClientError::Refused { problem, .. } if problem.status == 503 && problem.kind.ends_with(":busy"))
    }

    /// Whether so many follow already that one more may not: asking from time to time is answered as ever.
    pub fn is_crowded(&self) -> bool {
        matches!(self, ClientError::Refused { problem, .. } if problem.status == 503 && problem.kind.ends_with("too-many-streams"))
    }

    /// As [`ClientError::is_passing`], for a daemon that was never seen: a socket that the caller may not use is none to wait for.
    pub fn may_be_starting(&self) -> bool {
        match self {
            ClientError::Unreachable { tried } => {
                !tried.iter().any(|(_, error)| error.kind() == io::ErrorKind::PermissionDenied)
            }
            _ => self.is_passing(),
        }
    }

    /// What is wrong, without advice.
    pub fn in_one_line(&self) -> String {
        match self {
            ClientError::Unreachable { tried } => {
                let paths: Vec<String> = tried.iter().map(|(path, _)| path.display().to_string()).collect();
                format!("nobody listens at {}", paths.join(", "))
            }
            _ => self.to_string(),
        }
    }

    /// The daemon's status, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Refused { problem, .. } => Some(problem.status),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { tried } => unreachable(formatter, tried),
            ClientError::Broken { path, when, source } => {
                let why = match source.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        "the daemon closed the connection".to_owned()
                    }
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the daemon does not answer".to_owned(),
                    _ => source.to_string(),
                };
                write!(formatter, "{why} {when}")?;
                if !path.as_os_str().is_empty() {
                    write!(formatter, " ({})", path.display())?;
                }
                Ok(())
            }
            ClientError::Garbled { path, what } => {
                write!(formatter, "what came from {} is not understood: {what}", path.display())
            }
            ClientError::Refused { problem, retry_after } => {
                let text = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
                // The detail names the field itself, usually.
                if let Some(field) = problem.field.as_ref().filter(|field| !text.starts_with(field.as_str())) {
                    write!(formatter, "{field}: ")?;
                }
                formatter.write_str(text)?;
                match retry_after {
                    Some(seconds) => write!(formatter, " (try again in {seconds} s)"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn unreachable(formatter: &mut fmt::Formatter<'_>, tried: &[(PathBuf, io::Error)]) -> fmt::Result {
    formatter.write_str("no daemon is reachable. Tried:")?;
    let mut denied = None;
    for (path, error) in tried {
        denied = denied.or((error.kind() == io::ErrorKind::PermissionDenied).then_some(path));
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no socket".to_owned(),
            io::ErrorKind::ConnectionRefused => "nobody listens".to_owned(),
            io::ErrorKind::PermissionDenied => "you may not use it".to_owned(),
            io::ErrorKind::WouldBlock => "the daemon accepts no connection".to_owned(),
            _ if is_too_long(error) => {
                format!("{} bytes, and a socket's path has at most {SOCKET_PATH_BYTES_MAX}", path.as_os_str().len())
            }
            _ => error.to_string(),
        };
        write!(formatter, "\n  {}: {why}", path.display())?;
    }
    match denied {
        Some(path) => write!(formatter, "\n{}", to_be_let_in(path)),
        None => formatter.write_str(
            "\nStart it with `systemctl start ci-runner`, or by hand with `ci-runner daemon`; or name its socket with --socket.",
        ),
    }
}

/// Whether the path is too long for a socket.
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NAMETOOLONG.raw_os_error())
}

/// The group of the service; a daemon that somebody runs by hand has none to join.
const GROUP: &str = "ci-runner";

/// The socket's directory may be closed as well, and tells the same.
fn to_be_let_in(socket: &Path) -> String {
    let named = |file: &str, id: u32| {
        let lines = std::fs::read_to_string(file).unwrap_or_default();
        lines.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        })
    };
    let places = [Some(socket), socket.parent()].into_iter().flatten();
    let Some(found) = places.filter_map(|path| path.metadata().ok()).next() else {
        return "Use it as the user who runs it.".to_owned();
    };
    if named("/etc/group", found.gid()).is_some_and(|group| group == GROUP) {
        return format!("To be let in, join the group `{GROUP}` (usermod -aG {GROUP} NAME) and log in again.");
    }
    let owner = named("/etc/passwd", found.uid()).unwrap_or_else(|| format!("uid {}", found.uid()));
    format!("It belongs to {owner}, and {owner} runs it by hand: use it as {owner}.")
}

impl std::error::Error for ClientError {}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let text = error.to_string();
        match &error {
            // No daemon can ever listen there.
            ClientError::Unreachable { tried }
                if tried.iter().all(|(_, why)| is_too_long(why)) && !tried.is_empty() =>
            {
                Failure::Usage(text)
            }
            ClientError::Unreachable { .. } | ClientError::Broken { .. } => Failure::Temporary(text),
            ClientError::Garbled { .. } => Failure::Error(text),
            ClientError::Refused { problem, .. } => match problem.status {
                400 | 413 | 414 | 415 | 422 => Failure::Usage(text),
                408 | 429 | 502 | 503 | 504 | 507 => Failure::Temporary(text),
                _ => Failure::Error(text),
            },
        }
    }
}
