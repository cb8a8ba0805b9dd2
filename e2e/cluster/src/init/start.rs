//! What is started, with which flags, and in which order: as much at once as possible.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::SCRATCH;
use super::components::{Components, gets, listens, read};
use super::node;
use crate::cgroup::Version;
use crate::ingress::{IngressController, Values, fill};
use crate::pki::Pki;
use crate::world::record;
use crate::{Pebble, address};

const ETCD: &str = "http://127.0.0.1:2379";
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
const DISCOVERY: &str =
    "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `node` is the version of cgroups where there is to be one.
pub(super) fn everything(
    state: &Path,
    tools: &Path,
    node: Option<Version>,
    started: Instant,
) -> Result<Components> {
    let pki = Pki::at(state.join(record::PKI));
    let scratch = Path::new(SCRATCH);
    let ingress = IngressController::of(state)?;
    let values = ingress.values(tools, scratch, &pki.kubeconfig("ingress"));
    let mut components = Components::new(state, tools, started);
    if node.is_some() {
        node::start_containerd(&mut components)?;
    }
    start_etcd(&mut components, scratch)?;
    start_api_server(&mut components, state, scratch, &pki)?;
    start_ca(&mut components, scratch, &pki)?;

    components.wait_for("etcd", || listens("127.0.0.1:2379"))?;
    if node.is_some() {
        node::import_pause(&mut components, tools)?;
    }
    let (ca, cert, key) = (
        pki.path("ca.crt"),
        pki.path("admin.crt"),
        pki.path("admin.key"),
    );
    let admin = [
        OsStr::new("--cacert"),
        ca.as_os_str(),
        OsStr::new("--cert"),
        cert.as_os_str(),
        OsStr::new("--key"),
        key.as_os_str(),
    ];
    let api = format!("https://{}:{}", address::NODE, address::API_SERVER_PORT);
    let definitions = format!("{api}/apis/apiextensions.k8s.io/v1/customresourcedefinitions");
    components.wait_for("kube-apiserver", || gets(&definitions, admin))?;
    create_objects(&components, &ingress, &values, &pki)?;
    // Ready means, among other things, that the controllers' roles exist.
    components.wait_for("kube-apiserver's readyz", || {
        gets(&format!("{api}/readyz"), admin)
    })?;
    start_controllers(&mut components, node.is_some(), &pki)?;
    if let Some(cgroups) = node {
        node::start(&mut components, cgroups, &pki)?;
    }
    let discovery = [OsStr::new("--header"), OsStr::new(DISCOVERY)]
        .into_iter()
        .chain(admin);
    components.wait_for("the ingress controller's API", || {
        let serves = |list: String| {
            let mut kinds = ingress.kinds.iter();
            kinds.all(|kind| list.contains(&format!("\"{kind}\"")))
        };
        ingress.kinds.is_empty()
            || read(&format!("{api}/apis"), discovery.clone()).is_some_and(serves)
    })?;
    start_ingress(&mut components, &ingress, &values, tools)?;

    let directory = Pebble::default().directory();
    let pebble_ca = pki.path("pebble-ca.crt");
    components.wait_for("pebble", || {
        gets(&directory, [OsStr::new("--cacert"), pebble_ca.as_os_str()])
    })?;
    // The proof that the controllers work, and what every namespace needs before a pod.
    let account = format!("{api}/api/v1/namespaces/default/serviceaccounts/default");
    components.wait_for("kube-controller-manager", || gets(&account, admin))?;
    if node.is_some() {
        node::wait(&mut components, &api, &admin)?;
    }
    Ok(components)
}

fn start_etcd(components: &mut Components, scratch: &Path) -> Result<()> {
    let mut etcd = components.program("etcd");
    etcd.args(["--name=node", "--unsafe-no-fsync", "--log-level=warn"])
        .arg(format!("--data-dir={}", scratch.join("etcd").display()))
        .args([
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
        ])
        .args([
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        ])
        .arg("--initial-cluster=node=http://127.0.0.1:2380");
    components.start("etcd", etcd)
}

fn start_api_server(
    components: &mut Components,
    state: &Path,
    scratch: &Path,
    pki: &Pki,
) -> Result<()> {
    let policy = scratch.join("audit-policy.yaml");
    fs::write(&policy, AUDIT_POLICY).context("writing the audit policy")?;
    let audit_log = state.join(record::LOGS).join("audit.log");
    let mut server = components.program("kube-apiserver");
    server
        .arg(format!("--etcd-servers={ETCD}"))
        .args([
            format!("--advertise-address={}", address::NODE),
            format!("--secure-port={}", address::API_SERVER_PORT),
        ])
        .arg(format!("--service-cluster-ip-range={}", address::SERVICES))
        .args([
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ])
        .arg(format!("--client-ca-file={}", pki.path("ca.crt").display()))
        .arg(format!(
            "--tls-cert-file={}",
            pki.path("apiserver.crt").display()
        ))
        .arg(format!(
            "--tls-private-key-file={}",
            pki.path("apiserver.key").display()
        ))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!(
            "--service-account-key-file={}",
            pki.path("sa.pub").display()
        ))
        .arg(format!(
            "--service-account-signing-key-file={}",
            pki.path("sa.key").display()
        ))
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg(format!(
            "--kubelet-client-certificate={}",
            pki.path("kubelet-client.crt").display()
        ))
        .arg(format!(
            "--kubelet-client-key={}",
            pki.path("kubelet-client.key").display()
        ))
        .arg(format!("--audit-policy-file={}", policy.display()))
        .arg(format!("--audit-log-path={}", audit_log.display()))
        // One file for the whole life: tests count in it.
        .arg("--audit-log-maxsize=10000");
    components.start("kube-apiserver", server)
}

fn start_ca(components: &mut Components, scratch: &Path, pki: &Pki) -> Result<()> {
    let mut dns = components.program("pebble-challtestsrv");
    dns.args([
        "-doh",
        "",
        "-http01",
        "",
        "-https01",
        "",
        "-tlsalpn01",
        "",
        "-defaultIPv6",
        "",
    ])
    .args([
        "-defaultIPv4",
        address::INGRESS,
        "-management",
        address::DNS_MANAGEMENT,
    ])
    .args([
        "-dnsserver",
        &format!("{},{}:53", address::DNS, address::NODE),
    ]);
    components.start("pebble-challtestsrv", dns)?;
    let mut pebble = components.program("pebble");
    Pebble::default().configure(&mut pebble, pki, &scratch.join("pebble"))?;
    components.start("pebble", pebble)
}

fn start_controllers(components: &mut Components, node: bool, pki: &Pki) -> Result<()> {
    let mut controllers = components.program("kube-controller-manager");
    controllers
        .arg(format!(
            "--kubeconfig={}",
            pki.kubeconfig("controller-manager").display()
        ))
        .args([
            "--leader-elect=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--bind-address=127.0.0.1",
        ])
        .args([
            "--use-service-account-credentials=true",
            "--flex-volume-plugin-dir=/run/evercert/volume-plugins",
        ])
        .arg(format!(
            "--service-account-private-key-file={}",
            pki.path("sa.key").display()
        ))
        .arg(format!("--root-ca-file={}", pki.path("ca.crt").display()))
        .arg(format!(
            "--cluster-signing-cert-file={}",
            pki.path("ca.crt").display()
        ))
        .arg(format!(
            "--cluster-signing-key-file={}",
            pki.path("ca.key").display()
        ));
    if node {
        // A control plane that was frozen for a while has missed heartbeats: no reason to take the pods away.
        controllers.arg("--node-monitor-grace-period=5m");
    } else {
        // Nodes are played by the tests and send no heartbeat.
        controllers.arg("--controllers=*,-node-lifecycle-controller");
    }
    components.start("kube-controller-manager", controllers)
}

fn create_objects(
    components: &Components,
    ingress: &IngressController,
    values: &Values<'_>,
    pki: &Pki,
) -> Result<()> {
    let mut create = components.program("kubectl");
    create
        .args(["create", "--validate=false"])
        .env("KUBECONFIG", pki.kubeconfig("admin"));
    for file in &ingress.objects {
        create.arg("--filename").arg(fill(file, values)?);
    }
    components.run("creating the ingress controller's objects", &mut create)
}

fn start_ingress(
    components: &mut Components,
    ingress: &IngressController,
    values: &Values<'_>,
    tools: &Path,
) -> Result<()> {
    for program in &ingress.programs {
        let path = program
            .find(tools)
            .with_context(|| format!("the program {} is gone", program.program))?;
        // An absolute path is itself among the tools as well.
        let mut command = components.program(path);
        for arg in &program.args {
            command.arg(fill(arg, values)?);
        }
        for (name, value) in &program.env {
            command.env(name, fill(value, values)?);
        }
        if program.once {
            components.run(&program.name, &mut command)?;
        } else {
            components.start(&program.name, command)?;
        }
        for address in &program.ready {
            let address = fill(address, values)?;
            components.wait_for(&format!("{} at {address}", program.name), || match address
                .strip_prefix("tcp://")
            {
                Some(socket) => listens(socket),
                None => gets(&address, []),
            })?;
        }
    }
    Ok(())
}
