//! An authority of our own, and a certificate of it for `127.0.0.1`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in PEM.
pub struct Certificates {
    /// For `SSL_CERT_FILE`, which all clients here read.
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them with openssl (3.0 or later) in `directory`.
    pub fn create(directory: &Path) -> Certificates {
        let file = |name: &str| directory.join(name);
        let certificates = Certificates {
            authority: file("authority.pem"),
            certificate: file("certificate.pem"),
            key: file("key.pem"),
        };
        let authority_key = file("authority.key");
        let mut request = openssl(&authority_key, &certificates.authority);
        request.args([
            "-subj",
            "/CN=bench authority",
            "-addext",
            "keyUsage=keyCertSign",
        ]);
        run(&mut request);
        let mut request = openssl(&certificates.key, &certificates.certificate);
        request.args([
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]);
        request.args(["-addext", "basicConstraints=critical,CA:FALSE", "-CA"]);
        request.arg(&certificates.authority);
        request.arg("-CAkey").arg(&authority_key);
        run(&mut request);
        certificates
    }
}

fn openssl(key: &Path, certificate: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    command.args(["-nodes", "-days", "2", "-keyout"]).arg(key);
    command.arg("-out").arg(certificate);
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("start openssl");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {message}");
}
