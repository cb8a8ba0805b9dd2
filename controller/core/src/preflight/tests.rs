use super::*;

const HERE: &str = "198.18.0.2";
const THERE: &str = "198.18.0.1";
const HERE_V6: &str = "2001:db8::2";
const THERE_V6: &str = "2001:db8::1";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn look(ipv4: &[&str], ipv6: &[&str]) -> NameLook {
    NameLook {
        ipv4: Answer::Addresses(ips(ipv4)),
        ipv6: Answer::Addresses(ips(ipv6)),
        alias: None,
        caa: CaaAnswer::Allowed,
        listeners: Vec::new(),
    }
}

fn answered(ipv4: Answer, ipv6: Answer) -> NameLook {
    NameLook {
        ipv4,
        ipv6,
        ..look(&[], &[])
    }
}

/// What is wrong with the Ingress at `wanted`, `listener` at every stranger.
fn wrong(mut look: NameLook, wanted: &[&str], listener: Listener) -> Option<Wrong> {
    let wanted = ips(wanted);
    let strangers = find_strangers(&look, &wanted, |a| !a.to_string().starts_with("10."));
    look.listeners = strangers.iter().map(|a| (*a, listener)).collect();
    find_wrong(&look, &wanted, &strangers)
}

#[test]
fn the_name_that_is_not_there_the_one_without_address_and_servers_that_fail_are_told_apart() {
    use Answer::{NoName, ServerFailure, Unknown};
    let none = || Answer::Addresses(Vec::new());
    let table = [
        (NoName, NoName, Some(Wrong::NoName(None))),
        (NoName, Unknown, Some(Wrong::NoName(None))),
        (none(), none(), Some(Wrong::NoAddress(None))),
        (ServerFailure, ServerFailure, Some(Wrong::ServerFailure)),
        (none(), ServerFailure, Some(Wrong::ServerFailure)),
        (Unknown, ServerFailure, None),
        (Unknown, none(), None),
        (Unknown, Unknown, None),
        (Answer::Addresses(ips(&[HERE])), ServerFailure, None),
    ];
    for (ipv4, ipv6, expected) in table {
        let look = answered(ipv4, ipv6);
        assert_eq!(find_wrong(&look, &[], &[]), expected, "{look:?}");
    }
}

#[test]
fn a_name_with_very_many_addresses_sends_nobody_there() {
    let many = |n: u8| -> Vec<IpAddr> { (1..=n).map(|i| [203, 0, 113, i].into()).collect() };
    let wanted = ips(&[HERE]);
    let asked = |n| {
        let look = answered(Answer::Addresses(many(n)), Answer::Addresses(Vec::new()));
        find_strangers(&look, &wanted, |_| true).len()
    };
    assert_eq!((asked(1), asked(8), asked(9)), (1, 8, 0));
}

#[test]
fn only_addresses_where_certainly_nobody_leads_on_to_the_ingress_are_wrong() {
    use Listener::{Refused, Silent, There};
    let elsewhere = || wrong(look(&[THERE], &[]), &[HERE], Refused);
    assert!(matches!(elsewhere(), Some(Wrong::Elsewhere { .. })));
    for listener in [There, Silent] {
        assert_eq!(wrong(look(&[THERE], &[]), &[HERE], listener), None);
    }
    let fine: &[(&[&str], &[&str], &[&str])] = &[
        (&[HERE], &[], &[HERE]),
        (&[HERE, THERE], &[], &[HERE]),
        (&[HERE], &[HERE_V6], &[HERE, HERE_V6]),
        // The Ingress has no address, a private one, or more than are kept.
        (&[THERE], &[], &[]),
        (&[THERE], &[], &["10.0.0.1"]),
        (&["10.0.0.1"], &[], &[HERE]),
        (
            &[THERE],
            &[],
            &[HERE, "198.18.0.3", "198.18.0.4", "198.18.0.5"],
        ),
    ];
    for (ipv4, ipv6, wanted) in fine {
        assert_eq!(wrong(look(ipv4, ipv6), wanted, Refused), None, "{ipv4:?}");
    }
}

#[test]
fn an_address_is_wrong_where_it_is_none_of_the_entry_points_and_nobody_listens() {
    for (address, others) in [(THERE, HERE), (THERE_V6, HERE_V6), (THERE_V6, HERE)] {
        let look = NameLook::of_address(address.parse().unwrap());
        assert_eq!(wrong(look.clone(), &[address], Listener::Refused), None);
        assert_eq!(wrong(look.clone(), &[others], Listener::There), None);
        assert_eq!(wrong(look.clone(), &[], Listener::Refused), None);
        let what = wrong(look, &[others], Listener::Refused).unwrap();
        let name = address.to_owned();
        assert_eq!(
            Trouble { name, what }.to_string(),
            format!(
                "{address} is no address of the cluster's entry point ({others}), and nobody listens there on port 80: remove it \
                 from spec.ipAddresses, or make it lead to the entry point"
            )
        );
    }
}

#[test]
fn ipv6_that_does_not_agree_with_ipv4_is_stale_unless_somebody_answers_there() {
    use Listener::{Refused, Silent, There};
    let stale = |wanted: &[&str], listener| {
        let found = wrong(look(&[HERE], &[THERE_V6]), wanted, listener);
        matches!(found, Some(Wrong::StaleIpv6 { .. }))
    };
    assert!(stale(&[HERE], Refused) && stale(&[HERE], Silent));
    assert!(!stale(&[HERE], There), "a way of its own over IPv6");
    assert!(stale(&[HERE, HERE_V6], There), "the Ingress has another");
    let both_elsewhere = wrong(look(&[THERE], &[THERE_V6]), &[HERE], Silent);
    assert_eq!(both_elsewhere, None, "a proxy has both");
}

#[test]
fn caa_records_count_where_the_addresses_are_good() {
    let forbidden = |ipv4: &[&str]| NameLook {
        caa: CaaAnswer::Forbidden("only b.example".into()),
        ..look(ipv4, &[])
    };
    let found = wrong(forbidden(&[HERE]), &[HERE], Listener::Refused);
    assert_eq!(found, Some(Wrong::Forbidden("only b.example".into())));
    let found = wrong(forbidden(&[THERE]), &[HERE], Listener::Refused);
    assert!(matches!(found, Some(Wrong::Elsewhere { .. })));
    let unknown = NameLook {
        caa: CaaAnswer::Unknown("no answer".into()),
        ..look(&[HERE], &[])
    };
    assert_eq!(wrong(unknown, &[HERE], Listener::Refused), None);
}

#[test]
fn each_trouble_says_what_was_seen_and_what_to_do() {
    let said = |what| {
        let name = "www.example".to_owned();
        Trouble { name, what }.to_string()
    };
    let (found, wanted) = (ips(&[THERE]), ips(&[HERE]));
    assert_eq!(
        [
            said(Wrong::NoName(None)),
            said(Wrong::NoName(Some("lb.example".into()))),
            said(Wrong::NoAddress(None)),
            said(Wrong::NoAddress(Some("lb.example".into()))),
            said(Wrong::ServerFailure),
            said(Wrong::Elsewhere {
                found,
                wanted: wanted.clone()
            }),
            said(Wrong::StaleIpv6 {
                found: ips(&[THERE_V6]),
                wanted
            }),
        ],
        [
            "DNS knows no www.example (NXDOMAIN): create an A or AAAA record for it that leads to the cluster's entry point",
            "www.example is an alias (CNAME) of lb.example, which DNS does not know (NXDOMAIN): create that one, or mend the alias",
            "www.example has neither an A nor an AAAA record: create one that leads to the cluster's entry point",
            "www.example is an alias (CNAME) of lb.example, which has neither an A nor an AAAA record: create one there, or mend the \
             alias",
            "the DNS servers of www.example fail (SERVFAIL): look at the zone's delegation, its servers and its DNSSEC signatures",
            "www.example leads to 198.18.0.1, where nobody listens on port 80, and its Ingress is at 198.18.0.2: mend the A and AAAA \
             records",
            "the AAAA record of www.example leads to 2001:db8::1, which is not its Ingress's (198.18.0.2), and a CA tries IPv6 first: \
             remove the AAAA record, or mend it",
        ]
    );
}

#[test]
fn a_domain_that_everybody_may_use_is_told_from_a_persons_own() {
    assert_eq!(find_shared_domain("shop.198-18-0-2.nip.io"), Some("nip.io"));
    assert_eq!(find_shared_domain("a.b.traefik.me"), Some("traefik.me"));
    assert_eq!(find_shared_domain("shop.example.org"), None);
    assert_eq!(find_shared_domain("notnip.io"), None);
    for domain in SHARED_DOMAINS {
        let name = format!("a.{domain}");
        assert_eq!(find_shared_domain(&name), Some(domain), "a public suffix");
    }
}
