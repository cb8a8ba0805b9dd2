//! The self-check: looks at the ways to the solver, and where these are not good finds out at which hop.

use std::net::{IpAddr, SocketAddr};

use evercert_api::issuer::SelfCheckMode;
use evercert_api::keys::{SOLVER_NAME, SOLVER_PORT_NAME};
use evercert_core::observe::Reach;
use evercert_core::reach::{Finding, Hop, Look, Seen, Verdict, Way};
use evercert_core::routes::service_name;
use evercert_probe::Challenge;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use super::Outcome;
use super::order::read_order;
use crate::apply;
use crate::context::Context;
use crate::gather::Gathered;
use crate::projection::Presentation;

/// A gateway's error that lasts longer than this is traced to its hop: before that the route is just new.
const TRACED_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// Looks at the ways of the challenges of `names`, all at once.
pub(super) async fn probe(gathered: &mut Gathered, names: &[String], context: &Context) -> Outcome {
    let Some(read) = read_order(gathered) else {
        return Outcome::moved();
    };
    let key = &gathered.observed.key;
    let entry_points = match context.projections.presented(key) {
        Presentation::Applied { entry_points } => entry_points,
        Presentation::Pending | Presentation::Failed { .. } => return Outcome::moved(),
    };
    let looks = read
        .view
        .open_challenges()
        .filter(|(a, _)| names.contains(&a.name))
        .map(|(a, c)| {
            let entry = entry_points.get(&a.name).cloned().unwrap_or_default();
            let challenge = Challenge {
                name: a.name.clone(),
                token: c.token.clone(),
                key_authorization: c.key_authorization.clone(),
            };
            async move {
                let way = context.prober.look(&challenge, &entry).await;
                (challenge, way)
            }
        });
    let mut ways = join_all(looks).await;
    let at = Timestamp::now();
    let before = context.memory.entry(key).reach;
    let lasts = |name: &str| {
        let seen = before.get(name).and_then(Reach::seen);
        seen.is_some_and(|seen| at.duration_since(seen.since) >= TRACED_AFTER)
    };
    let untraced = ways
        .iter()
        .find(|(challenge, way)| is_gateways_error(way) && lasts(&challenge.name));
    if let Some((challenge, _)) = untraced {
        // The solver and the Service are the same for all names.
        let (solver, service) = trace(challenge, &key.namespace, context).await;
        for (_, way) in &mut ways {
            (way.solver, way.service) = (solver.clone(), service.clone());
        }
    }
    let check = gathered.observed.self_check;
    let mut is_held_for_long = false;
    context.memory.update(key, |entry| {
        for (challenge, way) in ways {
            let before = entry.reach.get(&challenge.name);
            let reach = Reach::note(&way.judge(), before, at);
            let lasted = reach.seen().map(|seen| at.duration_since(seen.since));
            is_held_for_long |= lasted.is_some_and(|lasted| lasted >= check.budget);
            entry.reach.insert(challenge.name, reach);
        }
    });
    if check.mode == SelfCheckMode::Required && is_held_for_long {
        // It may wait for days, and others do not wait for it.
        context.slots.hand_over(key);
    }
    Outcome::moved()
}

fn is_gateways_error(way: &Way) -> bool {
    match way.judge() {
        Verdict::Wrong(Finding { hop, sight, .. }) => {
            hop == Hop::EntryPoint && sight.what == Seen::ServerError
        }
        Verdict::Reachable | Verdict::Unverified(_) | Verdict::Unreachable(_) => false,
    }
}

/// What a pod of the solver and the Service in `namespace` say themselves; `None` where there is nobody to ask.
async fn trace(
    challenge: &Challenge,
    namespace: &str,
    context: &Context,
) -> (Option<Look>, Option<Look>) {
    let (solver, service) = futures::future::join(
        find_solver(&context.config.namespace, context),
        find_service(namespace, context),
    )
    .await;
    let look = async |at: Option<SocketAddr>| match at {
        Some(at) => Some(context.prober.look_at(challenge, at).await),
        None => None,
    };
    futures::future::join(look(solver), look(service)).await
}

async fn find_solver(namespace: &str, context: &Context) -> Option<SocketAddr> {
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), namespace);
    let selected =
        ListParams::default().labels(&format!("kubernetes.io/service-name={SOLVER_NAME}"));
    let slices = apply::within(api.list(&selected)).await.ok()?;
    slices.items.iter().find_map(|slice| {
        let mut ports = slice.ports.iter().flatten();
        let port = ports.find_map(|port| {
            let is_solvers = port.name.as_deref() == Some(SOLVER_PORT_NAME);
            port.port.filter(|_| is_solvers)
        })?;
        let mut endpoints = slice.endpoints.iter();
        let address: IpAddr = endpoints.find_map(|endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready);
            let is_ready = ready.unwrap_or(true);
            endpoint
                .addresses
                .first()
                .filter(|_| is_ready)?
                .parse()
                .ok()
        })?;
        Some((address, u16::try_from(port).ok()?).into())
    })
}

async fn find_service(namespace: &str, context: &Context) -> Option<SocketAddr> {
    let api: Api<Service> = Api::namespaced(context.client.clone(), namespace);
    let name = service_name(namespace);
    let spec = apply::within(api.get(&name)).await.ok()?.spec?;
    let address: IpAddr = spec.cluster_ip?.parse().ok()?;
    let port = spec.ports?.first()?.port;
    Some((address, u16::try_from(port).ok()?).into())
}
