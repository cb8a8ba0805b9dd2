//! What the pods that the operator makes have in common: they conform to PodSecurity "restricted", are ready when they say so, and
//! what keeps one from that is told.

use evercert_api::keys::SOLVER_PORT_NAME;
use k8s_openapi::api::core::v1::{
    Capabilities, ContainerStatus, HTTPGetAction, Pod, PodSecurityContext, Probe, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A container's part of it, as `user`, also its group; the image's own without.
#[must_use]
pub fn restrict_container(user: Option<i64>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

/// The pod's part of it, as `user`.
#[must_use]
pub fn restrict_pod(user: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// Asks for `/readyz` each second, since an order waits for it.
#[must_use]
pub fn build_readiness() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/readyz".to_owned()),
            port: IntOrString::String(SOLVER_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(1),
        ..Probe::default()
    }
}

/// What keeps a pod of one container from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holdup {
    /// No node takes it: the scheduler's words.
    Unscheduled(String),
    /// Its image, which cannot be pulled. Not in anybody's words: these change with every try.
    Image(String),
    /// Its container is not made: reason and message.
    NotMade(String),
    /// It has ended, perhaps again and again: with what.
    Ends(String),
    /// It runs, and does not say that it is ready.
    NotReady,
}

/// What keeps `pod` from being ready, if anything can be told yet. The same until that changes, however often a kubelet tries.
#[must_use]
pub fn find_holdup(pod: &Pod) -> Option<Holdup> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let words = condition.message.as_ref().or(condition.reason.as_ref());
        return Some(Holdup::Unscheduled(words.cloned().unwrap_or_default()));
    }
    let container = status.container_statuses.as_ref()?.first()?;
    if container.ready {
        return None;
    }
    let state = container.state.as_ref();
    if let Some(ended) = find_end(container) {
        return Some(Holdup::Ends(ended));
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return Some(Holdup::NotReady);
    }
    let waiting = state?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ContainerCreating" | "PodInitializing" => None,
        reason if reason.contains("Image") => Some(Holdup::Image(container.image.clone())),
        reason => Some(Holdup::NotMade(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        })),
    }
}

/// How the container ended, the last time that it did.
fn find_end(container: &ContainerStatus) -> Option<String> {
    let states = [&container.state, &container.last_state].into_iter();
    let mut ended = states.filter_map(|state| state.as_ref()?.terminated.as_ref());
    ended.next().map(|ended| {
        let reason = ended.reason.as_deref().unwrap_or("no reason");
        format!("{reason}, exit code {}", ended.exit_code)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn holdup(status: &Value) -> Option<Holdup> {
        let pod = serde_json::from_value(json!({ "status": status })).unwrap();
        find_holdup(&pod)
    }

    fn of_container(ready: bool, state: &Value, last: &Value) -> Option<Holdup> {
        holdup(&json!({ "containerStatuses": [{
            "name": "solver", "image": "mirror/evercert:2", "imageID": "", "ready": ready, "restartCount": 0,
            "state": state, "lastState": last,
        }] }))
    }

    #[test]
    fn what_keeps_a_pod_from_being_ready_is_told_apart() {
        let none = json!({});
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason, "message": "words" } });
        let cases = [
            (waiting("ContainerCreating"), None),
            (
                waiting("ErrImagePull"),
                Some(Holdup::Image("mirror/evercert:2".into())),
            ),
            (
                waiting("CreateContainerConfigError"),
                Some(Holdup::NotMade("CreateContainerConfigError: words".into())),
            ),
            (
                json!({ "running": { "startedAt": null } }),
                Some(Holdup::NotReady),
            ),
        ];
        for (state, wanted) in cases {
            assert_eq!(of_container(false, &state, &none), wanted, "{state}");
            assert_eq!(of_container(true, &state, &none), None);
        }
        let unscheduled = json!({ "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available" },
        ] });
        assert_eq!(
            holdup(&unscheduled),
            Some(Holdup::Unscheduled("0/3 nodes are available".into()))
        );
        assert_eq!(holdup(&none), None, "nobody has looked at it yet");
    }

    /// Else a status would be written with each of them.
    #[test]
    fn what_is_told_stays_the_same_over_the_tries_of_a_kubelet() {
        let none = json!({});
        let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
        assert_eq!(
            of_container(false, &waiting("ErrImagePull", "no such host"), &none),
            of_container(
                false,
                &waiting("ImagePullBackOff", "Back-off pulling"),
                &none
            )
        );
        let ended = json!({ "terminated": { "exitCode": 2, "reason": "Error" } });
        let told = Some(Holdup::Ends("Error, exit code 2".into()));
        for state in [
            json!({ "running": { "startedAt": null } }),
            waiting("CrashLoopBackOff", "back-off 10s"),
        ] {
            assert_eq!(of_container(false, &state, &ended), told);
        }
        assert_eq!(of_container(false, &ended, &none), told);
    }
}
