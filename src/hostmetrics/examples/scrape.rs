//! Prints scrapes of a host or of recorded trees, for measuring and for looking:
//! `scrape [--tree DIR] [--rounds N] [--openmetrics]`. With rounds it prints only what they cost.

use ci_runner_hostmetrics::{Format, HostMetrics, Options};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    let (mut rounds, mut format) = (None, Format::Text);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--tree" => {
                let tree = PathBuf::from(value()?);
                (options.procfs, options.sysfs) = (tree.join("proc"), tree.join("sys"));
                (options.rootfs, options.udev_data) = (tree.join("root"), tree.join("udev"));
                options.textfile_directories = vec![tree.join("textfile")];
                options.stat_softirq = true;
            }
            "--rounds" => rounds = Some(value()?.parse::<u32>()?),
            "--openmetrics" => format = Format::OpenMetrics,
            _ => return Err(format!("unknown word {word}").into()),
        }
    }
    let mut host = HostMetrics::new(options)?;
    let Some(rounds) = rounds else {
        host.collect(format, &mut std::io::stdout().lock())?;
        for report in host.reports() {
            if let Some(error) = &report.error {
                eprintln!("{}: {error}", report.name);
            }
        }
        return Ok(());
    };
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..rounds {
        let began = Instant::now();
        bytes = host.collect_to_string(format).len();
        times.push(began.elapsed());
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{rounds} scrapes of {bytes} bytes: median {median:?}, worst {worst:?}");
    Ok(())
}
