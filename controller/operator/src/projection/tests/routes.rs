use super::*;

#[tokio::test(start_paused = true)]
async fn one_name_is_presented_at_once_by_four_writes_and_then_there_is_silence() {
    let world = World::new();
    let start = Instant::now();
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    assert_eq!(
        world.projections.presented(&key("shop/web")),
        Presentation::Pending
    );
    world.until_applied("shop/web").await;
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );

    let (ingress, content) = ingress_of(&world.server, "shop").unwrap();
    let written = world.written(0);
    assert_eq!(
        written,
        [
            format!("PATCH {CONFIG_MAP}"),
            format!("PATCH {}", service_of("shop")),
            format!("PATCH {}", slice_of("shop")),
            format!("PATCH {ingress}"),
        ],
        "each is there before the one that leads to it"
    );

    let service = world.server.get(&service_of("shop")).unwrap();
    assert_eq!(
        service["metadata"]["ownerReferences"][0]["uid"],
        "uid-of-shop/web"
    );
    assert_eq!(
        content["metadata"]["ownerReferences"][0]["uid"],
        service["metadata"]["uid"]
    );
    let slice = world.server.get(&slice_of("shop")).unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["198.18.1.5"]));

    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.assert_silence(Duration::from_mins(5)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_open_is_removed_by_two_writes_and_nothing_stays() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["www.example.com", "example.com"]));
    world.until_applied("shop/web").await;
    let before = world.server.requests().len();
    world.projections.clear(&key("shop/web"));
    assert_eq!(
        world.projections.presented(&key("shop/web")),
        Presentation::Pending
    );
    world
        .until("the namespace is empty", |w| {
            (!w.server.names().iter().any(|n| n.contains("/shop/"))).then_some(())
        })
        .await;
    world.assert_silence(Duration::from_mins(2)).await;
    let written: BTreeSet<_> = world.written(before).into_iter().collect();
    let want = [
        format!("PATCH {CONFIG_MAP}"),
        format!("DELETE {}", service_of("shop")),
    ];
    assert_eq!(written, BTreeSet::from(want));
    assert_eq!(
        world.server.get(CONFIG_MAP).unwrap()["data"]["challenges.json"],
        "[]"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hundred_orders_at_once_cost_at_most_twenty_route_writes() {
    let world = World::new();
    let certificates: Vec<String> = (0..100).map(|n| format!("shop/c{n}")).collect();
    for (n, certificate) in certificates.iter().enumerate() {
        world
            .projections
            .set(open(certificate, &[&format!("h{n}.example.com")]));
        // Orders are placed and validated as the CA answers.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(done) = n.checked_sub(50) {
            world.projections.clear(&key(&certificates[done]));
        }
    }
    for certificate in &certificates[50..] {
        world.until_applied(certificate).await;
    }
    for certificate in &certificates {
        world.projections.clear(&key(certificate));
    }
    world
        .until("all is gone", |w| {
            let left = w.server.get(CONFIG_MAP)?["data"]["challenges.json"] != "[]";
            (!left && w.server.get(&service_of("shop")).is_none()).then_some(())
        })
        .await;
    world.assert_silence(Duration::from_mins(1)).await;
    let routes: Vec<String> = world
        .written(0)
        .into_iter()
        .filter(|r| !r.contains("configmaps"))
        .collect();
    assert!(routes.len() <= 20, "{}: {routes:#?}", routes.len());
    assert_gaps(&world.server.requests(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn changes_in_a_burst_are_one_write_each_half_second_and_the_first_is_at_once() {
    let world = World::new();
    world
        .projections
        .set(open("shop/first", &["first.example.com"]));
    world.until_applied("shop/first").await;
    let start = Instant::now();
    for n in 0..20 {
        world
            .projections
            .set(open(&format!("shop/c{n}"), &[&format!("h{n}.example.com")]));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in 0..20 {
        world.until_applied(&format!("shop/c{n}")).await;
    }
    assert!(
        start.elapsed() <= Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
    assert_gaps(&world.server.requests(), Duration::from_millis(500));
    let (_, ingress) = ingress_of(&world.server, "shop").unwrap();
    assert_eq!(hosts_in(&ingress).len(), 21);
    // The owners follow later, with patience.
    world
        .until("every Certificate owns the Service", |w| {
            let service = w.server.get(&service_of("shop"))?;
            (service["metadata"]["ownerReferences"].as_array()?.len() == 21).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_challenge_less_keeps_the_certificate_presented() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["a.example.com", "b.example.com"]));
    world.until_applied("shop/web").await;
    world.projections.set(open("shop/web", &["a.example.com"]));
    assert!(matches!(
        world.projections.presented(&key("shop/web")),
        Presentation::Applied { .. }
    ));
    world
        .until("the rule is gone", |w| {
            let (_, ingress) = ingress_of(&w.server, "shop")?;
            (hosts_in(&ingress).len() == 1).then_some(())
        })
        .await;
    world
        .projections
        .set(open("shop/web", &["a.example.com", "c.example.com"]));
    assert_eq!(
        world.projections.presented(&key("shop/web")),
        Presentation::Pending
    );
    world.until_applied("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_an_entry_stays_until_its_order_was_read_and_nothing_is_written() {
    let world = World::new();
    for certificate in ["shop/read", "shop/unread", "shop/deleted", "blog/done"] {
        world.projections.set(open(
            certificate,
            &[&format!("{}.example.com", key(certificate).name)],
        ));
    }
    for certificate in ["shop/read", "shop/unread", "shop/deleted", "blog/done"] {
        world.until_applied(certificate).await;
    }
    world.assert_silence(Duration::from_mins(1)).await;

    let world = world.restarted(&["shop/read", "shop/unread", "shop/deleted", "blog/done"]);
    world
        .projections
        .set(open("shop/read", &["read.example.com"]));
    world.until_applied("shop/unread").await;
    world.until_applied("shop/read").await;
    world.assert_silence(Duration::from_mins(1)).await;

    world.projections.clear(&key("blog/done"));
    world
        .projections
        .retain_existing(&["shop/read", "shop/unread", "blog/done"].map(key).into());
    world
        .until("what is read or gone is removed", |w| {
            let (_, ingress) = ingress_of(&w.server, "shop")?;
            let hosts: Vec<_> = hosts_in(&ingress).into_iter().collect();
            let blog = w.server.get(&service_of("blog"));
            (hosts == ["read.example.com", "unread.example.com"] && blog.is_none()).then_some(())
        })
        .await;
    let challenges = world.server.get(CONFIG_MAP).unwrap()["data"]["challenges.json"].to_string();
    assert!(
        challenges.contains("unread.example.com") && !challenges.contains("deleted"),
        "{challenges}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_the_first_listing_counts_more_than_what_was_left() {
    let world = World::new();
    for certificate in ["shop/done", "shop/gone", "shop/stays"] {
        world.projections.set(open(
            certificate,
            &[&format!("{}.example.com", key(certificate).name)],
        ));
    }
    world.until_applied("shop/stays").await;
    let world = world.restarted(&["shop/done", "shop/stays"]);
    world.projections.clear(&key("shop/done"));
    world
        .until("only one stays", |w| {
            let (_, ingress) = ingress_of(&w.server, "shop")?;
            (hosts_in(&ingress) == BTreeSet::from(["stays.example.com".to_owned()])).then_some(())
        })
        .await;
    world.until_applied("shop/stays").await;
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_nobody_looked_is_taken_away_and_never_written() {
    let world = World::new();
    for certificate in ["shop/web", "gone/web"] {
        let host = format!("www.{}.example.com", key(certificate).namespace);
        world.projections.set(open(certificate, &[&host]));
    }
    for certificate in ["shop/web", "gone/web"] {
        world.until_applied(certificate).await;
    }
    // As the garbage collector and the end of a namespace leave it.
    let (ingress, _) = ingress_of(&world.server, "gone").unwrap();
    for object in [service_of("gone"), slice_of("gone"), ingress] {
        world.server.remove(&object);
    }
    let before = world.server.requests().len();
    let (projections, task) = {
        let server = &world.server;
        Projections::new(
            server.client(),
            &server.client(),
            &config(Some(Duration::from_mins(10))),
        )
    };
    let server = world.server.clone();
    drop(world);
    let world = World {
        server,
        projections,
        task: tokio::spawn(task.run()),
    };
    // The Certificates are listed later than everything else.
    world.assert_silence(Duration::from_mins(1)).await;
    world
        .projections
        .retain_existing(&["shop/web"].map(key).into());
    world
        .until("what is gone is not answered any more", |w| {
            let challenges = w.server.get(CONFIG_MAP)?["data"]["challenges.json"].to_string();
            (!challenges.contains("www.gone")).then_some(())
        })
        .await;
    world.until_applied("shop/web").await;
    let since = world.server.requests().split_off(before);
    assert!(
        since
            .iter()
            .all(|change| !format!("{change:?}").contains("gone/")),
        "{since:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deletes_or_changes_is_mended_and_a_fight_slows_down() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.until_applied("shop/web").await;
    let (ingress, _) = ingress_of(&world.server, "shop").unwrap();

    for object in [CONFIG_MAP, &service_of("shop"), &slice_of("shop"), &ingress] {
        tokio::time::sleep(Duration::from_mins(1)).await;
        world.server.remove(object);
        world
            .until(&format!("{object} is there again"), |w| {
                w.server.get(object)
            })
            .await;
        world.until_applied("shop/web").await;
    }

    tokio::time::sleep(Duration::from_mins(11)).await;
    let before = world.server.requests().len();
    let end = Instant::now() + Duration::from_mins(5);
    while Instant::now() < end {
        let spoiled = world
            .server
            .get(&ingress)
            .is_some_and(|i| i["spec"]["ingressClassName"] == "x");
        if !spoiled {
            world
                .server
                .edit(&ingress, |i| i["spec"]["ingressClassName"] = json!("x"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writes = world.server.requests().len() - before;
    assert!(
        (3..=12).contains(&writes),
        "{writes} writes in a fight of five minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_admission_alters_is_applied_once() {
    let world = World::new();
    world.server.alter(|object| {
        if object["kind"] == "Ingress" {
            object["spec"]["rules"][0]["host"] = json!("altered.example.com");
        }
    });
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world
        .until("the Ingress is there", |w| ingress_of(&w.server, "shop"))
        .await;
    world.assert_silence(Duration::from_mins(5)).await;
    assert_eq!(
        world.projections.presented(&key("shop/web")),
        Presentation::Pending
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_the_api_servers_words_and_holds_back_nobody_else() {
    let world = World::new();
    world.server.refuse(
        "PATCH ingresses/bad/",
        403,
        "admission webhook \"p\" denied the request: no",
    );
    world.projections.set(open("bad/web", &["bad.example.com"]));
    world
        .projections
        .set(open("good/web", &["good.example.com"]));
    world.until_applied("good/web").await;
    let message = world.until_failed("bad/web").await;
    assert!(message.starts_with("Ingress bad/contour-"), "{message}");
    assert!(
        message.ends_with("cannot be written: admission webhook \"p\" denied the request: no"),
        "{message}"
    );

    let before = world.server.requests().len();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let tries = world.server.requests().len() - before;
    assert!((8..=16).contains(&tries), "{tries} tries in ten minutes");
    world.server.relent();
    world.until_applied("bad/web").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_ends_after_its_deadline_and_holds_back_nobody_else() {
    let world = World::new();
    world
        .server
        .delay("PATCH services/slow/", Duration::from_hours(1));
    world
        .projections
        .set(open("slow/web", &["slow.example.com"]));
    world
        .projections
        .set(open("good/web", &["good.example.com"]));
    world.until_applied("good/web").await;
    let message = world.until_failed("slow/web").await;
    assert!(
        message.ends_with("the API server did not answer within 15 s"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_class_the_certificate_is_told_why() {
    let server = ApiServer::default();
    server.put(SOLVER_SLICE, solver_slice(&["198.18.1.5"]));
    let world = World::on(server, None, &[]);
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    let message = world.until_failed("shop/web").await;
    assert!(message.starts_with("no ingress class: "), "{message}");
    // A class that comes later is taken at once.
    world.server.put(
        "ingresses/other/site",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {},
            "spec": { "ingressClassName": "contour", "rules": [{ "host": "*.example.com" }] },
        }),
    );
    world.until_applied("shop/web").await;
    let (_, ingress) = ingress_of(&world.server, "shop").unwrap();
    assert_eq!(
        hosts_in(&ingress),
        BTreeSet::from(["*.example.com".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn entry_points_are_those_of_the_site_else_of_the_route() {
    let world = World::new();
    let status = |ip: &str| json!({ "loadBalancer": { "ingress": [{ "ip": ip }, { "hostname": "lb.example" }] } });
    world.server.put(
        "ingresses/other/site",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {},
            "spec": { "ingressClassName": "contour", "rules": [{ "host": "a.example.com" }] },
            "status": status("198.18.0.2"),
        }),
    );
    world
        .projections
        .set(open("shop/web", &["a.example.com", "b.example.com"]));
    world.until_applied("shop/web").await;
    let (route, _) = ingress_of(&world.server, "shop").unwrap();
    world
        .server
        .edit(&route, |i| i["status"] = status("198.18.0.3"));
    let entry_points = world
        .until("the route has an address", |w| {
            match w.projections.presented(&key("shop/web")) {
                Presentation::Applied { entry_points } => {
                    (!entry_points["b.example.com"].is_empty()).then_some(entry_points)
                }
                Presentation::Pending | Presentation::Failed { .. } => None,
            }
        })
        .await;
    assert_eq!(
        entry_points["a.example.com"],
        ["198.18.0.2".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        entry_points["b.example.com"],
        ["198.18.0.3".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[tokio::test(start_paused = true)]
async fn the_certificates_concerned_are_woken_and_no_others() {
    let world = World::new();
    world
        .projections
        .set(open("shop/old", &["old.example.com"]));
    world.until_applied("shop/old").await;
    world
        .until("the solver is ready", |w| {
            (w.projections.solver() == SolverReadiness::Ready).then_some(())
        })
        .await;
    let mut changes = world.projections.changes();
    world
        .projections
        .set(open("shop/new", &["new.example.com"]));
    assert_eq!(changes.next().await, Some(key("shop/new")));
    world.until_applied("shop/new").await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let more: Vec<_> = std::iter::from_fn(|| changes.next().now_or_never().flatten()).collect();
    assert!(more.iter().all(|k| *k == key("shop/new")), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_borrowed_label_makes_nobodys_object_ours() {
    let world = World::new();
    let label = json!({ "labels": { "evercert.dev/component": "route" } });
    world.server.put(
        "services/shop/their-own",
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": label, "spec": {} }),
    );
    world.server.put(
        "ingresses/shop/their-own",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": label,
            "spec": { "ingressClassName": "contour", "rules": [{ "host": "their.example.com" }] },
        }),
    );
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.until_applied("shop/web").await;
    world.projections.clear(&key("shop/web"));
    world
        .until("ours is gone", |w| {
            w.server.get(&service_of("shop")).is_none().then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.server.get("services/shop/their-own").is_some());
    assert!(world.server.get("ingresses/shop/their-own").is_some());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_watched_is_told() {
    let server = ApiServer::default();
    server.refuse(
        "GET ingresses",
        403,
        "ingresses.networking.k8s.io is forbidden: User \"x\" cannot list",
    );
    let world = World::on(server, None, &[]);
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    let message = world.until_failed("shop/web").await;
    assert_eq!(
        message,
        "Ingresses cannot be watched: ingresses.networking.k8s.io is forbidden: User \"x\" cannot list"
    );
    assert!(world.server.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_again_amid_its_removal_counts_as_presented_when_it_is_back() {
    let world = World::new();
    let certificate = open("shop/web", &["www.example.com"]);
    world.projections.set(certificate.clone());
    world.until_applied("shop/web").await;
    let before = world.server.requests().len();
    world.projections.clear(&key("shop/web"));
    for part in ["DELETE services/shop", "PATCH configmaps"] {
        world.server.delay(part, Duration::from_millis(300));
    }
    world
        .until("the removal is under way", |w| {
            w.server.requests().get(before + 1).cloned()
        })
        .await;
    world.projections.set(certificate);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        world.projections.presented(&key("shop/web")),
        Presentation::Pending
    );
    world.until_applied("shop/web").await;
    let (_, ingress) = ingress_of(&world.server, "shop").unwrap();
    assert_eq!(
        hosts_in(&ingress),
        BTreeSet::from(["www.example.com".to_owned()])
    );
    let service = world.server.get(&service_of("shop")).unwrap();
    assert_eq!(
        ingress["metadata"]["ownerReferences"][0]["uid"],
        service["metadata"]["uid"]
    );
    let challenges = world.server.get(CONFIG_MAP).unwrap()["data"]["challenges.json"].to_string();
    assert!(challenges.contains("www.example.com"), "{challenges}");
}
