//! A group inside its world: the stage is set, the acts are told, the endings are looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use evercert_cluster::{Priority, World};
use evercert_e2e::costs::{self, Costs};
use evercert_e2e::rights::Usage;
use evercert_e2e::{Stage, Story};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::{Act, Group, Tale};

/// What became of a group's stories. Written after each, so that a process that dies leaves what it knew.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Stories and endings that hold.
    pub(crate) passed: usize,
    /// The names of those that do not.
    pub(crate) failed: Vec<String>,
    /// The names of those that this world is too small for.
    pub(crate) ignored: Vec<String>,
    /// What is to be said about all of them together.
    pub(crate) costs: String,
    /// The rights that were used.
    #[serde(default)]
    pub(crate) rights: Usage,
}

impl Outcome {
    fn file(world: &World) -> PathBuf {
        world.state().join("outcome.json")
    }

    /// What the group in `world` left; nothing passed if it left nothing.
    pub(crate) fn of(world: &World) -> Self {
        let left = fs::read(Self::file(world)).unwrap_or_default();
        serde_json::from_slice(&left).unwrap_or_default()
    }

    fn keep(&self, file: &Path) -> Result<()> {
        fs::write(file, serde_json::to_vec(self)?).context("writing the outcome")
    }
}

/// Tells the stories of `group` that are asked for.
pub(crate) fn tell(args: &Arguments, group: Group) -> Result<()> {
    Priority::of_this_process().begin_session();
    let world = World::current().context("a group is told inside of its world")?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = Arc::new(Runtime::new().context("starting a runtime")?);
    let file = Outcome::file(&world);
    let scene = Arc::new(Scene {
        stage: runtime.block_on(Stage::set(world, &|_| {}))?,
        runtime,
        outcome: Mutex::default(),
        file,
    });
    let mut acts = group.acts;
    acts.push(Act {
        side_by_side: 1,
        tales: group.endings,
    });
    for act in acts {
        let arguments = Arguments {
            test_threads: Some(
                args.test_threads
                    .unwrap_or(act.side_by_side)
                    .min(act.side_by_side),
            ),
            // They are chosen already, and an ending is not chosen by its name.
            ..Arguments::default()
        };
        let trials = act
            .tales
            .into_iter()
            .map(|tale| scene.trial(tale))
            .collect();
        // What failed is in the outcome.
        let _ = libtest_mimic::run(&arguments, trials);
    }
    let costs = format!("{}{}", Costs::of(&scene.stage)?.table(), costs::memory());
    println!("{costs}");
    let mut outcome = scene.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.costs = costs;
    outcome.rights = Usage::read(&scene.stage.world.audit_log())?;
    outcome.keep(&scene.file)
}

struct Scene {
    stage: Stage,
    runtime: Arc<Runtime>,
    outcome: Mutex<Outcome>,
    file: PathBuf,
}

impl Scene {
    fn trial(self: &Arc<Self>, tale: Tale) -> Trial {
        let scene = self.clone();
        let ignored = !tale.can_be_told_at(self.stage.world.level());
        if ignored {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.ignored.push(tale.name().to_owned());
        }
        let trial = Trial::test(tale.name().to_owned(), move || {
            // Taken for a failure until it is over: a panic is one.
            scene.note(|outcome| outcome.failed.push(tale.name().to_owned()))?;
            scene.runtime.block_on(scene.tell(&tale)).map_err(failed)?;
            scene.note(|outcome| {
                outcome.failed.retain(|name| name != tale.name());
                outcome.passed += 1;
            })
        });
        trial.with_ignored_flag(ignored)
    }

    async fn tell(&self, tale: &Tale) -> Result<()> {
        self.stage.operator.lock().await.ensure_ready().await?;
        let namespace = namespace(tale.name());
        let began = Instant::now();
        let told = tale
            .tell(Story::begin(&self.stage, &namespace).await?)
            .await;
        println!("{:>6.1} s  {}", began.elapsed().as_secs_f64(), tale.name());
        told
    }

    fn note(&self, change: impl FnOnce(&mut Outcome)) -> Result<(), Failed> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut outcome);
        outcome.keep(&self.file).map_err(failed)
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err takes"
)]
fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
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
