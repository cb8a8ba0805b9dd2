//! What is told where: stories by their names, and the groups of them that have a world of their own.

use anyhow::{Result, ensure};
use evercert_cluster::{Level, Priority};
use evercert_e2e::Story;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};

use crate::ending;

type Tell = dyn for<'a> Fn(Story<'a>) -> LocalBoxFuture<'a, Result<()>> + Send;

/// A story by a sentence.
pub(crate) struct Tale {
    name: String,
    tell: Box<Tell>,
    level: Level,
}

impl Tale {
    /// For a story whose name is put together, such as a row of a table; [`tales!`](crate::tales) names the others. The name
    /// is `module::sentence`.
    pub(crate) fn new(
        name: impl Into<String>,
        tell: impl for<'a> Fn(Story<'a>) -> LocalBoxFuture<'a, Result<()>> + Send + 'static,
    ) -> Self {
        let name: String = name.into();
        Self {
            name: name.trim_start_matches("stories::").to_owned(),
            tell: Box::new(tell),
            level: Level::Plane,
        }
    }

    /// A story that needs real pods: in a world without a node it is left out, and that is said.
    pub(crate) fn on_a_node(mut self) -> Self {
        self.level = Level::Node;
        self
    }

    /// Whether it can be told in a world of `level`.
    pub(crate) fn can_be_told_at(&self, level: Level) -> bool {
        self.level <= level
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tell<'a>(&self, story: Story<'a>) -> LocalBoxFuture<'a, Result<()>> {
        (self.tell)(story)
    }

    fn is_chosen(&self, asked: &Asked) -> bool {
        let named = asked
            .names
            .as_ref()
            .is_none_or(|names| names.contains(&self.name));
        named
            && !asked
                .args
                .is_filtered_out(&Trial::test(self.name.clone(), || Ok(())))
    }
}

/// Names a module's async functions as stories; the sentence is the function's name.
#[macro_export]
macro_rules! tales {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::Tale::new(concat!(module_path!(), "::", stringify!($name)), |story| Box::pin($name(story)))),*]
    };
}

/// What is asked for.
pub(crate) struct Asked {
    /// As `cargo test` gives it.
    pub(crate) args: Arguments,
    /// From [`NAMES`]: the names of stories. An ordinary filter is one pattern.
    names: Option<Vec<String>>,
}

/// In the environment: names of stories, separated by white space, where not all are wanted.
const NAMES: &str = "EVERCERT_STORIES";

impl Asked {
    /// Of this process.
    pub(crate) fn of_this_process() -> Self {
        let names = std::env::var(NAMES).ok();
        Self {
            args: Arguments::from_args(),
            names: names.map(|names| names.split_whitespace().map(ToOwned::to_owned).collect()),
        }
    }

    /// Whether every name is that of a story: a renamed one would be left out in silence.
    pub(crate) fn check(&self, groups: &[Group]) -> Result<()> {
        let known: Vec<&str> = groups
            .iter()
            .flat_map(Group::tales)
            .map(Tale::name)
            .collect();
        for name in self.names.iter().flatten() {
            ensure!(
                known.contains(&name.as_str()),
                "{NAMES}: no story is named {name}"
            );
        }
        Ok(())
    }
}

/// Stories of which so many are told at a time.
pub(crate) struct Act {
    pub(crate) side_by_side: usize,
    pub(crate) tales: Vec<Tale>,
}

/// Stories that have one world, one stage and one operator.
pub(crate) struct Group {
    pub(crate) name: String,
    /// Of its world; else the highest of this machine.
    pub(crate) level: Option<Level>,
    /// One after the other.
    pub(crate) acts: Vec<Act>,
    /// Whether the machine has to be idle but for it.
    pub(crate) alone: bool,
    /// Of its world and its stories, while other groups want the machine, too.
    pub(crate) priority: Priority,
    /// What is looked at when all its stories are told.
    pub(crate) endings: Vec<Tale>,
}

impl Group {
    /// A group without stories. A world of its own comes up when one of its stories is asked for.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            level: None,
            acts: Vec::new(),
            alone: false,
            priority: Priority::Usual,
            endings: ending::tales(),
        }
    }

    /// One list of cases over `worlds` groups: `name-1`, `name-2`, … Pair by pair in turns: the cases of a pair differ in how long
    /// they take, and long pairs stand beside each other.
    pub(crate) fn spread(name: &str, worlds: usize, cases: Vec<Tale>) -> Vec<Self> {
        let mut parts: Vec<Vec<Tale>> = (0..worlds).map(|_| Vec::new()).collect();
        for (number, case) in cases.into_iter().enumerate() {
            parts[number / 2 % worlds].push(case);
        }
        let numbered = parts.into_iter().zip(1..);
        numbered
            .map(|(tales, number)| Self::new(format!("{name}-{number}")).one_by_one(tales))
            .collect()
    }

    /// Then these, each when the one before has ended: they may do to the operator and to the world what they like.
    pub(crate) fn one_by_one(self, tales: impl IntoIterator<Item = Tale>) -> Self {
        self.side_by_side(1, tales)
    }

    /// Then these, so many at a time: they leave each other and the operator alone. Those that wait longest come first.
    pub(crate) fn side_by_side(
        mut self,
        side_by_side: usize,
        tales: impl IntoIterator<Item = Tale>,
    ) -> Self {
        self.acts.push(Act {
            side_by_side,
            tales: tales.into_iter().collect(),
        });
        self
    }

    /// After all others, with the machine to itself: it measures, or is heavy.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Before all others: its stories count seconds.
    pub(crate) fn before(mut self) -> Self {
        self.priority = Priority::High;
        self
    }

    /// Behind all others: no story of it counts seconds.
    pub(crate) fn behind(mut self) -> Self {
        self.priority = Priority::Low;
        self
    }

    /// In a world of this level, however much more this machine could have.
    pub(crate) fn at(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// With other endings than [`ending::tales`]: where a story breaks on purpose what those look at.
    pub(crate) fn ending(mut self, tales: Vec<Tale>) -> Self {
        self.endings = tales;
        self
    }

    /// Every story of it that can be asked for by its name.
    pub(crate) fn tales(&self) -> impl Iterator<Item = &Tale> {
        self.acts.iter().flat_map(|act| &act.tales)
    }

    /// Leaves only the stories that are asked for. The endings stay with any of them.
    pub(crate) fn choose(mut self, asked: &Asked) -> Self {
        for act in &mut self.acts {
            act.tales.retain(|tale| tale.is_chosen(asked));
        }
        self.acts.retain(|act| !act.tales.is_empty());
        self
    }
}
