//! How fast secrets are masked: the library itself, in this process, on a text like a build's log.

use super::Bench;
use crate::report::{Limit, Report, Row};
use crate::stats::median;
use anyhow::{Context, Result, ensure};
use ci_runner_spawner::joblog::Masker;
use std::hint::black_box;
use std::time::Instant;

/// The shim reads pieces of this size.
const CHUNK_BYTES: usize = 64 * 1024;
const TEXT_BYTES: usize = 32 * 1024 * 1024;
const WORDS: [&str; 12] = [
    "Compiling",
    "warning:",
    "unused",
    "src/main.rs",
    "test",
    "ok",
    "Downloading",
    "[INFO]",
    "gcc",
    "-O2",
    "sha256:",
    "--->",
];

/// A small generator with a fixed seed (xorshift64*): the same text each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn word(&mut self, length: usize) -> String {
        const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        (0..length).map(|_| char::from(SIGNS[(self.next() % SIGNS.len() as u64) as usize])).collect()
    }
}

/// 20 secrets in all their forms; every twentieth line holds one.
pub fn masker(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut random = Random(0x5eed);
    let prefixes = ["ghp_", "glpat-", "AKIA", "npm_", "sk-", "hvs.", "xoxb-", "", "", ""];
    let secrets: Vec<String> =
        (0..20).map(|number| format!("{}{}", prefixes[number % 10], random.word(12 + 2 * number))).collect();
    let (text, places) = build_log(&mut random, &secrets);
    let pairs = secrets.iter().map(|secret| ("SECRET", secret.as_bytes()));
    let mut masker = Masker::new(pairs)?.context("there are secrets")?;
    let (mut rates, mut out) = (Vec::new(), Vec::new());
    for _ in 0..bench.pick(5, 15) {
        let mut masked = 0;
        let begin = Instant::now();
        for chunk in text.chunks(CHUNK_BYTES) {
            out.clear();
            masker.feed(black_box(chunk), &mut out);
            black_box(&out);
            masked += out.len();
        }
        out.clear();
        masker.finish(&mut out);
        rates.push(text.len() as f64 / 1e6 / begin.elapsed().as_secs_f64());
        ensure!(masked + out.len() < text.len(), "nothing was masked");
    }
    let mut all = Vec::new();
    masker.feed(&text, &mut all);
    masker.finish(&mut all);
    let found = all.windows(3).filter(|window| window == b"***").count();
    ensure!(found == places, "{found} places were masked, {places} were put in");
    let rate = median(&rates);
    report.add(Row {
        name: "masker, 20 secrets in all their forms".to_owned(),
        limit: Limit::AtLeast(500.0),
        judged: rate,
        unit: "MB/s",
        measured: format!("{rate:.0} MB/s, {:.0} kB of tables", masker.memory_bytes() as f64 / 1e3),
        ratio: None,
    });
    Ok(())
}

fn build_log(random: &mut Random, secrets: &[String]) -> (Vec<u8>, usize) {
    let mut text = Vec::with_capacity(TEXT_BYTES + 4096);
    let mut places = 0;
    while text.len() < TEXT_BYTES {
        for _ in 0..4 + random.next() % 12 {
            match random.next() % 12 {
                0 => text.extend_from_slice(format!("{:x}", random.next()).as_bytes()),
                1 => text.extend_from_slice(format!("{}.{:02}s", random.next() % 100, random.next() % 100).as_bytes()),
                _ => text.extend_from_slice(WORDS[(random.next() % WORDS.len() as u64) as usize].as_bytes()),
            }
            text.push(b' ');
        }
        if random.next().is_multiple_of(20) {
            text.extend_from_slice(secrets[(random.next() % 20) as usize].as_bytes());
            places += 1;
        }
        text.push(b'\n');
    }
    (text, places)
}
