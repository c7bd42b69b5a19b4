//! HTTPS with a certificate made at run time, trusted only by clients that are given its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// A self-signed certificate, and its key.
pub struct Certificate {
    pub(super) acceptor: TlsAcceptor,
    path: PathBuf,
}

impl Certificate {
    /// Generates a key, and a certificate for `127.0.0.1`.
    pub fn generate() -> Certificate {
        Certificate::for_hosts(&["127.0.0.1"])
    }

    /// Generates a key, and a certificate for these host names and addresses.
    pub fn for_hosts(hosts: &[&str]) -> Certificate {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let hosts: Vec<_> = hosts.iter().map(|host| host.to_string()).collect();
        let mut parameters = CertificateParams::new(hosts).expect("names to certify");
        // With one name for two certificates, a client would call one a forgery of the other instead of unknown.
        let name = format!("support {number}");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("a certificate and its own key");

        let name = format!("certificate-{}-{number}.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, certificate.pem())
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        Certificate {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            path,
        }
    }

    /// A file with the certificate in PEM, for `SSL_CERT_FILE`. Removed when this value is dropped.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // A file left in the temporary directory does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
