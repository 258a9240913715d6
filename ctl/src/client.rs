//! Talks to the cluster: tries every endpoint, and any member answers.
//!
//! Repeated are reads, and `Ask`, whose request id is chosen here: asking again with the same id does
//! nothing twice. Every other change goes to one member that could be connected to, and is never sent
//! again.

use std::future::Future;
use std::time::Duration;

use cluster_proto::v1::admin_client::AdminClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::exit::{Kind, Stop};
use crate::places::Places;

/// How long one member may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_millis(1500);
/// How long one member may take to answer a read.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// How long one member may take to answer a short change.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// The generated client over one connection.
pub type Admin = AdminClient<Channel>;

/// The cluster, by way of any of its members.
#[derive(Clone)]
pub struct Client {
    places: Places,
}

impl Client {
    /// Connects to nobody yet.
    pub fn new(places: Places) -> Self {
        Self { places }
    }

    /// Where it looks.
    pub fn endpoints(&self) -> &[String] {
        &self.places.endpoints
    }

    /// The token that changes need, to be kept out of what is written.
    pub fn token(&self) -> Option<&str> {
        self.places.token.as_deref()
    }

    /// Connects to one member.
    ///
    /// # Errors
    /// It cannot be reached, or the certificates will not do.
    pub async fn connect(&self, address: &str) -> Result<Admin, Stop> {
        self.channel(address).await.map(AdminClient::new)
    }

    /// A connection to one member, for any of its services.
    ///
    /// # Errors
    /// It cannot be reached, or the certificates will not do.
    pub async fn channel(&self, address: &str) -> Result<Channel, Stop> {
        let unreachable = |why: String| Stop::new(Kind::Unreachable, format!("{address}: {why}"));
        let scheme = if self.places.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|error| Stop::new(Kind::Usage, format!("{address}: {error}")))?
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        if let Some(tls) = &self.places.tls {
            let mut config =
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authority));
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint
                .tls_config(config)
                .map_err(|error| Stop::new(Kind::Usage, format!("TLS: {}", chain(&error))))?;
        }
        // The connector's own limit covers TCP only; a frozen member would hang in TLS or HTTP/2.
        match tokio::time::timeout(CONNECT_LIMIT * 2, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(unreachable(chain(&error))),
            Err(_) => Err(unreachable("no answer".to_owned())),
        }
    }

    /// Puts the token on a request that changes something.
    ///
    /// # Errors
    /// There is no token, or it cannot be sent.
    pub fn authorised<T>(&self, message: T) -> Result<Request<T>, Stop> {
        let Some(token) = &self.places.token else {
            return Err(Stop::new(
                Kind::NotAllowed,
                "changes need the cluster's token (--token-file, CLUSTERCTL_TOKEN or token_file)",
            ));
        };
        let value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| {
            Stop::new(
                Kind::Usage,
                "the token holds characters that cannot be sent",
            )
        })?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    /// Asks members in turn until one answers.
    ///
    /// # Errors
    /// Nobody answered, or somebody's answer is a refusal.
    pub async fn read<T, F, Answer>(&self, call: F) -> Result<T, Stop>
    where
        F: Fn(Admin) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.read_on(|channel| call(AdminClient::new(channel)))
            .await
    }

    /// The same, of any service.
    ///
    /// # Errors
    /// As above.
    pub async fn read_on<T, F, Answer>(&self, call: F) -> Result<T, Stop>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut tried = Vec::new();
        for address in &self.places.endpoints {
            let channel = match self.channel(address).await {
                Ok(channel) => channel,
                Err(stop) if stop.kind == Kind::Unreachable => {
                    tried.push(stop.text);
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            match tokio::time::timeout(READ_LIMIT, call(channel)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if is_elsewhere_better(&status) => {
                    tried.push(format!("{address}: {}", status.message()));
                }
                Ok(Err(status)) => return Err(Stop::from_status(&status)),
                Err(_) => tried.push(format!("{address}: connected, but no answer")),
            }
        }
        Err(nobody(&tried))
    }

    /// Sends a change, with the token, to the first member that can be connected to; never twice.
    ///
    /// # Errors
    /// There is no token (nobody is asked then), nobody can be connected to, it was refused, or its end is unknown.
    pub async fn change<M, T, F, Answer>(
        &self,
        limit: Option<Duration>,
        message: M,
        call: F,
    ) -> Result<T, Stop>
    where
        F: FnOnce(Admin, Request<M>) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let call = |channel, request| call(AdminClient::new(channel), request);
        self.change_on(limit, message, call).await
    }

    /// The same, of any service.
    ///
    /// # Errors
    /// As above.
    pub async fn change_on<M, T, F, Answer>(
        &self,
        limit: Option<Duration>,
        message: M,
        call: F,
    ) -> Result<T, Stop>
    where
        F: FnOnce(Channel, Request<M>) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let request = self.authorised(message)?;
        let (address, channel) = self.channel_to_any().await?;
        let limit = limit.unwrap_or(CHANGE_LIMIT);
        match tokio::time::timeout(limit, call(channel, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            // The contract: UNAVAILABLE from the member means nothing was proposed. From the transport
            // it means the connection broke, and then nobody knows.
            Ok(Err(status)) if is_broken_connection(&status) => Err(Stop::new(
                Kind::TimedOut,
                format!("{address}: the connection broke; whether it was done is unknown"),
            )),
            Ok(Err(status)) => Err(Stop::from_status(&status)),
            Err(_) => Err(Stop::new(
                Kind::TimedOut,
                format!("{address}: no answer in time; whether it was done is unknown"),
            )),
        }
    }

    /// The first member that can be connected to.
    ///
    /// # Errors
    /// None can.
    pub async fn connect_any(&self) -> Result<(String, Admin), Stop> {
        let (address, channel) = self.channel_to_any().await?;
        Ok((address, AdminClient::new(channel)))
    }

    async fn channel_to_any(&self) -> Result<(String, Channel), Stop> {
        let mut tried = Vec::new();
        for address in &self.places.endpoints {
            match self.channel(address).await {
                Ok(channel) => return Ok((address.clone(), channel)),
                Err(stop) if stop.kind == Kind::Unreachable => tried.push(stop.text),
                Err(stop) => return Err(stop),
            }
        }
        Err(nobody(&tried))
    }
}

fn nobody(tried: &[String]) -> Stop {
    Stop::new(
        Kind::Unreachable,
        format!("no member answered ({})", tried.join("; ")),
    )
}

/// Whether another member might know better.
fn is_elsewhere_better(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown
    ) || is_broken_connection(status)
}

/// Whether it is the transport's word and not a member's.
pub fn is_broken_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// An error with its causes; the transport's own text alone says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
