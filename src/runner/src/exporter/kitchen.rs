//! Collecting, one at a time, for however many ask.
//!
//! Who asks takes part in a collection that begins after the question, never in one under way: figures are not older than
//! the question. All who asked in the meantime share it, in the forms (text or OpenMetrics, packed or not) that any of them
//! wants. Invariant: `begun - done` is 0 or 1.

use super::DaemonPart;
use ci_runner_hostmetrics::exposition::Families;
use ci_runner_hostmetrics::{Format, HostMetrics};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Scrapes under way at once, from the question to the last byte of the answer: as many as node_exporter takes.
pub const SCRAPES_MAX: usize = 40;
/// Who asked is told to come again after this. Collectors end within 10 s, whatever hangs.
pub const SCRAPE_TIME_MAX: Duration = Duration::from_secs(15);

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) format: Format,
    pub(super) gzip: bool,
}

impl Form {
    const ALL: [Self; 4] = [
        Self { format: Format::Text, gzip: false },
        Self { format: Format::Text, gzip: true },
        Self { format: Format::OpenMetrics, gzip: false },
        Self { format: Format::OpenMetrics, gzip: true },
    ];

    fn index(self) -> usize {
        usize::from(self.format == Format::OpenMetrics) * 2 + usize::from(self.gzip)
    }
}

type Bodies = [Option<Arc<[u8]>>; 4];

#[derive(Default)]
struct State {
    /// Number of the collection that is wanted at least.
    wanted: u64,
    begun: u64,
    done: u64,
    forms: [bool; 4],
    bodies: Bodies,
}

/// The one who collects, and those who wait.
pub(super) struct Kitchen {
    state: Mutex<State>,
    changed: Condvar,
    under_way: AtomicUsize,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
}

/// A scrape's place; to be held to the end of the answer.
pub(super) struct Place<'a>(&'a Kitchen);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kitchen {
    /// Starts the thread that collects. It lives as long as the process: it may hang in a collector.
    pub(super) fn start(host: Option<HostMetrics>, daemon: DaemonPart) -> io::Result<Arc<Self>> {
        let kitchen = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            under_way: AtomicUsize::new(0),
            counts: Counts::default(),
        });
        let cook = Arc::downgrade(&kitchen);
        std::thread::Builder::new().name("exporter-collect".to_owned()).spawn(move || {
            let mut sources = Sources::new(host, daemon);
            while let Some(kitchen) = cook.upgrade() {
                kitchen.turn(&mut sources);
            }
        })?;
        Ok(kitchen)
    }

    /// A place for a scrape; None when all are taken.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let place = Place(self);
        let count = if before < SCRAPES_MAX { &self.counts.answered } else { &self.counts.refused };
        count.fetch_add(1, Ordering::Relaxed);
        (before < SCRAPES_MAX).then_some(place)
    }

    /// Figures that are not older than this call; None when they took too long.
    pub(super) fn ask(&self, form: Form) -> Option<Arc<[u8]>> {
        let until = Instant::now() + SCRAPE_TIME_MAX;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.begun + 1;
        state.wanted = state.wanted.max(mine);
        state.forms[form.index()] = true;
        self.changed.notify_all();
        loop {
            if state.done >= mine
                && let Some(body) = &state.bodies[form.index()]
            {
                return Some(body.clone());
            }
            let left = until.checked_duration_since(Instant::now())?;
            if state.done >= mine {
                // Nobody who came later wanted this form, and the one that had it is replaced.
                state.forms[form.index()] = true;
                state.wanted = state.wanted.max(state.begun + 1);
                self.changed.notify_all();
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn turn(&self, sources: &mut Sources) {
        /// Now and then it is looked whether anybody still needs this thread.
        const IDLE: Duration = Duration::from_secs(5);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wanted <= state.begun {
            state = self.changed.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.wanted <= state.begun {
            return;
        }
        state.begun += 1;
        let forms = std::mem::take(&mut state.forms);
        drop(state);
        let bodies = sources.bodies(forms, &self.counts);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bodies = bodies;
        state.done = state.begun;
        self.changed.notify_all();
    }
}

/// One scrape as plain text.
pub(super) fn once(host: Option<HostMetrics>, daemon: DaemonPart) -> String {
    let bodies = Sources::new(host, daemon).bodies([true, false, false, false], &Counts::default());
    bodies.into_iter().flatten().next().map_or_else(String::new, |body| String::from_utf8_lossy(&body).into_owned())
}

/// Where figures come from.
struct Sources {
    host: Option<HostMetrics>,
    daemon: DaemonPart,
    /// What was said to fail: each trouble is told once, and its end.
    troubles: BTreeMap<&'static str, String>,
}

impl Sources {
    fn new(host: Option<HostMetrics>, daemon: DaemonPart) -> Self {
        Self { host, daemon, troubles: BTreeMap::new() }
    }

    fn bodies(&mut self, forms: [bool; 4], counts: &Counts) -> Bodies {
        let wanted = |format: Format| Form::ALL.iter().any(|form| form.format == format && forms[form.index()]);
        let formats = [Format::Text, Format::OpenMetrics].map(|format| wanted(format).then_some(format));
        let daemon = self.daemon.clone();
        let (mut families, parts) = std::thread::scope(|scope| {
            // Beside each other: a daemon that does not answer costs no more than a mount that does not.
            let fetch = move || formats.map(|format| format.map(|format| daemon(format)));
            let fetched = std::thread::Builder::new().name("exporter-daemon".to_owned()).spawn_scoped(scope, fetch);
            let families = self.host.as_mut().map(HostMetrics::collect_families).unwrap_or_default();
            let parts = fetched.ok().and_then(|thread| thread.join().ok());
            (families, parts.unwrap_or_else(|| formats.map(|f| f.map(|_| Err("no thread".to_owned())))))
        });
        // What stands in somebody's text file never takes a name of ours.
        families.retain(|name| !name.starts_with("ci_runner_") && !name.starts_with("process_"));
        own_families(&mut families, counts, parts.iter().flatten().all(Result::is_ok));
        self.tell(parts.iter().flatten().find_map(|part| part.as_ref().err()));
        let texts: Vec<Option<String>> = formats
            .iter()
            .zip(&parts)
            .map(|(format, part)| Some(whole(&mut families, (*format)?, part.as_ref()?)))
            .collect();
        let mut bodies = Bodies::default();
        for form in Form::ALL.into_iter().filter(|form| forms[form.index()]) {
            if let Some(Some(text)) = texts.get(form.index() / 2) {
                bodies[form.index()] = Some(if form.gzip { gzip(text).into() } else { text.as_bytes().into() });
            }
        }
        bodies
    }

    fn tell(&mut self, daemon: Option<&String>) {
        let reports = self.host.as_ref().map(HostMetrics::reports).unwrap_or_default();
        let mut now: BTreeMap<&'static str, String> = BTreeMap::new();
        for report in reports {
            let hanging = report.hanging.iter().map(|hanging| format!("{} does not answer", hanging.what));
            let error = report.error.as_ref().map(|error| crate::error::chain(error));
            let words: Vec<String> = error.into_iter().chain(hanging).collect();
            if !words.is_empty() {
                now.insert(report.name, words.join("; "));
            }
        }
        if let Some(why) = daemon {
            now.insert("ci_runner", why.clone());
        }
        for (name, why) in &now {
            // A file that is not there at all is how most hosts lack a piece of hardware: no warning.
            if !self.troubles.contains_key(name) {
                log::info!("collector {name}: {why}");
            }
        }
        for name in self.troubles.keys().filter(|name| !now.contains_key(*name)) {
            log::info!("collector {name} works again");
        }
        self.troubles = now;
    }
}

fn own_families(families: &mut Families, counts: &Counts, up: bool) {
    let help = "Whether the daemon gave its figures for this scrape.";
    families.gauge("ci_runner_up", help).add(&[], f64::from(u8::from(up)));
    let help = "Scrapes that were answered, and that were told to come again because too many were under way.";
    let scrapes = families.counter("ci_runner_exporter_scrapes_total", help);
    scrapes.add(&[("result", "answered")], counts.answered.load(Ordering::Relaxed) as f64);
    scrapes.add(&[("result", "refused")], counts.refused.load(Ordering::Relaxed) as f64);
    crate::metrics::process_families(families);
}

/// The daemon's part before the host's, with one end.
fn whole(families: &mut Families, format: Format, daemon: &Result<String, String>) -> String {
    let mut text = String::with_capacity(128 << 10);
    if let Ok(part) = daemon {
        text.push_str(part.strip_suffix("# EOF\n").unwrap_or(part));
    }
    families.write(format, &mut text);
    text
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::with_capacity(text.len() / 6), Compression::fast());
    // Writing to memory does not fail.
    let _ = packer.write_all(text.as_bytes());
    packer.finish().unwrap_or_default()
}
