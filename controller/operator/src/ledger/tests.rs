//! The ledger on an API server in memory that keeps ConfigMaps, as far as it can tell.

use std::collections::BTreeMap;
use std::convert::Infallible;

use evercert_api::certificate::IssuerKind;
use evercert_core::lanes::Lane;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const ACCOUNT: &str = "https://acme-v02.api.letsencrypt.org/acme/acct/1";

/// The API server; clones are the same one.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    maps: BTreeMap<String, Value>,
    writes: usize,
    largest: usize,
    refuses: bool,
    /// Writes are done, and never answered.
    mute: bool,
}

impl ApiServer {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let name = head.uri.path().rsplit('/').next().unwrap().to_owned();
                // As long as a write takes.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let (code, answer) = server.0.lock().unwrap().answer(&head.method, &name, &body);
                if head.method != Method::GET && server.state(|s| s.mute) {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    async fn ledger(&self) -> Ledger {
        Ledger::open(self.client(), "evercert").await.unwrap()
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn writes(&self) -> usize {
        self.state(|s| s.writes)
    }
}

impl State {
    fn answer(&mut self, method: &Method, name: &str, body: &[u8]) -> (u16, Value) {
        if *method == Method::GET {
            let items: Vec<&Value> = self.maps.values().collect();
            let list = json!({ "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": items });
            return (200, list);
        }
        if self.refuses {
            return status(403, "the quota is used up");
        }
        let mut map: Value = serde_json::from_slice(body).unwrap();
        let name = map["metadata"]["name"].as_str().unwrap_or(name).to_owned();
        let known = self.maps.get(&name);
        match (method, known) {
            (&Method::POST, Some(_)) => return status(409, "it exists already"),
            (&Method::PUT, None) => return status(404, "it does not exist"),
            (&Method::PUT, Some(known))
                if known["metadata"]["resourceVersion"] != map["metadata"]["resourceVersion"] =>
            {
                return status(409, "it has been modified");
            }
            _ => {}
        }
        self.version += 1;
        self.writes += 1;
        self.largest = self.largest.max(body.len());
        map["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.maps.insert(name, map.clone());
        (200, map)
    }
}

fn status(code: u16, message: &str) -> (u16, Value) {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "r", "code": code });
    (code, status)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn certificate(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn order(names: &[&str]) -> NewOrder {
    NewOrder {
        account: ACCOUNT.into(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        urgent: false,
        replaces: false,
        asked_anew: false,
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate {
        key: certificate(name),
        lane: Lane::New,
        expires: None,
        failed: false,
        directory: "d".to_owned(),
    }
}

async fn try_enter(
    ledger: &Ledger,
    directory: &str,
    name: &str,
    names: &[&str],
    seconds: i64,
) -> Result<Decision, LedgerError> {
    let key = certificate(name);
    ledger
        .enter(directory, &key, order(names), at(seconds))
        .await
}

async fn enter(ledger: &Ledger, name: &str, names: &[&str], seconds: i64) -> bool {
    let entered = try_enter(ledger, PRODUCTION, name, names, seconds).await;
    entered.unwrap() == Decision::Granted
}

fn denied(ledger: &Ledger, names: &[&str], seconds: i64) -> bool {
    let denial = ledger.decide(PRODUCTION, &order(names), &candidate("other"), at(seconds));
    denial.is_some()
}

/// What waits to be written has been.
async fn written(server: &ApiServer, ledger: &Ledger) {
    tokio::time::timeout(Duration::from_mins(5), async {
        while ledger
            .0
            .lock()
            .values()
            .any(|account| account.due.is_some())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("not written: {:#?}", server.state(|s| s.maps.clone())));
    // The last write may be under way.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_orders_at_once_are_two_writes() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    let orders = (0..50).map(|i| {
        let ledger = ledger.clone();
        async move {
            let name = format!("n{i}.example");
            assert!(enter(&ledger, &name, &[&name], 0).await);
        }
    });
    futures::future::join_all(orders).await;
    assert!((1..=2).contains(&server.writes()), "{}", server.writes());
    let again = server.ledger().await;
    let left_behind = (0..50).filter(|i| {
        let key = certificate(&format!("n{i}.example"));
        again.intent(PRODUCTION, &key) == Some(at(0))
    });
    assert_eq!(left_behind.count(), 50, "all of them are in the cluster");
}

#[tokio::test(start_paused = true)]
async fn orders_that_come_one_by_one_share_writes() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    let orders = (0..50_u64).map(|i| {
        let ledger = ledger.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20 * i)).await;
            let name = format!("n{i}.example");
            assert!(enter(&ledger, &name, &[&name], 0).await);
        }
    });
    futures::future::join_all(orders).await;
    assert!((2..=6).contains(&server.writes()), "{}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_nothing_and_an_order_without_an_outcome_is_told() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    for i in 0..4 {
        assert!(enter(&ledger, "site", &["a.example"], i * 60).await);
    }
    assert!(!enter(&ledger, "site", &["a.example"], 240).await);
    assert!(denied(&ledger, &["a.example"], 240));
    assert_eq!(
        ledger.intent(PRODUCTION, &certificate("site")),
        None,
        "its own is no lost one"
    );
    drop(ledger);
    let again = server.ledger().await;
    assert!(denied(&again, &["a.example"], 240));
    assert_eq!(
        again.intent(PRODUCTION, &certificate("site")),
        Some(at(180))
    );
    assert_eq!(
        again.intent("https://other.example", &certificate("site")),
        None
    );
    again
        .settle(&certificate("site"), &Settlement::Spent, at(240))
        .await;
    assert_eq!(again.intent(PRODUCTION, &certificate("site")), None);
    written(&server, &again).await;
    let third = server.ledger().await;
    assert_eq!(third.intent(PRODUCTION, &certificate("site")), None);
    assert!(denied(&third, &["a.example"], 240), "it stays spent");
}

#[tokio::test(start_paused = true)]
async fn what_became_of_an_order_counts_at_once_and_is_written_with_the_next_or_in_a_minute() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    for i in 0..3 {
        assert!(enter(&ledger, "site", &["a.example"], i * 60).await);
        let names = vec!["a.example".to_owned()];
        let failed = Settlement::Failed { names };
        ledger.settle_later(&certificate("site"), &failed, at(i * 60 + 1));
    }
    assert!(denied(&ledger, &["a.example", "b.example"], 200));
    let before = server.writes();
    written(&server, &ledger).await;
    assert_eq!(server.writes(), before + 1);
    assert!(denied(
        &server.ledger().await,
        &["a.example", "b.example"],
        200
    ));
}

#[tokio::test(start_paused = true)]
async fn two_leaders_that_overlap_grant_no_more_than_one() {
    let server = ApiServer::default();
    let ledgers = [server.ledger().await, server.ledger().await];
    let mut granted = 0;
    for i in 0..8 {
        let (one, two) = (
            enter(&ledgers[0], "one", &["a.example"], i * 60),
            enter(&ledgers[1], "two", &["a.example"], i * 60),
        );
        let (one, two) = futures::future::join(one, two).await;
        granted += u32::from(one) + u32::from(two);
    }
    assert_eq!(granted, 4);
    let names: Vec<String> = (0..60).map(|i| format!("n{i}.big.example")).collect();
    let orders = names.iter().enumerate().map(|(i, name)| {
        let ledger = &ledgers[i % 2];
        async move { enter(ledger, name, &[name], 600).await }
    });
    let granted = futures::future::join_all(orders).await;
    let granted = granted.into_iter().filter(|granted| *granted).count();
    assert!(
        (40..=45).contains(&granted),
        "{granted} of the domain's limit"
    );
}

#[tokio::test(start_paused = true)]
async fn two_leaders_that_overlap_enter_one_order_for_a_certificate() {
    let server = ApiServer::default();
    let (one, other) = (server.ledger().await, server.ledger().await);
    let enter = async |ledger: &Ledger, name: &str, seconds| {
        let host = format!("{name}.example");
        try_enter(ledger, PRODUCTION, name, &[&host], seconds).await
    };
    assert_eq!(enter(&one, "a", 0).await.unwrap(), Decision::Granted);
    // Its write meets the first one's, and in the same write another Certificate's order is entered.
    let (raced, fine) = futures::join!(enter(&other, "a", 1), enter(&other, "b", 1));
    let conflict = |told: &Result<Decision, LedgerError>| matches!(told, Err(LedgerError::Write(e)) if e.is_conflict());
    assert!(conflict(&raced), "{raced:?}");
    assert_eq!(fine.unwrap(), Decision::Granted);
    let known = enter(&other, "a", 2).await;
    assert!(conflict(&known), "{known:?}");
    assert_eq!(
        enter(&other, "b", 2).await.unwrap(),
        Decision::Granted,
        "its own keeps nobody away"
    );
    // Whoever entered it is gone, and nothing came of it.
    assert_eq!(enter(&other, "a", 61).await.unwrap(), Decision::Granted);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_somebody_deletes_or_puts_back_is_known_all_the_same() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    assert!(enter(&ledger, "site", &["a.example"], 0).await);
    let old = server.state(|s| s.maps.clone());
    for i in 1..4 {
        assert!(enter(&ledger, "site", &["a.example"], i * 60).await);
    }
    server.state(|s| s.maps.clear());
    assert!(enter(&ledger, "else", &["b.example"], 240).await);
    assert!(denied(&server.ledger().await, &["a.example"], 240));
    server.state(|s| {
        s.maps = old;
        for map in s.maps.values_mut() {
            map["metadata"]["resourceVersion"] = "999".into();
        }
    });
    assert!(enter(&ledger, "else", &["b.example"], 300).await);
    assert!(denied(&server.ledger().await, &["a.example"], 300));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_that_is_not_written_and_nothing_told_is_lost() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    assert!(enter(&ledger, "site", &["a.example"], 0).await);
    server.state(|s| s.refuses = true);
    let names = vec!["a.example".to_owned()];
    for _ in 0..3 {
        let failed = Settlement::Failed {
            names: names.clone(),
        };
        ledger.settle(&certificate("site"), &failed, at(1)).await;
    }
    let refused = try_enter(&ledger, PRODUCTION, "b", &["b.example"], 1).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("the quota is used up")
    );
    server.state(|s| s.refuses = false);
    written(&server, &ledger).await;
    let again = server.ledger().await;
    assert_eq!(
        again.intent(PRODUCTION, &certificate("site")),
        None,
        "what became of it was written later"
    );
    assert_eq!(again.intent(PRODUCTION, &certificate("b")), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_taken_back_since_no_order_followed() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    server.state(|s| s.mute = true);
    for i in 0..4 {
        let entered = try_enter(&ledger, PRODUCTION, "a", &["a.example"], i * 60);
        assert!(entered.await.is_err());
    }
    assert!(server.writes() >= 4, "all of them were done");
    server.state(|s| s.mute = false);
    written(&server, &ledger).await;
    let again = server.ledger().await;
    assert_eq!(again.intent(PRODUCTION, &certificate("a")), None);
    for i in 4..8 {
        assert!(enter(&again, "a", &["a.example"], i * 60).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_ledger_is_split_and_goes_on() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    let directory = "https://ca.example/directory";
    for batch in 0..50 {
        let orders = (0..100).map(|i| {
            let ledger = ledger.clone();
            async move {
                let name = format!("a-rather-long-host-name-{batch}-{i}.shop.example");
                let names = [name.as_str()];
                let entered = try_enter(&ledger, directory, &name, &names, batch * 3600).await;
                assert_eq!(entered.unwrap(), Decision::Granted);
            }
        });
        futures::future::join_all(orders).await;
    }
    let (pages, largest) = server.state(|s| (s.maps.len(), s.largest));
    assert_eq!(pages, 16);
    assert!(largest < 500_000, "{largest}");
    let again = server.ledger().await;
    for (batch, i) in [(0, 0), (49, 99)] {
        let name = format!("a-rather-long-host-name-{batch}-{i}.shop.example");
        assert_eq!(
            again.intent(directory, &certificate(&name)),
            Some(at(batch * 3600))
        );
    }
    let before = server.writes();
    let entered = try_enter(&again, directory, "x", &["x.example"], 50 * 3600);
    assert_eq!(entered.await.unwrap(), Decision::Granted);
    assert!(server.writes() - before <= 16);
    assert_eq!(server.state(|s| s.maps.len()), 16);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_the_account_are_told_an_instant_each() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    let orders = (0..280).map(|i| {
        let ledger = ledger.clone();
        async move {
            let name = format!("n{i}.example");
            enter(&ledger, &name, &[&name], 0).await
        }
    });
    let granted = futures::future::join_all(orders).await;
    assert_eq!(granted.iter().filter(|granted| **granted).count(), 269);
    let mut told = Vec::new();
    for name in ["a", "b", "c"] {
        let denial = ledger
            .decide(PRODUCTION, &order(&["w.example"]), &candidate(name), at(1))
            .unwrap();
        ledger.queue(PRODUCTION, ACCOUNT, &candidate(name), denial.at);
        told.push(denial.at.duration_since(at(30)).as_secs());
    }
    assert_eq!(told, [0, 36, 72]);
    ledger.leave(&certificate("a"));
    let denial = ledger
        .decide(PRODUCTION, &order(&["w.example"]), &candidate("b"), at(1))
        .unwrap();
    assert_eq!(denial.at, at(30));
    let budget = ledger.budget(PRODUCTION, ACCOUNT, at(1)).unwrap();
    assert_eq!(
        (budget.orders, budget.capacity, budget.next),
        (0, 270, Some(at(30)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_issuer_is_told_what_is_left_at_most_once_a_minute_and_woken_once_for_it() {
    let server = ApiServer::default();
    let ledger = server.ledger().await;
    let listener = |name: &str| Listener {
        issuer: IssuerId {
            kind: IssuerKind::ClusterIssuer,
            namespace: None,
            name: name.to_owned(),
        },
        account: ACCOUNT.to_owned(),
    };
    let [a, b] = ["a", "b"].map(listener);
    let news = |listener, s| ledger.has_news(PRODUCTION, listener, at(s));
    let tell = |listener, s| ledger.tell_budget(PRODUCTION, listener, at(s)).unwrap();
    assert!(news(&a, 0), "never told");
    assert_eq!((tell(&a, 0).0.orders, tell(&b, 0).1), (270, Telling::Now));
    assert!(!news(&a, 1));
    let orders = (0..270).map(|i| {
        let ledger = ledger.clone();
        async move {
            let name = format!("n{i}.example");
            enter(&ledger, &name, &[&name], 1).await
        }
    });
    futures::future::join_all(orders).await;
    assert!(news(&a, 2) && news(&b, 2));
    assert!(!news(&a, 3), "it is awake");
    let (left, telling) = tell(&a, 3);
    assert_eq!((left.orders, telling), (0, Telling::At(at(60))));
    assert_eq!(tell(&a, 60).1, Telling::Now);
    assert_eq!(tell(&b, 60).1, Telling::Now, "each for itself");
    assert_eq!(tell(&a, 61).1, Telling::Kept);
    assert!(news(&a, 2 * 3600), "there are some again");
}
