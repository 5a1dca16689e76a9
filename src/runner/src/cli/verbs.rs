//! All verbs, each with what it is for, examples, arguments and the function that does it.
//!
//! Invariant: every leaf has an example, a family those of its leaves (a test walks the tree).

use super::context::{Context, Globals};
use super::fail::{Ended, Failure};
use super::{
    act, add, config, daemon, doctor, exporter, generate, host, list, logs, notify, operate, run, schedule, selftest,
    show,
};
use super::{install, stats, top, wait, why};
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// What a leaf does.
pub type Run = fn(&Context<'_>, &ArgMatches) -> Ended;

/// One verb.
pub struct Verb {
    name: &'static str,
    about: &'static str,
    examples: &'static str,
    shape: Shape,
}

enum Shape {
    Leaf { args: fn(Command) -> Command, run: Run },
    Family(&'static [Verb]),
}

/// A leaf whose arguments are a struct that derives [`Args`].
macro_rules! leaf {
    ($args:ty, $run:path) => {
        Shape::Leaf {
            args: with_args::<$args>,
            run: |context, matches| $run(context, <$args>::from_arg_matches(matches)?),
        }
    };
}

const fn verb(name: &'static str, about: &'static str, examples: &'static str, shape: Shape) -> Verb {
    Verb { name, about, examples, shape }
}

static VERBS: &[Verb] = &[
    verb(
        "add",
        "Queue a job and print its id once it is safe on disk",
        "ci-runner add -- make -j4 test\n\
         ci-runner add --shell 'make && make install' --timeout 30m --retry 2\n\
         ci-runner add --notify ops -- ./nightly          tell notifier ops when it ends\n\
         ci-runner add --name deploy --group prod:1 --after 7 --env STAGE=prod -- ./deploy\n\
         ci-runner add -f jobs.jsonl        one JSON object a line; all or none",
        leaf!(add::AddArgs, add::add),
    ),
    verb(
        "run",
        "Run commands here and now, without a daemon, and exit with their result",
        "ci-runner run -- make test\n\
         ci-runner run -P4 --shell 'make lint' --shell 'make test' --shell 'make doc'\n\
         ci-runner run -P2 -f jobs.jsonl    one JSON object a line; options of jobs stand in the lines",
        Shape::Leaf {
            args: |command| run::hide_refused(with_args::<run::RunArgs>(command)),
            run: |context, matches| run::run(context, run::RunArgs::from_arg_matches(matches)?),
        },
    ),
    verb(
        "list",
        "List jobs, the newest first",
        "ci-runner list\n\
         ci-runner list --state queued,running --pool default\n\
         ci-runner list --outcome failed --since 24h --output json\n\
         ci-runner list --all | cut -f1,3    in a pipe, one line a job with tabs between: id, state, outcome, name,\n                                     \
         pool, submitted, started, finished (RFC 3339 UTC), run seconds, command",
        leaf!(list::ListArgs, list::list),
    ),
    verb(
        "show",
        "Show all about jobs",
        "ci-runner show 7\nci-runner show 7 --output json",
        leaf!(show::ShowArgs, show::show),
    ),
    verb(
        "logs",
        "Print the output of a job, or search in that of many, or export it",
        "ci-runner logs 7\n\
         ci-runner logs -f 7                follow it, through retries and restarts of the daemon\n\
         ci-runner logs -f --name 'build*'    all that run and those that start later, until Ctrl-C\n\
         ci-runner logs 7 --attempt 1 --tail 50 --times\n\
         ci-runner logs 7 --since 14:00 --until 14:05\n\
         ci-runner logs --grep 'error|warning' --name 'build*' --since 24h\n\
         ci-runner logs --grep 'No space left' -F --outcome failed | cut -f1    in a pipe: JOB.ATTEMPT, a tab, the line\n\
         ci-runner logs --export incident.tar.zst --outcome failed --since 24h    whole logs, with what show tells of the jobs\n\
         ci-runner logs 7 --export - | tar -tv",
        leaf!(logs::LogsArgs, logs::logs),
    ),
    verb("why", "Say why a job is not running", "ci-runner why 7", leaf!(why::WhyArgs, why::why)),
    verb(
        "wait",
        "Wait until jobs have finished; exit 0 when all succeeded",
        "ci-runner wait 7 8 9\nci-runner wait --timeout 10m $(ci-runner add -- make)",
        leaf!(wait::WaitArgs, wait::wait),
    ),
    verb("cancel", "End jobs", "ci-runner cancel 7 8\nci-runner cancel --all", leaf!(act::CancelArgs, act::cancel)),
    verb(
        "retry",
        "Queue finished jobs anew, to wait for no time and no other job; prints the new ids",
        "ci-runner retry 7",
        leaf!(act::IdsArgs, act::retry),
    ),
    verb(
        "hold",
        "Keep queued jobs from starting",
        "ci-runner hold 7 --reason 'wait for the release'",
        leaf!(act::HoldArgs, act::hold),
    ),
    verb("release", "Let held jobs go", "ci-runner release 7", leaf!(act::IdsArgs, act::release)),
    verb(
        "priority",
        "Change the priority of queued jobs; higher goes first",
        "ci-runner priority 10 7 8          jobs 7 and 8 get priority 10",
        leaf!(act::PriorityArgs, act::priority),
    ),
    verb(
        "pause",
        "Start no more jobs; what runs goes on",
        "ci-runner pause --reason 'kernel update'",
        leaf!(host::PauseArgs, host::pause),
    ),
    verb("resume", "Start jobs again after pause or drain", "ci-runner resume", leaf!(host::NoArgs, host::resume)),
    verb(
        "drain",
        "Start no more jobs before a shutdown; --wait until none runs",
        "ci-runner drain --wait --timeout 1h --reason 'reboot'",
        leaf!(host::DrainArgs, host::drain),
    ),
    verb(
        "status",
        "The host at a glance",
        "ci-runner status\nci-runner status --output json",
        leaf!(host::NoArgs, host::status),
    ),
    verb(
        "stats",
        "How finished jobs went: success, waiting, running, cost, suggested limits",
        "ci-runner stats\n\
         ci-runner stats --by day --since 30d --name 'build*'\n\
         ci-runner stats | cut -f1,8        in a pipe, one line a row with tabs between: key, jobs, success rate,\n                                   \
         flaky rate, wait p50 and p95, run p50, p95 and p99, CPU (seconds), peak memory (bytes),\n                                   \
         suggested timeout and memory limit\n\
         ci-runner stats --output json | jq '.rows[] | select(.flaky_rate > 0.1) | .key'",
        leaf!(stats::StatsArgs, stats::stats),
    ),
    verb(
        "top",
        "A live screen of the host: what runs, what waits, what ended, how busy it is",
        "ci-runner top                      ? shows the keys, q leaves\n\
         ci-runner top -n 5s\n\
         ci-runner top --once               one look, also without a terminal\n\
         ci-runner top --output json | jq '.running[] | {id, cpu_percent, memory_bytes}'",
        leaf!(top::TopArgs, top::top),
    ),
    verb(
        "watches",
        "What is, and lately was, not as it should be: stuck and slow jobs, failures, a queue that waits, flapping jobs",
        "ci-runner watches\n\
         ci-runner watches --output json | jq '.active[].text'",
        leaf!(host::NoArgs, notify::watches),
    ),
    verb("notify", "Who is told of alarms and ends of jobs", "", Shape::Family(NOTIFY)),
    verb("pools", "List pools: slots, labels, queue", "ci-runner pools", leaf!(host::NoArgs, host::pools)),
    verb(
        "groups",
        "List concurrency groups that have open jobs",
        "ci-runner groups",
        leaf!(host::NoArgs, host::groups),
    ),
    verb("runners", "List slots and what runs in them", "ci-runner runners", leaf!(host::NoArgs, host::runners)),
    verb("schedule", "Jobs at fixed times, like cron", "", Shape::Family(SCHEDULE)),
    verb(
        "backup",
        "Write database and configuration to a file, while the daemon runs",
        "ci-runner backup /var/backups/ci-runner-$(date +%F).db",
        leaf!(operate::BackupArgs, operate::backup),
    ),
    verb(
        "restore",
        "Make a state directory from a backup; the daemon must not run. Open jobs come back on hold, schedules paused",
        "systemctl stop ci-runner.socket ci-runner\n\
         runuser -u ci-runner -- ci-runner restore --config /etc/ci-runner/config.toml backup.db\n\
         ci-runner restore --state-dir /tmp/try backup.db   to a place beside, to look at it",
        leaf!(operate::RestoreArgs, operate::restore),
    ),
    verb("gc", "Remove old finished jobs and logs now", "ci-runner gc", leaf!(host::NoArgs, operate::gc)),
    verb(
        "doctor",
        "Say what is wrong on this host, and the mend",
        "ci-runner doctor\n\
         ci-runner doctor --repair            make directories, set modes, remove dead sockets, switch units on",
        leaf!(doctor::DoctorArgs, doctor::doctor),
    ),
    verb(
        "selftest",
        "Prove a running service with real jobs",
        "ci-runner selftest\nci-runner selftest logging retry",
        leaf!(selftest::SelftestArgs, selftest::selftest),
    ),
    verb(
        "daemon",
        "The service",
        "ci-runner daemon\nci-runner daemon --config /etc/ci-runner.toml --max-parallel-jobs 8 --http off",
        leaf!(daemon::DaemonArgs, daemon::daemon),
    ),
    verb(
        "exporter",
        "Serve the figures of host and daemon for Prometheus, also while the daemon is down",
        "ci-runner exporter\n\
         ci-runner exporter --listen 0.0.0.0:9100 --config /etc/ci-runner.toml\n\
         ci-runner exporter --once --collectors cpu,meminfo",
        leaf!(exporter::ExporterArgs, exporter::exporter),
    ),
    verb(
        "install",
        "Install the service on a systemd distribution, upgrade it, or remove it; NixOS has a module instead",
        "ci-runner install --systemd --dry-run\n\
         ci-runner install --systemd            again with a newer program: an upgrade, running jobs go on\n\
         ci-runner install --systemd --slot-users 8   native jobs, each under a user of its own\n\
         ci-runner install --systemd --slot-users 8 --units yes   and units, too: the pools native and default\n\
         ci-runner install --systemd --root build/image --prefix /usr\n\
         ci-runner install --systemd --uninstall",
        leaf!(install::InstallArgs, install::install),
    ),
    verb("config", "Check or show the configuration", "", Shape::Family(CONFIG)),
    verb(
        "completions",
        "Print completions for a shell",
        "ci-runner completions bash > /etc/bash_completion.d/ci-runner",
        leaf!(generate::CompletionsArgs, generate::completions),
    ),
    verb(
        "man",
        "Print the manual page, or write all pages to a directory",
        "ci-runner man | man -l -\nci-runner man --dir /usr/local/share/man/man1",
        leaf!(generate::ManArgs, generate::man),
    ),
    verb(
        "openapi",
        "Print the OpenAPI document of the HTTP API",
        "ci-runner openapi > openapi.json",
        leaf!(host::NoArgs, generate::openapi),
    ),
];

static NOTIFY: &[Verb] = &[
    verb("list", "List notifiers, and how they do", "ci-runner notify list", leaf!(host::NoArgs, notify::list)),
    verb(
        "test",
        "Tell a notifier of a test event now; exit 1 when it does not take it",
        "ci-runner notify test ops",
        leaf!(notify::TestArgs, notify::test),
    ),
];

static SCHEDULE: &[Verb] = &[
    verb(
        "add",
        "Add a schedule",
        "ci-runner schedule add nightly --cron '0 3 * * *' --timezone Europe/Berlin -- make nightly\n\
         ci-runner schedule add hourly --cron @hourly --overlap skip --missed once --shell './sync'",
        Shape::Leaf {
            args: |command| run::hide(with_args::<schedule::AddArgs>(command), &schedule::REFUSED),
            run: |context, matches| schedule::add(context, schedule::AddArgs::from_arg_matches(matches)?),
        },
    ),
    verb("list", "List schedules", "ci-runner schedule list", leaf!(host::NoArgs, schedule::list)),
    verb("show", "Show a schedule", "ci-runner schedule show nightly", leaf!(schedule::NameArgs, schedule::show)),
    verb(
        "pause",
        "Let it make no jobs",
        "ci-runner schedule pause nightly",
        leaf!(schedule::NameArgs, schedule::pause),
    ),
    verb(
        "resume",
        "Let it make jobs again",
        "ci-runner schedule resume nightly",
        leaf!(schedule::NameArgs, schedule::resume),
    ),
    verb(
        "rm",
        "Remove a schedule; its jobs stay",
        "ci-runner schedule rm nightly",
        leaf!(schedule::NameArgs, schedule::remove),
    ),
    verb(
        "run",
        "Queue its job now and print the id",
        "ci-runner schedule run nightly",
        leaf!(schedule::NameArgs, schedule::run),
    ),
];

static CONFIG: &[Verb] = &[
    verb(
        "check",
        "Check a configuration file; all problems at once",
        "ci-runner config check ci-runner.toml",
        leaf!(config::CheckArgs, config::check),
    ),
    verb(
        "show",
        "Show every setting, its value, and where it comes from",
        "ci-runner config show --config /etc/ci-runner.toml",
        leaf!(daemon::DaemonArgs, config::show),
    ),
];

/// Adds the arguments of `A`, and keeps the command's own words: a struct's doc comment is for readers of the code.
fn with_args<A: Args>(command: Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    A::augment_args(command).about(about).long_about(None)
}

fn examples<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: String = lines.map(|line| format!("\n  {line}")).collect();
    format!("Examples:{lines}")
}

impl Verb {
    fn command(&self) -> Command {
        let command = Command::new(self.name).about(self.about);
        match &self.shape {
            Shape::Leaf { args, .. } => command.after_help(examples(self.examples.lines())).defer(*args),
            Shape::Family(verbs) => command
                .subcommand_required(true)
                .arg_required_else_help(true)
                .after_help(examples(verbs.iter().filter_map(|verb| verb.examples.lines().next())))
                .subcommands(verbs.iter().map(Verb::command)),
        }
    }
}

/// The whole tree, arguments of verbs still unbuilt (`Command::build` builds them).
pub fn command() -> Command {
    root().subcommand_required(true).arg_required_else_help(true).subcommands(VERBS.iter().map(Verb::command))
}

fn root() -> Command {
    Globals::augment_args(Command::new("ci-runner"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Queues and runs your commands on this machine, and loses none")
        .long_about(None)
        .disable_help_subcommand(false)
}

/// Parses the words behind the program's name.
///
/// # Errors
/// What clap has to say, help and version among it.
pub fn parse(words: &[String]) -> Result<ArgMatches, Failure> {
    let all = || std::iter::once("ci-runner").chain(words.iter().map(String::as_str));
    // The usual case, the verb first: only its branch of the tree is built. Slips go to the whole tree, which suggests.
    let first = words.first().and_then(|word| VERBS.iter().find(|verb| verb.name == word));
    let tree = match first {
        Some(verb) => root().subcommand_required(true).subcommand(verb.command()),
        None => command(),
    };
    tree.try_get_matches_from(all()).map_err(|error| super::slips::in_words(error, words, command))
}

/// The leaf that was called, and its own matches.
///
/// # Errors
/// None that clap lets through; said as an error rather than a panic.
pub fn called(matches: &ArgMatches) -> Result<(Run, &ArgMatches), Failure> {
    let (mut verbs, mut matches) = (VERBS, matches);
    loop {
        let found =
            matches.subcommand().and_then(|(name, inner)| Some((verbs.iter().find(|verb| verb.name == name)?, inner)));
        let Some((verb, inner)) = found else {
            return Err(Failure::Usage("a verb is missing; `ci-runner --help` lists them".to_owned()));
        };
        matches = inner;
        match &verb.shape {
            Shape::Leaf { run, .. } => return Ok((*run, matches)),
            Shape::Family(inner) => verbs = inner,
        }
    }
}
