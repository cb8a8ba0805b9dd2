//! `demo-app`: the tiny application of the demo and of the stories. Says hello over HTTP, with the pod's name.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

/// One that says nothing is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says hello over HTTP.
#[derive(Parser)]
#[command(name = "demo-app", version)]
struct Args {
    /// The port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    end_by_signal()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.port))
        .with_context(|| format!("listening on port {}", args.port))?;
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    for stream in listener.incoming().flatten() {
        let pod = pod.clone();
        // One that goes away in the middle is nobody's failure.
        thread::spawn(move || answer(&stream, &pod).ok());
    }
    Ok(())
}

/// The first process of a container ignores SIGTERM unless it asks for it.
fn end_by_signal() -> Result<()> {
    let end = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    // Inherited by every thread that is started from here.
    end.thread_block().context("holding signals back")?;
    thread::spawn(move || {
        if end.wait().is_ok() {
            std::process::exit(0);
        }
    });
    Ok(())
}

/// One request, one answer, then the connection is closed.
fn answer(stream: &TcpStream, pod: &str) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().context("no request")??;
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let (status, body) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", format!("Hello from {pod}\n")),
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
