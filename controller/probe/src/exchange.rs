//! Requests: one connection each, one answer, classed on the spot so that its body goes no further.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Options;
use crate::finding::{Finding, Seen};
use crate::redirect::{self, Entry, Hop, Next};
use crate::tls;

/// How many redirects are followed.
const REDIRECTS: u32 = 10;
/// The most that is read of an answer's head, in bytes.
const HEAD_CAP: usize = 16 << 10;
/// The most that is repeated of a header.
const QUOTE_CAP: usize = 120;

/// What is asked, and what the good answer is.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) key_authorization: String,
    pub(crate) options: Options,
}

impl Question {
    /// Asks until there were enough good answers in a row, or one that is not.
    pub(crate) async fn ask_repeatedly(&self, entry: Entry) -> Finding {
        for _ in 0..self.options.good_answers.max(1) {
            let finding = self.ask_once(entry).await;
            if finding != Finding::Reachable {
                return finding;
            }
        }
        Finding::Reachable
    }

    /// Asks once, and follows where it leads.
    async fn ask_once(&self, entry: Entry) -> Finding {
        let mut hop = Hop {
            to: entry.http,
            tls: false,
            host: self.host.clone(),
            path: self.path.clone(),
        };
        let mut redirects = 0;
        loop {
            let answer = match timeout(self.options.per_request, self.exchange(&hop)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(what)) => return Finding::unreachable(format!("{} {what}", hop.to)),
                Err(_) => {
                    return Finding::unreachable(format!(
                        "{} gave no answer within {}",
                        hop.to,
                        seconds(self.options.per_request)
                    ));
                }
            };
            match answer {
                Answer::Good => return Finding::Reachable,
                Answer::Other(finding) => return finding,
                Answer::Redirect {
                    status,
                    server,
                    location,
                } => {
                    let wrong = |what| Finding::Wrong {
                        status,
                        server,
                        location: Some(quote_location(&location)),
                        what,
                    };
                    if redirects == REDIRECTS {
                        return wrong(Seen::TooManyRedirects);
                    }
                    redirects += 1;
                    let following = redirect::follow(&hop, &self.host, entry, &location);
                    hop = match timeout(self.options.per_request, following).await {
                        Ok(Next::Go(next)) => next,
                        Ok(Next::Never) => return wrong(Seen::BadRedirect),
                        Ok(Next::NotFromHere(what)) => return Finding::unreachable(what),
                        Err(_) => {
                            return Finding::unreachable(
                                "redirected to a name that does not resolve in time",
                            );
                        }
                    };
                }
            }
        }
    }

    /// One request on a connection of its own. `Err` says what the address did instead of answering.
    async fn exchange(&self, hop: &Hop) -> Result<Answer, &'static str> {
        let stream = TcpStream::connect(hop.to)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "refuses the connection",
                _ => "cannot be connected to",
            })?;
        if hop.tls {
            let stream = tls::connect(stream, &hop.host)
                .await
                .ok_or("does not speak TLS")?;
            self.converse(hop, stream).await
        } else {
            self.converse(hop, stream).await
        }
    }

    async fn converse(&self, hop: &Hop, stream: impl Stream) -> Result<Answer, &'static str> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_CAP)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|_| "closed the connection")?;
        // The set ends the connection when this function is left, however that is.
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let request = Request::get(&hop.path)
            .header(header::HOST, &hop.host)
            .header(
                header::USER_AGENT,
                concat!("evercert/", env!("CARGO_PKG_VERSION"), " (self-check)"),
            )
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|_| "cannot be asked for such a path")?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|_| "closed the connection without an answer in HTTP")?;
        self.class(answer).await
    }

    async fn class(&self, answer: Response<Incoming>) -> Result<Answer, &'static str> {
        let status = answer.status().as_u16();
        let headers = answer.headers();
        let server = read(headers, &header::SERVER).map(|s| quote(&s));
        let location = read(headers, &header::LOCATION);
        let what = match (status, location) {
            (200, _) => return self.class_body(answer, server).await,
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                return Ok(Answer::Redirect {
                    status,
                    server,
                    location,
                });
            }
            (301 | 302 | 303 | 307 | 308, None) => Seen::BadRedirect,
            (401 | 403 | 407, _) => Seen::Refused,
            (404, _) => Seen::NotFound,
            (500.., _) => Seen::ServerError,
            _ => Seen::OtherStatus,
        };
        Ok(Answer::Other(Finding::Wrong {
            status,
            server,
            location: None,
            what,
        }))
    }

    /// CAs ignore white space at the end (RFC 8555 §8.3).
    async fn class_body(
        &self,
        answer: Response<Incoming>,
        server: Option<String>,
    ) -> Result<Answer, &'static str> {
        let body = Limited::new(answer.into_body(), self.options.body_cap)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let what = match body {
            Ok(body) if body.trim_ascii_end() == self.key_authorization.as_bytes() => {
                return Ok(Answer::Good);
            }
            Ok(_) => Seen::OtherBody,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Seen::TooLong,
            Err(_) => return Err("broke off in its answer"),
        };
        Ok(Answer::Other(Finding::Wrong {
            status: 200,
            server,
            location: None,
            what,
        }))
    }
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

enum Answer {
    Good,
    Redirect {
        status: u16,
        server: Option<String>,
        location: String,
    },
    Other(Finding),
}

fn read(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// A header's start, of printable characters (`to_str` took care of that).
fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CAP).collect()
}

/// A location without query and fragment, where sites put secrets.
fn quote_location(location: &str) -> String {
    quote(location.split(['?', '#']).next().unwrap_or_default())
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}
