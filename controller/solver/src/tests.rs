//! The solver at its edges: what a request gets, and what an API server's behaviour does to it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evercert_api::Identifier;
use evercert_api::challenge::{OpenChallenge, serialize_challenges};
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::{Answers, Config, forwarder_router, health_router, router};

fn challenge(host: &str, token: &str) -> OpenChallenge {
    OpenChallenge::new(
        Identifier::parse(host).unwrap(),
        token,
        &format!("{token}.thumb"),
    )
    .unwrap()
}

fn answering(challenges: &[OpenChallenge]) -> Router {
    let answers = Answers::default();
    answers.replace(challenges);
    router(answers.clone()).merge(health_router(answers))
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn request(host: &str, path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", host)
        .body(Body::empty())
        .unwrap()
}

const NONE: &str = "no challenge is open at this address\n";

#[tokio::test]
async fn host_and_token_of_an_open_challenge_get_its_key_authorization() {
    let router = answering(&[
        challenge("a.example", "tok-1"),
        challenge("b.example", "tok-2"),
    ]);
    let path = "/.well-known/acme-challenge/tok-1";
    for host in [
        "a.example",
        "a.example:80",
        "A.EXAMPLE",
        "a.example.",
        "a.Example.:8080",
    ] {
        assert_eq!(
            ask(&router, request(host, path)).await,
            (StatusCode::OK, "tok-1.thumb".into()),
            "{host}"
        );
    }
    let absolute = Request::get(format!("http://a.example{path}"))
        .header("host", "x.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(ask(&router, absolute).await.1, "tok-1.thumb");
    let answer = router.oneshot(request("a.example", path)).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(answer.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn address_is_answered_for_however_its_host_header_is_written() {
    let router = answering(&[
        challenge("198.18.0.2", "tok-4"),
        challenge("2001:db8::1", "tok-6"),
    ]);
    let path = |token: &str| format!("/.well-known/acme-challenge/{token}");
    for (host, token, status) in [
        ("198.18.0.2", "tok-4", StatusCode::OK),
        ("198.18.0.2:80", "tok-4", StatusCode::OK),
        ("198.18.0.2", "tok-6", StatusCode::NOT_FOUND),
        ("[2001:db8::1]", "tok-6", StatusCode::OK),
        ("[2001:DB8:0::1]:80", "tok-6", StatusCode::OK),
        ("[2001:db8::2]", "tok-6", StatusCode::NOT_FOUND),
        ("2001:db8::1", "tok-6", StatusCode::NOT_FOUND),
    ] {
        let answer = ask(&router, request(host, &path(token))).await;
        assert_eq!(answer.0, status, "{host}");
    }
    let absolute = Request::get(format!("http://[2001:db8::1]:80{}", path("tok-6")))
        .header("host", "x.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(ask(&router, absolute).await.1, "tok-6.thumb");
}

#[tokio::test]
async fn whatever_else_is_asked_gets_404() {
    let router = answering(&[
        challenge("a.example", "tok-1"),
        challenge("b.example", "tok-2"),
    ]);
    let asked = [
        ("a.example", "/.well-known/acme-challenge/tok-2"),
        ("b.example", "/.well-known/acme-challenge/tok-1"),
        ("c.example", "/.well-known/acme-challenge/tok-1"),
        ("a.example:x", "/.well-known/acme-challenge/tok-1"),
        ("a.example..", "/.well-known/acme-challenge/tok-1"),
        ("[::1]:80", "/.well-known/acme-challenge/tok-1"),
        ("", "/.well-known/acme-challenge/tok-1"),
        ("a.example", "/.well-known/acme-challenge/"),
        ("a.example", "/.well-known/acme-challenge/tok-1/"),
        ("a.example", "/.well-known/acme-challenge/tok%2D1"),
        ("a.example", "/.well-known/acme-challenge/%ff"),
        ("a.example", "/.well-known/acme-challenge/x/../tok-1"),
        ("a.example", "/"),
        ("a.example", "/tok-1"),
    ];
    for (host, path) in asked {
        assert_eq!(
            ask(&router, request(host, path)).await,
            (StatusCode::NOT_FOUND, NONE.into()),
            "{host} {path}"
        );
    }
    let two_hosts = Request::get("/.well-known/acme-challenge/tok-1")
        .header("host", "a.example")
        .header("host", "b.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(ask(&router, two_hosts).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let router = answering(&[challenge("a.example", "tok-1")]);
    let with = |method: &str| {
        Request::builder()
            .method(method)
            .uri("/.well-known/acme-challenge/tok-1")
            .header("host", "a.example")
            .body(Body::from("x".repeat(100)))
            .unwrap()
    };
    assert_eq!(
        ask(&router, with("HEAD")).await,
        (StatusCode::OK, String::new())
    );
    for method in ["POST", "PUT", "DELETE", "TRACE"] {
        assert_eq!(
            ask(&router, with(method)).await.0,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
    }
}

#[tokio::test]
async fn it_is_ready_once_the_list_has_been_read() {
    let answers = Answers::default();
    let router = health_router(answers.clone());
    assert_eq!(
        ask(&router, request("10.0.0.1", "/healthz")).await.0,
        StatusCode::OK
    );
    assert_eq!(
        ask(&router, request("10.0.0.1", "/readyz")).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    answers.replace(&[]);
    assert_eq!(
        ask(&router, request("10.0.0.1", "/readyz")).await,
        (StatusCode::OK, "ready\n".into())
    );
}

/// What the API server plays: down, no such object, or the object with this list.
#[derive(Clone, Debug)]
enum Cluster {
    Down,
    Without,
    With(String),
}

/// An API server of one ConfigMap that refuses every request which `resourceNames` would not allow.
#[derive(Clone)]
struct ApiServer {
    /// The resource version, and what is there.
    cluster: watch::Sender<(u64, Cluster)>,
    /// How many requests were refused while it was down.
    refused: watch::Sender<u64>,
}

impl ApiServer {
    async fn start(cluster: Cluster) -> (Self, kube::Client) {
        let server = Self {
            cluster: watch::Sender::new((1, cluster)),
            refused: watch::Sender::new(0),
        };
        let path = "/api/v1/namespaces/ever/configmaps";
        let router = Router::new()
            .route(path, get(answer_api))
            .with_state(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
        (
            server,
            kube::Client::try_from(kube::Config::new(uri)).unwrap(),
        )
    }

    fn set(&self, cluster: Cluster) {
        self.cluster.send_modify(|now| *now = (now.0 + 1, cluster));
    }

    /// Waits until a request of the solver has found the server down.
    async fn refuse_once(&self) {
        let mut refused = self.refused.subscribe();
        let before = *refused.borrow_and_update();
        timeout(DEADLINE, refused.wait_for(|now| *now > before))
            .await
            .expect("nothing was asked")
            .unwrap();
    }
}

const DEADLINE: Duration = Duration::from_secs(20);

async fn answer_api(State(server): State<ApiServer>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    if !query.contains("fieldSelector=metadata.name%3Devercert-challenges") {
        return (StatusCode::FORBIDDEN, "only one name").into_response();
    }
    let mut seen = server.cluster.subscribe();
    let (version, now) = seen.borrow_and_update().clone();
    if let Cluster::Down = now {
        server.refused.send_modify(|count| *count += 1);
        return (StatusCode::SERVICE_UNAVAILABLE, "down").into_response();
    }
    if !query.contains("watch=true") {
        let items: Vec<Value> = if let Cluster::With(list) = now {
            vec![object(&list, version)]
        } else {
            vec![]
        };
        return axum::Json(json!({
            "apiVersion": "v1", "kind": "ConfigMapList", "metadata": { "resourceVersion": version.to_string() }, "items": items,
        }))
        .into_response();
    }
    if !query
        .split('&')
        .any(|part| part == format!("resourceVersion={version}"))
    {
        seen.mark_changed();
    }
    let changes = futures::stream::unfold(seen, async |mut seen| {
        seen.changed().await.ok()?;
        let (version, now) = seen.borrow_and_update().clone();
        let event = match now {
            Cluster::Down => return None,
            Cluster::Without => json!({ "type": "DELETED", "object": object("[]", version) }),
            Cluster::With(list) => json!({ "type": "MODIFIED", "object": object(&list, version) }),
        };
        Some((Ok::<_, std::io::Error>(format!("{event}\n")), seen))
    });
    Body::from_stream(changes.boxed()).into_response()
}

fn object(list: &str, version: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "evercert-challenges", "namespace": "ever", "resourceVersion": version.to_string() },
        "data": { "challenges.json": list },
    })
}

/// Waits until `holds`, looking again after each change of the list; prints what it was when time is up.
async fn until(answers: &Answers, holds: impl Fn(&Answers) -> bool) {
    let mut changes = answers.changes();
    let waiting = async {
        while !holds(answers) {
            changes.changed().await.unwrap();
        }
    };
    assert!(
        timeout(DEADLINE, waiting).await.is_ok(),
        "still {answers:?}"
    );
}

#[tokio::test]
async fn the_last_good_list_outlives_damage_and_outages_but_not_deletion() {
    let list = |tokens: &[&str]| {
        let all: Vec<OpenChallenge> = tokens.iter().map(|t| challenge("a.example", t)).collect();
        Cluster::With(serialize_challenges(&all))
    };
    let answered = |token: &'static str| move |a: &Answers| a.find("a.example", token).is_some();
    let (server, client) = ApiServer::start(Cluster::Down).await;
    let answers = Answers::default();
    let following = answers.clone();
    let follower =
        tokio::spawn(async move { crate::follow::follow(client, "ever", &following).await });

    server.refuse_once().await;
    assert!(!answers.is_synced());
    server.set(Cluster::Without);
    until(&answers, Answers::is_synced).await;

    server.set(list(&["one"]));
    until(&answers, answered("one")).await;
    assert!(!answered("two")(&answers));

    let mut changes = answers.changes();
    changes.mark_unchanged();
    server.set(Cluster::With("{ damaged".into()));
    timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();
    assert!(answered("one")(&answers), "damage took the list away");

    server.set(list(&["one", "two"]));
    until(&answers, answered("two")).await;

    server.set(Cluster::Down);
    server.refuse_once().await;
    assert!(answered("two")(&answers), "an outage took the list away");
    server.set(list(&["three"]));
    until(&answers, answered("three")).await;
    assert!(!answered("two")(&answers));

    server.set(Cluster::Without);
    until(&answers, |a| !answered("three")(a)).await;
    follower.abort();
}

/// A solver on a port of its own, the API server with one open challenge, and the way to stop it.
async fn start_solver() -> (
    SocketAddr,
    tokio::sync::oneshot::Sender<()>,
    tokio::task::JoinHandle<()>,
) {
    let list = serialize_challenges(&[challenge("a.example", "one")]);
    let (_, client) = ApiServer::start(Cluster::With(list)).await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = Config {
        listen: free,
        health_listen: None,
        namespace: "ever".into(),
        client,
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(async move {
        crate::run(config, async { drop(stopped.await) })
            .await
            .unwrap();
    });
    (free, stop, running)
}

async fn send(to: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks again and again, with a turn of the runtime between, until the answer holds `wanted`.
async fn send_until(to: SocketAddr, text: &str, wanted: &str) -> String {
    let mut last = String::new();
    let asking = async {
        loop {
            last = send(to, text).await.unwrap_or_default();
            if last.contains(wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(DEADLINE, asking).await.is_ok(),
        "the last answer was {last:?}"
    );
    last
}

#[tokio::test]
async fn a_running_solver_answers_closes_each_connection_and_ends_when_told() {
    let (address, stop, running) = start_solver().await;
    send_until(address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK").await;
    let answer = send_until(
        address,
        "GET /.well-known/acme-challenge/one HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
        "one.thumb",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    let head = send(
        address,
        "HEAD /.well-known/acme-challenge/one HTTP/1.1\r\nHost: a.example\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    stop.send(()).unwrap();
    timeout(Duration::from_secs(15), running)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_head_of_any_size_and_a_slow_client_are_shown_the_door() {
    let (address, _stop, running) = start_solver().await;
    send_until(
        address,
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        "200 OK",
    )
    .await;
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    // The connection is cut while we still write; whichever end of it we see, it is no answer of 200.
    let answer = send(address, &endless).await.unwrap_or_default();
    assert!(!answer.contains("200 OK"), "{answer}");
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(12), slow.read_to_end(&mut rest))
        .await
        .expect("a slow client is let go");
    running.abort();
}

/// A solver with `challenges`, and where it listens.
async fn listening(challenges: &[OpenChallenge]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = answering(challenges);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn a_forwarder_passes_a_challenge_on_with_its_host_and_nothing_else() {
    let solver = listening(&[challenge("a.example", "tok-1")]).await;
    let router = forwarder_router(solver);
    let path = "/.well-known/acme-challenge/tok-1";
    let good = (StatusCode::OK, "tok-1.thumb".to_owned());
    assert_eq!(ask(&router, request("a.example:80", path)).await, good);
    let none = (StatusCode::NOT_FOUND, NONE.to_owned());
    for (host, path) in [
        ("b.example", path),
        ("a.example", "/"),
        ("a.example", "/.well-known/acme-challenge/"),
        ("a.example", "/.well-known/acme-challenge/tok-1/more"),
        ("a.example", "/.well-known/acme-challenge/tok%2D1"),
        ("a.example", "/.well-known/acme-challenge/../readyz"),
    ] {
        assert_eq!(
            ask(&router, request(host, path)).await,
            none,
            "{host}{path}"
        );
    }
    let post = Request::post(path).header("host", "a.example");
    let post = post.body(Body::from("x")).unwrap();
    assert_eq!(ask(&router, post).await, none);
    let head = Request::head(path).header("host", "a.example");
    let head = head.body(Body::empty()).unwrap();
    assert_eq!(ask(&router, head).await, (StatusCode::OK, String::new()));
    let two = Request::get(path).header("host", "a.example");
    let two = two.header("host", "a.example").body(Body::empty()).unwrap();
    assert_eq!(ask(&router, two).await, none);
}

#[tokio::test]
async fn a_forwarder_is_ready_only_while_the_solver_can_be_reached() {
    let router = forwarder_router(listening(&[]).await);
    assert_eq!(
        ask(&router, request("x", "/readyz")).await.0,
        StatusCode::OK
    );
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let router = forwarder_router(nobody);
    let unready = ask(&router, request("x", "/readyz")).await;
    assert_eq!(unready.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        ask(&router, request("x", "/healthz")).await.0,
        StatusCode::OK
    );
    let path = "/.well-known/acme-challenge/tok-1";
    let answer = ask(&router, request("a.example", path)).await;
    assert_eq!(answer.0, StatusCode::BAD_GATEWAY);
}
