//! The path of a challenge in a user's own Ingress: brought there, taken away, and fought over.

use super::*;

const SITE: &str = "ingresses/shop/site";

/// A cluster with a user's Ingress, and a Certificate whose issuer wants the path in it.
fn world() -> (World, Value) {
    let world = World::new();
    world.server.put(
        SITE,
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": { "managedFields": [{
                "manager": "gitops", "operation": "Apply", "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:rules": {} } },
            }] },
            "spec": { "ingressClassName": "contour", "rules": [{ "host": "www.example.com", "http": { "paths": [{
                "path": "/", "pathType": "Prefix", "backend": { "service": { "name": "shop", "port": { "number": 80 } } },
            }] } }] },
        }),
    );
    let spec = world.server.get(SITE).unwrap()["spec"].clone();
    (world, spec)
}

fn in_place() -> CertificateChallenges {
    CertificateChallenges {
        edit_in_place: Some(true),
        ..open("shop/web", &["www.example.com"])
    }
}

fn spec(world: &World) -> Value {
    world.server.get(SITE).unwrap()["spec"].clone()
}

async fn until_restored(world: &World, before: &Value) {
    world
        .until("the Ingress is as it was", |w| {
            (spec(w) == *before).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_path_goes_into_the_users_ingress_by_one_write_and_out_by_one() {
    let (world, before) = world();
    world.projections.set(in_place());
    world.until_applied("shop/web").await;
    let paths = spec(&world)["rules"][0]["http"]["paths"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(paths.len(), 2);
    assert_eq!(paths[0]["backend"]["service"]["name"], service_name("shop"));
    let ingresses: Vec<String> = world
        .written(0)
        .into_iter()
        .filter(|w| w.contains("ingresses/"))
        .collect();
    assert_eq!(
        ingresses,
        [format!("PATCH {SITE}")],
        "no Ingress of our own"
    );
    world.assert_silence(Duration::from_mins(5)).await;

    world.projections.clear(&key("shop/web"));
    until_restored(&world, &before).await;
    world.assert_silence(Duration::from_mins(5)).await;
    let edits = world
        .written(0)
        .into_iter()
        .filter(|w| w.ends_with(SITE))
        .count();
    assert_eq!(edits, 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_path_of_a_certificate_that_is_gone_is_taken_away() {
    let (world, before) = world();
    world.projections.set(in_place());
    world.until_applied("shop/web").await;
    let world = world.restarted(&[]);
    until_restored(&world, &before).await;
    world.assert_silence(Duration::from_mins(5)).await;
}

#[tokio::test(start_paused = true)]
async fn an_ingress_that_goes_away_leaves_nothing_to_do() {
    let (world, _) = world();
    world.projections.set(in_place());
    world.until_applied("shop/web").await;
    world.server.remove(SITE);
    // Nobody serves the name any more: it has a route of our own.
    world
        .until("a route of our own", |w| ingress_of(&w.server, "shop"))
        .await;
    world.until_applied("shop/web").await;
    world.projections.clear(&key("shop/web"));
    world
        .until("the namespace is empty", |w| {
            (!w.server.names().iter().any(|n| n.contains("/shop/"))).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_path_away_each_time_is_named_and_fought_ever_less() {
    let (world, before) = world();
    world.projections.set(in_place());
    world.until_applied("shop/web").await;
    let start = Instant::now();
    let deadline = start + Duration::from_mins(10);
    let mut told = None;
    while Instant::now() < deadline {
        if spec(&world) != before {
            world.server.edit(SITE, |i| i["spec"] = before.clone());
        }
        if let Presentation::Failed { message } = world.projections.presented(&key("shop/web")) {
            told.get_or_insert(message);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = told.unwrap();
    assert!(
        told.starts_with("Ingress shop/site is changed back each time, 3 times so far, by the field manager gitops: "),
        "{told}"
    );
    let edits = world
        .written(0)
        .into_iter()
        .filter(|w| w.ends_with(SITE))
        .count();
    assert!((4..=16).contains(&edits), "{edits} edits in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn somebody_who_writes_in_between_is_not_overwritten() {
    let (world, _) = world();
    world.server.edit_before_patch(SITE, |ingress| {
        ingress["spec"]["rules"][0]["host"] = json!("*.example.com");
    });
    world.projections.set(in_place());
    world.until_applied("shop/web").await;
    let rules = spec(&world)["rules"].as_array().unwrap().clone();
    assert_eq!(rules.len(), 1, "{rules:#?}");
    assert_eq!(rules[0]["host"], "*.example.com");
    assert_eq!(rules[0]["http"]["paths"].as_array().unwrap().len(), 2);
}
