//! TLS 1.2 and 1.3 (rule I4). The certificate is read again when its files have changed; connections under way go on.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config;

/// How often the files are looked at. Their content is what counts: a link may lead elsewhere, and a clock may lie.
const LOOK: Duration = Duration::from_secs(2);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The error names what is missing or broken, never what stands there.
    #[error("{path} holds no {what} in PEM: {source}")]
    NoPem { path: PathBuf, what: &'static str, source: pem::Error },
    #[error("the certificate and the key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The files of the certificate and its key.
#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the files held.
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate in use, for every handshake.
#[derive(Clone)]
struct Current(watch::Receiver<Arc<CertifiedKey>>);

/// Keeps the certificate in use as new as its files.
pub(crate) struct Renewal {
    files: Files,
    /// Of what was read last, be it good or not: an error is told once.
    seen: [u8; 32],
    current: watch::Sender<Arc<CertifiedKey>>,
}

/// TLS as configured, and what renews its certificate; none where it is not configured.
pub(crate) fn from_files(tls: &config::Tls) -> Result<Option<(TlsAcceptor, Renewal)>, Error> {
    let Some((certificate, key)) = tls.files() else { return Ok(None) };
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    let content = files.read()?;
    let (current, in_use) = watch::channel(Arc::new(files.certified(&content)?));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Current(in_use)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some((TlsAcceptor::from(Arc::new(config)), Renewal { files, seen: content.hash(), current })))
}

impl Renewal {
    /// Looks at the files until the server stops. What cannot be used leaves the certificate that is in use.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            match self.renew() {
                Ok(true) => tracing::info!("a new certificate is in use"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the new certificate cannot be used; the one before stays"),
            }
        }
    }

    /// Whether there is a new certificate.
    fn renew(&mut self) -> Result<bool, Error> {
        let read = self.files.read();
        let seen = read.as_ref().map_or([0; 32], Content::hash);
        if std::mem::replace(&mut self.seen, seen) == seen {
            return Ok(false);
        }
        self.current.send_replace(Arc::new(self.files.certified(&read?)?));
        Ok(true)
    }
}

impl Files {
    /// Both are small: nobody waits for them.
    fn read(&self) -> Result<Content, Error> {
        let read = |path: &Path| fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source });
        Ok(Content { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// The certificate with its key, which must belong to it.
    fn certified(&self, content: &Content) -> Result<CertifiedKey, Error> {
        let no = |what, path: &PathBuf, source| Error::NoPem { path: path.clone(), what, source };
        let chain = CertificateDer::pem_slice_iter(&content.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(|source| no("certificate", &self.certificate, source))?;
        let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(|source| no("private key", &self.key, source))?;
        Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
    }
}

impl Content {
    fn hash(&self) -> [u8; 32] {
        let length = self.certificate.len().to_be_bytes();
        Sha256::new().chain_update(length).chain_update(&self.certificate).chain_update(&self.key).finalize().into()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow()))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}
