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

use evercert_core::reach::{Look, Public, Seen, Sight, Verdict};

use crate::{Challenge, Dns, Network, Options, Prober, find_leaf};

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

fn patient(port: u16) -> Options {
    Options {
        per_request: Duration::from_millis(700),
        http_port: port,
        ..Options::default()
    }
}

fn challenge() -> Challenge {
    Challenge {
        name: "a.example".into(),
        token: "tok".into(),
        key_authorization: KEY_AUTHORIZATION.into(),
    }
}

/// What the addresses of an entry point are by themselves.
async fn look_with(entry: &[IpAddr], options: Options) -> Verdict {
    let prober = Prober::with_options(None, &[], options);
    prober.look(&challenge(), entry).await.judge()
}

async fn look(entry: &[IpAddr], port: u16) -> Verdict {
    look_with(entry, patient(port)).await
}

fn sight(verdict: Verdict) -> (&'static str, Sight) {
    match verdict {
        Verdict::Wrong(finding) => ("wrong", finding.sight),
        Verdict::Unreachable(finding) => ("unreachable", finding.sight),
        other => panic!("{other:?}"),
    }
}

fn class(verdict: Verdict) -> (u16, Seen) {
    let (word, sight) = sight(verdict);
    assert_eq!(word, "wrong", "{sight}");
    (sight.status.unwrap(), sight.what)
}

/// What is said of an address that gives no answer.
fn silence(verdict: Verdict) -> String {
    let (word, sight) = sight(verdict);
    assert_eq!(word, "unreachable", "{sight}");
    sight.to_string()
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
    assert_eq!(look(&[V4], port).await, Verdict::Reachable);
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
    assert_eq!(class(look(&[V4], port).await), (404, Seen::NotFound));
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
        let Verdict::Wrong(finding) = look(&[V4], port).await else {
            panic!("{status} is not wrong");
        };
        assert_eq!(
            (finding.sight.status, finding.sight.what),
            (Some(status), what)
        );
        assert!(!finding.to_string().contains("private"), "{finding}");
        assert!(
            finding.to_string().starts_with(&format!(
                "at the entry point: 127.0.0.1:{port} answers {status} (server \"envoy\"): "
            )),
            "{finding}"
        );
    }
    let port = start(V4, |_| "x".repeat(17 << 10)).await;
    assert_eq!(class(look(&[V4], port).await), (200, Seen::TooLong));
}

#[tokio::test]
async fn no_answer_is_unreachable_from_here_whatever_its_kind() {
    let nothing = silence(look(&[], 80).await);
    assert_eq!(nothing, "no Ingress has an address in its status");

    let closed = TcpListener::bind((V4, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert_eq!(
        silence(look(&[V4], closed).await),
        format!("127.0.0.1:{closed} refuses the connection")
    );

    let silent = TcpListener::bind((V4, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(
        silence(look(&[V4], port).await),
        format!("127.0.0.1:{port} gives no answer")
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
        silence(look(&[V4], port).await),
        format!("127.0.0.1:{port} closes the connection without an answer in HTTP")
    );
}

#[tokio::test]
async fn wrong_counts_only_if_every_address_says_so() {
    let port = start(V4, |_| StatusCode::NOT_FOUND).await;
    let elsewhere: IpAddr = "127.0.0.2".parse().unwrap();
    silence(look(&[V4, elsewhere], port).await);
    assert_eq!(class(look(&[V4, V4], port).await).0, 404);
    // Five addresses: the fifth is not asked.
    assert_eq!(class(look(&[V4, V4, V4, V4, elsewhere], port).await).0, 404);

    let good = Router::new().route(
        "/.well-known/acme-challenge/tok",
        get(async || KEY_AUTHORIZATION),
    );
    let listener = TcpListener::bind((elsewhere, port)).await.unwrap();
    tokio::spawn(async { axum::serve(listener, good).await });
    assert_eq!(look(&[V4, elsewhere], port).await, Verdict::Reachable);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    assert_ne!(look(&[V4, v6], port).await, Verdict::Reachable);
}

/// An IP address of a spec is its own public name: then nobody is asked where it is.
#[tokio::test]
async fn an_address_inside_is_asked_only_if_it_is_an_entry_point_or_the_operator_was_told_so() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let port = start(V4, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        KEY_AUTHORIZATION
    })
    .await;
    let inside = Challenge {
        name: "127.0.0.1".into(),
        ..challenge()
    };
    let dns = Dns::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    let look = async |entry: &[IpAddr], networks: &[Network]| {
        let prober = Prober::with_options(Some(dns.clone()), networks, patient(port));
        prober.look(&inside, entry).await.public
    };
    let Public::Asked(found) = look(&[], &[]).await else {
        panic!("an address has itself");
    };
    assert!(
        matches!(&found[..], [(V4, Look::Unreachable(sight))] if sight.what == Seen::NotPublic),
        "{found:?}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0, "it was asked");
    let good = Public::Asked(vec![(V4, Look::Reachable)]);
    assert_eq!(look(&[], &["127.0.0.0/8".parse().unwrap()]).await, good);
    assert_eq!(look(&[V4], &[]).await, good);
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
    assert_eq!(look(&[V4], port).await, Verdict::Reachable);
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
async fn the_certificate_that_is_presented_is_seen_whoever_signed_it() {
    let port = start_tls("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let leaf = find_leaf((V4, port).into(), "a.example").await.unwrap();
    // Its subject alternative name stands in it as it is.
    assert!(leaf.windows(13).any(|part| part == b"other.example"));
    let clear = start(V4, |_| "").await;
    assert_eq!(find_leaf((V4, clear).into(), "a.example").await, None);
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
            ..patient(port)
        };
        look_with(&[V4], options).await
    };
    assert_eq!(look(good).await, Verdict::Reachable);
    assert_eq!(class(look(bad).await), (404, Seen::NotFound));
    let closed = TcpListener::bind((V4, 0)).await.unwrap();
    let at = closed.local_addr().unwrap();
    drop(closed);
    // Nobody there, and somebody who does not speak TLS.
    for at in [at, (V4, port).into()] {
        let (word, sight) = sight(look(at.port()).await);
        assert_eq!((word, sight.what), ("wrong", Seen::ClosedHttps));
        assert_eq!(
            sight.to_string(),
            format!("{at} does not speak TLS after a redirect to https://a.example/x")
        );
    }
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
        let (word, sight) = sight(look(&[V4], port).await);
        assert_eq!((word, sight.what), ("wrong", Seen::BadRedirect));
        let words = format!("127.0.0.1:{port} answers 302 after a redirect to {location}");
        assert_eq!(sight.to_string(), words);
    }
    let port = start(V4, |_| {
        (
            StatusCode::FOUND,
            [(header::LOCATION, "/.well-known/acme-challenge/tok")],
        )
    })
    .await;
    assert_eq!(
        class(look(&[V4], port).await),
        (302, Seen::TooManyRedirects)
    );
}

#[tokio::test]
async fn redirects_that_only_the_ca_can_follow_do_not_hold_the_order_back() {
    // One that is not where localhost is.
    let entry: IpAddr = "127.0.0.5".parse().unwrap();
    for location in ["https://localhost/x", "http://localhost/x"] {
        let port = start(entry, move |_| {
            (
                StatusCode::MOVED_PERMANENTLY,
                [(header::LOCATION, location)],
            )
        })
        .await;
        let words = format!("it is a private address after a redirect to {location}");
        assert_eq!(silence(look(&[entry], port).await), words);
    }
}

#[tokio::test]
async fn a_check_ends_in_time_even_if_an_address_never_does() {
    let port = start(V4, |_| StatusCode::NOT_FOUND).await;
    let silent = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let options = Options {
        in_all: Duration::from_millis(300),
        per_request: Duration::from_mins(1),
        ..patient(port)
    };
    let entry = [V4, silent.local_addr().unwrap().ip()];
    let looking = look_with(&entry, options);
    let verdict = tokio::time::timeout(Duration::from_secs(20), looking)
        .await
        .unwrap();
    assert_eq!(
        silence(verdict),
        format!("127.0.0.3:{port} gives no answer")
    );
}
