//! An HTTP probe as a kubelet makes it: a new connection, any 2xx or 3xx is good.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::spec::Readiness;

pub(super) async fn probe(ip: &str, readiness: &Readiness) -> Result<()> {
    within(readiness.timeout, get(ip, readiness.port, &readiness.path)).await
}

async fn within(limit: Duration, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(limit, work)
        .await
        .context("no answer in time")?
}

async fn get(ip: &str, port: u16, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect((ip, port)).await.context("connecting")?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .context("asking")?;
    let mut head = [0; 12];
    stream
        .read_exact(&mut head)
        .await
        .context("reading the status line")?;
    let head = String::from_utf8_lossy(&head);
    let status: u16 = head
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status: {head:?}"))?;
    if !(200..400).contains(&status) {
        bail!("HTTP status {status}");
    }
    Ok(())
}
