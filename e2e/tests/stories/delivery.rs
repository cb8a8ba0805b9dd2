//! What a site does with its own requests, a redirect or a login, keeps no challenge away, and goes on meanwhile.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_cluster::address;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::site::{Answer, Site};
use evercert_e2e::story::{SOON, certificate_ready};
use evercert_e2e::{Story, curl};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::app::application;
use crate::damage::{WHOLE, write};
use crate::issue::{data, no_route_stays, usable};
use crate::midway::{close_the_route, in_the_middle, never_failed, open_the_route};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_site_that_forces_https_does_so_while_its_names_are_proved,
        a_site_behind_a_login_asks_for_it_while_its_names_are_proved,
        a_secret_that_is_replaced_amid_a_renewal_is_whole_again_and_renewed_by_the_same_order,
    ]
}

const NAMES: usize = 3;

fn hosts(story: &Story<'_>) -> Vec<String> {
    (0..NAMES).map(|n| story.host(&format!("h{n}"))).collect()
}

/// An Ingress for the hosts that leads to Service `backend`, with https by `secret`.
fn site(hosts: &[String], backend: &str, secret: &str, annotations: &Value) -> String {
    let rules: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({"host": host, "http": {"paths": [{
                "path": "/", "pathType": "Prefix", "backend": {"service": {"name": backend, "port": {"name": "http"}}},
            }]}})
        })
        .collect();
    let site = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "hosts", "annotations": annotations},
        "spec": {"ingressClassName": ingress_class(), "rules": rules, "tls": [{"hosts": hosts, "secretName": secret}]},
    });
    site.to_string()
}

/// Every answer that a page gives has to be `wanted`: a status, and how the body begins.
struct Asked<'a> {
    hosts: &'a [String],
    wanted: (u16, &'a str),
    answers: usize,
}

impl Asked<'_> {
    fn ask(&mut self) -> Result<()> {
        let (status, begins) = self.wanted;
        for host in self.hosts {
            let served = curl::get(&format!("http://{host}/"), None)?;
            ensure!(
                served.status == status && served.body.starts_with(begins),
                "{host} after {} answers: {served:?}",
                self.answers
            );
            self.answers += 1;
        }
        Ok(())
    }
}

/// Proves the names one after the other, and asks for every page all the time. `wanted` is what the site does without us.
async fn prove(
    story: &Story<'_>,
    ca: &TestCa,
    hosts: &[String],
    wanted: (u16, &str),
) -> Result<()> {
    let mut asked = Asked {
        hosts,
        wanted,
        answers: 0,
    };
    story
        .wait_for("the site is as it wants to be", SOON, async || {
            let mut first = Asked { hosts, ..asked };
            first.ask().map(Some)
        })
        .await?;
    for (number, host) in hosts.iter().enumerate() {
        let name = format!("c{number}");
        story.certificate(&name, std::slice::from_ref(host)).await?;
        // An answer that is not right ends the story at once.
        let mut wrong = Ok(());
        story
            .wait_for(&format!("{name} is Ready"), SOON, async || {
                wrong = asked.ask();
                let found = story.api::<Certificate>().get(&name).await?;
                Ok((wrong.is_err() || certificate_ready(&found)).then_some(()))
            })
            .await?;
        wrong?;
    }
    no_route_stays(story).await?;
    asked.ask()?;
    let count = ca.count()?;
    println!("{} answers as wanted, {count:?}", asked.answers);
    ensure!(
        count.challenges == hosts.len() && count.orders == hosts.len(),
        "{count:?}"
    );
    try_join_all((0..hosts.len()).map(async |n| never_failed(story, &format!("c{n}")).await))
        .await
        .map(drop)
}

async fn a_site_that_forces_https_does_so_while_its_names_are_proved(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let hosts = hosts(&story);
    story
        .apply(&application("app", &story.host("plain")))
        .await?;
    // Without a Secret there is no https to lead to.
    let own = rcgen::generate_simple_self_signed(hosts.clone())?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "forced"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": own.cert.pem(), "tls.key": own.signing_key.serialize_pem()},
    });
    story.apply(&secret.to_string()).await?;
    let forced = json!({"ingress.kubernetes.io/force-ssl-redirect": "true"});
    story.apply(&site(&hosts, "app", "forced", &forced)).await?;
    prove(&story, &ca, &hosts, (301, "")).await
}

async fn a_site_behind_a_login_asks_for_it_while_its_names_are_proved(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let hosts = hosts(&story);
    let login = Site::start().await?;
    for host in &hosts {
        let answer = Answer {
            status: 401,
            server: "login",
            location: None,
        };
        login.answer(host, answer);
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "login"}, "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    story.apply(&service.to_string()).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "login", "labels": {"kubernetes.io/service-name": "login"}},
        "endpoints": [{"addresses": [address::SITE], "conditions": {"ready": true}}], "ports": [{"name": "http", "port": 80}],
    });
    story.apply(&slice.to_string()).await?;
    story
        .apply(&site(&hosts, "login", "c0", &json!({})))
        .await?;
    prove(&story, &ca, &hosts, (401, "welcome")).await
}

async fn a_secret_that_is_replaced_amid_a_renewal_is_whole_again_and_renewed_by_the_same_order(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("a")]).await?;
    story.ready("site", SOON).await?;
    let before = story.secret("site").await?;
    let good = usable(&before).context("no certificate")?;
    close_the_route(&story).await?;
    // Another name makes the challenge one that nobody has proved.
    let names = [story.host("a"), story.host("b")];
    story.certificate("site", &names).await?;
    in_the_middle(&story, "site").await?;

    let other = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()])?;
    let pair = [
        ("tls.crt", other.cert.pem().into_bytes()),
        ("tls.key", other.signing_key.serialize_pem().into_bytes()),
    ];
    let secrets = story.api::<Secret>();
    write(&secrets, story.secret("site").await?, &pair).await?;
    let mended: Secret = story
        .until("site", "the Secret is whole", WHOLE, |secret| {
            usable(secret).as_ref() == Some(&good)
        })
        .await?;
    ensure!(
        data(&mended, "tls.crt") == data(&before, "tls.crt"),
        "the chain changed"
    );
    open_the_route(&story).await?;
    let _: Secret = story
        .until("site", "the renewed certificate is there", SOON, |secret| {
            usable(secret).is_some_and(|now| now != good)
        })
        .await?;
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 2 && count.certificates == 2, "{count:?}");
    never_failed(&story, "site").await
}
