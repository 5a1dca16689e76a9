//! Whom an HTTPS notifier trusts: the certificates of a file, or the system's.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where distributions keep the certificates that are trusted.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client that trusts these.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let path = match ca_file {
        Some(path) => path.to_owned(),
        None => bundle()?,
    };
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(&path).map_err(|error| cannot(&error))?;
    // One that this version cannot read must not make all others useless.
    roots.add_parsable_certificates(found.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(cannot(&"there is none in it"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

fn bundle() -> Result<PathBuf, String> {
    let told = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = told.into_iter().chain(BUNDLES.map(PathBuf::from)).find(|path| path.exists());
    known.ok_or_else(|| "no certificates of the system were found; install ca-certificates, or give ca_file".to_owned())
}
