//! The stories: groups of them, each with a world of its own; in a group a namespace and a DNS domain for each story.
//!
//! The process that is started brings the worlds up, some at a time, and holds them; a group is told by the same program
//! started again inside of its world. What is printed by a group is in a file, and is shown when the group ends
//! (`--nocapture`: at once).

mod account_key;
mod account_keys;
mod accounts;
mod addresses;
mod adoption;
mod alternates;
mod annotated;
mod app;
mod backlog;
mod ca_outage;
mod chains;
mod closed;
mod confined;
mod contested;
mod crash;
mod crowds;
mod damage;
mod days;
mod deleted;
mod delivery;
mod dns_preflight;
mod drained;
mod edited;
mod ending;
mod extras;
mod failpoints;
mod first;
mod foreign;
mod forged;
mod group;
mod inside;
mod issue;
mod leaders;
mod limits;
mod logs;
mod memory;
mod midway;
mod neighbours;
mod nonces;
mod numbers;
mod outage;
mod outside;
mod own_fallback;
mod partial;
mod permission;
mod placement;
mod pod;
mod preflight;
mod profiles;
mod quota;
mod refused;
mod renew;
mod renewal_info;
mod requested;
mod restored;
mod revoked;
mod rights;
mod rivals;
mod routes;
mod schema;
mod self_check;
mod served;
mod solver;
mod starting;
mod told;
mod unreachable;
mod unstorable;
mod vanished;

use std::process::ExitCode;

use anyhow::{Context, Result};
use evercert_cluster::{Level, take_role};

use group::{Act, Asked, Group, Tale};

/// In the environment of this program inside of a world: the group that it tells.
const GROUP: &str = "EVERCERT_STORIES_GROUP";

/// Stories that wait most of the time; more of them at once would only make the machine slow.
const SIDE_BY_SIDE: usize = 4;

/// The group whose stories leave each other alone: what they cost is told at the very end.
const SHARED: &str = "shared";

/// The group that takes longest comes first. One without stories costs nothing.
fn groups() -> Vec<Group> {
    let shared = [
        days::tales(),
        nonces::tales(),
        ca_outage::tales(),
        refused::tales(),
        dns_preflight::tales(),
        preflight::tales(),
        profiles::tales(),
        unreachable::tales(),
        self_check::tales(),
        partial::tales(),
        closed::tales(),
        served::tales(),
        renew::tales(),
        renewal_info::tales(),
        requested::tales(),
        permission::tales(),
        annotated::tales(),
        app::tales(),
        schema::tales(),
        issue::tales(),
        damage::tales(),
        quota::tales(),
        foreign::tales(),
        adoption::tales(),
        addresses::tales(),
        contested::tales(),
        extras::tales(),
        own_fallback::tales(),
        rivals::tales(),
        routes::tales(),
        forged::tales(),
        edited::tales(),
        deleted::tales(),
        delivery::tales(),
        account_key::tales(),
        account_keys::tales(),
        accounts::tales(),
        alternates::tales(),
        chains::tales(),
        restored::tales(),
        revoked::tales(),
    ];
    let mut groups = vec![
        Group::new(SHARED)
            .before()
            .one_by_one(first::tales())
            .side_by_side(SIDE_BY_SIDE, shared.into_iter().flatten()),
    ];
    // In one of the worlds a minute of backoff passes, so fewer of the other cases are played there.
    let mut known = failpoints::tales();
    let few: Vec<Tale> = known.drain(..known.len() / 3).collect();
    let gap = Group::new("failpoints-gap")
        .one_by_one(failpoints::of_the_gap())
        .one_by_one(failpoints::pair::of_the_gap());
    let mut failpoints = vec![gap.one_by_one(few)];
    let pairs = failpoints::pair::tales();
    failpoints.extend(Group::spread("failpoints-pair", 2, pairs));
    failpoints.push(Group::new("failpoints").one_by_one(known));
    let failpoints = failpoints.into_iter();
    let failpoints = failpoints.map(|group| {
        let group = group.at(Level::Plane).behind();
        group.ending(ending::after_crashes())
    });
    groups.extend([
        // The operator is killed, or a pod.
        Group::new("operator")
            .one_by_one(crash::tales())
            .one_by_one(leaders::tales())
            .one_by_one(told::tales())
            .one_by_one(vanished::tales())
            .one_by_one(pod::tales())
            .one_by_one(drained::tales())
            .one_by_one(solver::tales())
            .one_by_one(starting::tales())
            .one_by_one(limits::tales())
            .one_by_one(dns_preflight::without_operator()),
        // It has other rights or options, or is down while others write.
        Group::new("settings")
            .one_by_one(unstorable::tales())
            .one_by_one(rights::tales())
            .one_by_one(confined::tales())
            .one_by_one(logs::tales())
            .one_by_one(annotated::others::with_options())
            .one_by_one(adoption::without_operator())
            .one_by_one(extras::without_operator())
            .one_by_one(rivals::without_operator())
            .one_by_one(account_key::without_operator())
            .one_by_one(accounts::without_operator()),
        // Not beside the thirty thousand Secrets, which take what it counts on.
        Group::new("load")
            .one_by_one(neighbours::tales())
            .one_by_one(crowds::counted())
            .one_by_one(backlog::tales())
            .one_by_one(routes::without_host()),
    ]);
    groups.extend(failpoints);
    groups.extend([
        // The operator has the option and the rights for forwarders.
        Group::new("placement")
            .one_by_one(placement::tales())
            .one_by_one(failpoints::of_forwarders())
            .one_by_one(failpoints::pair::of_forwarders())
            .ending(ending::after_crashes()),
        Group::new("memory").one_by_one(memory::tales()),
        // The API server is stopped, frozen, started again.
        Group::new("control-plane")
            .one_by_one(outage::tales())
            .ending(ending::after_outages()),
        // Nothing beside what it counts and measures.
        Group::new("numbers")
            .alone()
            .one_by_one(numbers::tales())
            .one_by_one(crowds::tales()),
    ]);
    groups
}

fn main() -> ExitCode {
    take_role();
    match run(&Asked::of_this_process()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> Result<ExitCode> {
    let Ok(name) = std::env::var(GROUP) else {
        return outside::tell(asked, groups());
    };
    let group = groups().into_iter().find(|group| group.name == name);
    let group = group.with_context(|| format!("no group is named {name}"))?;
    inside::tell(&asked.args, group.choose(asked))?;
    Ok(ExitCode::SUCCESS)
}
