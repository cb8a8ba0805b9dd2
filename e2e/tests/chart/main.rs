//! The chart: what Helm makes of it, what it refuses, and a release's whole life on a real cluster.
//!
//! The process that is started brings a world up and holds it; the tests run in the same program inside of it. Without a node
//! only the release's life is left out.

mod effects;
mod life;
mod rules;
mod server;
mod text;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use evercert_cluster::{Level, World, take_role};
use evercert_e2e::chart::Helm;
use evercert_e2e::{image, stage};
use kube::Client;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

/// What every test has.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) client: Client,
    pub(crate) helm: Helm,
    runtime: Runtime,
}

fn main() -> ExitCode {
    take_role();
    match run(&Arguments::from_args()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(world) = World::current() else {
        let level = Level::here()?;
        if level == Level::Node {
            // Before anything is started that would only be ended again.
            image::EVERCERT.archive()?;
        }
        return World::up_at("chart", false, level)?.reexec_inside();
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = Runtime::new().context("starting a runtime")?;
    let scene = Arc::new(Scene {
        client: runtime.block_on(stage::client(&world.kubeconfig()))?,
        helm: Helm::at(world.tools().program("helm"))?,
        world,
        runtime,
    });
    Ok(libtest_mimic::run(arguments, trials(&scene)).exit_code())
}

fn trials(scene: &Arc<Scene>) -> Vec<Trial> {
    type Test = fn(&Scene) -> Result<()>;
    let tests: [(&str, Test); 14] = [
        (
            "a_release_lives_from_its_installation_to_its_end_and_takes_no_certificate_with_it",
            |scene| {
                scene.runtime.block_on(life::a_release_lives_from_its_installation_to_its_end_and_takes_no_certificate_with_it(scene))
            },
        ),
        (
            "every_rendered_object_is_accepted_by_the_api_server",
            |scene| scene.runtime.block_on(server::accepts_every_object(scene)),
        ),
        ("helm_lint_has_nothing_to_say", text::lint),
        ("what_is_rendered_is_up_to_date", text::renderings),
        (
            "the_custom_resources_in_the_chart_are_those_of_the_operator",
            text::custom_resources,
        ),
        ("a_bad_value_is_refused_and_named", text::refusals),
        ("values_and_schema_name_the_same", text::schema),
        ("every_value_has_an_effect", effects::every_value_has_one),
        (
            "every_option_of_the_operator_is_set_by_a_value",
            text::options,
        ),
        ("chart_and_program_have_one_version", text::versions),
        (
            "each_alert_fires_and_does_not_before_its_time",
            rules::each_fires_and_keeps_still,
        ),
        (
            "each_alert_has_its_page_and_each_page_its_alert",
            rules::each_has_its_page,
        ),
        (
            "rules_and_dashboard_name_metrics_that_exist",
            rules::all_metrics_exist,
        ),
        (
            "alerts_are_rendered_as_they_are_tested",
            rules::rendered_as_they_are,
        ),
    ];
    let node = scene.world.level() == Level::Node;
    let trials = tests.into_iter().map(|(name, test)| {
        let scene = scene.clone();
        let trial = Trial::test(name, move || {
            test(&scene).map_err(|error| Failed::from(format!("{error:#}")))
        });
        trial.with_ignored_flag(!node && name.starts_with("a_release"))
    });
    trials.collect()
}
