//! Admission that refuses a path type or a host: what else is tried, and whom it holds back.

use super::*;

const STRICT: &str = "pathType Exact is refused here";
const NOT_THIS_HOST: &str = "bad.example.com is nobody's here";

fn paths(ingress: &Value) -> impl Iterator<Item = &Value> {
    let rules = ingress["spec"]["rules"].as_array().into_iter().flatten();
    rules.flat_map(|rule| rule["http"]["paths"].as_array().into_iter().flatten())
}

fn strict(object: &Value) -> Option<&'static str> {
    let is_exact = object["kind"] == "Ingress" && paths(object).any(|p| p["pathType"] == "Exact");
    is_exact.then_some(STRICT)
}

fn not_this_host(object: &Value) -> Option<&'static str> {
    let is_bad = object["kind"] == "Ingress" && hosts_in(object).contains("bad.example.com");
    is_bad.then_some(NOT_THIS_HOST)
}

fn ingresses(server: &ApiServer, namespace: &str) -> Vec<String> {
    let prefix = format!("ingresses/{namespace}/");
    let mut names = server.names();
    names.retain(|n| n.starts_with(&prefix));
    names
}

#[tokio::test(start_paused = true)]
async fn a_refused_path_type_gives_way_at_once_and_is_not_tried_again() {
    let world = World::new();
    world.server.deny(strict);
    let start = Instant::now();
    world.projections.set(open("shop/a", &["a.example.com"]));
    world.until_applied("shop/a").await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    let (name, content) = ingress_of(&world.server, "shop").unwrap();
    assert!(
        paths(&content).all(|p| p["pathType"] == "Prefix"),
        "{content}"
    );
    let writes = |skip| {
        let written = world.written(skip);
        written.iter().filter(|w| w.ends_with(&name)).count()
    };
    assert_eq!(writes(0), 2);

    let before = world.server.requests().len();
    world.projections.set(open("shop/b", &["b.example.com"]));
    world.until_applied("shop/b").await;
    assert_eq!(
        writes(before),
        1,
        "what was refused once is not tried again"
    );

    for certificate in ["shop/a", "shop/b"] {
        world.projections.clear(&key(certificate));
    }
    world
        .until("the namespace is empty", |w| {
            (!w.server.names().iter().any(|n| n.contains("/shop/"))).then_some(())
        })
        .await;
    let before = world.server.requests().len();
    world.projections.set(open("shop/c", &["c.example.com"]));
    world.until_applied("shop/c").await;
    assert_eq!(writes(before), 1, "nor when a new order begins");
}

#[tokio::test(start_paused = true)]
async fn one_refused_host_holds_back_its_own_certificate_and_no_other() {
    let world = World::new();
    world.server.deny(not_this_host);
    let good: Vec<String> = (0..9).map(|n| format!("shop/c{n}")).collect();
    for (n, certificate) in good.iter().enumerate() {
        world
            .projections
            .set(open(certificate, &[&format!("h{n}.example.com")]));
    }
    world
        .projections
        .set(open("shop/bad", &["bad.example.com"]));
    let start = Instant::now();
    for certificate in &good {
        world.until_applied(certificate).await;
    }
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let message = world.until_failed("shop/bad").await;
    assert!(
        message.ends_with(&format!("cannot be written: {NOT_THIS_HOST}")),
        "{message}"
    );
    for certificate in &good {
        world.until_applied(certificate).await;
    }
    let routes = world.written(0).len();
    assert!(routes <= 30, "{routes} writes");

    // It is tried again ever more rarely, and the others are not written again for it.
    let before = world.server.requests().len();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let tries = world.written(before);
    assert!((8..=16).contains(&tries.len()), "{tries:#?}");
    let one: BTreeSet<&String> = tries.iter().collect();
    assert_eq!(one.len(), 1, "{one:?}");

    world.server.relent();
    world.until_applied("shop/bad").await;
    for certificate in good.iter().map(String::as_str).chain(["shop/bad"]) {
        world.projections.clear(&key(certificate));
    }
    world
        .until("no route is left", |w| {
            ingresses(&w.server, "shop").is_empty().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_refused_later_takes_no_route_away_from_the_others() {
    let world = World::new();
    world.server.deny(not_this_host);
    for n in 0..4 {
        world
            .projections
            .set(open(&format!("shop/c{n}"), &[&format!("h{n}.example.com")]));
    }
    for n in 0..4 {
        world.until_applied(&format!("shop/c{n}")).await;
    }
    world
        .projections
        .set(open("shop/bad", &["bad.example.com"]));
    let deadline = Instant::now() + Duration::from_secs(30);
    // Each path stands in some Ingress at every moment.
    while Instant::now() < deadline {
        let there: BTreeSet<String> = ingresses(&world.server, "shop")
            .iter()
            .filter_map(|name| world.server.get(name))
            .flat_map(|ingress| hosts_in(&ingress))
            .collect();
        for n in 0..4 {
            assert!(there.contains(&format!("h{n}.example.com")), "{there:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.until_failed("shop/bad").await;
}
