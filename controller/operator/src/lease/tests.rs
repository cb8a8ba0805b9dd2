//! Candidates on an API server in memory, by a clock that stands still while they work.

use std::cell::Cell;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, advance};

use super::*;
use crate::projection::tests::api_server::ApiServer;

const LEASE: &str = "leases/evercert-system/evercert";

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time of the test, and a thousand seconds.
fn clock() -> Uptime {
    let began = BEGAN.get().unwrap();
    Uptime::new(Duration::from_secs(1000) + began.elapsed())
}

fn begin() -> ApiServer {
    BEGAN.set(Some(Instant::now()));
    ApiServer::default()
}

fn candidate(server: &ApiServer, identity: &str) -> Candidate {
    let config = LeaseConfig {
        name: "evercert".to_owned(),
        candidacy: Candidacy {
            identity: identity.to_owned(),
            duration: Duration::from_secs(10),
        },
    };
    Candidate::by(
        clock,
        server.client(),
        server.client(),
        "evercert-system",
        config,
    )
}

async fn acquire(candidate: &mut Candidate) -> Claim {
    candidate.acquire(async {}, || {}).await
}

fn spec(server: &ApiServer) -> Value {
    server.get(LEASE).unwrap()["spec"].clone()
}

/// As another operator writes it.
fn foreign(holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"labels": {"kept": "yes"}},
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 10, "leaseTransitions": 6,
            "renewTime": "2001-01-01T00:00:00.000000Z",
        },
    })
}

fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn the_first_makes_the_lease_and_renews_it_every_two_seconds_on_condition_of_its_version() {
    let server = begin();
    let mut first = candidate(&server, "a");
    let mandate = first.mandate();
    assert!(!mandate.is_held());
    let claim = acquire(&mut first).await;
    assert!(mandate.is_held());
    assert_eq!(spec(&server)["holderIdentity"], "a");
    assert_eq!(spec(&server)["leaseDurationSeconds"], 10);
    let acquired = spec(&server)["acquireTime"].clone();
    let hour = timeout(Duration::from_secs(59), first.keep(claim)).await;
    assert!(hour.is_err() && mandate.is_held());
    let asked = server.requests();
    assert_eq!(asked[0].method, Method::POST);
    let renewals = asked.iter().filter(|c| c.method == Method::PUT).count();
    assert_eq!(
        (renewals, asked.len()),
        (29, 30),
        "each of them was taken, since it knew the version"
    );
    assert_eq!(spec(&server)["acquireTime"], acquired);
    assert_ne!(spec(&server)["renewTime"], acquired);
}

#[tokio::test(start_paused = true)]
async fn a_standby_says_so_and_takes_over_when_the_holder_was_silent_for_a_claims_time() {
    let server = begin();
    server.put(LEASE, foreign("b"));
    let mut standby = candidate(&server, "a");
    let said = Cell::new(false);
    let began = Instant::now();
    {
        let mut waiting = pin!(standby.acquire(async {}, || said.set(true)));
        assert!(timeout(Duration::from_secs(9), &mut waiting).await.is_err());
        assert!(said.get());
        // The holder lives, and its clock is as wrong as before.
        server.edit(LEASE, |lease| {
            lease["spec"]["renewTime"] = json!("2001-01-01T00:00:02.000000Z");
        });
        let claim = waiting.await;
        assert_eq!(claim.transition, 7);
    }
    assert_eq!(seconds(began), 19);
    assert_eq!(spec(&server)["holderIdentity"], "a");
    let labels = &server.get(LEASE).unwrap()["metadata"]["labels"];
    assert_eq!(labels["kept"], "yes", "what others wrote there stays");
}

#[tokio::test(start_paused = true)]
async fn cold_caches_take_nothing() {
    let server = begin();
    let mut cold = candidate(&server, "a");
    let said = Cell::new(false);
    let waiting = Box::pin(cold.acquire(std::future::pending(), || said.set(true)));
    assert!(timeout(Duration::from_mins(1), waiting).await.is_err());
    assert!(server.requests().is_empty() && !said.get());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_up_or_deleted_is_taken_at_once() {
    let server = begin();
    let mut first = candidate(&server, "a");
    let claim = acquire(&mut first).await;
    let mut second = candidate(&server, "b");
    let began = Instant::now();
    let mandate = first.mandate();
    {
        let mut waiting = pin!(acquire(&mut second));
        assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
        first.release(&claim).await;
        assert!(!mandate.is_held());
        let claim = waiting.await;
        assert_eq!((seconds(began), claim.transition), (1, 1));
    }
    let mut third = candidate(&server, "c");
    let mut waiting = pin!(acquire(&mut third));
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    server.remove(LEASE);
    waiting.await;
    assert_eq!(seconds(began), 2);
    assert_eq!(spec(&server)["holderIdentity"], "c");
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_the_lease_anothers_stops_at_once_and_does_not_give_it_up() {
    let server = begin();
    let mut first = candidate(&server, "a");
    let claim = acquire(&mut first).await;
    server.put(LEASE, foreign("b"));
    let began = Instant::now();
    let lost = first.keep(claim).await;
    assert_eq!(
        lost,
        Lost::Taken {
            by: Some("b".to_owned())
        }
    );
    assert_eq!(seconds(began), 2, "by its next renewal");
    assert!(!first.mandate().is_held());
    let before = server.requests().len();
    first.release(&claim).await;
    assert_eq!(server.requests().len(), before);
    assert_eq!(spec(&server)["holderIdentity"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_deleted_or_edited_is_kept_by_its_holder() {
    let server = begin();
    let mut first = candidate(&server, "a");
    let claim = acquire(&mut first).await;
    let mut keeping = pin!(first.keep(claim));
    assert!(timeout(Duration::from_secs(5), &mut keeping).await.is_err());
    server.remove(LEASE);
    assert!(timeout(Duration::from_secs(3), &mut keeping).await.is_err());
    assert_eq!(spec(&server)["holderIdentity"], "a");
    server.edit(LEASE, |lease| {
        lease["metadata"]["annotations"] = json!({"by": "hand"});
    });
    assert!(
        timeout(Duration::from_secs(30), &mut keeping)
            .await
            .is_err()
    );
    let annotations = &server.get(LEASE).unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["by"], "hand");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_renewed_ends_ten_seconds_after_the_last_request_that_did() {
    for code in [403, 503] {
        let server = begin();
        let mut first = candidate(&server, "a");
        let claim = acquire(&mut first).await;
        let mandate = first.mandate();
        server.refuse("PUT leases", code, "no");
        let began = Instant::now();
        let mut keeping = pin!(first.keep(claim));
        assert!(
            timeout(Duration::from_millis(9_999), &mut keeping)
                .await
                .is_err()
        );
        assert!(mandate.is_held());
        assert_eq!(keeping.await, Lost::RanOut);
        assert_eq!(seconds(began), 10);
        assert!(!mandate.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_counts_from_before_its_request_and_a_slow_answer_is_not_waited_for() {
    let server = begin();
    let mut first = candidate(&server, "a");
    server.delay("POST leases", Duration::from_millis(1_500));
    let claim = acquire(&mut first).await;
    server.refuse("PUT leases", 503, "no");
    let answered = Instant::now();
    assert_eq!(first.keep(claim).await, Lost::RanOut);
    assert_eq!(answered.elapsed(), Duration::from_millis(8_500));

    let server = begin();
    let mut first = candidate(&server, "a");
    let claim = acquire(&mut first).await;
    server.delay("PUT leases", Duration::from_secs(30));
    let began = Instant::now();
    assert_eq!(first.keep(claim).await, Lost::RanOut);
    assert_eq!(seconds(began), 10);
}

#[tokio::test(start_paused = true)]
async fn one_that_stood_still_sends_nothing_with_its_old_claim() {
    let server = begin();
    let mut first = candidate(&server, "a");
    let claim = acquire(&mut first).await;
    let before = server.requests().len();
    advance(Duration::from_secs(11)).await;
    assert!(!first.mandate().is_held());
    assert_eq!(first.keep(claim).await, Lost::RanOut);
    first.release(&claim).await;
    assert_eq!(server.requests().len(), before);
}

#[tokio::test(start_paused = true)]
async fn the_same_name_again_does_not_wait_and_ends_the_one_before() {
    let server = begin();
    let mut dead = candidate(&server, "a");
    let claim = acquire(&mut dead).await;
    let began = Instant::now();
    let mut again = candidate(&server, "a");
    let next = acquire(&mut again).await;
    assert_eq!((seconds(began), next.transition), (0, claim.transition + 1));
    // It was not dead.
    assert_eq!(
        dead.keep(claim).await,
        Lost::Taken {
            by: Some("a".to_owned())
        }
    );
}
