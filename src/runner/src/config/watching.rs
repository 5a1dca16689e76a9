//! `[watch]` and `[notifiers.NAME]`: what is watched for, and who is told.
//!
//! A secret is never in the file: only where it is kept.

use super::check;
use super::file::{NotifierFile, WatchFile};
use super::resolve::{Resolver, out_of_range};
use crate::quantity::{DurationField, LimitField, exact_duration};
use crate::suggest::did_you_mean;
use axum::http::Uri;
use ci_runner_core::labels::Label;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::watch::{Rules, Watch};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Notifiers of one host: each is a thread and a label value in the metrics.
pub const NOTIFIERS_MAX: usize = 32;
/// Words of a command, receivers of a mail, names and labels of a filter.
const WORDS_MAX: usize = 64;
/// Where a mail goes when nothing else is said.
const SENDMAIL: [&str; 4] = ["/usr/sbin/sendmail", "-t", "-oi", "-oem"];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What is watched for, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchConfig {
    /// Between two looks.
    pub every: Duration,
    /// Failures and changes of this time count.
    pub window: Duration,
    /// How long a job usually takes is known from this time.
    pub history: Duration,
    /// A figure stays low so long before its alarm ends.
    pub calm: Duration,
    /// Limits.
    pub rules: Rules,
}

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifierConfig {
    /// How.
    pub kind: NotifierKind,
    /// Alarms that it is told of.
    pub watches: Vec<Watch>,
    /// Ends of jobs that it is told of, beside those of jobs that name it.
    pub jobs: JobFilter,
    /// A delivery that takes longer has failed.
    pub timeout: Duration,
    /// Most deliveries a minute; more wait.
    pub rate_max: u32,
    /// A delivery is tried so often at most.
    pub tries_max: u32,
    /// Deliveries that may wait; what comes beyond is dropped and counted.
    pub queue_max: u32,
}

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifierKind {
    /// A program: the event is on its standard input.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// An HTTP POST.
    Http {
        /// Where to; `http` or `https`, without user and password.
        url: String,
        /// What signs it.
        secret: Option<SecretPlace>,
        /// Certificates that are trusted instead of the system's, PEM.
        ca_file: Option<PathBuf>,
    },
    /// A mail, by the system's `sendmail`.
    Email {
        /// To whom.
        to: Vec<String>,
        /// From whom; None: the mail system says.
        from: Option<String>,
        /// Program and arguments; it takes the mail on standard input, receivers from its header.
        sendmail: Vec<String>,
    },
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// A file.
    File(PathBuf),
    /// A credential of the service manager.
    Credential(String),
}

/// Which ends of jobs. Without outcomes: none. Empty lists of the others: any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Words of outcomes.
    pub outcomes: Vec<String>,
    /// Exact names, or beginnings followed by `*`.
    pub names: Vec<String>,
    /// Pools.
    pub pools: Vec<String>,
    /// Labels that the job asked for; one of them is enough.
    pub labels: Vec<String>,
}

impl NotifierKind {
    /// The word in configuration and output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Command { .. } => "command",
            Self::Http { .. } => "http",
            Self::Email { .. } => "email",
        }
    }
}

impl Resolver<'_> {
    pub(super) fn watch(&mut self, file: &WatchFile) -> WatchConfig {
        let mut span = |key: &str, given: Option<DurationField>, default: Duration, least: Duration, most: Duration| {
            self.span(&["watch", key], given, default, least, most)
        };
        let every = span("every", file.every, Duration::from_secs(10), Duration::from_secs(1), HOUR);
        let window = span("window", file.window, HOUR, MINUTE, 31 * DAY);
        let history = span("history", file.history, 7 * DAY, HOUR, 366 * DAY);
        let calm = span("calm", file.calm, MINUTE, Duration::from_secs(1), DAY);
        let limit = |limit: Option<LimitField<DurationField>>, default: Option<Duration>| match limit {
            None => default.map(|default| DurationField(default).millis()),
            Some(limit) => limit.into_option().map(DurationField::millis),
        };
        let rules = Rules {
            stuck_factor: self.hundredths("stuck_factor", file.stuck_factor, 5.0, 1.0, 1_000.0),
            stuck_after_ms: limit(file.stuck_after, None),
            slow_factor: self.hundredths("slow_factor", file.slow_factor, 2.0, 1.0, 1_000.0),
            failure_rate_max: self.hundredths("failure_rate_max", file.failure_rate_max, 20.0, 0.01, 100.0),
            failure_jobs_min: self.number("failure_jobs_min", file.failure_jobs_min, 10, 1),
            queue_age_max_ms: limit(file.queue_age_max, Some(HOUR)),
            flapping_changes_max: Some(self.number("flapping_changes_max", file.flapping_changes_max, 5, 0))
                .filter(|most| *most > 0),
        };
        WatchConfig { every, window, history, calm, rules }
    }

    fn span(
        &mut self,
        key: &[&str],
        given: Option<DurationField>,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let value = given.map_or(default, |field| field.0);
        if !(least..=most).contains(&value) {
            let [value, least, most] = [value, least, most].map(exact_duration);
            self.file_problem(key, format!("{value} is out of range; give {least} to {most}"));
        }
        value
    }

    /// 0 turns the watch off.
    fn hundredths(&mut self, key: &str, given: Option<f64>, default: f64, least: f64, most: f64) -> Option<u64> {
        let value = given.unwrap_or(default);
        if value == 0.0 {
            return None;
        }
        if !(least..=most).contains(&value) {
            let text = format!("{value} is out of range; give {least} to {most}, or 0 to watch for nothing");
            self.file_problem(&["watch", key], text);
            return None;
        }
        Some((value * 100.0).round() as u64)
    }

    fn number(&mut self, key: &str, given: Option<i64>, default: u64, least: i64) -> u64 {
        const MOST: i64 = 1_000_000;
        let Some(value) = given else { return default };
        if !(least..=MOST).contains(&value) {
            self.file_problem(&["watch", key], out_of_range(value, &(least..=MOST)));
        }
        u64::try_from(value).unwrap_or(default)
    }

    pub(super) fn notifiers(&mut self, files: BTreeMap<String, NotifierFile>) -> BTreeMap<String, NotifierConfig> {
        if files.len() > NOTIFIERS_MAX {
            self.file_problem(&["notifiers"], format!("{} notifiers, at most {NOTIFIERS_MAX}", files.len()));
        }
        let mut notifiers = BTreeMap::new();
        for (name, file) in files {
            if let Err(problem) = check::pool_name(&name) {
                self.file_problem(&["notifiers", &name], problem.replace("a pool", "a notifier"));
            }
            if let Some(notifier) = self.notifier(&name, file) {
                notifiers.insert(name, notifier);
            }
        }
        notifiers
    }

    fn notifier(&mut self, name: &str, mut file: NotifierFile) -> Option<NotifierConfig> {
        let kind = self.kind(name, &mut file);
        for (key, words) in [("names", &file.names), ("pools", &file.pools), ("labels", &file.labels), ("to", &file.to)]
        {
            if words.len() > WORDS_MAX {
                self.file_problem(&["notifiers", name, key], format!("{} of them, at most {WORDS_MAX}", words.len()));
            }
        }
        for label in &file.labels {
            if let Err(error) = Label::parse(label) {
                self.file_problem(&["notifiers", name, "labels"], error.to_string());
            }
        }
        let outcomes = self.outcomes(name, file.outcomes.take().map(|field| field.0).unwrap_or_default());
        let watches = self.watches(name, file.watches.take().map(|field| field.0));
        let timeout = self.span(
            &["notifiers", name, "timeout"],
            file.timeout,
            Duration::from_secs(15),
            Duration::from_millis(100),
            Duration::from_secs(300),
        );
        let mut number = |key: &str, given: Option<i64>, default: u32, most: i64| {
            let value = given.unwrap_or(i64::from(default));
            if !(1..=most).contains(&value) {
                self.file_problem(&["notifiers", name, key], out_of_range(value, &(1..=most)));
            }
            u32::try_from(value).unwrap_or(default)
        };
        let (rate_max, tries_max) =
            (number("rate_max", file.rate_max, 60, 6_000), number("tries_max", file.tries_max, 12, 100));
        let queue_max = number("queue_max", file.queue_max, 1_000, 100_000);
        let jobs = JobFilter { outcomes, names: file.names, pools: file.pools, labels: file.labels };
        Some(NotifierConfig { kind: kind?, watches, jobs, timeout, rate_max, tries_max, queue_max })
    }

    fn kind(&mut self, name: &str, file: &mut NotifierFile) -> Option<NotifierKind> {
        const KINDS: [&str; 3] = ["command", "http", "email"];
        let Some(kind) = file.kind.take() else {
            self.file_problem(&["notifiers", name], format!("kind is missing; give one of {}", KINDS.join(", ")));
            return None;
        };
        let given = [
            ("command", "command", !file.command.is_empty()),
            ("url", "http", file.url.is_some()),
            ("secret_file", "http", file.secret_file.is_some()),
            ("secret_credential", "http", file.secret_credential.is_some()),
            ("ca_file", "http", file.ca_file.is_some()),
            ("to", "email", !file.to.is_empty()),
            ("from", "email", file.from.is_some()),
            ("sendmail", "email", !file.sendmail.is_empty()),
        ];
        if !KINDS.contains(&kind.as_str()) {
            let text = format!("{kind:?} is not a kind of notifier; {}", did_you_mean(&kind, KINDS));
            self.file_problem(&["notifiers", name, "kind"], text);
            return None;
        }
        for (key, of, _) in given.into_iter().filter(|(_, of, given)| *given && *of != kind) {
            self.file_problem(&["notifiers", name, key], format!("belongs to kind = {of:?}, this one is {kind:?}"));
        }
        match kind.as_str() {
            "command" => self
                .program(name, "command", std::mem::take(&mut file.command))
                .map(|argv| NotifierKind::Command { argv }),
            "http" => self.http_kind(name, file),
            _ => self.email_kind(name, file),
        }
    }

    fn program(&mut self, name: &str, key: &str, argv: Vec<String>) -> Option<Vec<String>> {
        let problem = match argv.first() {
            None => {
                "is missing; give a program and its arguments, as in [\"/usr/local/bin/page\", \"--urgent\"]".to_owned()
            }
            Some(program) if !program.starts_with('/') => format!("{program:?} is not an absolute path; write one"),
            Some(_) if argv.len() > WORDS_MAX => format!("{} words, at most {WORDS_MAX}", argv.len()),
            Some(_) if argv.iter().any(|word| word.contains('\0')) => {
                "holds a NUL byte, which no program can be given".to_owned()
            }
            Some(_) => return Some(argv),
        };
        self.file_problem(&["notifiers", name, key], problem);
        None
    }

    fn http_kind(&mut self, name: &str, file: &mut NotifierFile) -> Option<NotifierKind> {
        let url = file.url.take().unwrap_or_default();
        if let Err(problem) = check_url(&url) {
            self.file_problem(&["notifiers", name, "url"], problem);
            return None;
        }
        let mut path = |key: &str, text: Option<String>| {
            let text = text?;
            if !text.starts_with('/') {
                self.file_problem(&["notifiers", name, key], format!("{text:?} is relative; write an absolute path"));
            }
            Some(PathBuf::from(text))
        };
        let secret = path("secret_file", file.secret_file.take()).map(SecretPlace::File);
        let ca_file = path("ca_file", file.ca_file.take());
        let credential = file.secret_credential.take();
        if let Some(credential) = credential.as_ref().filter(|name| name.is_empty() || name.contains('/')) {
            let text = format!("{credential:?} is no name of a credential; give the name that LoadCredential= has");
            self.file_problem(&["notifiers", name, "secret_credential"], text);
        }
        if secret.is_some() && credential.is_some() {
            let text = "stands beside secret_file; give one of them".to_owned();
            self.file_problem(&["notifiers", name, "secret_credential"], text);
        }
        Some(NotifierKind::Http { url, secret: secret.or(credential.map(SecretPlace::Credential)), ca_file })
    }

    fn email_kind(&mut self, name: &str, file: &mut NotifierFile) -> Option<NotifierKind> {
        let to = std::mem::take(&mut file.to);
        if to.is_empty() {
            self.file_problem(&["notifiers", name], "to is missing; give at least one address".to_owned());
        }
        let from = file.from.take();
        let addresses = to.iter().map(|address| ("to", address)).chain(from.iter().map(|address| ("from", address)));
        for (key, address) in addresses {
            if !is_address(address) {
                let text = format!("{address:?} is not a plain mail address; write it like ops@example.org");
                self.file_problem(&["notifiers", name, key], text);
            }
        }
        let sendmail = match std::mem::take(&mut file.sendmail) {
            argv if argv.is_empty() => SENDMAIL.map(str::to_owned).to_vec(),
            argv => self.program(name, "sendmail", argv)?,
        };
        Some(NotifierKind::Email { to, from, sendmail })
    }

    fn outcomes(&mut self, name: &str, words: Vec<String>) -> Vec<String> {
        if words.iter().any(|word| word == "all") {
            return Outcome::WORDS.map(str::to_owned).to_vec();
        }
        for word in words.iter().filter(|word| !Outcome::WORDS.contains(&word.as_str())) {
            let text = format!("{word:?} is not an outcome; {}", did_you_mean(word, Outcome::WORDS));
            self.file_problem(&["notifiers", name, "outcomes"], text);
        }
        words
    }

    fn watches(&mut self, name: &str, words: Option<Vec<String>>) -> Vec<Watch> {
        let words = words.unwrap_or_default();
        if words.iter().any(|word| word == "all") {
            return Watch::ALL.to_vec();
        }
        let mut watches = Vec::new();
        for word in words {
            match Watch::from_word(&word) {
                Some(watch) => watches.push(watch),
                None => {
                    let known = Watch::ALL.map(Watch::word);
                    let text = format!("{word:?} is not a watch; {}", did_you_mean(&word, known));
                    self.file_problem(&["notifiers", name, "watches"], text);
                }
            }
        }
        watches
    }
}

/// The text of the URL is not repeated: it may hold a secret.
fn check_url(url: &str) -> Result<(), String> {
    let mend = "write it like https://hooks.example.org/ci";
    if url.is_empty() {
        return Err(format!("is missing; {mend}"));
    }
    let uri: Uri = url.parse().map_err(|_| format!("is not a URL; {mend}"))?;
    let authority = uri.authority().ok_or_else(|| format!("names no host; {mend}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("is neither http nor https; {mend}"));
    }
    if authority.as_str().contains('@') {
        return Err(format!("holds a user or password, which would be shown; {mend}, and sign with secret_file"));
    }
    Ok(())
}

/// Plain addresses only: nothing that a header or a mail system takes for more than one.
fn is_address(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+%=".contains(&byte))
    };
    text.len() <= 254
        && !text.starts_with('-')
        && text.split_once('@').map_or(plain(text), |(local, host)| plain(local) && plain(host))
}
