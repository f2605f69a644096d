//! A client of Flight SQL that says what it was told.

use std::{fs, io, net::IpAddr, sync::Arc};

use arrow_flight::{
    FlightDescriptor, FlightInfo, HandshakeRequest, Ticket,
    decode::FlightRecordBatchStream,
    error::FlightError,
    flight_service_client::FlightServiceClient,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use datafusion::arrow::record_batch::RecordBatch;
use futures::{TryStreamExt, stream};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::house::House;

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    Nothing,
    /// The header `authorization` of each request.
    Header(String),
    /// Once; from then on the token that it gets.
    Handshake(&'static str, &'static str),
    /// A certificate of this name.
    Certificate(&'static str),
}

/// What a client of Flight SQL is told when it does not get what it wants.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Code,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

impl House {
    /// A client's side of TLS.
    pub(crate) fn client_config(&self, certificate: Option<&str>) -> ClientConfig {
        let certificates = |name: &str| -> Vec<_> {
            let read = CertificateDer::pem_file_iter(self.file(name)).unwrap();
            read.map(Result::unwrap).collect()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("ca.pem"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => config.with_no_client_auth(),
            Some(name) => {
                let key = fs::read(self.file(&format!("{name}.key"))).unwrap();
                let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
                let shown = certificates(&format!("{name}.pem"));
                config.with_client_auth_cert(shown, key).unwrap()
            }
        }
    }

    /// How many rows a statement has over Flight SQL, or why it has none.
    pub(crate) fn flight_sql(
        &self,
        scheme: &str,
        host: IpAddr,
        sql: &str,
        proof: &Proof,
    ) -> Result<usize, Told> {
        self.runtime.block_on(async {
            let mut client = self.guest(scheme, host, proof).await?;
            let info = client.announce(sql).await?;
            let ticket = info.endpoint[0].ticket.clone().unwrap();
            let batches = client.fetch(ticket).await?;
            let batches: Vec<_> = batches.try_collect().await.map_err(of_flight)?;
            Ok(batches.iter().map(RecordBatch::num_rows).sum())
        })
    }

    /// A client that has shown its proof, if it shows one before it asks.
    pub(crate) async fn guest(
        &self,
        scheme: &str,
        host: IpAddr,
        proof: &Proof,
    ) -> Result<Guest, Told> {
        let mut client = FlightServiceClient::new(self.channel(scheme, host, proof).await?);
        let authorization = match proof {
            Proof::Nothing | Proof::Certificate(_) => None,
            Proof::Header(value) => Some(value.clone()),
            Proof::Handshake(user, password) => {
                let hello = HandshakeRequest::default();
                let mut request = Request::new(stream::iter([hello]));
                let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
                let basic = format!("Basic {basic}").parse().unwrap();
                request.metadata_mut().insert("authorization", basic);
                let answer = client.handshake(request).await;
                let answer = answer.map_err(|status| of_status(&status))?;
                let token = answer.metadata().get("authorization").unwrap();
                Some(token.to_str().unwrap().to_owned())
            }
        };
        Ok(Guest {
            client,
            authorization,
        })
    }

    async fn channel(&self, scheme: &str, host: IpAddr, proof: &Proof) -> Result<Channel, Told> {
        let certificate = match proof {
            Proof::Certificate(name) => Some(*name),
            _ => None,
        };
        let tls = (scheme == "https").then(|| {
            let mut config = self.client_config(certificate);
            config.alpn_protocols = vec![b"h2".to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        let address = (host, self.flight.port());
        let endpoint = Endpoint::from_static("http://localhost");
        let connected = endpoint.connect_with_connector(service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                let socket: Box<dyn Bytes> = match tls {
                    None => Box::new(socket),
                    Some(tls) => {
                        let name = "localhost".try_into().unwrap();
                        Box::new(tls.connect(name, socket).await?)
                    }
                };
                Ok::<_, io::Error>(TokioIo::new(socket))
            }
        }));
        connected.await.map_err(|error| Told {
            code: Code::Unavailable,
            sqlstate: String::new(),
            message: format!("{error:?}"),
        })
    }
}

/// A client, and what it shows with each request.
pub(crate) struct Guest {
    client: FlightServiceClient<Channel>,
    authorization: Option<String>,
}

impl Guest {
    pub(crate) async fn announce(&mut self, sql: &str) -> Result<FlightInfo, Told> {
        let command = CommandStatementQuery {
            query: sql.into(),
            transaction_id: None,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let request = self.with_proof(descriptor);
        let info = self.client.get_flight_info(request).await;
        Ok(info.map_err(|status| of_status(&status))?.into_inner())
    }

    pub(crate) async fn fetch(&mut self, ticket: Ticket) -> Result<FlightRecordBatchStream, Told> {
        let request = self.with_proof(ticket);
        let answer = self.client.do_get(request).await;
        let messages = answer.map_err(|status| of_status(&status))?.into_inner();
        let messages = messages.map_err(FlightError::from);
        Ok(FlightRecordBatchStream::new_from_flight_data(messages))
    }

    fn with_proof<T>(&self, asked: T) -> Request<T> {
        let mut request = Request::new(asked);
        if let Some(shown) = &self.authorization {
            let shown = shown.parse().unwrap();
            request.metadata_mut().insert("authorization", shown);
        }
        request
    }
}

/// A connection, encrypted or not.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

fn of_status(status: &Status) -> Told {
    let sqlstate = status.metadata().get("alluvium-sqlstate");
    Told {
        code: status.code(),
        sqlstate: sqlstate.map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
        message: status.message().to_owned(),
    }
}

pub(crate) fn of_flight(error: FlightError) -> Told {
    match error {
        FlightError::Tonic(status) => of_status(&status),
        other => panic!("the client failed by itself: {other:?}"),
    }
}
