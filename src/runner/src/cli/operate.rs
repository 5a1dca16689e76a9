//! `backup`, `restore`, `gc`.

use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure, after};
use super::host::NoArgs;
use crate::api::BackupRequest;
use crate::config::{Config, ConfigOverrides};
use clap::Args;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The file to write, on the daemon's host; it must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The daemon's configuration, which may name the state directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory to make [default: as for `daemon` with this configuration]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Asks the daemon for a backup.
pub fn backup(context: &Context<'_>, args: BackupArgs) -> Ended {
    let path =
        std::path::absolute(&args.file).map_err(|error| Failure::Usage(format!("{}: {error}", args.file.display())))?;
    let path = path.to_string_lossy().into_owned();
    let _: Value = context.client.post("/api/v1/backup", &BackupRequest { path: path.clone() })?;
    let told = match context.is_json() {
        true => context.print_json(&json!({ "path": path })),
        false => print(&format!("{path}\n")),
    };
    after(told, || format!("the backup {path} is made, but that"))
}

/// Makes a state directory from a backup.
pub fn restore(context: &Context<'_>, args: RestoreArgs) -> Ended {
    let is_named = args.state_dir.is_some();
    let overrides = ConfigOverrides { state_dir: args.state_dir, ..ConfigOverrides::default() };
    let config = Config::load(args.config.as_deref(), &overrides).map_err(|error| Failure::Usage(error.to_string()))?;
    match std::fs::metadata(&args.file) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(Failure::Usage(format!("{}: it is no file", args.file.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::Usage(format!("{}: there is no such file", args.file.display())));
        }
        Err(error) => return Err(Failure::Usage(format!("{}: {error}", args.file.display()))),
    }
    // Another state directory than the configuration's has other logs, unless a note in it says that they are these.
    let is_its_own = !is_named || config.log_dir.starts_with(&config.state_dir);
    let log_dir = is_its_own.then_some(config.log_dir.as_path());
    let restored = (context.hooks.restore)(&args.file, &config.state_dir, log_dir)?;
    let done = || format!("{} is made from the backup, but that", config.state_dir.display());
    if context.is_json() {
        return after(context.print_json(&restored), done);
    }
    let text = format!(
        "{}: {} finished jobs, {} open ones on hold, {} schedules paused, {} attempts ended as lost\n",
        config.state_dir.display(),
        restored.finished,
        restored.held,
        restored.paused_schedules,
        restored.lost
    );
    after(print(&text), done)?;
    if let Some(replaced) = &restored.replaced {
        context.note(&format!("what was there before is kept at {}", replaced.display()));
    }
    for others in &restored.others {
        context.note(&format!(
            "the same ids were other jobs there: what they left is kept at {}, and is nobody's",
            others.display()
        ));
    }
    if let Some(later) = &restored.later_secrets {
        context.note(&format!(
            "secrets of jobs that are not open in this backup are kept at {}: restoring a backup that knows them puts them back",
            later.display()
        ));
    }
    if restored.secrets_back > 0 {
        context
            .note(&format!("{} jobs have secrets again that an earlier restore had put aside", restored.secrets_back));
    }
    for file in &restored.files {
        context.note(&format!(
            "the backup held {}: compare it, and put it where the daemon's --config points",
            file.display()
        ));
    }
    if restored.held > 0 {
        context
            .note("look at held jobs with `ci-runner list --state queued`, let them go with `ci-runner release ID…`");
    }
    if restored.paused_schedules > 0 {
        context.note("look at paused schedules with `ci-runner schedule list`, let them go with `ci-runner schedule resume NAME`");
    }
    if let Some(pause) = &restored.pause {
        context.note(&format!(
            "the host was paused by {pause} when the backup was made: nothing starts before `ci-runner resume`"
        ));
    }
    Ok(EXIT_DONE)
}

/// Asks the daemon to remove what is too old.
pub fn gc(context: &Context<'_>, _: NoArgs) -> Ended {
    let removed: Value = context.client.post("/api/v1/gc", &json!({}))?;
    let done = || format!("{} jobs and {} logs are removed, but that", removed["jobs"], removed["logs"]);
    if context.is_json() {
        return after(context.print_json(&removed), done);
    }
    let mut text = String::new();
    for name in ["jobs", "logs", "log_bytes"] {
        text.push_str(&format!("{}: {}\n", name.replace('_', " "), removed[name]));
    }
    after(print(&text), done)?;
    if let Some(why) = removed["waiting"].as_str() {
        context.note(&format!(
            "finished jobs are removed as soon as the store takes commits again ({why}); if logs do not make enough room, \
             lower gc.log_bytes_max, reload the daemon and run `ci-runner gc` again, or free space elsewhere"
        ));
    }
    Ok(EXIT_DONE)
}
