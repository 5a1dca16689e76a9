//! Resolving limits of attempts: `[pools.NAME] memory cpu pids …`, and what the host gives to all of them together.

use ci_runner_core::job::limits::out_of_range;
use ci_runner_core::limits::{Limits, Resource, words};

use super::file::{AdmissionFile, PoolFile};
use super::resolve::{Resolver, out_of_range as number_out_of_range};
use crate::quantity::{SizeField, exact_size};
use crate::request::milli_cores;

/// Weights of CPU and disks; 100 is everybody's.
const WEIGHT_MAX: i64 = 10_000;

/// Limits of one pool's attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolLimits {
    /// Of jobs that name none; the maximum where nothing else is said.
    pub defaults: Limits,
    /// Most that a job may ask for.
    pub maxima: Limits,
    /// Memory beyond which attempts are slowed down, bytes.
    pub memory_high: Option<u64>,
    /// Swap beside the memory limit, bytes; `u64::MAX` is no limit. None: none beside a memory limit.
    pub swap: Option<u64>,
    /// Share of CPU time among those who want it; 100 is everybody's.
    pub cpu_weight: Option<u16>,
    /// Share of disk time among those who want it; 100 is everybody's.
    pub io_weight: Option<u16>,
}

/// What the host gives to attempts; declared memory and CPU are reserved against it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Memory of the host, bytes; None: what it has.
    pub memory_total: Option<u64>,
    /// Memory that is never given to attempts, bytes.
    pub memory_reserve: Option<u64>,
    /// CPUs of the host, thousandths; None: what it has.
    pub cpu_total: Option<u32>,
    /// CPU that is never given to attempts, thousandths of a core.
    pub cpu_reserve: Option<u32>,
}

impl Resolver<'_> {
    pub(super) fn limits(&mut self, name: &str, file: &PoolFile) -> PoolLimits {
        let maxima = Limits {
            memory_bytes: file.memory_max.map(|size| size.0),
            cpu_milli: self.cores(&["pools", name, "cpu_max"], file.cpu_max),
            pids: self.processes(name, "pids_max", file.pids_max),
        };
        let own = Limits {
            memory_bytes: file.memory.map(|size| size.0),
            cpu_milli: self.cores(&["pools", name, "cpu"], file.cpu),
            pids: self.processes(name, "pids", file.pids),
        };
        if let Some((resource, why)) = out_of_range(&maxima) {
            self.file_problem(&["pools", name, &format!("{}_max", resource.word())], why);
        }
        if let Some((resource, why)) = out_of_range(&own) {
            self.file_problem(&["pools", name, resource.word()], why);
        } else if let Some(resource) = own.beyond(&maxima) {
            let [own, most] = [&own, &maxima].map(|limits| words(resource, limits.get(resource).unwrap_or(0)));
            let text = format!("{own} is more than {}_max, {most}; lower it or raise the maximum", resource.word());
            self.file_problem(&["pools", name, resource.word()], text);
        }
        PoolLimits {
            defaults: own.or(maxima),
            maxima,
            memory_high: file.memory_high.map(|size| size.0),
            swap: file.swap.map(|limit| limit.into_option().map_or(u64::MAX, |size: SizeField| size.0)),
            cpu_weight: self.weight(name, "cpu_weight", file.cpu_weight),
            io_weight: self.weight(name, "io_weight", file.io_weight),
        }
    }

    fn cores(&mut self, key: &[&str], cores: Option<f64>) -> Option<u32> {
        milli_cores(cores?).map_err(|why| self.file_problem(key, why)).ok()
    }

    fn processes(&mut self, pool: &str, key: &str, number: Option<i64>) -> Option<u32> {
        let number = number?;
        let known = u32::try_from(number).ok();
        if known.is_none() {
            let most = i64::from(ci_runner_core::limits::PIDS_MAX);
            self.file_problem(&["pools", pool, key], number_out_of_range(number, &(1..=most)));
        }
        known
    }

    fn weight(&mut self, pool: &str, key: &str, weight: Option<i64>) -> Option<u16> {
        let weight = weight?;
        let known = u16::try_from(weight).ok().filter(|_| (1..=WEIGHT_MAX).contains(&weight));
        if known.is_none() {
            self.file_problem(&["pools", pool, key], number_out_of_range(weight, &(1..=WEIGHT_MAX)));
        }
        known
    }

    pub(super) fn budget(&mut self, file: &AdmissionFile) -> BudgetConfig {
        let size = |size: Option<SizeField>| size.map(|size| size.0);
        let budget = BudgetConfig {
            memory_total: size(file.memory_total),
            memory_reserve: size(file.memory_reserve),
            cpu_total: self.cores(&["admission", "cpu_total"], file.cpu_total),
            cpu_reserve: self.cores(&["admission", "cpu_reserve"], file.cpu_reserve),
        };
        let whole = [
            ("memory_reserve", Resource::Memory, budget.memory_total, budget.memory_reserve),
            ("cpu_reserve", Resource::Cpu, budget.cpu_total.map(u64::from), budget.cpu_reserve.map(u64::from)),
        ];
        for (key, resource, total, reserve) in whole {
            if let Some((total, reserve)) = total.zip(reserve).filter(|(total, reserve)| reserve >= total) {
                let [total, reserve] = [total, reserve].map(|value| words(resource, value));
                let text = format!("{reserve} leaves nothing of {}_total, {total}; give less", resource.word());
                self.file_problem(&["admission", key], text);
            }
        }
        budget
    }
}

/// Lines of `config show` for a pool; only what is set.
pub(super) fn shown(limits: &PoolLimits) -> Vec<(&'static str, String)> {
    let size = |bytes: Option<u64>| bytes.map(|bytes| format!("{:?}", exact_size(bytes)));
    let cores = |milli: Option<u32>| milli.map(cores_text);
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let swap = match limits.swap {
        Some(u64::MAX) => Some("\"unlimited\"".to_owned()),
        swap => size(swap),
    };
    let all = [
        ("memory", size(limits.defaults.memory_bytes)),
        ("memory_max", size(limits.maxima.memory_bytes)),
        ("memory_high", size(limits.memory_high)),
        ("swap", swap),
        ("cpu", cores(limits.defaults.cpu_milli)),
        ("cpu_max", cores(limits.maxima.cpu_milli)),
        ("cpu_weight", number(limits.cpu_weight.map(u64::from))),
        ("pids", number(limits.defaults.pids.map(u64::from))),
        ("pids_max", number(limits.maxima.pids.map(u64::from))),
        ("io_weight", number(limits.io_weight.map(u64::from))),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The same for `[admission]`.
pub(super) fn shown_budget(budget: &BudgetConfig) -> Vec<(&'static str, String)> {
    let size = |bytes: Option<u64>| bytes.map(|bytes| format!("{:?}", exact_size(bytes)));
    let cores = |milli: Option<u32>| milli.map(cores_text);
    let all = [
        ("memory_total", size(budget.memory_total)),
        ("memory_reserve", size(budget.memory_reserve)),
        ("cpu_total", cores(budget.cpu_total)),
        ("cpu_reserve", cores(budget.cpu_reserve)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A number that TOML reads as one with a fraction.
fn cores_text(milli: u32) -> String {
    format!("{}.{:03}", milli / 1000, milli % 1000)
}
