//! `stats`: how finished jobs went, for people, lines or JSON.

use super::client::with_query;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended};
use super::list::{range, seconds};
use super::look::Look;
use super::show::local;
use crate::api::{Percentiles, StatsFigures, StatsRow, StatsView};
use crate::quantity::show_size;
use crate::stats::By;
use crate::style::{dim, heading, state_style};
use crate::table::{Cell, Column, Table};
use clap::Args;

/// Heights of a part of a sparkline.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A success rate below this is worth a colour.
const GOOD: f64 = 0.8;

/// Arguments of `stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// Jobs that finished since: a time, or how long ago
    #[arg(long, value_name = "TIME", default_value = "7d")]
    since: String,
    /// Jobs that finished before: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// A row for each name, pool or day
    #[arg(long, value_name = "WHAT", default_value = "name", value_parser = By::WORDS)]
    by: String,
    /// Only jobs of this name, or whose name begins so: 'build*'
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000), allow_negative_numbers = true)]
    limit: u64,
}

/// Shows the figures.
pub fn stats(context: &Context<'_>, args: StatsArgs) -> Ended {
    let look = context.look();
    let mut pairs = vec![("by", args.by), ("limit", args.limit.to_string())];
    let (since, until) = range(Some(&args.since), args.until.as_deref())?;
    pairs.extend(since.map(|since| ("since", since)));
    pairs.extend(until.map(|until| ("until", until)));
    // Days are the reader's, where the daemon can know them.
    pairs.extend(look.zone.iana_name().map(|zone| ("timezone", zone.to_owned())));
    for (name, value) in [("name", args.name), ("pool", args.pool)] {
        pairs.extend(value.map(|value| (name, value)));
    }
    let stats: StatsView = context.client.get(&with_query("/api/v1/stats", &pairs))?;
    if context.is_json() {
        return context.print_json(&stats);
    }
    print(&page(&stats, &look))?;
    if stats.rows_left_out > 0 {
        context.note(&format!("{} more rows: --limit N", stats.rows_left_out));
    }
    if stats.truncated {
        context.note(&format!("too many jobs: only the newest are counted, from {} on", stats.since));
    }
    Ok(EXIT_DONE)
}

/// The whole page on a terminal, the rows alone in a pipe.
pub fn page(stats: &StatsView, look: &Look) -> String {
    let mut text = String::new();
    if look.is_terminal() {
        text.push_str(&summary(stats, look));
        if stats.rows.is_empty() {
            return text;
        }
        text.push('\n');
    }
    text.push_str(&table(stats, look).render(look.output));
    text
}

fn summary(stats: &StatsView, look: &Look) -> String {
    let total = &stats.total;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{} {value}\n", look.paint(heading(), &format!("{name:<9}"))));
    };
    line(
        "finished",
        format!("{} jobs since {}, {:.1} an hour", total.jobs, local(&stats.since, look), stats.jobs_per_hour),
    );
    if total.jobs == 0 {
        return text;
    }
    let parts = [
        ("succeeded", total.succeeded),
        ("failed", total.failed),
        ("timed out", total.timed_out),
        ("cancelled", total.cancelled),
        ("superseded", total.superseded),
        ("expired", total.expired),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}")).collect();
    line("success", format!("{}  ({})", rate(total.success_rate), parts.join(", ")));
    line("flaky", format!("{}  of those that succeeded needed more than one try", rate(total.flaky_rate)));
    line("waiting", spread(total.queue_seconds));
    line("running", spread(total.run_seconds));
    let peak =
        total.peak_memory_bytes.map(|peak| format!(", at most {} of memory", show_size(peak))).unwrap_or_default();
    line("cost", format!("{} of CPU{peak}", seconds(total.cpu_seconds)));
    let each = format!("{} each", seconds(stats.timeline.bucket_seconds as f64));
    line("over time", format!("{}  {}", sparkline(&stats.timeline.finished), look.paint(dim(), &each)));
    if stats.timeline.failed.iter().any(|count| *count > 0) {
        line("  failed", look.paint(state_style("failed"), &sparkline(&stats.timeline.failed)));
    }
    text
}

fn table(stats: &StatsView, look: &Look) -> Table {
    let mut table = Table::new([
        Column::left(match stats.by.as_str() {
            "pool" => "POOL",
            "day" => "DAY",
            _ => "NAME",
        })
        .shrinks_to(10),
        Column::right("JOBS"),
        Column::right("SUCCESS"),
        Column::right("FLAKY").importance(3),
        Column::right("WAIT P50").importance(4),
        Column::right("P95").importance(2),
        Column::right("RUN P50"),
        Column::right("P95").importance(6),
        Column::right("P99").importance(2),
        Column::right("CPU").importance(1),
        Column::right("MEMORY").importance(5),
        Column::right("TIMEOUT?").importance(1),
        Column::right("MEMORY?").importance(1),
    ]);
    for row in &stats.rows {
        table.push(cells(row, look));
    }
    table
}

fn cells(StatsRow { key, figures }: &StatsRow, look: &Look) -> Vec<Cell> {
    let StatsFigures { jobs, success_rate, flaky_rate, queue_seconds, run_seconds, .. } = figures;
    let people = look.is_terminal();
    let nothing = if people { "-" } else { "" };
    let share = |share: Option<f64>| {
        if people { rate(share) } else { share.map(|share| share.to_string()).unwrap_or_default() }
    };
    let time = |time: Option<f64>| match time {
        None => nothing.to_owned(),
        Some(time) => {
            if people {
                seconds(time)
            } else {
                time.to_string()
            }
        }
    };
    let size = |bytes: Option<u64>| match bytes {
        None => nothing.to_owned(),
        Some(bytes) => {
            if people {
                show_size(bytes)
            } else {
                bytes.to_string()
            }
        }
    };
    let of = |spread: &Option<Percentiles>, pick: fn(&Percentiles) -> f64| Cell::from(time(spread.as_ref().map(pick)));
    let name = match key {
        Some(key) => Cell::from(key.as_str()),
        None => {
            if people {
                Cell::styled("(none)", dim())
            } else {
                Cell::from("")
            }
        }
    };
    let bad = success_rate.is_some_and(|rate| rate < GOOD);
    let success = share(*success_rate);
    vec![
        name,
        jobs.to_string().into(),
        if bad { Cell::styled(success, state_style("failed")) } else { success.into() },
        share(*flaky_rate).into(),
        of(queue_seconds, |spread| spread.p50),
        of(queue_seconds, |spread| spread.p95),
        of(run_seconds, |spread| spread.p50),
        of(run_seconds, |spread| spread.p95),
        of(run_seconds, |spread| spread.p99),
        time(Some(figures.cpu_seconds)).into(),
        size(figures.peak_memory_bytes).into(),
        time(figures.suggested_timeout_seconds.map(|timeout| timeout as f64)).into(),
        size(figures.suggested_memory_bytes).into(),
    ]
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".to_owned(), |rate| format!("{:.1} %", rate * 100.0))
}

fn spread(spread: Option<Percentiles>) -> String {
    spread.map_or("-".to_owned(), |Percentiles { p50, p95, p99, max }| {
        format!("p50 {}  p95 {}  p99 {}  max {}", seconds(p50), seconds(p95), seconds(p99), seconds(max))
    })
}

/// One character a part; an empty part is a blank.
fn sparkline(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: &u64| match count {
        0 => ' ',
        // Seven steps above the lowest, so that the largest is the highest and anything at all is seen.
        count => BARS.get(usize::try_from(count * 7 / most).unwrap_or(7)).copied().unwrap_or('█'),
    };
    counts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::sparkline;

    #[test]
    fn a_sparkline_shows_something_for_one_and_nothing_for_none() {
        assert_eq!(sparkline(&[0, 1, 500, 1000]), " ▁▄█");
        assert_eq!(sparkline(&[0, 0]), "  ");
        assert_eq!(sparkline(&[]), "");
    }
}
