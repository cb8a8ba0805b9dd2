//! The stories on a world without a node: one shared stage, a namespace and a DNS domain for each story.
//!
//! The process that is started brings the world up and holds it; the stories run in the same program started again inside.
//! First what needs a stage where nothing has happened; then all stories that leave each other alone, some at a time; then, one
//! by one, those that need the operator for themselves; last what is said about all of them together.

mod app;
mod crash;
mod damage;
mod ending;
mod first;
mod foreign;
mod forged;
mod issue;
mod numbers;
mod permission;
mod refused;
mod renew;
mod schema;
mod unreachable;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use evercert_cluster::{World, take_role};
use evercert_e2e::{Stage, Story};
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

/// Stories that wait most of the time; more of them at once would only make the machine slow.
const SIDE_BY_SIDE: usize = 4;

type Tell = for<'a> fn(Story<'a>) -> LocalBoxFuture<'a, Result<()>>;

/// A story that may run beside others, by a sentence.
struct Tale(&'static str, Tell);

/// Names a module's async functions as stories; the sentence is the function's name.
#[macro_export]
macro_rules! tales {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::Tale(concat!(module_path!(), "::", stringify!($name)), |story| Box::pin($name(story)))),*]
    };
}

fn before_all() -> Vec<Tale> {
    first::tales()
}

/// Those that wait longest come first.
fn side_by_side() -> Vec<Tale> {
    let modules = [
        refused::tales(),
        unreachable::tales(),
        renew::tales(),
        permission::tales(),
        app::tales(),
        schema::tales(),
        issue::tales(),
        damage::tales(),
        foreign::tales(),
        forged::tales(),
    ];
    modules.into_iter().flatten().collect()
}

fn one_by_one() -> Vec<Tale> {
    [crash::tales(), numbers::tales()]
        .into_iter()
        .flatten()
        .collect()
}

fn at_the_end() -> Vec<Tale> {
    ending::tales()
}

fn main() -> ExitCode {
    take_role();
    match run(Arguments::from_args()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Arguments) -> Result<ExitCode> {
    if args.list {
        let all = [before_all(), side_by_side(), one_by_one(), at_the_end()]
            .into_iter()
            .flatten();
        let trials = all.map(|tale| Trial::test(tale.0, || Ok(()))).collect();
        return Ok(libtest_mimic::run(&args, trials).exit_code());
    }
    let Some(world) = World::current() else {
        return World::up("stories", false)?.reexec_inside();
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = Arc::new(Runtime::new().context("starting a runtime")?);
    let stage = Arc::new(runtime.block_on(Stage::set(world, &|_| {}))?);
    let threads = args.test_threads.unwrap_or(SIDE_BY_SIDE);
    let mut code = ExitCode::SUCCESS;
    for (tales, threads) in [
        (before_all(), 1),
        (side_by_side(), threads),
        (one_by_one(), 1),
        (at_the_end(), 1),
    ] {
        let trials: Vec<Trial> = tales
            .into_iter()
            .map(|tale| trial(tale, &runtime, &stage))
            .filter(|trial| !args.is_filtered_out(trial))
            .collect();
        if trials.is_empty() {
            continue;
        }
        args.test_threads = Some(threads);
        if libtest_mimic::run(&args, trials).has_failed() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn trial(Tale(name, tell): Tale, runtime: &Arc<Runtime>, stage: &Arc<Stage>) -> Trial {
    let (runtime, stage) = (runtime.clone(), stage.clone());
    let name = name.trim_start_matches("stories::");
    Trial::test(name, move || {
        let namespace = namespace(name);
        let told = runtime.block_on(async {
            stage.operator.lock().await.ensure_ready().await?;
            tell(Story::begin(&stage, &namespace).await?).await
        });
        told.map_err(|error: anyhow::Error| Failed::from(format!("{error:#}")))
    })
}

/// A sentence as the name of a namespace: unique, a DNS label, short enough to be part of a host name.
fn namespace(sentence: &str) -> String {
    let words = sentence
        .rsplit("::")
        .next()
        .unwrap_or(sentence)
        .replace('_', "-");
    let readable: String = words.chars().take(30).collect();
    format!(
        "{}-{:04x}",
        readable.trim_end_matches('-'),
        evercert_api::children::stable_hash(&[sentence]) & 0xffff
    )
}
