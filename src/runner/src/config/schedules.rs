//! Resolving `[schedules.NAME]`. What a schedule's job may be is decided with the settings that jobs are checked against, in
//! `daemon::settings`; here is what the file alone can tell.

use std::collections::BTreeMap;

use super::Config;
use super::file::ScheduleFile;
use super::resolve::Resolver;
use super::show::{line, list, quoted};
use crate::api::JobRequest;
use crate::cron::{CronSchedule, Missed, Overlap};
use crate::request::read_job;

/// Longest name of a schedule.
const NAME_BYTES_MAX: usize = 64;
/// More are no configuration any more.
const SCHEDULES_MAX: usize = 1000;

/// A schedule that the configuration declares.
#[derive(Debug, Clone)]
pub struct ScheduleConfig {
    /// Cron expression or calendar word.
    pub calendar: String,
    /// IANA time zone; None: the host's.
    pub timezone: Option<String>,
    /// What is done while the last job is not over.
    pub overlap: Overlap,
    /// What becomes of runs that were missed.
    pub missed: Missed,
    /// Its jobs.
    pub job: JobRequest,
}

/// None where it is a name, else what is wrong with it.
pub fn schedule_name_fault(name: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let is_name = name.len() <= NAME_BYTES_MAX && starts && name.bytes().all(allowed);
    (!is_name).then(|| format!("{name:?} is no schedule name: 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-`"))
}

/// The field of a job that a schedule cannot have, and why not.
pub fn schedule_job_fault(job: &JobRequest) -> Option<(&'static str, &'static str)> {
    if !job.secrets.is_empty() {
        return Some((
            "secrets",
            "a schedule cannot hold secrets: it is kept in the store, where their values never go",
        ));
    }
    if job.key.is_some() {
        return Some(("key", "every run would be the same job; leave it out"));
    }
    job.at.is_some().then_some(("at", "the schedule says when; leave it out"))
}

/// As TOML that reads back.
pub(super) fn show(config: &Config, text: &mut String) {
    for (name, schedule) in &config.schedules {
        line(text, &format!("\n[schedules.{}]", quoted(name)));
        let ScheduleConfig { calendar, timezone, overlap, missed, job } = schedule;
        line(text, &format!("calendar = {}", quoted(calendar)));
        if let Some(zone) = timezone {
            line(text, &format!("timezone = {}", quoted(zone)));
        }
        line(text, &format!("overlap = {}\nmissed = {}", quoted(overlap.name()), quoted(missed.name())));
        let mut rest = job.clone();
        if let Some(words) = rest.command.take() {
            line(text, &format!("command = {}", list(&words)));
        }
        if let Some(shell) = rest.shell.take() {
            line(text, &format!("shell = {}", quoted(&shell)));
        }
        // What is absent has no word in TOML.
        if let Ok(toml::Value::Table(mut table)) = toml::Value::try_from(&rest) {
            table.retain(|_, value| !is_empty(value));
            if !table.is_empty() {
                line(text, &format!("job = {}", toml::Value::Table(table)));
            }
        }
    }
}

fn is_empty(value: &toml::Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_table().is_some_and(toml::Table::is_empty)
}

/// Where `inf` or `nan` stands in it. TOML has them and JSON, as which a job is read, does not: they would be as if left out.
fn no_number(value: &toml::Value) -> Option<Vec<&str>> {
    match value {
        toml::Value::Float(number) => (!number.is_finite()).then(Vec::new),
        toml::Value::Array(entries) => entries.iter().find_map(no_number),
        toml::Value::Table(table) => {
            table.iter().find_map(|(key, value)| Some([vec![key.as_str()], no_number(value)?].concat()))
        }
        toml::Value::String(_) | toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => None,
    }
}

impl Resolver<'_> {
    pub(super) fn schedules(&mut self, files: BTreeMap<String, ScheduleFile>) -> BTreeMap<String, ScheduleConfig> {
        if files.len() > SCHEDULES_MAX {
            self.file_problem(&["schedules"], format!("{} schedules are more than {SCHEDULES_MAX}", files.len()));
        }
        files.into_iter().filter_map(|(name, file)| Some((name.clone(), self.schedule(&name, file)?))).collect()
    }

    fn schedule(&mut self, name: &str, file: ScheduleFile) -> Option<ScheduleConfig> {
        let mut wrong = |key: &[&str], text: String| self.file_problem(&[&["schedules", name], key].concat(), text);
        if let Some(text) = schedule_name_fault(name) {
            wrong(&[], text);
        }
        let calendar = file.calendar.unwrap_or_default();
        if calendar.is_empty() {
            wrong(&["calendar"], "is missing; say when, like \"0 3 * * *\" or \"daily\"".to_owned());
        } else if let Err(error) = CronSchedule::parse(&calendar, file.timezone.as_deref()) {
            wrong(&["calendar"], error.to_string());
        }
        let overlap = file.overlap.as_deref().map_or(Ok(Overlap::Skip), Overlap::parse);
        let missed = file.missed.as_deref().map_or(Ok(Missed::Once), Missed::parse);
        for (key, text) in [("overlap", overlap.as_ref().err()), ("missed", missed.as_ref().err())] {
            text.into_iter().for_each(|text| wrong(&[key], text.clone()));
        }
        let numberless: Vec<Vec<&str>> =
            file.job.iter().filter_map(|(key, value)| Some([vec![key.as_str()], no_number(value)?].concat())).collect();
        for path in &numberless {
            wrong(&[&["job"], path.as_slice()].concat(), "is no number of JSON; give one like 1.5".to_owned());
        }
        if !numberless.is_empty() {
            return None;
        }
        let read = serde_json::to_vec(&file.job).map_err(|error| error.to_string());
        let mut job = match read.map(|json| read_job(&json)) {
            Ok(Ok(job)) => job,
            Ok(Err(fault)) => {
                wrong(&["job", &fault.field], fault.why);
                return None;
            }
            Err(text) => {
                wrong(&["job"], text);
                return None;
            }
        };
        if job.command.is_some() || job.shell.is_some() {
            wrong(&["job"], "command and shell stand beside it, not in it".to_owned());
        }
        (job.command, job.shell) = (file.command, file.shell);
        if let Some((field, text)) = schedule_job_fault(&job) {
            wrong(&["job", field], text.to_owned());
        }
        Some(ScheduleConfig { calendar, timezone: file.timezone, overlap: overlap.ok()?, missed: missed.ok()?, job })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigOverrides, Host};
    use std::path::Path;

    fn resolve(text: &str) -> Result<Config, String> {
        let host = Host {
            environment: [("HOME".to_owned(), "/home/ada".to_owned())].into(),
            hostname: "box".to_owned(),
            architecture: "x86_64".to_owned(),
            lingers: false,
            current_dir: "/srv".into(),
        };
        let file = Some((Path::new("c.toml"), text));
        Config::resolve(&host, file, &ConfigOverrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_schedule_reads_back_as_it_is_shown() {
        let text = "[schedules.nightly]\ncalendar = \"30 2 * * *\"\ntimezone = \"UTC\"\nmissed = \"all\"\n\
                    command = [\"make\", \"a b\"]\njob = { timeout = \"2h\", retry = 1, env = { A = \"1\" } }\n";
        let first = resolve(text).expect("resolves");
        let schedule = &first.schedules["nightly"];
        assert_eq!((schedule.overlap.name(), schedule.missed.name()), ("skip", "all"));
        let again = resolve(&first.show()).expect("reads back");
        assert_eq!(format!("{:?}", again.schedules), format!("{:?}", first.schedules));
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_named_with_its_line() {
        for (text, part) in [
            ("shell = \"x\"", "schedules.a.calendar: is missing"),
            ("calendar = \"61 * * * *\"\nshell = \"x\"", "c.toml:2: schedules.a.calendar: schedule \"61 * * * *\""),
            ("calendar = \"daily\"\noverlap = \"wait\"", "schedules.a.overlap: \"wait\""),
            ("calendar = \"daily\"\nmised = \"all\"", "did you mean \"missed\"?"),
            ("calendar = \"daily\"\njob = { tiemout = 3 }", "schedules.a.job.tiemout"),
            ("calendar = \"daily\"\njob = { shell = \"x\" }", "stand beside it"),
            ("calendar = \"daily\"\nshell = \"x\"\njob = { at = \"12:00\" }", "the schedule says when"),
            ("calendar = \"daily\"\nshell = \"x\"\njob = { cpu = inf }", "c.toml:4: schedules.a.job.cpu: is no number"),
            ("calendar = \"daily\"\nshell = \"x\"\njob = { oom_memory_factor = nan }", "job.oom_memory_factor: is no"),
            ("calendar = \"daily\"\nshell = \"x\"\njob = { timeout = -inf }", "schedules.a.job.timeout: is no number"),
            ("calendar = \"daily\"\nshell = \"x\"\njob = { env = { A = inf } }", "schedules.a.job.env.A: is no"),
        ] {
            let told = resolve(&format!("[schedules.a]\n{text}\n")).expect_err(text);
            assert!(told.contains(part), "{text}: {told}");
        }
        let told = resolve("[schedules.\"a b\"]\ncalendar = \"daily\"\nshell = \"x\"\n").expect_err("a name");
        assert!(told.contains("is no schedule name"), "{told}");
    }
}
