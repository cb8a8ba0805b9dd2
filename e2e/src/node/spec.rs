//! What a pod's spec asks for, parsed once into what the node can do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use evercert_cluster::address;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{Images, NAME};

/// A pod of one container, ready to be started.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) container: String,
    pub(super) image: String,
    pub(super) command: Vec<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// The ServiceAccount whose token is mounted, unless the pod wants none.
    pub(super) service_account: Option<String>,
    pub(super) readiness: Option<Readiness>,
}

/// An HTTP readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) failures: u32,
}

impl Plan {
    /// # Errors
    /// The pod asks for something that this node cannot do; the sentence says for what.
    pub(super) fn of(pod: &Pod, images: &Images, ip: &str) -> Result<Self> {
        let spec = pod.spec.as_ref().context("a pod without spec")?;
        let [container] = spec.containers.as_slice() else {
            bail!("this node plays pods of one container only")
        };
        ensure!(
            spec.init_containers.as_ref().is_none_or(Vec::is_empty),
            "this node plays no init containers"
        );
        ensure!(
            container.env_from.as_ref().is_none_or(Vec::is_empty),
            "this node cannot do envFrom"
        );
        let image = container.image.clone().unwrap_or_default();
        let program = images
            .program(&image)
            .with_context(|| format!("unknown image {image}"))?;
        let account = spec
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".into());
        let mut env = BTreeMap::from([
            ("HOSTNAME".to_owned(), pod.name_any()),
            // No kube-proxy makes the Service's address work here, so the address is the API server's own.
            (
                "KUBERNETES_SERVICE_HOST".to_owned(),
                address::NODE.to_owned(),
            ),
            (
                "KUBERNETES_SERVICE_PORT".to_owned(),
                address::API_SERVER_PORT.to_string(),
            ),
        ]);
        for variable in container.env.iter().flatten() {
            let value = value_of(variable, pod, ip)?;
            env.insert(variable.name.clone(), expand(&value, &env));
        }
        // The program stands for whatever the image has at that path.
        let more = container.command.iter().flatten().skip(1);
        let command = std::iter::once(program.to_path_buf())
            .chain(more.map(PathBuf::from))
            .collect();
        Ok(Self {
            container: container.name.clone(),
            image,
            command,
            args: container
                .args
                .iter()
                .flatten()
                .map(|arg| expand(arg, &env))
                .collect(),
            service_account: (spec.automount_service_account_token != Some(false))
                .then_some(account),
            readiness: container
                .readiness_probe
                .as_ref()
                .map(|probe| readiness(probe, container))
                .transpose()?,
            env,
        })
    }
}

fn value_of(variable: &EnvVar, pod: &Pod, ip: &str) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let EnvVarSource {
        field_ref: Some(field),
        ..
    } = source
    else {
        bail!(
            "this node cannot fill {}: only fieldRef is played",
            variable.name
        )
    };
    let spec = pod.spec.clone().unwrap_or_default();
    Ok(match field.field_path.as_str() {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => NAME.to_owned(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.podIP" => ip.to_owned(),
        "status.hostIP" => address::NODE.to_owned(),
        other => bail!("this node cannot fill {} from {other}", variable.name),
    })
}

/// `$(NAME)` becomes the variable's value where there is one; `$$(NAME)` is an escaped `$(NAME)`.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let name = from
            .strip_prefix("$(")
            .and_then(|tail| tail.split_once(')'));
        rest = if let Some(escaped) = from.strip_prefix("$$") {
            result.push('$');
            escaped
        } else if let Some((value, tail)) =
            name.and_then(|(name, tail)| Some((env.get(name)?, tail)))
        {
            result.push_str(value);
            tail
        } else {
            result.push('$');
            from.get(1..).unwrap_or_default()
        };
    }
    result + rest
}

fn readiness(probe: &Probe, container: &Container) -> Result<Readiness> {
    let http = probe
        .http_get
        .as_ref()
        .context("this node plays httpGet probes only")?;
    ensure!(
        http.scheme.as_deref().unwrap_or("HTTP") == "HTTP",
        "this node probes by plain HTTP only"
    );
    let port = match &http.port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .with_context(|| format!("no port is named {name}"))?
                .container_port
        }
    };
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(
            value
                .and_then(|value| u64::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default),
        )
    };
    Ok(Readiness {
        port: u16::try_from(port).context("a probe's port")?,
        path: http.path.clone().unwrap_or_else(|| "/".into()),
        delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        failures: probe
            .failure_threshold
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_arguments_are_expanded_as_a_kubelet_does() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x$(A)y $(B) $$(A) $", &env), "x1y $(B) $(A) $");
    }
}
