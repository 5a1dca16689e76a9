//! The TOML file as written: every key optional, nothing resolved, nothing judged but its type.
//!
//! The names here are the configuration reference; unknown ones are found with
//! [`crate::suggest::fields_of`] over these structs, so that there is no second list.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::quantity::{DurationField, LimitField, SizeField, WordsField};

/// The whole file. Whole numbers are read as `i64` so that a negative one gets our words and not a parser's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    pub state_dir: Option<String>,
    pub runtime_dir: Option<String>,
    pub socket: Option<String>,
    pub log_dir: Option<String>,
    pub spawner_socket: Option<String>,
    pub jobs_socket: Option<String>,
    pub http: Option<HttpField>,
    pub metrics: Option<MetricsField>,
    pub max_parallel_jobs: Option<i64>,
    pub retry_attempts: Option<i64>,
    pub retry_delay: Option<DurationField>,
    pub retry_backoff: Option<String>,
    pub retry_on: Option<WordsField>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    pub executor: Option<String>,
    pub default_timeout: Option<DurationField>,
    pub max_timeout: Option<LimitField<DurationField>>,
    pub grace: Option<DurationField>,
    pub log_max: Option<SizeField>,
    pub queue_jobs_max: Option<i64>,
    pub job_path: Option<String>,
    pub journal: Option<bool>,
    pub pools: BTreeMap<String, PoolFile>,
    pub groups: BTreeMap<String, GroupFile>,
    pub schedules: BTreeMap<String, ScheduleFile>,
    pub gc: GcFile,
    pub admission: AdmissionFile,
    pub watch: WatchFile,
    pub notifiers: BTreeMap<String, NotifierFile>,
}

/// `[pools.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PoolFile {
    pub slots: Option<i64>,
    pub executor: Option<String>,
    pub labels: Vec<String>,
    pub path: Option<String>,
    pub journal: Option<bool>,
    pub profile: Option<String>,
    pub profiles: Vec<String>,
    pub user: Option<String>,
    pub paths: Vec<String>,
    pub submitters: Option<Vec<String>>,
    pub memory: Option<SizeField>,
    pub memory_max: Option<SizeField>,
    pub memory_high: Option<SizeField>,
    pub swap: Option<LimitField<SizeField>>,
    pub cpu: Option<f64>,
    pub cpu_max: Option<f64>,
    pub cpu_weight: Option<i64>,
    pub pids: Option<i64>,
    pub pids_max: Option<i64>,
    pub io_weight: Option<i64>,
}

/// `[groups.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GroupFile {
    pub limit: Option<i64>,
}

/// `[schedules.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScheduleFile {
    pub calendar: Option<String>,
    pub timezone: Option<String>,
    pub overlap: Option<String>,
    pub missed: Option<String>,
    pub command: Option<Vec<String>>,
    pub shell: Option<String>,
    /// Keys of the API's job request, read where the file is resolved.
    pub job: toml::Table,
}

/// `[gc]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GcFile {
    pub finished_max_age: Option<LimitField<DurationField>>,
    pub log_max_age: Option<LimitField<DurationField>>,
    pub log_archive_after: Option<LimitField<DurationField>>,
    pub log_bytes_max: Option<LimitField<SizeField>>,
}

/// `[admission]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdmissionFile {
    pub cpu_pressure_max: Option<f64>,
    pub memory_pressure_max: Option<f64>,
    pub io_pressure_max: Option<f64>,
    pub load_max: Option<f64>,
    pub memory_free_min: Option<SizeField>,
    pub disk_free_min: Option<SizeField>,
    pub memory_total: Option<SizeField>,
    pub memory_reserve: Option<SizeField>,
    pub cpu_total: Option<f64>,
    pub cpu_reserve: Option<f64>,
}

/// `[watch]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WatchFile {
    pub every: Option<DurationField>,
    pub window: Option<DurationField>,
    pub history: Option<DurationField>,
    pub calm: Option<DurationField>,
    pub stuck_factor: Option<f64>,
    pub stuck_after: Option<LimitField<DurationField>>,
    pub slow_factor: Option<f64>,
    pub failure_rate_max: Option<f64>,
    pub failure_jobs_min: Option<i64>,
    pub queue_age_max: Option<LimitField<DurationField>>,
    pub flapping_changes_max: Option<i64>,
}

/// `[notifiers.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NotifierFile {
    pub kind: Option<String>,
    pub command: Vec<String>,
    pub url: Option<String>,
    pub secret_file: Option<String>,
    pub secret_credential: Option<String>,
    pub ca_file: Option<String>,
    pub to: Vec<String>,
    pub from: Option<String>,
    pub sendmail: Vec<String>,
    pub watches: Option<WordsField>,
    pub outcomes: Option<WordsField>,
    pub names: Vec<String>,
    pub pools: Vec<String>,
    pub labels: Vec<String>,
    pub timeout: Option<DurationField>,
    pub rate_max: Option<i64>,
    pub tries_max: Option<i64>,
    pub queue_max: Option<i64>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MetricsFile {
    pub listen: Option<String>,
    pub host: Option<bool>,
    pub procfs: Option<String>,
    pub sysfs: Option<String>,
    pub rootfs: Option<String>,
    pub udev_data: Option<String>,
    pub collectors: Option<Vec<String>>,
    pub exclude_collectors: Vec<String>,
    pub include: BTreeMap<String, String>,
    pub exclude: BTreeMap<String, String>,
    pub textfile_sources: Vec<String>,
    pub textfile_directory: Option<String>,
    pub tls_certificate: Option<String>,
    pub tls_key: Option<String>,
    pub basic_file: Option<String>,
    pub bearer_file: Option<String>,
}

/// `[http]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HttpFile {
    pub listen: Option<String>,
    pub public_status: Option<bool>,
    pub hosts: Vec<String>,
}

/// `http = "127.0.0.1:8080"`, or `[http]` with more keys.
#[derive(Debug)]
pub(super) struct HttpField(pub HttpFile);

/// `metrics = "127.0.0.1:9100"`, or `[metrics]` with more keys.
#[derive(Debug)]
pub(super) struct MetricsField(pub MetricsFile);

/// A field that is an address, or a table that holds one.
macro_rules! address_or_table {
    ($field:ident, $table:ident, $words:literal) => {
        impl<'de> Deserialize<'de> for $field {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Words;
                impl<'de> Visitor<'de> for Words {
                    type Value = $field;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($words)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$field, E> {
                        Ok($field($table { listen: Some(text.to_owned()), ..$table::default() }))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$field, A::Error> {
                        $table::deserialize(de::value::MapAccessDeserializer::new(map)).map($field)
                    }
                }
                deserializer.deserialize_any(Words)
            }
        }
    };
}

address_or_table!(
    HttpField,
    HttpFile,
    "an address like \"127.0.0.1:8080\", \"off\", or a table with listen, public_status, hosts"
);
address_or_table!(
    MetricsField,
    MetricsFile,
    "an address like \"127.0.0.1:9100\", \"off\", or a table with listen, host and more"
);
