//! One scrape: all enabled collectors in a row, each with its own limit, and what became of each.
//!
//! Invariant: a collector is in exactly one place: its slot, the thread that runs it, or a thread it hangs in. While it
//! hangs it is reported as failed and not asked again; when its thread comes back it is ready for the next scrape.

use crate::collectors::{self, Collector};
use crate::crew::{Crew, Outcome, Work};
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Format};
use crate::options::Options;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

const DURATION: &str = "node_scrape_collector_duration_seconds";
const DURATION_HELP: &str = "node_exporter: Duration of a collector scrape.";
const SUCCESS: &str = "node_scrape_collector_success";
const SUCCESS_HELP: &str = "node_exporter: Whether a collector succeeded.";

/// What became of one collector in the latest scrape.
#[derive(Debug)]
pub struct CollectorReport {
    /// Its name.
    pub name: &'static str,
    /// How long it took; for a hanging one, how long it has been waited for.
    pub duration: Duration,
    /// Why its figures are missing or incomplete.
    pub error: Option<CollectError>,
    /// What hangs inside of it (dead mounts); the other figures are there.
    pub hanging: Vec<Hanging>,
}

/// Something that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hanging {
    /// What: a mount point.
    pub what: String,
    /// Since when it has been waited for.
    pub since: Instant,
}

/// What a collector's run brings back.
struct Back {
    collector: Box<dyn Collector>,
    families: Families,
    duration: Duration,
    error: Option<CollectError>,
}

/// The host's figures. Not cheap to make, cheap to ask; keeps what must be remembered between scrapes.
pub struct HostMetrics {
    options: Options,
    slots: BTreeMap<&'static str, Option<Box<dyn Collector>>>,
    crew: Crew<&'static str, Back>,
    reports: Vec<CollectorReport>,
}

impl HostMetrics {
    /// Checks the options and prepares the enabled collectors; reads nothing yet.
    ///
    /// # Errors
    /// A name or a pattern in the options is wrong.
    pub fn new(options: Options) -> Result<Self, Error> {
        let known = collectors::names();
        for name in options.enabled.iter().flatten().chain(&options.disabled) {
            if !known.contains(&name.as_str()) {
                return Err(Error::UnknownCollector { name: name.clone() });
            }
        }
        let mut slots = BTreeMap::new();
        for name in known {
            if !options.runs(name) {
                continue;
            }
            match collectors::make(name, &options)? {
                Some(collector) => drop(slots.insert(name, Some(collector))),
                None if options.enabled.is_some() => return Err(Error::NothingToAsk { name: name.to_owned() }),
                None => {}
            }
        }
        let crew = Crew::new("host-metrics", options.collector_time_max);
        Ok(Self { options, slots, crew, reports: Vec::new() })
    }

    /// Names of the collectors that run.
    pub fn enabled(&self) -> Vec<&'static str> {
        self.slots.keys().copied().collect()
    }

    /// What became of each collector in the latest scrape, sorted by name.
    pub fn reports(&self) -> &[CollectorReport] {
        &self.reports
    }

    /// Reads everything and gives the families, so that a caller can add its own. Blocks for at most twice
    /// [`Options::collector_time_max`].
    pub fn collect_families(&mut self) -> Families {
        for (name, back) in self.crew.returned() {
            self.put_back(name, back.map(|back| back.collector));
        }
        let mut work: Vec<(&'static str, Work<Back>)> = Vec::with_capacity(self.slots.len());
        for (name, slot) in &mut self.slots {
            if let Some(mut collector) = slot.take() {
                work.push((
                    name,
                    Box::new(move || {
                        let (began, mut families) = (Instant::now(), Families::default());
                        let error = collector.collect(&mut families).err();
                        Back { collector, families, duration: began.elapsed(), error }
                    }),
                ));
            }
        }
        let began = Instant::now();
        let (mut families, mut foreign) = (Families::default(), Families::default());
        self.reports.clear();
        for (name, outcome) in self.crew.run(work) {
            let (duration, error, hanging) = match outcome {
                Outcome::Done(back) => {
                    // What others wrote comes last: it cannot take a name or a type from a figure of ours.
                    if name == "textfile" { &mut foreign } else { &mut families }.merge(back.families);
                    let hanging = back.collector.hanging();
                    self.put_back(name, Some(back.collector));
                    (back.duration, back.error, hanging)
                }
                Outcome::Hangs => continue,
                Outcome::Panicked => (began.elapsed(), Some(CollectError::Panicked), Vec::new()),
                Outcome::NotBegun => (Duration::ZERO, Some(CollectError::NotAsked), Vec::new()),
            };
            if self.slots.get(name).is_some_and(Option::is_none) {
                self.put_back(name, None);
            }
            self.reports.push(CollectorReport { name, duration, error, hanging });
        }
        families.merge(foreign);
        for (name, since) in self.crew.hanging() {
            let since = since.elapsed();
            let error = Some(CollectError::Hangs { since });
            self.reports.push(CollectorReport { name, duration: since, error, hanging: Vec::new() });
        }
        self.reports.sort_by_key(|report| report.name);
        for report in &self.reports {
            let labels = [("collector", report.name)];
            families.gauge(DURATION, DURATION_HELP).add(&labels, report.duration.as_secs_f64());
            families.gauge(SUCCESS, SUCCESS_HELP).add(&labels, f64::from(u8::from(report.error.is_none())));
        }
        families
    }

    /// A collector that was lost (it panicked, or there was no time for it) begins anew.
    fn put_back(&mut self, name: &'static str, collector: Option<Box<dyn Collector>>) {
        let anew = || collectors::make(name, &self.options).ok().flatten();
        let collector = collector.or_else(anew);
        self.slots.insert(name, collector);
    }

    /// Reads everything and gives it as text.
    pub fn collect_to_string(&mut self, format: Format) -> String {
        let mut text = String::with_capacity(64 << 10);
        self.collect_families().write(format, &mut text);
        text
    }

    /// Reads everything and writes it as text.
    ///
    /// # Errors
    /// Those of `out`; collectors that fail are told in the text.
    pub fn collect(&mut self, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(self.collect_to_string(format).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Collector for Panics {
        fn collect(&mut self, _: &mut Families) -> Result<(), CollectError> {
            panic!("a defect, meant by this test");
        }
    }

    /// The caller keeps it in a thread of its own.
    #[test]
    fn it_can_move_to_another_thread() {
        fn can_move<T: Send>() {}
        can_move::<HostMetrics>();
    }

    #[test]
    fn a_panic_costs_one_scrape_of_one_collector() {
        let enabled = Some(vec!["time".to_owned(), "uname".to_owned()]);
        let mut host = HostMetrics::new(Options { enabled, ..Options::default() }).unwrap();
        host.slots.insert("uname", Some(Box::new(Panics)));
        let text = host.collect_to_string(Format::Text);
        assert!(!text.contains("node_uname_info") && text.contains("node_time_seconds "), "{text}");
        assert!(text.contains("node_scrape_collector_success{collector=\"uname\"} 0\n"), "{text}");
        assert!(matches!(host.reports()[1].error, Some(CollectError::Panicked)));
        let text = host.collect_to_string(Format::Text);
        assert!(text.contains("node_uname_info{") && host.reports()[1].error.is_none(), "{text}");
    }
}
