//! Each rule of the CRDs refuses a bad object with its sentence, and nothing at the edge of what is right.

use anyhow::{Context, Result, ensure};
use evercert_e2e::{Story, crd_cases, manifest};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        every_rule_has_a_case_and_each_case_reads_its_sentence,
        objects_at_the_edge_are_taken
    ]
}

async fn every_rule_has_a_case_and_each_case_reads_its_sentence(story: Story<'_>) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(story.stage.client.clone());
    let ours: Vec<_> = crds
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .filter(|crd| crd.spec.group == "evercert.dev")
        .collect();
    ensure!(ours.len() == 3, "{} CRDs are installed", ours.len());
    let missing = crd_cases::missing(&ours)?;
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    let mut wrong = Vec::new();
    let cases = crd_cases::bad();
    for case in &cases {
        match create(&story, case.object()).await? {
            Ok(()) => wrong.push(format!(
                "{} {} was taken: {}",
                case.kind,
                case.path,
                case.object()
            )),
            Err(message) if case.is_told_by(&message) => {}
            Err(message) => wrong.push(format!(
                "{} {}\n  said {message}\n  not  {}",
                case.kind, case.path, case.says
            )),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    Ok(())
}

async fn objects_at_the_edge_are_taken(story: Story<'_>) -> Result<()> {
    for object in crd_cases::good() {
        let told = create(&story, object.clone()).await?;
        ensure!(told.is_ok(), "{object}: {told:?}");
    }
    Ok(())
}

/// Creates an object as a dry run, so that the cases do not meet each other. The inner result is the API server's sentence.
async fn create(
    story: &Story<'_>,
    object: serde_json::Value,
) -> Result<std::result::Result<(), String>> {
    let object: DynamicObject =
        serde_json::from_value(object).context("a case that is no object")?;
    let types = object.types.as_ref().context("a case without kind")?;
    let (resource, capabilities) =
        discovery::pinned_kind(&story.stage.client, &GroupVersionKind::try_from(types)?).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(story.stage.client.clone(), &resource),
        Scope::Namespaced => {
            Api::namespaced_with(story.stage.client.clone(), story.namespace, &resource)
        }
    };
    let params = PostParams {
        dry_run: true,
        field_manager: Some(manifest::FIELD_MANAGER.to_owned()),
    };
    match api.create(&params, &object).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
        Err(error) => Err(error).context("creating a case"),
    }
}
