//! Who may scrape: TLS, and a user or a token. Secrets come from files, are read when the exporter starts, and are kept as
//! digests only; they have no `Debug`.

use super::rebind;
use crate::config::Protection;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// A file of secrets is a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Sum = [u8; 32];

/// What is asked of those who come.
pub(super) struct Door {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// Of `user:password`.
    users: Vec<Sum>,
    tokens: Vec<Sum>,
    /// Names that requests to the loopback may be for.
    hosts: Vec<String>,
}

impl Door {
    /// Reads certificate, key and secrets.
    pub(super) fn open(protection: &Protection, hosts: Vec<String>) -> Result<Self> {
        let tls = match (&protection.tls_certificate, &protection.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
            _ => None,
        };
        let users = secrets(protection.basic_file.as_deref())?;
        ensure!(
            users.iter().all(|line| line.contains(':')),
            "{}: each line has to be USER:PASSWORD",
            protection.basic_file.as_deref().unwrap_or(Path::new("")).display()
        );
        let tokens = secrets(protection.bearer_file.as_deref())?;
        let sums = |lines: Vec<String>| lines.iter().map(|line| sum(line.as_bytes())).collect();
        Ok(Self { tls, users: sums(users), tokens: sums(tokens), hosts })
    }

    /// True when nobody has to say who they are.
    pub(super) fn is_open(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty()
    }

    /// Whether a request for this `Host` may have been made by other than a web page that goes by another name. No page has a
    /// certificate or a password.
    pub(super) fn is_for_us(&self, local: Option<IpAddr>, host: Option<&str>) -> bool {
        let anybody = self.tls.is_none() && self.is_open();
        !anybody || local.is_none_or(|local| rebind::is_ours(local, host, &self.hosts))
    }

    /// Whether this value of `Authorization` opens it.
    pub(super) fn admits(&self, authorization: Option<&str>) -> bool {
        if self.is_open() {
            return true;
        }
        let Some((scheme, value)) = authorization.and_then(|text| text.trim().split_once(' ')) else { return false };
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return is_one_of(&self.tokens, &sum(value.as_bytes()));
        }
        let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(value).ok()).flatten();
        pair.is_some_and(|pair| is_one_of(&self.users, &sum(&pair)))
    }

    /// How to say who one is.
    pub(super) fn challenge(&self) -> &'static str {
        if self.users.is_empty() { "Bearer realm=\"ci-runner\"" } else { "Basic realm=\"ci-runner\"" }
    }
}

fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// In the same time, whatever is compared and wherever it differs.
fn is_one_of(known: &[Sum], given: &Sum) -> bool {
    let differs = |one: &Sum| one.iter().zip(given).fold(0_u8, |sum, (a, b)| sum | (a ^ b));
    known.iter().fold(false, |found, one| found | (differs(one) == 0))
}

/// The lines of a file of secrets; empty ones and those that begin with `#` do not count.
fn secrets(path: Option<&Path>) -> Result<Vec<String>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let cannot = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(length <= FILE_BYTES_MAX, "{} has {length} bytes: that is no file of secrets", path.display());
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    // An empty file must not open the door.
    ensure!(!lines.is_empty(), "{} holds no secret", path.display());
    Ok(lines)
}

fn tls(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig> {
    let cannot = |path: &Path| format!("cannot read {}", path.display());
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(certificate).with_context(|| cannot(certificate))?.collect();
    let chain = chain.with_context(|| cannot(certificate))?;
    ensure!(!chain.is_empty(), "{} holds no certificate", certificate.display());
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| cannot(key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .with_context(|| format!("{} and {} do not fit together", certificate.display(), key.display()))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(dir: &Path, basic: Option<&str>, bearer: Option<&str>) -> Result<Door> {
        let file = |name: &str, text: Option<&str>| {
            text.map(|text| {
                std::fs::write(dir.join(name), text).unwrap();
                dir.join(name)
            })
        };
        let protection =
            Protection { basic_file: file("b", basic), bearer_file: file("t", bearer), ..Protection::default() };
        Door::open(&protection, Vec::new())
    }

    #[test]
    fn only_what_the_files_say_opens_the_door() {
        let dir = tempfile::tempdir().unwrap();
        assert!(door(dir.path(), None, None).unwrap().admits(None));
        let both = door(dir.path(), Some("# people\nann:s3:cret\n\n"), Some("t0ken\nother\n")).unwrap();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let cases = [
            (None, false),
            (Some("Bearer t0ken".to_owned()), true),
            (Some("bearer other".to_owned()), true),
            (Some("Bearer t0ke".to_owned()), false),
            (Some("Bearer # people".to_owned()), false),
            (Some("Bearer".to_owned()), false),
            (Some(basic("ann:s3:cret")), true),
            (Some(basic("ann:s3")), false),
            (Some(basic("")), false),
            (Some("Basic !!!".to_owned()), false),
        ];
        for (value, opens) in cases {
            assert_eq!(both.admits(value.as_deref()), opens, "{value:?}");
        }
    }

    #[test]
    fn an_empty_or_wrong_file_is_refused_and_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(door(dir.path(), Some("# nobody\n"), None).is_err());
        assert!(door(dir.path(), Some("no colon\n"), None).is_err());
        let protection = Protection { bearer_file: Some(dir.path().join("none")), ..Protection::default() };
        assert!(Door::open(&protection, Vec::new()).is_err());
    }
}
