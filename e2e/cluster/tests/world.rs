//! A world is whole, as root and as an ordinary user, and nothing of it stays, however it ends.

#[path = "world/by_hand.rs"]
mod by_hand;
#[path = "world/end.rs"]
mod end;
#[path = "world/fault.rs"]
mod fault;
#[path = "world/inside.rs"]
mod inside;
#[path = "world/node.rs"]
mod node;
#[path = "world/wait.rs"]
mod wait;

use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use anyhow::{Result, anyhow};
use evercert_cluster::{Level, World, take_role};
use libtest_mimic::{Arguments, Trial};

/// In the environment of this program when it is a test's subject: the part that it plays.
const PART: &str = "EVERCERT_TEST_PART";
/// Inside a world it writes the world's folder and waits for its end.
const HOLD: &str = "hold";
/// Inside a world it ends with a code of its own.
const SEVEN: &str = "seven";

/// For the tests that only look and add. Its end is the end of this process.
static SHARED: LazyLock<std::result::Result<World, String>> =
    LazyLock::new(|| World::up("shared", false).map_err(|error| format!("{error:#}")));

/// The highest that is here. Tests for which it makes no difference have the lower one, which is up sooner.
fn level() -> Result<Level> {
    Level::here()
}

fn shared() -> Result<&'static World> {
    SHARED.as_ref().map_err(|error| anyhow!("{error}"))
}

fn main() -> ExitCode {
    take_role();
    if let Ok(part) = std::env::var(PART) {
        return end::play(&part).unwrap_or_else(|error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        });
    }
    let trial = |name, test: fn() -> Result<()>| {
        Trial::test(name, move || {
            test().map_err(|error| format!("{error:#}").into())
        })
    };
    let as_other_user = nix::unistd::geteuid().is_root();
    let node = match level() {
        Ok(level) => level == Level::Node,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("level {}", if node { "node" } else { "plane" });
    let trials = vec![
        trial(
            "pod_of_an_imported_image_is_ready_reached_entered_and_heard",
            node::pod_is_ready_reached_entered_and_heard,
        )
        .with_ignored_flag(!node),
        trial("memory_limit_kills", node::memory_limit_kills).with_ignored_flag(!node),
        trial(
            "worlds_with_pods_stand_side_by_side_and_one_ends_alone",
            node::worlds_stand_side_by_side,
        )
        .with_ignored_flag(!node),
        trial(
            "level_that_cannot_be_is_refused_with_the_reasons",
            by_hand::level_that_cannot_be_is_refused,
        ),
        trial("kubectl_lists_namespaces", inside::kubectl_lists_namespaces),
        trial(
            "audit_log_has_a_request_once",
            inside::audit_log_has_a_request_once,
        ),
        trial(
            "pebble_answers_to_its_own_ca_only",
            inside::pebble_answers_to_its_own_ca_only,
        ),
        trial(
            "another_pebble_takes_other_settings",
            inside::another_pebble_takes_other_settings,
        ),
        trial(
            "contour_serves_an_ingress_of_the_default_class",
            inside::contour_serves_an_ingress_of_the_default_class,
        ),
        trial(
            "api_server_is_frozen_thawed_and_restarted",
            fault::api_server_is_frozen_thawed_and_restarted,
        ),
        trial(
            "down_leaves_nothing_and_a_process_left_on_purpose_is_reported",
            end::down_leaves_nothing,
        ),
        trial(
            "killed_parent_takes_the_world_along",
            end::killed_parent_takes_the_world_along,
        ),
        trial(
            "killed_supervisor_takes_the_world_along",
            end::killed_supervisor_takes_the_world_along,
        ),
        trial(
            "code_of_the_program_inside_is_returned",
            end::code_of_the_program_inside_is_returned,
        ),
        trial(
            "kept_world_outlives_its_caller_names_what_died_and_ends_by_down",
            by_hand::kept_world_outlives_its_caller,
        ),
        // Whoever runs the tests as an ordinary user has tried that way with all the others.
        trial(
            "ordinary_user_has_a_world_too",
            end::ordinary_user_has_a_world_too,
        )
        .with_ignored_flag(!as_other_user),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// This program in another part, with worlds of this level.
fn subject(part: &str, level: Level) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env(PART, part)
        .env("EVERCERT_LEVEL", level.to_string());
    Ok(command)
}
