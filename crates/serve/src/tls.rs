//! TLS of the doors, and what is known of a client before it says anything: where it is, whether it is encrypted, whose
//! certificate it showed.
//!
//! Owns certificates and keys, read from PEM files and read anew when these change: what is broken then changes nothing. Does
//! not own who may come in ([`crate::auth`]).

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use alluvium_plan::DoorTls;
use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_certificate::{SignatureAlgorithm, certificate::CapturedX509Certificate};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of a connection that begins with TLS.
const TLS_RECORD: u8 = 0x16;

/// Certificates for all doors. Cheap to clone; all clones renew together.
#[derive(Clone)]
pub struct Tls {
    files: Arc<DoorTls>,
    loaded: Arc<RwLock<Loaded>>,
}

/// Certificates as they are at one moment.
#[derive(Clone)]
struct Loaded {
    texts: Arc<Texts>,
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

#[derive(PartialEq, Eq)]
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Whether certificates were read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The files are as they were.
    No,
    /// Connections from now on are made with what is in the files now.
    Yes,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file is no PEM, or holds something else.
    #[error("{} holds no {what} that can be used: {cause}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why.
        cause: String,
    },
    /// A certificate is no longer valid.
    #[error("the certificate in {} expired at {since}", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When.
        since: DateTime<Utc>,
    },
    /// The key is another certificate's, or of a kind that is not known.
    #[error("the key in {} does not go with the certificate: {cause}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn read(files: &DoorTls) -> Result<Self, TlsError> {
        let loaded = load(files, texts(files)?)?;
        Ok(Self {
            files: Arc::new(files.clone()),
            loaded: Arc::new(RwLock::new(loaded)),
        })
    }

    /// Reads the files again, if they have changed.
    ///
    /// # Errors
    /// What is wrong with which of them; the old certificates stay.
    pub fn renew(&self) -> Result<Renewed, TlsError> {
        let texts = texts(&self.files)?;
        if *self.loaded().texts == texts {
            return Ok(Renewed::No);
        }
        let loaded = load(&self.files, texts)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(Renewed::Yes)
    }

    /// What to make one connection with, for a door that speaks `protocol` (its name in ALPN), and the certificate's hash for
    /// channel binding.
    pub(crate) fn acceptor(&self, protocol: &[u8]) -> (TlsAcceptor, Option<Arc<[u8]>>) {
        let loaded = self.loaded();
        let mut config = ServerConfig::clone(&loaded.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        (TlsAcceptor::from(Arc::new(config)), loaded.end_point)
    }

    fn loaded(&self) -> Loaded {
        // It is replaced whole.
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.clone()
    }
}

fn texts(files: &DoorTls) -> Result<Texts, TlsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|cause| TlsError::Read {
            path: path.to_owned(),
            cause,
        })
    };
    Ok(Texts {
        cert: read(&files.cert)?,
        key: read(&files.key)?,
        client_ca: files.client_ca.as_deref().map(read).transpose()?,
    })
}

fn load(files: &DoorTls, texts: Texts) -> Result<Loaded, TlsError> {
    let chain = certificates(&files.cert, &texts.cert)?;
    let first = CapturedX509Certificate::from_der(chain[0].as_ref()).map_err(|cause| {
        let cause = cause.to_string();
        unusable(&files.cert, "certificate", cause)
    })?;
    let since = first.validity_not_after();
    if since < Utc::now() {
        let path = files.cert.clone();
        return Err(TlsError::Expired { path, since });
    }
    let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|cause| {
        unusable(
            &files.key,
            "private key without a password",
            cause.to_string(),
        )
    })?;
    let provider = Arc::new(provider::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS");
    let config = match (&files.client_ca, &texts.client_ca) {
        (Some(path), Some(text)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, text)? {
                roots
                    .add(certificate)
                    .map_err(|cause| unusable(path, "authority", cause.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|cause| unusable(path, "authority", cause.to_string()))?;
            config.with_client_cert_verifier(verifier)
        }
        _ => config.with_no_client_auth(),
    };
    let config = config
        .with_single_cert(chain, key)
        .map_err(|cause| TlsError::Key {
            path: files.key.clone(),
            cause,
        })?;
    Ok(Loaded {
        texts: Arc::new(texts),
        config: Arc::new(config),
        end_point: end_point(&first),
    })
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|cause| unusable(path, "certificate", cause.to_string()))?;
    match found.is_empty() {
        true => Err(unusable(path, "certificate", "none is there".into())),
        false => Ok(found),
    }
}

fn unusable(path: &Path, what: &'static str, cause: String) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        what,
        cause,
    }
}

/// The hash that clients bind to: by the certificate's own hash function, or SHA-256 in place of weaker ones (RFC 5929). A
/// signature without such a function has none, and then binding is not offered.
fn end_point(certificate: &CapturedX509Certificate) -> Option<Arc<[u8]>> {
    let function = match certificate.signature_algorithm()? {
        SignatureAlgorithm::RsaSha1
        | SignatureAlgorithm::RsaSha256
        | SignatureAlgorithm::EcdsaSha256 => &digest::SHA256,
        SignatureAlgorithm::RsaSha384 | SignatureAlgorithm::EcdsaSha384 => &digest::SHA384,
        SignatureAlgorithm::RsaSha512 => &digest::SHA512,
        _ => return None,
    };
    let hash = digest::digest(function, certificate.constructed_data());
    Some(hash.as_ref().into())
}

/// Whoever is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    channel: Channel,
}

#[derive(Clone, Debug)]
enum Channel {
    Plain,
    /// With the common name of the client's certificate, if it showed one; then it is verified.
    Tls(Option<Arc<str>>),
}

impl Peer {
    /// Over a connection that is not encrypted.
    pub fn plain(address: SocketAddr) -> Self {
        let channel = Channel::Plain;
        Self { address, channel }
    }

    /// Over TLS, with the chain that the client showed.
    pub(crate) fn encrypted(
        address: SocketAddr,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Self {
        let name = certificates
            .and_then(<[_]>::first)
            .and_then(|certificate| CapturedX509Certificate::from_der(certificate.as_ref()).ok())
            .and_then(|certificate| certificate.subject_common_name());
        let channel = Channel::Tls(name.map(Into::into));
        Self { address, channel }
    }

    /// Whether nobody between can read along: it is encrypted, or never leaves this machine.
    pub fn is_safe(&self) -> bool {
        matches!(self.channel, Channel::Tls(_)) || self.address.ip().to_canonical().is_loopback()
    }

    /// The common name of the certificate that it showed, which is verified.
    pub fn certificate(&self) -> Option<&str> {
        match &self.channel {
            Channel::Tls(name) => name.as_deref(),
            Channel::Plain => None,
        }
    }
}

/// A connection to a door that speaks TLS at once, or not at all.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Makes the connection of a socket. `None`: the client did not, in time or at all.
pub(crate) async fn arrive(
    socket: TcpStream,
    address: SocketAddr,
    tls: &Tls,
    protocol: &[u8],
) -> Option<(Stream, Peer)> {
    let arrived = async {
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 || first[0] != TLS_RECORD {
            return Ok((Stream::Plain(socket), Peer::plain(address)));
        }
        let (acceptor, _) = tls.acceptor(protocol);
        let stream = acceptor.accept(socket).await?;
        let peer = Peer::encrypted(address, stream.get_ref().1.peer_certificates());
        Ok::<_, io::Error>((Stream::Tls(Box::new(stream)), peer))
    };
    // A client that goes away in the middle is nothing to tell anybody.
    timeout(HANDSHAKE, arrived).await.ok()?.ok()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
