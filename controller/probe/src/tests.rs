//! The check against sites of every kind on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{Finding, Options, Seen, ask};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY_AUTHORIZATION: &str = "tok.thumb";

/// Starts a site at `address` that gives `answer` for the challenge; its port.
async fn start<A: IntoResponse>(
    address: IpAddr,
    answer: impl Fn(HeaderMap) -> A + Clone + Send + Sync + 'static,
) -> u16 {
    start_router(
        address,
        Router::new().route(
            "/.well-known/acme-challenge/tok",
            get(async move |h: HeaderMap| answer(h)),
        ),
    )
    .await
}

async fn start_router(address: IpAddr, router: Router) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async { axum::serve(listener, router).await });
    port
}

async fn look(entry: &[IpAddr], port: u16) -> Finding {
    let options = Options {
        per_request: Duration::from_millis(700),
        ..Options::default()
    };
    ask(entry, port, "a.example", "tok", KEY_AUTHORIZATION, options).await
}

fn class(finding: &Finding) -> (u16, Seen) {
    match finding {
        Finding::Wrong { status, what, .. } => (*status, *what),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn three_good_answers_each_on_a_connection_of_its_own_are_reachable() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let port = start(V4, move |headers| {
        counter.fetch_add(1, Ordering::SeqCst);
        assert_eq!(headers[header::HOST], "a.example");
        assert_eq!(headers[header::CONNECTION], "close");
        format!("{KEY_AUTHORIZATION}\r\n")
    })
    .await;
    assert_eq!(look(&[V4], port).await, Finding::Reachable);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_site_that_answers_well_only_now_and_then_is_wrong() {
    let asked = AtomicU32::new(0);
    let asked = Arc::new(asked);
    let port = start(V4, move |_| {
        if asked.fetch_add(1, Ordering::SeqCst) < 2 {
            (StatusCode::OK, KEY_AUTHORIZATION)
        } else {
            (StatusCode::NOT_FOUND, "")
        }
    })
    .await;
    assert_eq!(class(&look(&[V4], port).await), (404, Seen::NotFound));
}

#[tokio::test]
async fn each_wrong_answer_has_its_class_and_shows_no_body() {
    let cases = [
        (404, "private words", Seen::NotFound),
        (403, "private words", Seen::Refused),
        (401, "private words", Seen::Refused),
        (503, "private words", Seen::ServerError),
        (204, "", Seen::OtherStatus),
        (302, "", Seen::BadRedirect),
        (200, "private words", Seen::OtherBody),
        (200, "", Seen::OtherBody),
        (200, "tok.thumbs", Seen::OtherBody),
    ];
    for (status, body, what) in cases {
        let code = StatusCode::from_u16(status).unwrap();
        let port = start(V4, move |_| (code, [(header::SERVER, "envoy")], body)).await;
        let finding = look(&[V4], port).await;
        assert_eq!(
            finding,
            Finding::Wrong {
                status,
                server: Some("envoy".into()),
                location: None,
                what
            }
        );
        assert!(!finding.to_string().contains("private"), "{finding}");
        assert!(
            finding.to_string().starts_with(&format!(
                "the entry point answers {status} (server \"envoy\"): "
            )),
            "{finding}"
        );
    }
    let port = start(V4, |_| "x".repeat(17 << 10)).await;
    assert_eq!(class(&look(&[V4], port).await), (200, Seen::TooLong));
}

#[tokio::test]
async fn no_answer_is_unreachable_from_here_whatever_its_kind() {
    let words = |finding| match finding {
        Finding::UnreachableFromHere { what } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(words(look(&[], 80).await), "there is no address to ask");

    let closed = TcpListener::bind((V4, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert_eq!(
        words(look(&[V4], closed).await),
        format!("127.0.0.1:{closed} refuses the connection")
    );

    let silent = TcpListener::bind((V4, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(
        words(look(&[V4], port).await),
        format!("127.0.0.1:{port} gave no answer within 0.7 s")
    );

    let other_words = TcpListener::bind((V4, 0)).await.unwrap();
    let port = other_words.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other_words.accept().await {
            stream
                .write_all(b"SSH-2.0-private words\r\n")
                .await
                .unwrap();
        }
    });
    assert_eq!(
        words(look(&[V4], port).await),
        format!("127.0.0.1:{port} closed the connection without an answer in HTTP")
    );
}

#[tokio::test]
async fn wrong_counts_only_if_every_address_says_so() {
    let port = start(V4, |_| StatusCode::NOT_FOUND).await;
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let elsewhere: IpAddr = "127.0.0.2".parse().unwrap();
    assert!(matches!(
        look(&[V4, elsewhere], port).await,
        Finding::UnreachableFromHere { .. }
    ));
    assert_eq!(class(&look(&[V4, V4], port).await).0, 404);
    // Five addresses: the fifth is not asked.
    assert_eq!(
        class(&look(&[V4, V4, V4, V4, elsewhere], port).await).0,
        404
    );

    let good = Router::new().route(
        "/.well-known/acme-challenge/tok",
        get(async || KEY_AUTHORIZATION),
    );
    let listener = TcpListener::bind((elsewhere, port)).await.unwrap();
    tokio::spawn(async { axum::serve(listener, good).await });
    assert_eq!(look(&[V4, elsewhere], port).await, Finding::Reachable);
    assert!(!matches!(look(&[V4, v6], port).await, Finding::Reachable));
}

#[tokio::test]
async fn redirects_within_the_host_are_followed_to_the_same_address() {
    let router = Router::new()
        .route(
            "/.well-known/acme-challenge/tok",
            get(async || (StatusCode::FOUND, [(header::LOCATION, "/there?a=b")])),
        )
        .route(
            "/there",
            get(async |headers: HeaderMap| {
                assert_eq!(headers[header::HOST], "a.example");
                (
                    StatusCode::PERMANENT_REDIRECT,
                    [(header::LOCATION, "http://A.example:80/last")],
                )
            }),
        )
        .route("/last", get(async || KEY_AUTHORIZATION));
    let port = start_router(V4, router).await;
    assert_eq!(look(&[V4], port).await, Finding::Reachable);
}

/// A site over TLS whose certificate nobody trusts, and that answers `answer` to any request for the host `a.example`.
async fn start_tls(answer: &'static str) -> u16 {
    let certified = rcgen::generate_simple_self_signed(vec!["other.example".into()]).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            assert_eq!(stream.get_ref().1.server_name(), Some("a.example"));
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn redirects_to_https_are_followed_whatever_the_certificate() {
    let port = start(V4, |_| {
        (
            StatusCode::MOVED_PERMANENTLY,
            [(header::LOCATION, "https://a.example/x")],
        )
    })
    .await;
    let good = start_tls("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntok.thumb").await;
    let bad = start_tls("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let look = async |https_port| {
        let options = Options {
            https_port,
            ..Options::default()
        };
        ask(&[V4], port, "a.example", "tok", KEY_AUTHORIZATION, options).await
    };
    assert_eq!(look(good).await, Finding::Reachable);
    assert_eq!(class(&look(bad).await), (404, Seen::NotFound));
    let words = format!("127.0.0.1:{port} does not speak TLS");
    assert_eq!(
        look(port).await,
        Finding::UnreachableFromHere { what: words }
    );
}

#[tokio::test]
async fn redirects_where_no_ca_goes_are_wrong_and_say_where_without_the_query() {
    for location in [
        "http://127.0.0.1/x",
        "http://169.254.169.254/",
        "http://[::1]/",
        "http://a.example:8080/",
        "ftp://a.example/",
    ] {
        let port = start(V4, move |_| {
            (
                StatusCode::FOUND,
                [(header::LOCATION, format!("{location}?key=private"))],
            )
        })
        .await;
        let finding = look(&[V4], port).await;
        assert_eq!(
            finding,
            Finding::Wrong {
                status: 302,
                server: None,
                location: Some(location.into()),
                what: Seen::BadRedirect
            },
        );
        assert!(!finding.to_string().contains("private"), "{finding}");
    }
    let port = start(V4, |_| {
        (
            StatusCode::FOUND,
            [(header::LOCATION, "/.well-known/acme-challenge/tok")],
        )
    })
    .await;
    assert_eq!(
        class(&look(&[V4], port).await),
        (302, Seen::TooManyRedirects)
    );
}

#[tokio::test]
async fn redirects_that_only_the_ca_can_follow_do_not_hold_the_order_back() {
    let cases = [
        (
            "https://localhost/x",
            "redirected to localhost, whose addresses here are not public",
        ),
        (
            "http://localhost/x",
            "redirected to localhost, whose addresses here are not public",
        ),
    ];
    for (location, words) in cases {
        let port = start(V4, move |_| {
            (
                StatusCode::MOVED_PERMANENTLY,
                [(header::LOCATION, location)],
            )
        })
        .await;
        assert_eq!(
            look(&[V4], port).await,
            Finding::UnreachableFromHere { what: words.into() }
        );
    }
}

#[tokio::test]
async fn a_check_ends_in_time_even_if_an_address_never_does() {
    let port = start(V4, |_| StatusCode::NOT_FOUND).await;
    let silent = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let options = Options {
        in_all: Duration::from_millis(300),
        per_request: Duration::from_mins(1),
        ..Options::default()
    };
    let entry = [V4, silent.local_addr().unwrap().ip()];
    let asking = ask(&entry, port, "a.example", "tok", KEY_AUTHORIZATION, options);
    let finding = tokio::time::timeout(Duration::from_secs(20), asking)
        .await
        .unwrap();
    assert_eq!(
        finding,
        Finding::UnreachableFromHere {
            what: "no end of the answer within 300ms".into()
        }
    );
}
