//! Certificates: reads the PEM files once, checks that they fit together, and hands out what the
//! two listeners and the clients need. All problems are named at once, each with its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This member's certificate, then its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that signed the members' certificates.
    pub authority: PathBuf,
    /// Only clients with a certificate signed by `authority` may talk gRPC.
    pub client_auth: bool,
}

/// The files will not do.
#[derive(Debug, thiserror::Error)]
#[error("the TLS files cannot be used: {}", problems.join("; "))]
pub struct Error {
    /// Each as `key: what is wrong`.
    pub problems: Vec<String>,
}

/// Certificates, read and checked.
#[derive(Clone)]
pub struct Tls {
    identity: Identity,
    authority: Certificate,
    client_auth: bool,
    http: Arc<ServerConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// Every file that cannot be read or parsed, and a key that does not fit its certificate.
    pub fn load(files: &TlsFiles) -> Result<Tls, Error> {
        let mut problems = Vec::new();
        let certificate = read("security.tls_cert", &files.certificate, &mut problems);
        let key = read("security.tls_key", &files.key, &mut problems);
        let authority = read("security.tls_ca", &files.authority, &mut problems);
        let chain = certificates(
            "security.tls_cert",
            &files.certificate,
            &certificate,
            &mut problems,
        );
        certificates(
            "security.tls_ca",
            &files.authority,
            &authority,
            &mut problems,
        );
        let private = private_key(&files.key, &key, &mut problems);
        let http = private.and_then(|private| match http_config(chain, private) {
            Ok(config) => Some(config),
            Err(error) if problems.is_empty() => {
                problems.push(format!(
                    "security.tls_key: does not fit security.tls_cert ({error})"
                ));
                None
            }
            Err(_) => None,
        });
        match http {
            Some(http) if problems.is_empty() => Ok(Tls {
                identity: Identity::from_pem(certificate, key),
                authority: Certificate::from_pem(authority),
                client_auth: files.client_auth,
                http: Arc::new(http),
            }),
            Some(_) | None => Err(Error { problems }),
        }
    }

    /// For the gRPC listener.
    pub fn grpc_server(&self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new().identity(self.identity.clone());
        if self.client_auth {
            config.client_ca_root(self.authority.clone())
        } else {
            config
        }
    }

    /// For calls to other members, whose certificates the authority must have signed.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(self.authority.clone())
            .identity(self.identity.clone())
    }

    /// For the HTTP listener.
    pub fn http_server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.http)
    }
}

fn read(key: &str, path: &Path, problems: &mut Vec<String>) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| {
        problems.push(format!("{key}: could not read {}: {error}", path.display()));
        Vec::new()
    })
}

fn certificates(
    key: &str,
    path: &Path,
    pem: &[u8],
    problems: &mut Vec<String>,
) -> Vec<CertificateDer<'static>> {
    if pem.is_empty() && !problems.is_empty() {
        return Vec::new();
    }
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => found,
        Ok(_) => {
            problems.push(format!(
                "{key}: {} holds no PEM certificate",
                path.display()
            ));
            Vec::new()
        }
        Err(error) => {
            problems.push(format!(
                "{key}: {} is not valid PEM ({error})",
                path.display()
            ));
            Vec::new()
        }
    }
}

fn private_key(
    path: &Path,
    pem: &[u8],
    problems: &mut Vec<String>,
) -> Option<PrivateKeyDer<'static>> {
    if pem.is_empty() && !problems.is_empty() {
        return None;
    }
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| {
            problems.push(format!(
                "security.tls_key: {} holds no usable PEM private key ({error})",
                path.display()
            ));
        })
        .ok()
}

fn http_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_with_its_key() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let junk = folder.path().join("junk.pem");
        std::fs::write(&junk, "not a certificate").expect("written");
        let files = TlsFiles {
            certificate: junk.clone(),
            key: folder.path().join("missing.pem"),
            authority: junk,
            client_auth: false,
        };
        let problems = Tls::load(&files).expect_err("refused").problems;
        for key in ["security.tls_cert", "security.tls_key", "security.tls_ca"] {
            assert!(
                problems.iter().any(|text| text.starts_with(key)),
                "{key}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let one = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("certificate");
        let other = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).expect("certificate");
        let mut files = TlsFiles {
            certificate: write("one.pem", one.cert.pem()),
            key: write("one.key", one.signing_key.serialize_pem()),
            authority: write("ca.pem", one.cert.pem()),
            client_auth: false,
        };
        assert!(Tls::load(&files).is_ok());
        files.key = write("other.key", other.signing_key.serialize_pem());
        let error = Tls::load(&files).expect_err("refused");
        assert!(
            error.to_string().contains("security.tls_key: does not fit"),
            "{error}"
        );
    }
}
