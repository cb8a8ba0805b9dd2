//! The real `curl`, as the one that asks for a site and checks what it is served.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::leaf::Leaf;

/// What curl was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The certificates of the TLS handshake, leaf first; empty over plain HTTP.
    pub chain: Vec<Leaf>,
}

/// Makes curl ask the ingress controller for any host, wherever the DNS leads.
pub const AT_INGRESS: [&str; 2] = ["--connect-to", "::198.18.0.2:"];

/// Asks the ingress controller for `url`, trusting only the roots in `roots` (PEM). One request, no redirect followed, 5 s at
/// most.
///
/// # Errors
/// No connection, or the certificate is refused: the error has curl's words and its exit code (60 for a certificate).
pub fn get(url: &str, roots: Option<&Path>) -> Result<Served> {
    // Behind the body: a mark, the status, then the certificates with their PEM blocks.
    const MARK: &str = "\n--evercert-curl--\n";
    let mut command = curl();
    command.args(AT_INGRESS);
    if let Some(roots) = roots {
        command.arg("--cacert").arg(roots);
    }
    let output = run(command.args([
        "--write-out",
        &format!("{MARK}%{{http_code}}\n%{{certs}}"),
        url,
    ]))?;
    let (body, rest) = output
        .rsplit_once(MARK)
        .context("curl's own output is missing")?;
    let (status, certificates) = rest.split_once('\n').unwrap_or((rest, ""));
    let chain = if certificates.contains("-----BEGIN") {
        Leaf::parse_chain(certificates.as_bytes())?
    } else {
        Vec::new()
    };
    Ok(Served {
        status: status.trim().parse().context("curl's status")?,
        body: body.to_owned(),
        chain,
    })
}

/// Asks for `http://host/path` at `address` (as the CA would that finds this host there).
///
/// # Errors
/// No connection.
pub fn get_at(address: &str, host: &str, path: &str) -> Result<Served> {
    const MARK: &str = "\n--evercert-curl--\n";
    let url = format!("http://{address}{path}");
    let output = run(curl().args([
        "--header",
        &format!("Host: {host}"),
        "--write-out",
        &format!("{MARK}%{{http_code}}"),
        &url,
    ]))?;
    let (body, status) = output
        .rsplit_once(MARK)
        .context("curl's own output is missing")?;
    Ok(Served {
        status: status.trim().parse().context("curl's status")?,
        body: body.to_owned(),
        chain: Vec::new(),
    })
}

/// Sends `body` by POST to `url`.
///
/// # Errors
/// No connection, or an answer that is not 2xx.
pub fn post(url: &str, body: &str) -> Result<String> {
    run(curl().args(["--fail", "--data", body, url]))
}

/// Sends signed JSON by POST to `url`, trusting `roots`, and gives the answer's body whatever its status.
///
/// # Errors
/// No connection, or a refused certificate.
pub fn post_jose(url: &str, roots: &Path, body: &str) -> Result<String> {
    let kind = "Content-Type: application/jose+json";
    run(curl()
        .arg("--cacert")
        .arg(roots)
        .args(["--header", kind, "--data", body, url]))
}

/// The value of a header that `url` answers HEAD with, trusting `roots`.
///
/// # Errors
/// No connection, a refused certificate, an answer that is not 2xx, or no such header.
pub fn header(url: &str, roots: &Path, name: &str) -> Result<String> {
    let output = run(curl()
        .args(["--fail", "--head", "--output", "/dev/null"])
        .args(["--write-out", &format!("%header{{{name}}}")])
        .arg("--cacert")
        .arg(roots)
        .arg(url))?;
    if output.trim().is_empty() {
        bail!("{url} has no header {name}");
    }
    Ok(output.trim().to_owned())
}

/// The body at `url`, trusting `roots`.
///
/// # Errors
/// No connection, a refused certificate, or an answer that is not 2xx.
pub fn download(url: &str, roots: &Path) -> Result<String> {
    run(curl().arg("--fail").arg("--cacert").arg(roots).arg(url))
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "5",
        ])
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("starting curl")?;
    if !output.status.success() {
        bail!(
            "{} ({})",
            String::from_utf8_lossy(&output.stderr).trim(),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn curl_is_led_to_the_ingress_controller() {
        assert!(super::AT_INGRESS[1].contains(evercert_cluster::address::INGRESS));
    }
}
