//! Prints how fast the masker is: `cargo run --release -p ci-runner-spawner --example masker_throughput`.
//!
//! Twenty secrets as a CI job has them, in all their forms, over texts typical for CI logs and over texts made to be slow.
//! For each text the best and the median of several passes, in chunks of 64 KiB as the shim reads them. Output is checked to
//! hold the number of masked places that were put in, so that nothing is measured that does not work.

use std::hint::black_box;
use std::time::Instant;

use ci_runner_spawner::joblog::{Masker, SECRETS_BYTES_MAX};

const TEXT_BYTES: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
const PASSES: usize = 7;

/// A small generator with a fixed seed (xorshift64*): the same texts each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> Vec<u8> {
        (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }
}

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const PRINTABLE: &[u8] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!@#$%&*()-_=+[]{};:,.<>/?'\"\\";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn secrets(random: &mut Random) -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for prefix in ["ghp_", "glpat-", "AKIA", "npm_", "dckr_pat_", "xoxb-", "sk-", "hvs."] {
        secrets.push([prefix.as_bytes(), &random.text(ALPHANUMERIC, 36)].concat());
    }
    for length in [8, 10, 12, 16, 20, 24, 32, 40, 64] {
        secrets.push(random.text(PRINTABLE, length));
    }
    secrets.push(b"postgres://app:s3cr3t-Pa55@db.example.com:5432/prod?sslmode=require".to_vec());
    secrets.push(key(random, 27));
    secrets.push(b"{\"type\":\"service_account\",\"id\":\"8d7f\",\"private\":\"a/b+c==\"}".to_vec());
    secrets
}

fn key(random: &mut Random, lines: usize) -> Vec<u8> {
    let mut key = b"-----BEGIN RSA PRIVATE KEY-----\n".to_vec();
    for _ in 0..lines {
        key.extend(random.text(BASE64, 64));
        key.push(b'\n');
    }
    key.extend_from_slice(b"-----END RSA PRIVATE KEY-----\n");
    key
}

fn fill(random: &mut Random, mut more: impl FnMut(&mut Random, &mut Vec<u8>)) -> Vec<u8> {
    let mut text = Vec::with_capacity(TEXT_BYTES + 4096);
    while text.len() < TEXT_BYTES {
        more(random, &mut text);
    }
    text
}

fn build_log(random: &mut Random, text: &mut Vec<u8>) {
    const WORDS: [&str; 24] = [
        "Compiling",
        "warning:",
        "unused",
        "variable",
        "src/main.rs",
        "running",
        "test",
        "ok",
        "passed",
        "failed",
        "Downloading",
        "https://registry.npmjs.org/lodash/-/lodash-4.17.21.tgz",
        "[INFO]",
        "BUILD",
        "SUCCESS",
        "gcc",
        "-O2",
        "-Wall",
        "/usr/include/x86_64-linux-gnu",
        "CMakeFiles/app.dir",
        "Step",
        "--->",
        "sha256:",
        "Collecting",
    ];
    for _ in 0..4 + random.below(12) {
        match random.below(12) {
            0 => text.extend_from_slice(format!("{:x}", random.next()).as_bytes()),
            1 => text.extend_from_slice(format!("{}.{:02}s", random.below(100), random.below(100)).as_bytes()),
            _ => text.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes()),
        }
        text.push(b' ');
    }
    text.push(b'\n');
}

struct Case {
    name: &'static str,
    text: Vec<u8>,
    /// Places to be masked at least.
    places: usize,
}

fn cases(secrets: &[Vec<u8>], random: &mut Random) -> Vec<Case> {
    let case = |name, text| Case { name, text, places: 0 };
    let mut places = 0;
    let spiced = fill(random, |random, text| {
        build_log(random, text);
        if random.below(20) == 0 {
            text.extend_from_slice(&secrets[random.below(8)]);
            text.push(b'\n');
            places += 1;
        }
    });
    let near = |random: &mut Random, text: &mut Vec<u8>| {
        let secret = &secrets[random.below(secrets.len())];
        text.extend_from_slice(&secret[..secret.len() - 1]);
        text.push(b'~');
    };
    let beginnings = |random: &mut Random, text: &mut Vec<u8>| {
        let secret = &secrets[random.below(secrets.len())];
        text.extend_from_slice(&secret[..6]);
    };
    vec![
        case("build log", fill(random, build_log)),
        Case { name: "build log, a secret every 20 lines", text: spiced, places },
        case(
            "base64 lines",
            fill(random, |random, text| {
                text.extend(random.text(BASE64, 76));
                text.push(b'\n');
            }),
        ),
        case("hex dump", fill(random, |random, text| text.extend(random.text(b"0123456789abcdef \n", 64)))),
        case("random bytes", fill(random, |random, text| text.extend(random.next().to_le_bytes()))),
        case("one line of x", vec![b'x'; TEXT_BYTES]),
        case("one line of base64", fill(random, |random, text| text.extend(random.text(BASE64, 64)))),
        case("short lines (y)", b"y\n".repeat(TEXT_BYTES / 2)),
        case("adversarial: secrets less their last byte", fill(random, near)),
        case("adversarial: first 6 bytes of secrets", fill(random, beginnings)),
        Case {
            name: "adversarial: nothing but secrets",
            text: secrets[0].repeat(TEXT_BYTES / secrets[0].len()),
            places: 1,
        },
    ]
}

fn measure(masker: &mut Masker, case: &Case) {
    let mut rates = Vec::new();
    let mut out = Vec::new();
    let mut places = 0;
    for _ in 0..PASSES {
        places = 0;
        let begin = Instant::now();
        for chunk in case.text.chunks(CHUNK_BYTES) {
            out.clear();
            masker.feed(black_box(chunk), &mut out);
            black_box(&out);
        }
        out.clear();
        masker.finish(&mut out);
        rates.push(case.text.len() as f64 / 1e6 / begin.elapsed().as_secs_f64());
    }
    for chunk in case.text.chunks(CHUNK_BYTES) {
        out.clear();
        masker.feed(chunk, &mut out);
        places += out.windows(3).filter(|window| window == b"***").count();
    }
    masker.finish(&mut out);
    assert!(places >= case.places, "{}: {places} places masked, {} put in", case.name, case.places);
    rates.sort_by(f64::total_cmp);
    println!("{:<45} {:>7.0} {:>7.0}", case.name, rates[PASSES - 1], rates[PASSES / 2]);
}

fn build(name: &str, secrets: &[Vec<u8>]) -> Option<Masker> {
    let begin = Instant::now();
    let masker = Masker::new(secrets.iter().map(|secret| ("S", secret.as_slice())));
    let took = begin.elapsed();
    let masker = masker.ok().flatten()?;
    let bytes: usize = secrets.iter().map(Vec::len).sum();
    println!(
        "{name}: {} secrets, {bytes} bytes; built in {:.1} ms, {:.1} KiB",
        secrets.len(),
        took.as_secs_f64() * 1e3,
        masker.memory_bytes() as f64 / 1024.0
    );
    Some(masker)
}

fn main() {
    let mut random = Random(0x5eed);
    let secrets = secrets(&mut random);
    let short: Vec<Vec<u8>> = secrets.iter().filter(|secret| secret.len() < 1000).cloned().collect();
    build("without the key", &short);
    build("at the limit (keys)", &(0..SECRETS_BYTES_MAX / 4000).map(|_| key(&mut random, 60)).collect::<Vec<_>>());
    build(
        "at the limit (printable)",
        &(0..SECRETS_BYTES_MAX / 64).map(|_| random.text(PRINTABLE, 64)).collect::<Vec<_>>(),
    );
    let Some(mut masker) = build("measured", &secrets) else { return println!("the secrets were refused") };
    println!("{:<45} {:>7} {:>7}  MB/s", "text", "best", "median");
    let cases = cases(&secrets, &mut random);
    for case in &cases {
        measure(&mut masker, case);
    }
    let shortest = [&secrets[..19], &[b"Tr0ub4".to_vec()]].concat();
    let Some(mut masker) = build("with one of the least length", &shortest) else { return };
    measure(&mut masker, &cases[0]);
}
