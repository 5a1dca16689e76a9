//! From the received memory files to a program that can be launched. What is wrong with a specification is told in words:
//! it becomes the attempt's result.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::joblog::Masker;
use crate::launch::Program;
use crate::memfd;
use crate::policy_file::User;
use crate::protocol::{Secrets, Spec, WORD_BYTES_MAX};
use crate::record::shortened_name;

/// Where programs are looked for when the job has no `PATH`: the C library's default.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Names the working directory of a job that asked for none.
const WORKSPACE: &[u8] = b"CI_RUNNER_WORKSPACE=";

/// A specification that passed.
pub(crate) struct Loaded {
    /// What to run.
    pub(crate) program: Program,
    /// Hides the secrets in the log.
    pub(crate) masker: Option<Masker>,
    /// Size of the specification.
    pub(crate) spec_bytes: usize,
}

impl Loaded {
    /// What only we know of a job: where its directory is and, if it has a user of its own, who that is. The job's own words
    /// win.
    pub(crate) fn for_user(mut self, user: Option<&User>, tmpdir: &Path) -> Self {
        let env = &mut self.program.env;
        if self.program.dir.as_bytes() == tmpdir.as_os_str().as_bytes() {
            let workspace = env.iter_mut().find(|word| word.to_bytes().starts_with(WORKSPACE));
            let word = CString::new([WORKSPACE, tmpdir.as_os_str().as_bytes()].concat());
            if let (Some(workspace), Ok(word)) = (workspace, word) {
                *workspace = word;
            }
        }
        let Some(user) = user else { return self };
        let tmpdir = tmpdir.display();
        for (name, value) in [("HOME", tmpdir.to_string()), ("USER", user.name.clone()), ("LOGNAME", user.name.clone())]
        {
            let prefix = format!("{name}=");
            if !env.iter().any(|word| word.to_bytes().starts_with(prefix.as_bytes())) {
                env.extend(CString::new(format!("{prefix}{value}")));
            }
        }
        self
    }
}

/// Reads and checks; `tmpdir` becomes `TMPDIR` and, where none is named, the working directory.
pub(crate) fn load(spec: &OwnedFd, secrets: Option<&OwnedFd>, tmpdir: &Path) -> Result<Loaded, String> {
    let text = memfd::read(spec).map_err(|error| format!("cannot read the specification: {error}"))?;
    let spec: Spec =
        serde_json::from_slice(&text).map_err(|error| format!("the specification does not parse: {error}"))?;
    let secrets = match secrets {
        Some(secrets) => load_secrets(secrets)?,
        None => Secrets(Vec::new()),
    };
    let words = secrets.0.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let masker = Masker::new(words).map_err(|error| error.to_string())?;
    Ok(Loaded { program: program(&spec, &secrets, tmpdir)?, masker, spec_bytes: text.len() })
}

/// The parser's message could quote a value, so it is not passed on.
fn load_secrets(secrets: &OwnedFd) -> Result<Secrets, String> {
    let text = memfd::read(secrets).map_err(|error| format!("cannot read the secrets: {error}"))?;
    serde_json::from_slice(&text).map_err(|_| "the secrets do not parse".to_owned())
}

fn program(spec: &Spec, secrets: &Secrets, tmpdir: &Path) -> Result<Program, String> {
    let mut argv = Vec::with_capacity(spec.argv.len());
    for (i, text) in spec.argv.iter().enumerate() {
        argv.push(word(text.clone()).map_err(|why| format!("word {i} of the command {why}"))?);
    }
    let name = spec.argv.first().filter(|name| !name.is_empty()).ok_or("the command is empty")?;
    let env = environment(spec, secrets, tmpdir)?;
    let path = spec.env.iter().chain(&secrets.0).rfind(|(name, _)| name == "PATH");
    let candidates = candidates(name, path.map_or(DEFAULT_PATH, |(_, value)| value));
    let dir = match spec.dir.as_deref() {
        Some(dir) if !dir.starts_with('/') => {
            return Err(format!("the directory `{}` is not absolute", shortened_name(dir)));
        }
        Some(dir) => word(dir.to_owned()).map_err(|why| format!("the directory {why}"))?,
        None => CString::new(tmpdir.as_os_str().as_bytes()).map_err(|_| "TMPDIR has a NUL in it")?,
    };
    if spec.umask & !0o777 != 0 {
        return Err(format!("the umask {:o} is not between 0 and 777", spec.umask));
    }
    Ok(Program { argv, env, candidates, dir, umask: spec.umask })
}

/// The specification's words, overridden by secrets of the same name, and `TMPDIR`.
fn environment(spec: &Spec, secrets: &Secrets, tmpdir: &Path) -> Result<Vec<CString>, String> {
    let secret_names: HashSet<&str> = secrets.0.iter().map(|(name, _)| name.as_str()).collect();
    let plain = spec.env.iter().filter(|(name, _)| name != "TMPDIR" && !secret_names.contains(name.as_str()));
    let mut env = Vec::with_capacity(spec.env.len() + secrets.0.len() + 1);
    for (name, value) in plain.chain(&secrets.0) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("`{}` cannot name an environment variable", shortened_name(name)));
        }
        let text = format!("{name}={value}");
        env.push(word(text).map_err(|why| format!("the environment variable `{}` {why}", shortened_name(name)))?);
    }
    let tmpdir = [b"TMPDIR=", tmpdir.as_os_str().as_bytes()].concat();
    env.push(CString::new(tmpdir).map_err(|_| "TMPDIR has a NUL in it")?);
    Ok(env)
}

fn word(text: String) -> Result<CString, String> {
    if text.len() > WORD_BYTES_MAX {
        return Err(format!("has {} bytes, the limit is {WORD_BYTES_MAX}", text.len()));
    }
    CString::new(text).map_err(|error| format!("has a NUL at byte {}", error.nul_position()))
}

/// The paths that `execvp` would try. An empty part of `PATH` means the working directory, as everywhere.
fn candidates(program: &str, path: &str) -> Vec<CString> {
    if program.contains('/') {
        return CString::new(program).into_iter().collect();
    }
    let join = |dir: &str| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") };
    path.split(':').filter_map(|dir| CString::new(join(dir)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(argv: &[&str], env: &[(&str, &str)]) -> Spec {
        Spec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            dir: None,
            umask: 0o22,
        }
    }

    fn check(spec: &Spec, secrets: &[(&str, &str)]) -> Result<Program, String> {
        let secrets = secrets.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        program(spec, &Secrets(secrets), Path::new("/t/p-0"))
    }

    #[test]
    fn what_cannot_run_is_told_in_words() {
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        let cases: [(Spec, &str); 9] = [
            (spec(&[], &[]), "the command is empty"),
            (spec(&[""], &[]), "the command is empty"),
            (spec(&["a", "b\0c"], &[]), "word 1 of the command has a NUL at byte 1"),
            (spec(&[&long], &[]), "word 0 of the command has 131072 bytes, the limit is 131071"),
            (spec(&["a"], &[("", "x")]), "`` cannot name"),
            (spec(&["a"], &[("A=B", "x")]), "`A=B` cannot name"),
            (spec(&["a"], &[("A", &long)]), "the environment variable `A` has 131074 bytes"),
            (Spec { dir: Some("x".to_owned()), ..spec(&["a"], &[]) }, "the directory `x` is not absolute"),
            (Spec { umask: 0o1000, ..spec(&["a"], &[]) }, "the umask 1000"),
        ];
        for (spec, want) in cases {
            let got = check(&spec, &[]).err().expect("refused");
            assert!(got.contains(want), "{got}");
        }
    }

    #[test]
    fn secrets_override_and_tmpdir_is_ours() {
        let spec = spec(&["a"], &[("A", "1"), ("TMPDIR", "/elsewhere"), ("B", "2")]);
        let program = check(&spec, &[("B", "3"), ("PATH", "/x::/y")]).expect("passes");
        assert_eq!(program.env, [c"A=1", c"B=3", c"PATH=/x::/y", c"TMPDIR=/t/p-0"].map(|word| word.to_owned()));
        assert_eq!(program.candidates, [c"/x/a", c"a", c"/y/a"].map(|word| word.to_owned()));
        assert_eq!(program.dir.as_c_str(), c"/t/p-0");
    }
}
