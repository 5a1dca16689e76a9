//! Which jobs a list shows.
//!
//! A filter becomes one or more *streams*: queries that walk one index in order of ids, so that a list stops as soon as it
//! is full, however many jobs there are. Where several indexes would do, the one with the fewest entries is walked (counted
//! up to [`COUNTED_MAX`]); all other conditions are tested on the way.

use super::codec;
use super::place::Fault;
use crate::store::JobFilter;
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::state::Phase;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

/// Entries of an index are counted up to this.
const COUNTED_MAX: i64 = 5_000;
/// A minute of the wall clock.
const MINUTE_MS: i64 = 60_000;

/// Where a stream starts: a table or two, the column with the job's id, what it demands, and with which value.
struct Stream {
    from: &'static str,
    id: &'static str,
    demand: &'static str,
    values: Vec<Value>,
    /// Its entries are not in order of ids; it is worth walking only when they are few.
    unordered: bool,
}

impl Stream {
    fn new(from: &'static str, id: &'static str, demand: &'static str, value: Option<Value>) -> Self {
        Self { from, id, demand, values: value.into_iter().collect(), unordered: false }
    }
}

/// All streams of one choice of index; together they have every job that matches.
type Driver = Vec<Stream>;

/// Conditions on a job, wherever it was found: `j` is the job; `o`, `l` and `f` its other rows, if it has them.
#[derive(Default)]
struct Demands {
    sql: Vec<String>,
    values: Vec<Value>,
}

impl Demands {
    fn add(&mut self, sql: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.sql.push(sql.into());
        self.values.extend(values);
    }
}

/// Ids that match, in the order of the list.
pub(super) fn ids(conn: &Connection, filter: &JobFilter) -> Result<Vec<JobId>, Fault> {
    let Some(states) = states(filter) else { return Ok(Vec::new()) };
    let mut demands = demands(filter, states.as_deref());
    bound_ids(conn, filter, &mut demands)?;
    let driver = choose(conn, drivers(filter, states.as_deref()))?;
    let mut ids = Vec::new();
    for stream in &driver {
        walk(conn, stream, &demands, filter, &mut ids)?;
    }
    ids.sort_unstable();
    ids.dedup();
    if !filter.ascending {
        ids.reverse();
    }
    ids.truncate(filter.limit);
    ids.into_iter().map(|id| Ok(codec::job_id(id)?)).collect()
}

fn walk(
    conn: &Connection,
    stream: &Stream,
    demands: &Demands,
    filter: &JobFilter,
    ids: &mut Vec<i64>,
) -> Result<(), Fault> {
    let Stream { from, id, demand, values, .. } = stream;
    let order = if filter.ascending { "ASC" } else { "DESC" };
    let mut conditions = vec![(*demand).to_owned()];
    conditions.extend(demands.sql.iter().map(|sql| sql.replace("{id}", id)));
    let conditions = conditions.join(" AND ");
    let sql = format!(
        "SELECT {id} FROM {from} LEFT JOIN open AS o ON o.id = {id} LEFT JOIN lease AS l ON l.job = {id} \
         LEFT JOIN finished AS f ON f.id = {id} WHERE {conditions} ORDER BY {id} {order} LIMIT ?"
    );
    let limit = Value::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX));
    let values = values.iter().chain(&demands.values).chain(std::iter::once(&limit));
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        ids.push(row.get(0)?);
    }
    Ok(())
}

/// One state of the table of states, finished ones by how they ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Queued,
    Leased(Phase),
    Finished(i64),
}

/// What is asked for: None when nothing can match, Some(None) when everything does.
#[expect(clippy::option_option, reason = "nothing, everything and a choice are three different answers")]
fn states(filter: &JobFilter) -> Option<Option<Vec<Standing>>> {
    if filter.phases.is_empty() && filter.outcomes.is_empty() {
        return Some(None);
    }
    let asked = |phase| filter.phases.is_empty() || filter.phases.contains(&phase);
    let mut standings = Vec::new();
    for phase in Phase::ALL.into_iter().filter(|phase| asked(*phase)) {
        match phase {
            // An open job has no outcome.
            Phase::Queued | Phase::Starting | Phase::Running | Phase::Stopping if !filter.outcomes.is_empty() => {}
            Phase::Queued => standings.push(Standing::Queued),
            Phase::Starting | Phase::Running | Phase::Stopping => standings.push(Standing::Leased(phase)),
            Phase::Finished => {
                let words = (0i64..).zip(Outcome::WORDS);
                let asked =
                    |word: &str| filter.outcomes.is_empty() || filter.outcomes.iter().any(|asked| asked == word);
                standings.extend(words.filter(|(_, word)| asked(word)).map(|(number, _)| Standing::Finished(number)));
            }
        }
    }
    (!standings.is_empty()).then_some(Some(standings))
}

fn leased_demand(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "l.stop_by IS NULL AND l.started IS NULL AND l.job IS NOT NULL",
        Phase::Running => "l.stop_by IS NULL AND l.started IS NOT NULL",
        Phase::Stopping => "l.stop_by IS NOT NULL",
        Phase::Queued | Phase::Finished => "FALSE",
    }
}

fn demands(filter: &JobFilter, states: Option<&[Standing]>) -> Demands {
    let mut demands = Demands::default();
    if let Some(states) = states {
        let mut any: Vec<String> = Vec::new();
        let mut outcomes = Vec::new();
        for state in states {
            match state {
                Standing::Queued => any.push("(o.id IS NOT NULL AND l.job IS NULL)".to_owned()),
                Standing::Leased(phase) => any.push(format!("({})", leased_demand(*phase))),
                Standing::Finished(outcome) => outcomes.push(outcome.to_string()),
            }
        }
        if !outcomes.is_empty() {
            any.push(format!("f.outcome IN ({})", outcomes.join(", ")));
        }
        demands.add(format!("({})", any.join(" OR ")), []);
    }
    if let Some(name) = &filter.name {
        let (sql, values) = name_demand(name);
        demands.add(sql, values);
    }
    if let Some(pool) = &filter.pool {
        demands.add("coalesce(j.pool, l.pool, o.ran_in, f.ran_in) = ?", [Value::Text(pool.clone())]);
    }
    if let Some(label) = &filter.label {
        let sql = "EXISTS (SELECT 1 FROM label AS has WHERE has.label = ? AND has.job = {id})";
        demands.add(sql, [Value::Text(label.clone())]);
    }
    if let Some(group) = &filter.group {
        demands.add("j.group_name = ?", [Value::Text(group.clone())]);
    }
    if let Some(correlation) = &filter.correlation {
        demands.add("j.correlation = ?", [codec::Correlation::of(correlation).into()]);
    }
    if filter.tried {
        demands.add("coalesce(l.attempt, o.attempt, f.attempt) > 0", []);
    }
    if let Some(since) = filter.since {
        demands.add("j.submitted_wall >= ?", [Value::Integer(since.0)]);
    }
    if let Some(until) = filter.until {
        demands.add("j.submitted_wall < ?", [Value::Integer(until.0)]);
    }
    demands
}

/// The exact name, or the range of names with that beginning.
pub(super) fn name_demand(name: &str) -> (&'static str, Vec<Value>) {
    let Some(prefix) = name.strip_suffix('*') else { return ("j.name = ?", vec![Value::Text(name.to_owned())]) };
    let mut values = vec![Value::Text(prefix.to_owned())];
    match after_prefix(prefix) {
        Some(end) => {
            values.push(Value::Text(end));
            ("j.name >= ? AND j.name < ?", values)
        }
        None => ("j.name >= ?", values),
    }
}

/// The first text after all that begin with `prefix`; the order of UTF-8 is that of its characters.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        if let Some(next) = (u32::from(last) + 1..=0x10_ffff).find_map(char::from_u32) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Turns cursor and times into bounds of ids, as far as the minutes tell.
fn bound_ids(conn: &Connection, filter: &JobFilter, demands: &mut Demands) -> Result<(), Fault> {
    if let Some(cursor) = filter.cursor {
        let sql = if filter.ascending { "{id} > ?" } else { "{id} < ?" };
        demands.add(sql, [Value::Integer(codec::int(cursor.get()))]);
    }
    if let Some(since) = filter.since {
        let sql = "SELECT min(first) FROM minute WHERE minute >= ?1";
        let first: Option<i64> =
            conn.prepare_cached(sql)?.query_row([since.0.div_euclid(MINUTE_MS)], |row| row.get(0))?;
        demands.add("{id} >= ?", [Value::Integer(first.unwrap_or(i64::MAX))]);
    }
    if let Some(until) = filter.until {
        let sql = "SELECT max(last) FROM minute WHERE minute <= ?1";
        let last: Option<i64> =
            conn.prepare_cached(sql)?.query_row([until.0.div_euclid(MINUTE_MS)], |row| row.get(0))?;
        demands.add("{id} <= ?", [Value::Integer(last.unwrap_or(0))]);
    }
    Ok(())
}

/// Every index that has all jobs that match. The last always does.
fn drivers(filter: &JobFilter, states: Option<&[Standing]>) -> Vec<Driver> {
    let text = |text: &String| Some(Value::Text(text.clone()));
    let mut drivers: Vec<Driver> = Vec::new();
    if let Some(correlation) = &filter.correlation {
        let value = Some(codec::Correlation::of(correlation).into());
        drivers.push(vec![Stream::new("job AS j INDEXED BY job_correlation", "j.id", "j.correlation = ?", value)]);
    }
    if let Some(label) = &filter.label {
        let from = "label AS d CROSS JOIN job AS j ON j.id = d.job";
        drivers.push(vec![Stream::new(from, "d.job", "d.label = ?", text(label))]);
    }
    if let Some(group) = &filter.group {
        drivers.push(vec![Stream::new("job AS j INDEXED BY job_group", "j.id", "j.group_name = ?", text(group))]);
    }
    if let Some(name) = &filter.name {
        let (demand, values) = name_demand(name);
        let from = "job AS j INDEXED BY job_name";
        drivers.push(vec![Stream { from, id: "j.id", demand, values, unordered: name.ends_with('*') }]);
    }
    if let Some(states) = states {
        drivers.push(states.iter().map(|state| state_stream(*state)).collect());
    }
    if let Some(pool) = &filter.pool {
        let from = "finished AS d INDEXED BY finished_ran_in CROSS JOIN job AS j ON j.id = d.id";
        drivers.push(vec![
            Stream::new("job AS j INDEXED BY job_pool", "j.id", "j.pool = ?", text(pool)),
            Stream::new(from, "d.id", "d.ran_in = ?", text(pool)),
            Stream::new("lease AS d CROSS JOIN job AS j ON j.id = d.job", "d.job", "d.pool = ?", text(pool)),
            Stream::new(
                "open AS d INDEXED BY open_ran_in CROSS JOIN job AS j ON j.id = d.id",
                "d.id",
                "d.ran_in = ?",
                text(pool),
            ),
        ]);
    }
    drivers.push(vec![Stream::new("job AS j", "j.id", "TRUE", None)]);
    drivers
}

fn state_stream(state: Standing) -> Stream {
    let from = "lease AS d CROSS JOIN job AS j ON j.id = d.job";
    match state {
        Standing::Queued => Stream::new("open AS d CROSS JOIN job AS j ON j.id = d.id", "d.id", "TRUE", None),
        Standing::Leased(Phase::Starting) => {
            Stream::new(from, "d.job", "d.stop_by IS NULL AND d.started IS NULL", None)
        }
        Standing::Leased(Phase::Running) => {
            Stream::new(from, "d.job", "d.stop_by IS NULL AND d.started IS NOT NULL", None)
        }
        Standing::Leased(_) => Stream::new(from, "d.job", "d.stop_by IS NOT NULL", None),
        Standing::Finished(outcome) => Stream::new(
            "finished AS d INDEXED BY finished_outcome CROSS JOIN job AS j ON j.id = d.id",
            "d.id",
            "d.outcome = ?",
            Some(Value::Integer(outcome)),
        ),
    }
}

/// The driver with the fewest entries; among those with too many to count the first that is in order.
fn choose(conn: &Connection, drivers: Vec<Driver>) -> Result<Driver, Fault> {
    if drivers.len() == 1 {
        return Ok(drivers.into_iter().flatten().collect());
    }
    let mut best: Option<(i64, Driver)> = None;
    let last = drivers.len() - 1;
    for (at, driver) in drivers.into_iter().enumerate() {
        // The table itself is not counted: anything else is better, unless it is long and out of order.
        let count = if at == last { COUNTED_MAX } else { count(conn, &driver)? };
        let usable = count < COUNTED_MAX || driver.iter().all(|stream| !stream.unordered);
        if usable && best.as_ref().is_none_or(|(least, _)| count < *least) {
            best = Some((count, driver));
        }
    }
    Ok(best.map(|(_, driver)| driver).unwrap_or_default())
}

fn count(conn: &Connection, driver: &Driver) -> Result<i64, Fault> {
    let mut total = 0;
    for Stream { from, demand, values, .. } in driver {
        let table = from.split(" CROSS JOIN ").next().unwrap_or(from);
        let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {demand} LIMIT {COUNTED_MAX})");
        total += conn.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get::<_, i64>(0))?;
        if total >= COUNTED_MAX {
            return Ok(COUNTED_MAX);
        }
    }
    Ok(total)
}
