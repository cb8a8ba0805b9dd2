use super::*;
use crate::dns::tests::serve;

const OURS: &str = "ca.example";
const CNAME: u8 = 5;
const CAA: u16 = 257;

/// What a name has.
enum Has {
    /// The server fails.
    Failure,
    /// CAA records that let this CA sign alone.
    Issue(&'static str),
    /// It is an alias.
    Alias(&'static str),
    /// It is there.
    Nothing,
}

/// All else is not there.
const ZONE: &[(&str, Has)] = &[
    ("test", Has::Nothing),
    ("shop.test", Has::Issue(OURS)),
    ("www.shop.test", Has::Alias("www.other.test")),
    ("bare.shop.test", Has::Alias("bare.other.test")),
    ("other.test", Has::Issue("other.example")),
    ("www.other.test", Has::Issue("other.example")),
    ("bare.other.test", Has::Nothing),
    ("broken.test", Has::Failure),
    ("own.broken.test", Has::Issue("other.example")),
    ("lost.test", Has::Alias("broken.test")),
];

fn find(name: &str) -> Option<&'static Has> {
    let found = ZONE.iter().find(|(owner, _)| *owner == name);
    found.map(|(_, has)| has)
}

/// RFC 1035 §3.1.
fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

fn record(owner: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let fixed = [
        &kind.to_be_bytes()[..],
        &[0, 1, 0, 0, 0, 60],
        &length.to_be_bytes(),
    ]
    .concat();
    [&wire(owner), &fixed[..], data].concat()
}

/// RFC 1035 §4.1, RFC 8659 §4.1.
fn build_answer(question: &[u8]) -> Vec<u8> {
    let (mut labels, mut end) = (Vec::new(), 12);
    while question[end] != 0 {
        let next = end + usize::from(question[end]) + 1;
        labels.push(String::from_utf8_lossy(&question[end + 1..next]).to_lowercase());
        end = next;
    }
    let is_caa = question[end + 1..end + 3] == CAA.to_be_bytes();
    let (mut at, mut records) = (labels.join("."), Vec::new());
    if let Some(Has::Alias(target)) = find(&at) {
        records.push(record(&at, CNAME.into(), &wire(target)));
        (*target).clone_into(&mut at);
    }
    let code = match find(&at) {
        Some(Has::Failure) => 2,
        Some(Has::Issue(ca)) if is_caa => {
            let data = [&[0, 5][..], b"issue", ca.as_bytes()].concat();
            records.push(record(&at, CAA, &data));
            0
        }
        Some(_) => 0,
        None => 3,
    };
    let count = u8::try_from(records.len()).unwrap();
    let header = [0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    let answer = [&question[..2], &header, &question[12..end + 5]].concat();
    [answer, records.concat()].concat()
}

async fn check(dns: &Dns, name: &str) -> CaaAnswer {
    let identities = [OURS.to_owned()];
    let signing = Signing {
        identities: &identities,
        account: None,
        method: "http-01",
    };
    dns.check_caa(name, &signing).await
}

#[tokio::test]
async fn an_aliass_records_are_those_of_its_target_and_above_it_those_of_its_own_parent() {
    let dns = Dns::new(&[serve(build_answer).await]).unwrap();
    assert_eq!(check(&dns, "shop.test").await, CaaAnswer::Allowed);
    let of_target = check(&dns, "www.shop.test").await;
    assert!(
        matches!(&of_target, CaaAnswer::Forbidden(why) if why.contains("other.example")),
        "{of_target:?}"
    );
    // The target has none, and who stands above the target says nothing.
    assert_eq!(check(&dns, "bare.shop.test").await, CaaAnswer::Allowed);
    let above = check(&dns, "bare.other.test").await;
    assert!(matches!(above, CaaAnswer::Forbidden(_)), "{above:?}");
}

#[tokio::test]
async fn a_server_that_fails_tells_nothing_and_a_name_that_is_not_there_has_no_records() {
    let dns = Dns::new(&[serve(build_answer).await]).unwrap();
    for name in ["gone.test", "www.gone.test", "new.shop.test"] {
        assert_eq!(check(&dns, name).await, CaaAnswer::Allowed, "{name}");
    }
    for (name, at) in [
        ("broken.test", "broken.test"),
        ("www.broken.test", "broken.test"),
        ("lost.test", "lost.test"),
    ] {
        let answer = check(&dns, name).await;
        let says = format!("the CAA records of {at} cannot be read");
        assert!(
            matches!(&answer, CaaAnswer::Unknown(why) if why.starts_with(&says)),
            "{name}: {answer:?}"
        );
    }
    // The closest records count, whatever becomes of those above.
    let own = check(&dns, "own.broken.test").await;
    assert!(matches!(own, CaaAnswer::Forbidden(_)), "{own:?}");
}
