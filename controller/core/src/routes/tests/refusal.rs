//! Admission that refuses, played: what is tried next, and how few writes it costs.

use super::*;

/// Certificates `c0`, `c1`, … of one namespace, each with a name of its own.
fn many(count: usize) -> Vec<CertificateChallenges> {
    (0..count)
        .map(|n| {
            let (host, token) = (format!("h{n}.example.com"), format!("t{n}"));
            of_class(
                "contour",
                certificate(&format!("shop/c{n}"), &[(&host, &token)]),
            )
        })
        .collect()
}

/// Applies the plan until nothing but time would change anything: gives each write as taken or not, and the hosts of what waits.
fn play(
    open: &[CertificateChallenges],
    refusals: &mut Refusals,
    is_taken: impl Fn(&str, &str) -> bool,
) -> (Vec<bool>, BTreeSet<String>) {
    let index = IngressIndex::new([], [&class("contour", true)]);
    let mut there: BTreeMap<String, Ingress> = BTreeMap::new();
    let mut writes = Vec::new();
    let mut waiting: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    loop {
        let plan = plan_routes(open, &index, &solver(&["198.18.1.5"]), refusals);
        let mut again = false;
        for ingress in plan.namespaces["shop"].owned_by("u").1 {
            let name = ingress.metadata.name.clone().unwrap();
            if there.get(&name) == Some(&ingress) || waiting.contains_key(&name) {
                continue;
            }
            let rules = ingress.spec.as_ref().unwrap().rules.iter().flatten();
            let mut hosts: BTreeSet<(String, String)> = BTreeSet::new();
            for rule in rules {
                for path in &rule.http.as_ref().unwrap().paths {
                    hosts.insert((rule.host.clone().unwrap(), path.path_type.clone()));
                }
            }
            let good = hosts
                .iter()
                .all(|(host, path_type)| is_taken(host, path_type));
            writes.push(good);
            let place = &plan.places[&ObjectKey::new("shop", &name)];
            if good {
                refusals.accept(place);
                there.insert(name, ingress);
            } else if refusals.refuse(place) == Verdict::Again {
                again = true;
                break;
            } else {
                waiting.insert(name, hosts.into_iter().map(|(host, _)| host).collect());
            }
        }
        if !again {
            return (writes, waiting.into_values().flatten().collect());
        }
    }
}

#[test]
fn a_path_type_that_is_refused_gives_way_to_the_next_and_is_not_tried_again() {
    let mut refusals = Refusals::default();
    let strict = |_: &str, path_type: &str| path_type == "ImplementationSpecific";
    let (writes, waiting) = play(&many(3), &mut refusals, strict);
    assert_eq!(
        (writes, waiting),
        (vec![false, false, true], BTreeSet::new())
    );
    let (writes, _) = play(&many(4), &mut refusals, strict);
    assert_eq!(writes, [true]);
    // Nothing is open for a while: the type is remembered all the same.
    refusals.retain(|_| false);
    assert_eq!(play(&many(1), &mut refusals, strict).0, [true]);
}

#[test]
fn one_refused_host_among_a_hundred_holds_back_its_own_certificate_only() {
    let mut refusals = Refusals::default();
    let bad = |host: &str, _: &str| host != "h42.example.com";
    let (writes, waiting) = play(&many(100), &mut refusals, bad);
    assert_eq!(waiting, BTreeSet::from(["h42.example.com".to_owned()]));
    assert!(writes.len() <= 40, "{} writes", writes.len());
    // It stands alone, so what is opened beside it is not refused with it.
    let (writes, waiting) = play(&many(100), &mut refusals, bad);
    assert_eq!(
        (writes.iter().filter(|good| !**good).count(), waiting.len()),
        (1, 1)
    );
}

#[test]
fn a_host_that_is_refused_beside_a_path_type_that_is_refused_is_found() {
    let mut refusals = Refusals::default();
    let rule = |host: &str, path_type: &str| host != "h1.example.com" && path_type != "Exact";
    let (_, waiting) = play(&many(5), &mut refusals, rule);
    assert_eq!(waiting, BTreeSet::from(["h1.example.com".to_owned()]));
}

#[test]
fn a_refusal_that_is_about_nothing_in_the_routes_ends_after_few_writes() {
    let mut refusals = Refusals::default();
    let (writes, waiting) = play(&many(200), &mut refusals, |_, _| false);
    assert_eq!(waiting.len(), 200);
    assert!(writes.len() <= 100, "{} writes", writes.len());
    // And all is well when it is over.
    let (_, waiting) = play(&many(200), &mut refusals, |_, _| true);
    assert!(waiting.is_empty());
}

#[test]
fn what_was_parted_is_together_again_once_nothing_is_open() {
    let mut refusals = Refusals::default();
    let (_, waiting) = play(&many(4), &mut refusals, |host, _| host != "h1.example.com");
    assert_eq!(waiting.len(), 1);
    refusals.retain(|_| false);
    assert_eq!(play(&many(4), &mut refusals, |_, _| true).0, [true]);
}

#[test]
fn two_that_wait_for_one_challenge_are_not_parted_for_ever() {
    let mut refusals = Refusals::default();
    let open = ["shop/a", "shop/b"]
        .map(|k| of_class("contour", certificate(k, &[("x.example.com", "t")])));
    let (writes, waiting) = play(&open, &mut refusals, |_, _| false);
    assert_eq!((writes.len(), waiting.len()), (3, 1));
}
