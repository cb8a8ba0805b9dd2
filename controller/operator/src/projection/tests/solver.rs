use super::*;

#[tokio::test(start_paused = true)]
async fn the_solver_starts_when_it_is_wanted_and_those_who_wait_are_woken() {
    let world = World::new();
    world.server.remove(SOLVER_SLICE);
    assert_eq!(world.projections.solver(), SolverReadiness::Absent);
    world.assert_silence(Duration::from_mins(1)).await;

    let mut changes = world.projections.changes();
    world.projections.want_solver(&key("shop/web"));
    world
        .until("Deployment and Service are there", |w| {
            w.server
                .get(DEPLOYMENT)
                .and_then(|_| w.server.get(SOLVER_SERVICE))
        })
        .await;
    assert_eq!(changes.next().await, Some(key("shop/web")));
    let SolverReadiness::Starting { what, .. } = world.projections.solver() else {
        panic!("{:?}", world.projections.solver())
    };
    assert!(what.contains("Deployment"), "{what}");

    world.server.edit(DEPLOYMENT, |d| {
        d["status"] = json!({ "conditions": [
            { "type": "ReplicaFailure", "status": "True", "message": "exceeded quota: none" },
        ] });
    });
    world.until("the reason is told", |w| {
        matches!(w.projections.solver(), SolverReadiness::Starting { what, .. } if what.contains("exceeded quota: none"))
            .then_some(())
    })
    .await;
    world
        .server
        .put(SOLVER_SLICE, solver_slice(&["198.18.1.9"]));
    world
        .until("it is ready", |w| {
            (w.projections.solver() == SolverReadiness::Ready).then_some(())
        })
        .await;
    let woken: Vec<_> = std::iter::from_fn(|| changes.next().now_or_never().flatten()).collect();
    assert!(woken.contains(&key("shop/web")), "{woken:?}");

    world.projections.want_solver(&key("shop/web"));
    world.assert_silence(Duration::from_mins(5)).await;
}

/// Between the look of a Certificate and its waiting it may have become ready: nothing changes any more that would wake it.
#[tokio::test(start_paused = true)]
async fn who_begins_to_wait_when_it_has_just_become_ready_is_woken_at_once() {
    let world = World::new();
    world.projections.want_solver(&key("shop/web"));
    world
        .until("it is ready", |w| {
            (w.projections.solver() == SolverReadiness::Ready).then_some(())
        })
        .await;
    let mut changes = world.projections.changes();
    world.projections.want_solver(&key("shop/other"));
    assert_eq!(changes.next().now_or_never(), None, "nothing was missed");
    world.projections.await_solver(&key("shop/web"));
    assert_eq!(changes.next().now_or_never(), Some(Some(key("shop/web"))));
}

#[tokio::test(start_paused = true)]
async fn the_solver_goes_after_the_idle_time_and_not_while_something_is_open() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.until_applied("shop/web").await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert!(world.server.get(DEPLOYMENT).is_some(), "something is open");
    world.projections.clear(&key("shop/web"));
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert!(world.server.get(DEPLOYMENT).is_some(), "nine minutes idle");
    world.projections.want_solver(&key("shop/web"));
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert!(
        world.server.get(DEPLOYMENT).is_some(),
        "nine minutes since it was wanted"
    );
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(world.server.get(DEPLOYMENT).is_none() && world.server.get(SOLVER_SERVICE).is_none());
    assert_eq!(world.projections.solver(), SolverReadiness::Absent);
    world.assert_silence(Duration::from_mins(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_solver_that_an_earlier_run_left_goes_after_the_idle_time() {
    let world = World::new();
    world.projections.want_solver(&key("shop/web"));
    world
        .until("it is there", |w| w.server.get(SOLVER_SERVICE))
        .await;
    let world = world.restarted(&[]);
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert!(world.server.get(DEPLOYMENT).is_some());
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.server.get(DEPLOYMENT).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_solver_that_always_stays_is_there_from_the_start() {
    let server = ApiServer::default();
    let world = World::on(server, None, &[]);
    world
        .until("it is there", |w| w.server.get(DEPLOYMENT))
        .await;
    tokio::time::sleep(Duration::from_hours(24)).await;
    assert!(world.server.get(DEPLOYMENT).is_some());
    assert_eq!(world.server.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn routes_follow_a_replaced_pod() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.until_applied("shop/web").await;
    let before = world.server.requests().len();
    world
        .server
        .put(SOLVER_SLICE, solver_slice(&["198.18.1.77"]));
    world
        .until("the slice follows", |w| {
            let slice = w.server.get(&slice_of("shop"))?;
            (slice["endpoints"][0]["addresses"] == json!(["198.18.1.77"])).then_some(())
        })
        .await;
    world.until_applied("shop/web").await;
    assert_eq!(
        world.written(before),
        [format!("PATCH {}", slice_of("shop"))]
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_ready_pod_nothing_counts_as_presented() {
    let world = World::new();
    world
        .projections
        .set(open("shop/web", &["www.example.com"]));
    world.until_applied("shop/web").await;
    world.server.put(SOLVER_SLICE, solver_slice(&[]));
    world
        .until("it is pending again", |w| {
            (w.projections.presented(&key("shop/web")) == Presentation::Pending).then_some(())
        })
        .await;
    world
        .server
        .put(SOLVER_SLICE, solver_slice(&["198.18.1.5"]));
    world.until_applied("shop/web").await;
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_the_solvers_deployment_is_told() {
    let world = World::new();
    world
        .server
        .refuse("PATCH deployments/", 403, "deployments.apps is forbidden");
    world.projections.want_solver(&key("shop/web"));
    world.until("the refusal is told", |w| {
        matches!(w.projections.solver(), SolverReadiness::Starting { what, .. }
            if what == "Deployment evercert/evercert-solver cannot be written: deployments.apps is forbidden")
        .then_some(())
    })
    .await;
    let before = world.server.requests().len();
    tokio::time::sleep(Duration::from_mins(8)).await;
    let tries = world.server.requests().len() - before;
    assert!(tries <= 16, "{tries} writes in eight minutes");
}

#[tokio::test(start_paused = true)]
async fn the_pod_is_what_pod_security_restricted_asks_for() {
    let world = World::new();
    world.projections.want_solver(&key("shop/web"));
    let deployment = world
        .until("it is there", |w| w.server.get(DEPLOYMENT))
        .await;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        container["args"],
        json!([
            "solver",
            "--listen",
            "0.0.0.0:8089",
            "--namespace",
            "$(POD_NAMESPACE)"
        ])
    );
    assert_eq!(
        container["securityContext"]["capabilities"],
        json!({ "drop": ["ALL"] })
    );
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"],
        json!({ "type": "RuntimeDefault" })
    );
    assert_eq!(pod["serviceAccountName"], "evercert-solver");
    assert_eq!(
        container["readinessProbe"]["httpGet"],
        json!({ "path": "/readyz", "port": "http" })
    );
    let template = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = world
        .until("so is its Service", |w| w.server.get(SOLVER_SERVICE))
        .await;
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
    ] {
        for (label, value) in selector.as_object().unwrap() {
            assert_eq!(template[label], *value);
        }
    }
}
