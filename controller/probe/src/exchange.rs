//! Requests: one connection each, one answer, classed on the spot so that its body goes no further.

use std::io::ErrorKind;

use bytes::Bytes;
use evercert_core::reach::{Look, Seen, Sight};
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
use crate::redirect::{Entry, Hop, Next, Resolver};
use crate::tls;

/// How many redirects are followed.
const REDIRECTS: usize = 10;
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
    pub(crate) resolver: Resolver,
}

impl Question {
    /// Asks until there were enough good answers in a row, or one that is not.
    pub(crate) async fn ask_repeatedly(&self, entry: Entry) -> Look {
        for _ in 0..self.options.good_answers.max(1) {
            let look = self.ask_once(entry).await;
            if look != Look::Reachable {
                return look;
            }
        }
        Look::Reachable
    }

    /// Asks once, and follows where it leads.
    async fn ask_once(&self, entry: Entry) -> Look {
        let mut hop = Hop {
            to: entry.http,
            tls: false,
            host: self.host.clone(),
            path: self.path.clone(),
        };
        let mut redirects: Vec<String> = Vec::new();
        loop {
            let sight = |what, redirects: &[String]| Sight {
                redirects: redirects.to_vec(),
                ..Sight::of(Some(hop.to), what)
            };
            let exchanged = timeout(self.options.per_request, self.exchange(&hop)).await;
            match exchanged.unwrap_or(Err(Seen::Silent)) {
                Ok(Answer::Good) => return Look::Reachable,
                Ok(Answer::Other {
                    status,
                    server,
                    what,
                }) => {
                    return Look::Wrong(Sight {
                        status: Some(status),
                        server,
                        ..sight(what, &redirects)
                    });
                }
                // It sends everybody there itself: nobody else gets an answer either.
                Err(Seen::Closed | Seen::NotHttp) if hop.tls && hop.to == entry.https => {
                    return Look::Wrong(sight(Seen::ClosedHttps, &redirects));
                }
                Err(what) => return Look::Unreachable(sight(what, &redirects)),
                Ok(Answer::Redirect {
                    status,
                    server,
                    location,
                }) => {
                    let is_last = redirects.len() == REDIRECTS;
                    redirects.push(quote_location(&location));
                    let wrong = |what| {
                        Look::Wrong(Sight {
                            status: Some(status),
                            server,
                            ..sight(what, &redirects)
                        })
                    };
                    if is_last {
                        return wrong(Seen::TooManyRedirects);
                    }
                    let following = self.resolver.follow(&hop, &self.host, entry, &location);
                    hop = match timeout(self.options.per_request, following).await {
                        Ok(Next::Go(next)) => next,
                        Ok(Next::Never) => return wrong(Seen::BadRedirect),
                        Ok(Next::NotFromHere(what)) => {
                            return Look::Unreachable(Sight {
                                redirects,
                                ..Sight::of(None, what)
                            });
                        }
                        Err(_) => {
                            return Look::Unreachable(Sight {
                                redirects,
                                ..Sight::of(None, Seen::Unresolved)
                            });
                        }
                    };
                }
            }
        }
    }

    /// One request on a connection of its own. `Err` says what the address did instead of answering.
    async fn exchange(&self, hop: &Hop) -> Result<Answer, Seen> {
        let stream = TcpStream::connect(hop.to)
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::ConnectionRefused => Seen::Closed,
                ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Seen::NoRoute,
                _ => Seen::Silent,
            })?;
        if hop.tls {
            let stream = tls::connect(stream, &hop.host).await.ok_or(Seen::NotHttp)?;
            self.converse(hop, stream).await
        } else {
            self.converse(hop, stream).await
        }
    }

    async fn converse(&self, hop: &Hop, stream: impl Stream) -> Result<Answer, Seen> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_CAP)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|_| Seen::NotHttp)?;
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
            .map_err(|_| Seen::NotHttp)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|_| Seen::NotHttp)?;
        self.class(answer).await
    }

    async fn class(&self, answer: Response<Incoming>) -> Result<Answer, Seen> {
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
        Ok(Answer::Other {
            status,
            server,
            what,
        })
    }

    /// CAs ignore white space at the end (RFC 8555 §8.3).
    async fn class_body(
        &self,
        answer: Response<Incoming>,
        server: Option<String>,
    ) -> Result<Answer, Seen> {
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
            Err(_) => return Err(Seen::NotHttp),
        };
        Ok(Answer::Other {
            status: 200,
            server,
            what,
        })
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
    Other {
        status: u16,
        server: Option<String>,
        what: Seen,
    },
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
