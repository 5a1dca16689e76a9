//! What the configuration takes from the process and the machine: environment, names, directories.
//!
//! It is read once into [`Host`], so that everything after it is a pure function.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The facts about process and machine that defaults depend on.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The environment. Variables that are not UTF-8 are left out.
    pub environment: HashMap<String, String>,
    /// `uname -n`.
    pub hostname: String,
    /// `uname -m`: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Whether this user's services outlive a logout (`loginctl enable-linger`).
    pub lingers: bool,
    /// Where relative paths of the command line start.
    pub current_dir: PathBuf,
}

impl Host {
    /// Reads process and machine, once.
    pub fn of_process() -> Host {
        let environment: HashMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let uname = rustix::system::uname();
        let lingers = user_name(&environment)
            .is_some_and(|user| !user.contains('/') && Path::new("/var/lib/systemd/linger").join(user).exists());
        Host {
            lingers,
            hostname: uname.nodename().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            environment,
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An absolute path in a variable; systemd's directory variables may hold several, the first counts.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        let first = self.variable(name)?.split(':').next()?;
        // The XDG rules say: a relative path is to be ignored.
        first.starts_with('/').then(|| PathBuf::from(first))
    }

    /// The default state directory and where it comes from.
    pub(super) fn state_dir(&self) -> Option<(PathBuf, &'static str)> {
        match self.directory("STATE_DIRECTORY") {
            Some(directory) => Some((directory, "STATE_DIRECTORY")),
            None => self.user_state_dir(),
        }
    }

    fn user_state_dir(&self) -> Option<(PathBuf, &'static str)> {
        if let Some(directory) = self.directory("XDG_STATE_HOME") {
            return Some((directory.join("ci-runner"), "XDG_STATE_HOME"));
        }
        self.directory("HOME").map(|home| (home.join(".local/state/ci-runner"), "HOME"))
    }

    /// The default runtime directory and the variable it comes from; `None` as variable: below the state.
    pub(super) fn runtime_dir(&self, state_dir: &Path) -> (PathBuf, Option<&'static str>) {
        if let Some(directory) = self.directory("RUNTIME_DIRECTORY") {
            return (directory, Some("RUNTIME_DIRECTORY"));
        }
        match self.directory("XDG_RUNTIME_DIR") {
            // Without linger the directory is emptied at logout, under running jobs.
            Some(directory) if self.lingers => (directory.join("ci-runner"), Some("XDG_RUNTIME_DIR")),
            _ => (state_dir.join("run"), None),
        }
    }

    /// The sockets a client tries, in this order, until one connects. An explicit one (`--socket`, else
    /// `$CI_RUNNER_SOCKET`) is the only candidate.
    pub fn socket_candidates(&self, explicit: Option<&Path>) -> Vec<PathBuf> {
        if let Some(path) =
            explicit.map(Path::to_path_buf).or_else(|| self.variable("CI_RUNNER_SOCKET").map(PathBuf::from))
        {
            return vec![self.current_dir.join(path)];
        }
        let mut candidates: Vec<PathBuf> = Vec::new();
        let directories = [
            self.directory("RUNTIME_DIRECTORY"),
            Some(PathBuf::from("/run/ci-runner")),
            self.directory("XDG_RUNTIME_DIR").map(|directory| directory.join("ci-runner")),
            self.user_state_dir().map(|(directory, _)| directory.join("run")),
        ];
        for directory in directories.into_iter().flatten() {
            let candidate = directory.join(super::SOCKET_NAME);
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

/// The user's name, from the password file (an environment variable may lie), else from the environment.
fn user_name(environment: &HashMap<String, String>) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let from_file = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    from_file.or_else(|| environment.get("USER").cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(variables: &[(&str, &str)], lingers: bool) -> Host {
        Host {
            environment: variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            lingers,
            current_dir: PathBuf::from("/srv"),
            ..Host::default()
        }
    }

    #[test]
    fn state_directory_is_resolved_in_order() {
        let all = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        let state = |from: usize| host(&all[from..], false).state_dir().map(|(path, _)| path);
        assert_eq!(state(0), Some(PathBuf::from("/var/lib/a")));
        assert_eq!(state(1), Some(PathBuf::from("/x/ci-runner")));
        assert_eq!(state(2), Some(PathBuf::from("/h/.local/state/ci-runner")));
        assert_eq!(state(3), None);
        assert_eq!(host(&[("XDG_STATE_HOME", "x"), ("HOME", "")], false).state_dir(), None);
    }

    #[test]
    fn runtime_directory_needs_linger() {
        let variables = [("XDG_RUNTIME_DIR", "/run/user/7")];
        let state = Path::new("/s");
        assert_eq!(host(&variables, true).runtime_dir(state).0, Path::new("/run/user/7/ci-runner"));
        assert_eq!(host(&variables, false).runtime_dir(state).0, Path::new("/s/run"));
        let service = host(&[("RUNTIME_DIRECTORY", "/run/ci-runner"), variables[0]], true);
        assert_eq!(service.runtime_dir(state).0, Path::new("/run/ci-runner"));
    }

    #[test]
    fn clients_try_the_documented_sockets() {
        let shown = |host: &Host, explicit: Option<&str>| {
            let paths = host.socket_candidates(explicit.map(Path::new));
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let variables = [("RUNTIME_DIRECTORY", "/run/ci-runner"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/h")];
        let user = host(&variables[1..], false);
        let expected =
            ["/run/ci-runner/api.sock", "/run/user/7/ci-runner/api.sock", "/h/.local/state/ci-runner/run/api.sock"];
        assert_eq!(shown(&user, None), expected);
        assert_eq!(shown(&host(&variables, false), None), expected, "each only once");
        assert_eq!(shown(&user, Some("a.sock")), ["/srv/a.sock"]);
        assert_eq!(shown(&host(&[("CI_RUNNER_SOCKET", "/e.sock")], false), None), ["/e.sock"]);
        assert_eq!(shown(&host(&[("CI_RUNNER_SOCKET", "/e.sock")], false), Some("/a.sock")), ["/a.sock"]);
    }

    #[test]
    fn the_process_is_read() {
        let host = Host::of_process();
        assert!(!host.hostname.is_empty() && !host.architecture.is_empty());
        assert!(host.current_dir.is_absolute());
    }
}
