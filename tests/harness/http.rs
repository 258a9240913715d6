//! The smallest HTTP client that can ask a member, with a time limit for the whole exchange.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 503 …
    pub status: u16,
    /// The lines before the body.
    pub head: String,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// `GET`.
///
/// # Errors
/// Nobody answered in time.
pub async fn get(address: &str, path: &str, limit: Duration) -> Result<Answer> {
    request("GET", address, path, limit).await
}

/// Any method without a body.
///
/// # Errors
/// Nobody answered in time.
pub async fn request(method: &str, address: &str, path: &str, limit: Duration) -> Result<Answer> {
    send(method, address, path, "", limit).await
}

/// Any method, with whatever follows the first lines: more of them, an empty one, a body.
///
/// # Errors
/// Nobody answered in time.
pub async fn send(
    method: &str,
    address: &str,
    path: &str,
    rest: &str,
    limit: Duration,
) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.context("connect")?;
        let rest = if rest.is_empty() { "\r\n" } else { rest };
        let text = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{rest}");
        stream.write_all(text.as_bytes()).await.context("send")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.context("receive")?;
        parse(&String::from_utf8_lossy(&answer))
    };
    tokio::time::timeout(limit, exchange)
        .await
        .context("no answer in time")?
}

fn parse(text: &str) -> Result<Answer> {
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|word| word.get(..3))
        .unwrap_or_default();
    let status = status
        .parse()
        .with_context(|| format!("no HTTP answer: {text:?}"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
