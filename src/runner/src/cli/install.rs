//! `install`: the service on a systemd distribution that is not NixOS; see [`crate::install`] for what is done and how.

use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure};
use super::generate;
use crate::api::StatusView;
use crate::install::manifest::Manifest;
use crate::install::plan::{Action, Changed, Content, Desired, Plan, plan};
use crate::install::template::SLOT_USERS_MAX;
use crate::install::unfinished::{self, Unfinished};
use crate::install::{InstallError, Jobs, Place, remove, services, write};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The daemon's settings.
const CONFIG: &str = "/etc/ci-runner/config.toml";

/// Arguments of `install`.
#[derive(Args, Debug)]
pub struct InstallArgs {
    /// For systemd, the only service manager there is for us
    #[arg(long, required = true)]
    systemd: bool,
    /// Remove what was installed; only the state directory stays
    #[arg(long, conflicts_with_all = ["print", "changed", "no_start"])]
    uninstall: bool,
    /// The root of an image: files only, nothing is started
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where programs and their pages go [default: /usr where this program stands there, else /usr/local]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Run jobs natively, so many at once, each under a system user of its own; 0: as units again [default: as it is installed,
    /// at first as units]
    #[arg(long, value_name = "N", conflicts_with = "uninstall", value_parser = clap::value_parser!(u32).range(..=i64::from(SLOT_USERS_MAX)))]
    slot_users: Option<u32>,
    /// With slot users: jobs as units, too. Native ones then have the pool `native` [default: as it is installed, at first no]
    #[arg(long, value_name = "WHETHER", value_enum, conflicts_with = "uninstall")]
    units: Option<Whether>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the files that are text and no page, and do nothing
    #[arg(long, conflicts_with = "dry_run")]
    print: bool,
    /// What to do with files that somebody changed
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    changed: Changed,
    /// Enable and start nothing
    #[arg(long)]
    no_start: bool,
    /// With --uninstall: end the jobs that run
    #[arg(long, requires = "uninstall")]
    force: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Whether {
    /// It is
    Yes,
    /// It is not
    No,
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Failure {
        Failure::Error(error.to_string())
    }
}

/// Installs, upgrades, prints or removes.
pub fn install(context: &Context<'_>, args: InstallArgs) -> Ended {
    let root = std::path::absolute(&args.root).unwrap_or_else(|_| args.root.clone());
    if root.join("etc/NIXOS").exists() {
        return Err(Failure::Usage("this is NixOS: use `services.ci-runner.enable = true;`".to_owned()));
    }
    if args.uninstall {
        return uninstall(context, &args, root);
    }
    let mut place = Place { root, prefix: prefix(&args)?, jobs: Jobs::Units };
    let before = Manifest::read(&place)?;
    place.jobs = jobs(&args, before.as_ref().map(Manifest::jobs).unwrap_or_default())?;
    let desired = write::desired(&place, generate::installed_pages()?)?;
    if args.print {
        return print_files(&desired);
    }
    if let Some(before) = &before
        && before.prefix != place.prefix
    {
        let text =
            format!("it is installed with --prefix {}; uninstall that first, or use it", before.prefix.display());
        return Err(Failure::Error(text));
    }
    let plan = plan(&desired, before.as_ref(), write::found(&place), args.changed)?;
    let starts = place.is_live() && !args.no_start;
    let ran = unfinished::jobs(before.as_ref());
    if place.is_live() && services::is_booted() && ran.iter().any(|jobs| jobs.loses_with(place.jobs)) {
        none_runs(context)?;
    }
    if starts && !services::is_booted() {
        let text = "systemd does not run here: --root DIR installs into an image, --no-start only writes the files";
        return Err(Failure::Error(text.to_owned()));
    }
    let unfinished = Unfinished::begin(before.as_ref(), &plan, starts);
    let untold = unfinished.untold(&plan);
    let mut asked = if starts { services::ask(&place, &untold, services::now) } else { services::Asked::default() };
    if ran.iter().any(|jobs| *jobs != place.jobs) {
        asked.notes.extend(slots_by_hand(&plan, place.jobs));
    }
    if !args.dry_run {
        needs_root(&place)?;
        if place.is_live() {
            write::check_prefix(&place)?;
        }
        let mut ours = write::begin(&place, &desired, &plan, before, unfinished)?;
        if starts {
            services::retire(&plan)?;
        }
        write::apply(&place, &desired, &plan, &mut ours)?;
        if starts {
            services::make_users(&place, &mut ours)?;
            services::carry_out(&asked)?;
        }
        ours.unfinished = ours.unfinished.and_then(|unfinished| unfinished.end(starts));
        write::keep(&place, &ours)?;
    }
    tell(context, &plan, &asked, args.dry_run)
}

/// How jobs shall run: as asked for, else as they do.
fn jobs(args: &InstallArgs, installed: Jobs) -> Result<Jobs, Failure> {
    let users = args.slot_users.unwrap_or(installed.slot_users());
    let units = args.units.map_or(matches!(installed, Jobs::Both(_)), |units| units == Whether::Yes);
    match (users, units) {
        (0, _) if args.units == Some(Whether::No) => {
            Err(Failure::Usage("--units no: then jobs run under slot users; say how many with --slot-users".to_owned()))
        }
        (0, _) => Ok(Jobs::Units),
        (users, true) => Ok(Jobs::Both(users)),
        (users, false) => Ok(Jobs::Native(users)),
    }
}

/// Where a person's settings stay, they say how jobs run.
fn slots_by_hand(plan: &Plan, jobs: Jobs) -> Option<String> {
    let kept = plan.get(Path::new(CONFIG)) == Some(&Action::Keep);
    kept.then(|| {
        format!(
            "{CONFIG} is yours and was left: write max_parallel_jobs, executor, jobs_socket and pools into it as `ci-runner install \
             --systemd {} --print` shows them; until then jobs do not run as asked",
            jobs.options()
        )
    })
}

/// Jobs that run are with a spawner, or under a user, that goes.
fn none_runs(context: &Context<'_>) -> Result<(), Failure> {
    match running(context) {
        0 => Ok(()),
        running => Err(Failure::Error(format!(
            "{running} jobs run with a spawner or under a user that this takes away: `ci-runner drain --wait` first"
        ))),
    }
}

fn prefix(args: &InstallArgs) -> Result<PathBuf, Failure> {
    let prefix = match &args.prefix {
        Some(prefix) => prefix.clone(),
        None => {
            let own = std::env::current_exe().unwrap_or_default();
            PathBuf::from(if own.starts_with("/usr/bin") { "/usr" } else { "/usr/local" })
        }
    };
    let plain =
        prefix.to_str().is_some_and(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.+".contains(c)));
    // The path stands in units, where other characters would need quotes or be specifiers.
    if !prefix.is_absolute() || !plain {
        return Err(Failure::Usage("--prefix is an absolute path of letters, digits and / - _ . +".to_owned()));
    }
    if ["/home", "/root", "/tmp", "/var/tmp", "/run"].iter().any(|hidden| prefix.starts_with(hidden)) {
        let text = "--prefix: units of jobs do not see /home, /root, /tmp, /var/tmp and /run; /usr/local and /opt/ci-runner are good";
        return Err(Failure::Usage(text.to_owned()));
    }
    Ok(prefix)
}

fn needs_root(place: &Place) -> Result<(), Failure> {
    if place.is_live() && !rustix::process::geteuid().is_root() {
        return Err(Failure::Error(
            "only root can install into the system; --dry-run and --print show it to everybody".to_owned(),
        ));
    }
    Ok(())
}

fn print_files(desired: &[Desired]) -> Ended {
    let mut text = String::new();
    for file in desired {
        let Content { bytes, mode } = &file.content;
        if *mode == 0o644 && file.path.starts_with("/etc") {
            let end = if bytes.ends_with(b"\n") { "" } else { "\n" };
            text.push_str(&format!("### {}\n{}{end}\n", file.path.display(), String::from_utf8_lossy(bytes)));
        }
    }
    print(&text)
}

fn tell(context: &Context<'_>, plan: &Plan, asked: &services::Asked, dry: bool) -> Ended {
    if context.is_json() {
        let files: Vec<_> = plan.iter().map(|(path, action)| json!({ "path": path, "action": action })).collect();
        let units: Vec<_> = asked.units.iter().map(|(verb, unit)| json!({ "unit": unit, "action": verb })).collect();
        return context.print_json(&json!({ "files": files, "units": units, "notes": asked.notes, "dry_run": dry }));
    }
    let mut text = String::new();
    for (path, action) in plan.iter().filter(|(_, action)| **action != Action::Same) {
        let word = match action {
            Action::Create => "new",
            Action::Update => "newer",
            Action::Same => "same",
            Action::Keep => "kept (changed by somebody)",
            Action::Overwrite => "replaced (theirs is beside it, .replaced)",
            Action::Remove => "removed (no longer needed)",
        };
        text.push_str(&format!("{word:<9} {}\n", path.display()));
    }
    let same = plan.values().filter(|action| **action == Action::Same).count();
    text.push_str(&format!("{same} files were as they shall be\n"));
    for (verb, unit) in &asked.units {
        text.push_str(&format!("{verb:<9} {unit}\n"));
    }
    for note in &asked.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    print(&text)
}

fn uninstall(context: &Context<'_>, args: &InstallArgs, root: PathBuf) -> Ended {
    let mut place = Place { root, prefix: PathBuf::new(), jobs: Jobs::Units };
    let Some(ours) = Manifest::read(&place)? else {
        let text = "nothing was installed here by `ci-runner install` (a package is removed by its package manager)";
        return Err(Failure::Error(text.to_owned()));
    };
    place.prefix = ours.prefix.clone();
    place.jobs = ours.jobs();
    let is_live = place.is_live() && services::is_booted();
    let running = if is_live { running(context) } else { 0 };
    if running > 0 && !args.force {
        return Err(Failure::Error(format!(
            "{running} jobs run, and they would end: `ci-runner drain --wait` first, or --force"
        )));
    }
    if args.dry_run {
        return tell_removal(context, &ours.files.keys().cloned().collect::<Vec<_>>(), None, &[], &[]);
    }
    needs_root(&place)?;
    if is_live {
        remove::stop(&ours)?;
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let removed = remove::remove(&place, &ours, &stamp)?;
    tell_removal(context, &removed.files, removed.kept_at.as_deref(), &removed.kept, &removed.left)
}

/// Jobs that run: as the daemon says, or where none answers, as many as have units or cgroups.
fn running(context: &Context<'_>) -> u64 {
    match context.client.get::<StatusView>("/api/v1/status") {
        Ok(status) => status.jobs.running,
        Err(_) => (remove::running_units() + remove::slot_attempts()) as u64,
    }
}

fn tell_removal(
    context: &Context<'_>,
    files: &[PathBuf],
    kept_at: Option<&Path>,
    kept: &[PathBuf],
    left: &[String],
) -> Ended {
    if context.is_json() {
        return context.print_json(&json!({ "removed": files, "kept_at": kept_at, "kept": kept, "left": left }));
    }
    let mut text: String = files.iter().map(|path| format!("removed   {}\n", path.display())).collect();
    for path in kept {
        let at = kept_at.unwrap_or(Path::new("")).display();
        text.push_str(&format!("moved     {} to {at}\n", path.display()));
    }
    text.push_str(&format!("the state directory {} stays; it is root's now\n", remove::STATE));
    print(&text)?;
    match left.is_empty() {
        true => Ok(EXIT_DONE),
        false => Err(Failure::Error(format!("left behind: {}", left.join("; ")))),
    }
}
