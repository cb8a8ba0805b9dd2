use std::sync::LazyLock;

use evercert_core::key::ObjectKey;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::*;

fn question(name: &str) -> Question {
    Question {
        names: vec![(name.to_owned(), Vec::new())],
        account: "https://ca.example/acct/1".into(),
        identities: Vec::new(),
        control: None,
    }
}

/// With a DNS server that never answers, as long as it is held.
async fn without_answers() -> (
    UdpSocket,
    Preflights,
    UnboundedReceiver<ObjectRef<Certificate>>,
) {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::new(&[silent.local_addr().unwrap()]).unwrap();
    let (wake, woken) = unbounded();
    (silent, Preflights::new(Some(dns), wake), woken)
}

/// So long after the first call.
fn at(seconds: i64) -> Timestamp {
    static BEGAN: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    *BEGAN + SignedDuration::from_secs(seconds)
}

#[tokio::test]
async fn looks_do_not_pile_up_where_dns_is_silent() {
    let (_silent, preflights, _woken) = without_answers().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let look = |n: i64, since: i64, names: &str| {
        let key = ObjectKey::new("shop", format!("site{n}"));
        preflights.observe(&key, question(&format!("{names}{n}.example")), at(since))
    };
    // Each again and again, and with other names.
    for (since, names) in [(0, "a"), (60, "a"), (120, "b"), (180, "b")] {
        for n in 0..2_000 {
            look(n, since, names);
            // Who was looked at for other names no longer is, as soon as the runtime has had its turn.
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    let seen: Vec<Preflight> = (0..2_000).map(|n| look(n, 200, "b")).collect();
    let is_looked_at = |seen: &&Preflight| matches!(seen, Preflight::Looking { .. });
    let looked_at = seen.iter().filter(is_looked_at).count();
    assert!((1..=MOST).contains(&looked_at), "{looked_at}");
    // Nothing holds the others back.
    let unasked = seen.iter().filter(|seen| **seen == Preflight::Unasked);
    assert_eq!(unasked.count(), 2_000 - looked_at);
    assert!(tasks() <= MOST + 10 * AT_ONCE, "{}", tasks());
    for n in 0..2_000 {
        preflights.forget(&ObjectKey::new("shop", format!("site{n}")));
    }
    assert!(preflights.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_look_that_ended_without_an_answer_wakes_and_holds_nothing_back() {
    let (_silent, preflights, mut woken) = without_answers().await;
    let key = ObjectKey::new("shop", "site");
    let now = Timestamp::now();
    let first = preflights.observe(&key, question("a.example"), now);
    assert_eq!(first, Preflight::Looking { since: now });
    preflights.wake_at_end(&key);
    assert_eq!(woken.next().await, Some(reference(&key)));
    let then = preflights.observe(&key, question("a.example"), Timestamp::now());
    assert_eq!(then, Preflight::Seen(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_awaited_wakes_also_without_news_and_one_that_is_not_wakes_by_news_alone() {
    let (_silent, preflights, mut woken) = without_answers().await;
    let key = ObjectKey::new("shop", "site");
    let now = Timestamp::now();
    let look = |after: SignedDuration| preflights.observe(&key, question("a.example"), now + after);
    look(SignedDuration::ZERO);
    preflights.wake_at_end(&key);
    woken.next().await;
    // Too old to begin an order by, and asked for anew: the same again.
    assert!(matches!(look(FRESH + RECENT), Preflight::Looking { .. }));
    preflights.wake_at_end(&key);
    assert_eq!(woken.next().await, Some(reference(&key)));
    // Not recent, and good enough: nobody waits.
    let later = RECENT + SignedDuration::from_secs(10);
    assert_eq!(look(later), Preflight::Seen(Vec::new()));
    while preflights.lock().values().any(Look::is_running) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(woken.try_recv().is_err(), "woken without a reason");
    // It has ended already.
    preflights.wake_at_end(&key);
    assert_eq!(woken.next().await, Some(reference(&key)));
}
