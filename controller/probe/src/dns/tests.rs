use std::time::Instant;

use evercert_core::caa::CaaAnswer;
use tokio::net::UdpSocket;

use super::*;

const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));

/// A DNS server that answers each question so.
pub(crate) async fn serve(answer: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 1024];
        while let Ok((length, client)) = socket.recv_from(&mut packet).await {
            let answer = answer(&packet[..length]);
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    address
}

/// By the first label: `missing` is not there, `broken` fails, all else has one A record (RFC 1035 §4.1).
fn build_answer(question: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += usize::from(question[end]) + 1;
    }
    let kind = question[end + 2];
    let label = String::from_utf8_lossy(&question[13..13 + usize::from(question[12])]).to_string();
    let (code, has_record) = match label.as_str() {
        "missing" => (3, false),
        "broken" => (2, false),
        _ => (0, kind == 1),
    };
    let header = [0x81, 0x80 | code, 0, 1, 0, u8::from(has_record), 0, 0, 0, 0];
    let mut answer = [&question[..2], &header, &question[12..end + 5]].concat();
    if has_record {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 2]);
    }
    answer
}

async fn look(dns: &Dns, name: &str, control: Option<&str>) -> NameLook {
    let signing = Signing {
        identities: &[],
        account: None,
        method: "http-01",
    };
    dns.look(name, &[THERE], &signing, control).await
}

#[tokio::test]
async fn what_is_not_there_is_told_from_servers_that_fail_and_from_what_is_there() {
    let dns = Dns::new(&[serve(build_answer).await]).unwrap();
    let there = look(&dns, "www.example", None).await;
    assert_eq!(there.found(), [THERE]);
    assert_eq!(there.ipv6, Answer::Addresses(Vec::new()));
    assert!(there.listeners.is_empty(), "{there:?}");
    assert_eq!(
        look(&dns, "missing.example", None).await.ipv4,
        Answer::NoName
    );
    let broken = look(&dns, "broken.example", None).await;
    assert_eq!(broken.ipv4, Answer::ServerFailure);
}

#[tokio::test]
async fn servers_that_fail_for_a_name_that_must_be_there_tell_nothing() {
    let dns = Dns::new(&[serve(build_answer).await]).unwrap();
    let alone = look(&dns, "broken.example", Some("ca.example")).await;
    assert_eq!(alone.ipv4, Answer::ServerFailure);
    let all = look(&dns, "broken.example", Some("broken.ca.example")).await;
    assert_eq!((all.ipv4, all.ipv6), (Answer::Unknown, Answer::Unknown));
}

#[tokio::test]
async fn a_server_that_never_answers_tells_nothing_within_some_seconds() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::new(&[silent.local_addr().unwrap()]).unwrap();
    let begun = Instant::now();
    let bound = Duration::from_secs(20);
    let seen = timeout(bound, look(&dns, "www.example", None)).await;
    let seen = seen.unwrap_or_else(|_| panic!("no end within {bound:?}"));
    println!("without an answer: {:?}", begun.elapsed());
    assert_eq!((seen.ipv4, seen.ipv6), (Answer::Unknown, Answer::Unknown));
}

#[tokio::test]
async fn dns_is_asked_nothing_about_an_address() {
    let asked = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::new(&[asked.local_addr().unwrap()]).unwrap();
    let identities = ["ca.example".to_owned()];
    let signing = Signing {
        identities: &identities,
        account: None,
        method: "http-01",
    };
    for address in [THERE, "2001:db8::1".parse().unwrap()] {
        let look = look(&dns, &address.to_string(), Some("ca.example")).await;
        assert_eq!((look.found(), look.alias.clone()), (vec![address], None));
        let caa = dns.check_caa(&address.to_string(), &signing).await;
        assert_eq!((caa, &look.caa), (CaaAnswer::Allowed, &CaaAnswer::Allowed));
    }
    let question = asked.try_recv(&mut [0; 1024]);
    assert!(question.is_err(), "{question:?}");
    // It counts: a name is asked about.
    let asking = tokio::spawn(async move { look(&dns, "www.example", None).await });
    let bound = Duration::from_secs(20);
    let question = timeout(bound, asked.recv(&mut [0; 1024])).await;
    asking.abort();
    assert!(matches!(question, Ok(Ok(1..))), "{question:?}");
}
