use evercert_core::key::ObjectKey;
use futures::StreamExt;
use futures::channel::mpsc::unbounded;
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

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

#[tokio::test]
async fn looks_do_not_pile_up_where_dns_is_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::new(&[silent.local_addr().unwrap()]).unwrap();
    let (wake, _woken) = unbounded();
    let preflights = Preflights::new(Some(dns), wake);
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
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::new(&[silent.local_addr().unwrap()]).unwrap();
    let (wake, mut woken) = unbounded();
    let preflights = Preflights::new(Some(dns), wake);
    let key = ObjectKey::new("shop", "site");
    let now = Timestamp::now();
    let first = preflights.observe(&key, question("a.example"), now);
    assert_eq!(first, Preflight::Looking { since: now });
    assert_eq!(woken.next().await, Some(reference(&key)));
    let then = preflights.observe(&key, question("a.example"), Timestamp::now());
    assert_eq!(then, Preflight::Seen(Vec::new()));
}
